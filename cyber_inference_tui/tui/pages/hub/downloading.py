"""The downloading half of the Hub page: the selected model, or all marked ones."""

from __future__ import annotations

from collections.abc import Sequence

from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import DownloadStatus, HubFilesRecord, endpoints, queries
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.question import Answer
from cyber_inference_tui.tui.pages.hub.finding import Finding
from cyber_inference_tui.tui.pages.hub.sentences import gated_sentence, marked_content
from cyber_inference_tui.tui.pages.hub.table import active_download, bytes_to_come
from cyber_inference_tui.tui.pages.marks import CANCEL, ask
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.units import counted, size_text

Wanted = tuple[str, HubFilesRecord]
"""A repository, and a model of it."""
_MARGIN = 256 << 20
"""Bytes that a download leaves free."""


class Downloading(Finding):
    """A page that downloads the selected model, or the marked ones, which may be of several
    repositories."""

    def __init__(self) -> None:
        super().__init__()
        self._marked: dict[tuple[str, str], Wanted] = {}
        """By repository and name."""

    def _show_marks(self, snapshot: Snapshot) -> None:
        """Show the signs of the marks, the size of the set, and whether the disk has room."""
        self._results.show_marks(frozenset(repo for repo, _ in self._marked))
        names = {name for repo, name in self._marked if repo == self._repo}
        self._files_table.show_marks(frozenset(names))
        line = self.query_one("#marked", Static)
        line.display = bool(self._marked)
        if self._marked:
            disks = snapshot.sample.disks if snapshot.sample is not None else ()
            # The first one is that of the models.
            free = disks[0].available if disks else None
            if free is not None:
                free -= bytes_to_come(snapshot.downloads)
            sizes = [one.size_bytes for _, one in self._marked.values()]
            update_static(line, marked_content(sizes, free, self.cyber.options.charset))

    def wished_room(self) -> int | None:
        """Return the bytes that the downloads need, and the marked models or the selected one."""
        downloads = self.cyber.snapshot.downloads
        failed = (one for one in downloads if one.status is DownloadStatus.FAILED)
        needed = bytes_to_come(downloads) + sum(
            max(0, (one.bytes_total or 0) - one.bytes_done) for one in failed
        )
        wanted = list(self._marked.values()) or ([self._target] if self._target else [])
        needed += sum(one.size_bytes or 0 for _, one in wanted if one.local_id is None)
        return needed + _MARGIN if needed else None

    def _marks_of_selection(self) -> list[tuple[str, str]]:
        """Return the marks of the selected model, or in the list of all in the repository."""
        if self._repo is not None:
            mark = (self._repo, self._files_table.cursor_key or "")
            return [mark] if mark in self._marked else []
        return [mark for mark in self._marked if mark[0] == self._results.cursor_key]

    def action_mark(self) -> None:
        """Mark the selected model for a download, or remove its mark, and go to the next row."""
        if marks := self._marks_of_selection():
            for mark in marks:
                del self._marked[mark]
        elif self._target is not None:
            repo, one = self._target
            if problem := self._refusal(repo, one):
                self.cyber.show_message(problem, "warning")
            else:
                self._marked[repo, one.name] = self._target
        self._table.action_move(1)
        self._marks_changed()

    def _remove_marks(self) -> None:
        self._marked.clear()
        self._marks_changed()

    def _marks_changed(self) -> None:
        self._draw()
        self.refresh_bindings()

    def _is_gated(self, repo: str) -> bool:
        one = self._catalog.model(repo)
        return one is not None and one.gated

    def _refusal(self, repo: str, one: HubFilesRecord) -> str:
        """Return why a model is not to be downloaded; empty if it may be."""
        if active_download(self.cyber.snapshot.downloads, repo, one.name) is not None:
            return f"{one.name} is being downloaded already."
        if one.local_id is not None:
            return f"{one.name} is downloaded already as {one.local_id}."
        return ""

    def action_download(self) -> None:
        """Download the marked models, or the selected one: in the list the suggested one of the
        repository."""
        wanted = list(self._marked.values())
        if not wanted:
            if self._target is None:
                return
            if problem := self._refusal(*self._target):
                self.cyber.show_message(problem, "warning")
                return
            wanted = [self._target]
        gated = list(dict.fromkeys(repo for repo, _ in wanted if self._is_gated(repo)))
        if gated:
            ask(
                self.cyber,
                "This repository is gated" if len(gated) == 1 else "Some repositories are gated",
                gated_sentence(gated),
                (Answer(CANCEL, "b", "Back"), Answer("go", "d", "Download")),
                lambda _: self._download(wanted),
            )
        else:
            self.cyber.do(self._download(wanted))

    async def _download(self, wanted: Sequence[Wanted]) -> None:
        """Begin the downloads; those that the service refuses stay marked."""
        self._refused = ""
        begun: list[HubFilesRecord] = []
        for repo, one in wanted:
            try:
                await self.client.call(
                    endpoints.DOWNLOAD, body=queries.DownloadRequest(repo, one.name)
                )
            except CyberError as error:
                self._refused = self._refused or str(error)
            else:
                begun.append(one)
                self._marked.pop((repo, one.name), None)
        if begun and (self._repo is None or len(begun) > 1):
            self.cyber.show_message(_begun_sentence(begun))
        self._marks_changed()


def _begun_sentence(begun: Sequence[HubFilesRecord]) -> str:
    name = begun[0].name.rpartition("/")[2].removesuffix(".gguf")
    what = clean_line(name, limit=200) if len(begun) == 1 else counted(len(begun), "model")
    known = [one.size_bytes for one in begun if one.size_bytes is not None]
    size = f", {size_text(sum(known))}" if len(known) == len(begun) else ""
    return f"Downloading {what}{size}."
