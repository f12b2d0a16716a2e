"""The Hub page: find a model that fits, and download it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.events import DescendantFocus
from textual.widget import Widget
from textual.widgets import Input, Static
from textual.worker import Worker

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    HubFilesRecord,
    HubModelRecord,
    ModelRecord,
    endpoints,
    queries,
)
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.pages.hub.downloads_pane import DownloadsPane
from cyber_inference_tui.tui.pages.hub.table import (
    FILE_COLUMNS,
    RESULT_COLUMNS,
    SORTS,
    active_download,
    file_rows,
    file_sentence,
    gated_sentence,
    result_rows,
    result_sentence,
    sorted_files,
)
from cyber_inference_tui.tui.pages.models.model_actions import ModelActions
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.pages.table_order import ask_key
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from cyber_inference_tui.tui.widgets.text_line import TextLine

SEARCH_DELAY = 0.3
"""Seconds without a key until the search starts."""
FOUND_KEPT = 600
"""Search results after which no further pages are requested."""


class Results(LiveTable):
    """The search results."""

    KEYS_TITLE = "Search results"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "choose", "Files", id="hub.files", tooltip="list the files of this repository"
        ),
    ]


class HubPage(ModelActions):
    """Shows repositories, or the models of one repository, above the downloads.

    The first search starts when the page opens.
    """

    MODE: ClassVar[str] = "hub"
    CSS_PATH = "page.tcss"
    # The search field must not get the focus: it would take a key for text.
    AUTO_FOCUS = "#results"
    STEERING: ClassVar[frozenset[str]] = ModelActions.STEERING | {"download"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/", id="hub.search"),
        Binding(
            "d", "download", "Download", id="hub.download", tooltip="download the selected model"
        ),
        Binding("escape", "back", "Back", id="hub.back", tooltip="one level up"),
        Binding("s", "sort", "Sort", id="hub.sort", tooltip="by downloads, likes, trend or age"),
        Binding("r", "retry", "Retry", id="hub.retry", tooltip="repeat the failed search"),
        Binding(
            "right_square_bracket",
            "pane(1)",
            "Downloads",
            key_display="]",
            id="hub.downloads",
            tooltip="go to the downloads",
        ),
        Binding(
            "left_square_bracket",
            "pane(0)",
            "Search results",
            key_display="[",
            id="hub.results",
            tooltip="go to the search results",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._begun = False
        self._query = ""
        self._sort = SORTS[0]
        self._found: dict[str, HubModelRecord] = {}
        self._cursor: str | None = None
        self._request: Worker[None] | None = None
        self._doing = ""
        """The running request, in words."""
        self._problem = ""
        self._refused = ""
        """Why the last download was refused."""
        self._repo: str | None = None
        """The repository whose files are shown."""
        self._files: dict[str, HubFilesRecord] = {}
        self._done: frozenset[str] = frozenset()

    def body(self) -> ComposeResult:
        """Compose the search above the downloads."""
        charset = self.cyber.options.charset
        with Vertical(classes="body"):
            yield Static(id="title")
            with Vertical(id="finding"):
                yield TextLine(
                    placeholder="search Hugging Face; empty shows the most downloaded", id="search"
                )
                yield Results(RESULT_COLUMNS, charset=charset, id="results")
                yield LiveTable(FILE_COLUMNS, charset=charset, id="files")
                yield Static(id="note")
            yield DownloadsPane(charset)

    def on_mount(self) -> None:
        """Focus the results, and sort as before the last end of the app."""
        self._sort = kept if (kept := self.kept("sort", "")) in SORTS else self._sort
        self._files_table.display = False
        self._results.focus()

    @property
    def _results(self) -> LiveTable:
        return self.query_one("#results", LiveTable)

    @property
    def _files_table(self) -> LiveTable:
        return self.query_one("#files", LiveTable)

    @property
    def _table(self) -> LiveTable:
        return self._results if self._repo is None else self._files_table

    def chosen(self) -> ModelRecord | None:
        """Return the model of the selected download."""
        return self.query_one(DownloadsPane).model if self._in_downloads else None

    # Drawing

    def show(self, snapshot: Snapshot) -> None:
        """Draw the downloads; search results are drawn when they arrive.

        Begin with the most downloaded models.
        """
        if not self._begun:
            self._begun = True
            self._start_search()
        self.query_one(DownloadsPane).show(snapshot.downloads)
        done = frozenset(one.id for one in snapshot.downloads if one.status is DownloadStatus.DONE)
        new, self._done = done - self._done, done
        if self._repo is not None and any(
            one.repo == self._repo for one in snapshot.downloads if one.id in new
        ):
            self._read_files(self._repo)
        self._draw(snapshot.downloads)

    def _draw(self, downloads: Sequence[DownloadRecord] | None = None) -> None:
        if downloads is None:
            downloads = self.cyber.snapshot.downloads
        context = self.cyber.options.render_context()
        self._results.show(result_rows(list(self._found.values()), context))
        if self._repo is not None:
            files = list(self._files.values())
            self._files_table.show(file_rows(files, self._repo, downloads, context))
        empty = self._empty()
        self._results.show_empty(empty)
        self._files_table.show_empty(empty)
        update_static(self.query_one("#title", Static), self._title(downloads))
        update_static(self.query_one("#note", Static), self._note(), layout=True)

    def _empty(self) -> str:
        if self._doing or self._problem:
            return ""
        if self._repo is not None:
            return "This repository has no GGUF models. esc goes back."
        if self._query:
            return f"No results for {clean_line(self._query, limit=100)}. / changes the search."
        return "No results."

    def _title(self, downloads: Sequence[DownloadRecord]) -> Content:
        parts: list[tuple[str, str]] = []
        if self._one_pane:
            behind = self._in_downloads
            running = sum(active_download([one], one.repo) is not None for one in downloads)
            count = f" {running}" if running else ""
            parts += [
                ("Search", "$text-muted" if behind else "bold $text-accent"),
                ("  ", ""),
                (f"Downloads{count}", "bold $text-accent" if behind else "$text-muted"),
                ("   [ ]   ", "$text-muted"),
            ]
            if behind:
                return Content.assemble(*parts)
        if self._repo is not None:
            parts.append((clean_line(self._repo, limit=120), "bold"))
        elif self._query:
            parts.append((f"Results for {clean_line(self._query, limit=60)}", "bold"))
        else:
            parts.append(("GGUF models", "bold"))
        remarks = []
        if self._repo is None:
            remarks.append(f"sorted by {self._sort}")
            if self._found:
                more = "+" if self._has_more else ""
                remarks.append(f"{len(self._found)}{more} found")
        parts.append((f"   {f' {self.cyber.options.charset.dot} '.join(remarks)}", "$text-muted"))
        if self._doing:
            parts.append((f"   {self._doing} {self.cyber.options.charset.dots}", "$text-warning"))
        return Content.assemble(*parts)

    def _note(self) -> Content:
        if self._problem or self._refused:
            text = clean_line(" ".join((self._problem or self._refused).split()), limit=600)
            hint = "  r tries again." if self._problem else ""
            return Content.assemble((text, "$text-error"), (hint, "$text-muted"))
        if self._repo is None:
            return Content(result_sentence(self._result))
        return Content(file_sentence(self._file, gated=self._gated))

    @property
    def _has_more(self) -> bool:
        return self._cursor is not None and len(self._found) < FOUND_KEPT

    @property
    def _result(self) -> HubModelRecord | None:
        key = self._results.cursor_key
        return self._found.get(key) if key is not None else None

    @property
    def _file(self) -> HubFilesRecord | None:
        key = self._files_table.cursor_key
        return self._files.get(key) if key is not None else None

    @property
    def _gated(self) -> bool:
        one = self._found.get(self._repo or "")
        return one is not None and one.gated

    # Searching

    def search(self, query: str) -> None:
        """Search for ``query`` as if it was typed."""
        line = self.query_one("#search", Input)
        with line.prevent(Input.Changed):
            line.value = query
        self._leave_files()
        self._query = query.strip()
        self._start_search()
        self.screen.set_focus(self._results)

    def action_search(self) -> None:
        """Focus the search field."""
        self.screen.set_focus(self.query_one("#search"))

    @on(Input.Changed, "#search")
    def _typed(self, event: Input.Changed) -> None:
        if event.value.strip() != self._query:
            self._query = event.value.strip()
            self._leave_files()
            self._start_search(SEARCH_DELAY)

    @on(Input.Submitted, "#search")
    def _entered(self) -> None:
        self.screen.set_focus(self._results)
        # The next key is not for the results of an earlier search.
        self.keep_keys(self._request)

    def action_sort(self) -> None:
        """Choose the order of the search."""
        ask_key(self, {name: name for name in SORTS}, self._sort, self._sort_by, descending=True)

    @on(LiveTable.HeaderSelected, "#results")
    def _header(self, event: LiveTable.HeaderSelected) -> None:
        if event.column.key in SORTS:
            self._sort_by(event.column.key)

    def _sort_by(self, order: str) -> None:
        if order != self._sort:
            self._sort = order
            self.keep(sort=order)
            self._start_search()

    def _start_search(self, delay: float = 0.0) -> None:
        """Search after ``delay`` seconds, unless another search replaces this one."""
        arrow = self._sort if self._sort in {one.key for one in RESULT_COLUMNS} else None
        self._results.show_sort(arrow, descending=True)
        self._show_request("searching")
        self._hub_worker(partial(self._search, delay))

    def _show_request(self, doing: str) -> None:
        self._doing, self._problem, self._refused = doing, "", ""
        self._draw()
        self.refresh_bindings()

    def _hub_worker(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one request at a time; a new one cancels the one before."""
        self._request = self.run_worker(work, group="hub", exclusive=True, exit_on_error=False)

    def _finish_request(self, problem: str = "") -> None:
        self._doing, self._problem = "", problem
        self._draw()
        self.refresh_bindings()

    async def _search(self, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            found, cursor = await self.client.search(
                queries.SearchQuery(q=self._query, sort=self._sort)
            )
        except CyberError as error:
            self._finish_request(str(error))
            return
        self._found = {one.repo: one for one in found}
        self._cursor = cursor
        self._results.filtered = True
        self._finish_request()
        self._results.action_first()

    async def _search_more(self) -> None:
        try:
            found, cursor = await self.client.search(
                queries.SearchQuery(q=self._query, sort=self._sort, cursor=self._cursor)
            )
        except CyberError as error:
            self._finish_request(str(error))
            return
        self._found |= {one.repo: one for one in found if one.repo not in self._found}
        self._cursor = cursor
        self._finish_request()

    @on(LiveTable.RowHighlighted)
    def _moved(self, event: LiveTable.RowHighlighted) -> None:
        if event.table is self._results and self._found:
            at_end = event.key == next(reversed(self._found))
            if at_end and self._has_more and not self._doing and not self._problem:
                self._show_request("loading more")
                self._hub_worker(self._search_more)
        self._refused = ""
        update_static(self.query_one("#note", Static), self._note(), layout=True)
        self.refresh_bindings()

    def action_retry(self) -> None:
        """Repeat the failed request."""
        if self._repo is not None:
            self._read_files(self._repo)
        else:
            self._start_search()

    # The models of a repository

    @on(LiveTable.RowChosen, "#results")
    def _open_files(self) -> None:
        one = self._result
        if one is not None and self._repo is None:
            self._repo = one.repo
            self._files = {}
            self._results.display = False
            self._files_table.display = True
            self.screen.set_focus(self._files_table)
            self._read_files(one.repo)
            self.keep_keys(self._request)

    def _read_files(self, repo: str) -> None:
        self._show_request("reading its files")
        self._hub_worker(partial(self._files_of, repo))

    async def _files_of(self, repo: str) -> None:
        try:
            files = await self.client.call(
                endpoints.HUB_FILES, query=queries.RepositoryQuery(repo=repo)
            )
        except CyberError as error:
            self._finish_request(str(error))
            return
        first = not self._files
        self._files = {one.name: one for one in sorted_files(files)}
        self._finish_request()
        suggested = next((one.name for one in files if one.suggested), None)
        if first and suggested is not None:
            self._files_table.move_to(suggested)

    def _leave_files(self) -> None:
        if self._repo is None:
            return
        self._repo = None
        self.workers.cancel_group(self, "hub")
        self._files_table.display = False
        self._results.display = True
        self._finish_request()

    def action_back(self) -> None:
        """Leave the downloads, the search field, the repository or the search, in this order."""
        line = self.query_one("#search", Input)
        if self._in_downloads:
            self.action_pane(0)
        elif self.focused is line:
            self.screen.set_focus(self._table)
        elif self._repo is not None:
            self._leave_files()
            self.screen.set_focus(self._results)
        elif self._query:
            self.search("")

    # Downloading

    @on(LiveTable.RowChosen, "#files")
    def _file_chosen(self) -> None:
        if self.check_action("download", ()):
            self.action_download()

    def action_download(self) -> None:
        """Download the selected model."""
        one, repo = self._file, self._repo
        if one is None or repo is None:
            return
        if active_download(self.cyber.snapshot.downloads, repo, one.name) is not None:
            self.cyber.show_message(f"{one.name} is being downloaded already.", "warning")
        elif one.local_id is not None:
            self.cyber.show_message(
                f"{one.name} is downloaded already as {one.local_id}.", "warning"
            )
        elif self._gated:
            self._ask_gated(repo, one.name)
        else:
            self._download(repo, one.name)

    def _ask_gated(self, repo: str, name: str) -> None:
        def answered(value: str | None) -> None:
            if value == "go":
                self._download(repo, name)

        self.app.push_screen(
            Question(
                "This repository is gated",
                gated_sentence(repo),
                (Answer("back", "b", "Back"), Answer("go", "d", "Download")),
            ),
            answered,
        )

    def _download(self, repo: str, name: str) -> None:
        self.run_worker(self._begin_download(repo, name), group="download", exit_on_error=False)

    async def _begin_download(self, repo: str, name: str) -> None:
        try:
            await self.client.call(endpoints.DOWNLOAD, body=queries.DownloadRequest(repo, name))
        except CyberError as error:
            self._refused = str(error)
            self._draw()

    # The two panes

    @property
    def _in_downloads(self) -> bool:
        return self.query_one(".body").has_class("-downloads")

    @property
    def _one_pane(self) -> bool:
        return self.has_class("-narrow") or self.has_class("-short")

    def action_pane(self, number: int) -> None:
        """Go to the search results (0) or the downloads (1)."""
        self.query_one(".body").set_class(bool(number), "-downloads")
        self._pane_changed(self.query_one("#downloads") if number else self._table)

    def _pane_changed(self, target: Widget) -> None:
        # A hidden widget can be focused after the next layout.
        self.call_after_refresh(target.focus)
        self._draw()
        self.refresh_bindings()

    @on(DescendantFocus)
    def _focus_changed(self) -> None:
        focused = self.focused
        inside = focused is not None and self.query_one(DownloadsPane) in focused.ancestors
        if inside != self._in_downloads:
            self.query_one(".body").set_class(inside, "-downloads")
            self._draw()
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now."""
        if not self.is_mounted:
            return super().check_action(action, parameters)
        typing = isinstance(self.focused, Input)
        finding = not self._in_downloads and not typing
        possible = {
            "download": finding and self._repo is not None and self._file is not None,
            "back": typing or self._in_downloads or self._repo is not None or bool(self._query),
            "sort": finding and self._repo is None,
            "retry": finding and bool(self._problem),
            "pane": (parameters == (1,)) != self._in_downloads,
        }
        return super().check_action(action, parameters) if possible.get(action, True) else False
