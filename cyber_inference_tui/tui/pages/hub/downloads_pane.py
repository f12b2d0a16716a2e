"""The pane of downloads, with their progress and actions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    ModelRecord,
    ModelStatus,
    endpoints,
    queries,
)
from cyber_inference_tui.records.endpoints import Endpoint
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.terminal.tone import Tone
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.question import Answer
from cyber_inference_tui.tui.pages.hub.sentences import local_keys
from cyber_inference_tui.tui.pages.marks import CANCEL, act_on_each, ask, toggled
from cyber_inference_tui.tui.pages.models.sentences import model_sentence
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row, row_of
from cyber_inference_tui.units import countdown_text, percent_text, size_text

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_BAR = 10
_MOVING = frozenset({DownloadStatus.QUEUED, DownloadStatus.RUNNING})
_OPEN = _MOVING | {DownloadStatus.PAUSED, DownloadStatus.VERIFYING, DownloadStatus.FAILED}
_ACTIONS = {
    "pause": _MOVING,
    "resume": frozenset({DownloadStatus.PAUSED}),
    "cancel": _OPEN,
    "retry": frozenset({DownloadStatus.FAILED, DownloadStatus.CANCELLED}),
}
"""The states of a download in which it has these actions."""
_STATES: dict[DownloadStatus, tuple[ModelStatus | None, Tone]] = {
    DownloadStatus.QUEUED: (ModelStatus.QUEUED, "busy"),
    DownloadStatus.RUNNING: (ModelStatus.LOADING, "busy"),
    DownloadStatus.PAUSED: (ModelStatus.UNLOADED, "dim"),
    DownloadStatus.VERIFYING: (ModelStatus.LOADING, "busy"),
    DownloadStatus.DONE: (None, "dim"),
    DownloadStatus.FAILED: (ModelStatus.FAILED, "bad"),
    DownloadStatus.CANCELLED: (ModelStatus.UNLOADED, "dim"),
}


def download_name(one: DownloadRecord) -> str:
    """Return the short name of a download."""
    return clean_line(one.name, limit=200)


def _state_cell(one: DownloadRecord, context: RenderContext) -> Cell:
    sign, tone = _STATES[one.status]
    charset = context.charset
    shown = charset.check if sign is None else charset.status_sign(sign)
    return Cell(f"{shown} {one.status.value}", tone)


def _bar_cell(one: DownloadRecord, context: RenderContext) -> Cell | str:
    # A finished download is quiet.
    if one.share is None or one.status is DownloadStatus.DONE:
        return ""
    return Cell(context.charset.bar_text(one.share, _BAR), "accent")


def _percent_cell(one: DownloadRecord, context: RenderContext) -> str:
    if one.status is DownloadStatus.DONE:
        return ""
    return context.charset.known(one.share, percent_text)


def _total_cell(one: DownloadRecord, context: RenderContext) -> Cell | str:
    if one.status is DownloadStatus.DONE:
        return ""
    return Cell(context.charset.known(one.bytes_total, size_text), "dim")


def _rate_cell(one: DownloadRecord, context: RenderContext) -> str:
    if one.status is DownloadStatus.DONE:
        return ""
    rate = one.bytes_per_second if one.status in _MOVING else None
    return context.charset.missing if rate is None else f"{size_text(int(rate))}/s"


def _left_cell(one: DownloadRecord, context: RenderContext) -> str:
    if one.status is DownloadStatus.DONE:
        return ""
    left = one.seconds_left if one.status in _MOVING else None
    return context.charset.known(left, countdown_text)


COLUMNS: tuple[Column[DownloadRecord, RenderContext], ...] = (
    Column("model", "DOWNLOAD", least=14, value=download_name),
    Column("state", "STATE", 11, cell=_state_cell),
    Column("bar", "", _BAR, priority=2, cell=_bar_cell),
    Column("percent", "", 5, right=True, cell=_percent_cell),
    Column("done", "DONE", 9, lambda d: d.bytes_done, right=True, priority=3, text=size_text),
    Column("total", "OF", 9, right=True, priority=3, cell=_total_cell),
    Column("rate", "RATE", 11, right=True, priority=1, cell=_rate_cell),
    Column("left", "LEFT", 8, right=True, cell=_left_cell),
)


def download_rows(downloads: Sequence[DownloadRecord], context: RenderContext) -> list[Row]:
    """Return the rows of the downloads: those that are not over, then the others, newest first."""
    first = datetime.min.replace(tzinfo=UTC)
    ordered = sorted(
        downloads, key=lambda one: (one.status in _OPEN, one.created_at or first), reverse=True
    )
    over = {DownloadStatus.DONE, DownloadStatus.CANCELLED}
    return [
        row_of(one.id, one, COLUMNS, context, "dim" if one.status in over else "none")
        for one in ordered
    ]


def download_sentence(one: DownloadRecord | None, charset: Charset, *, keys: str = "") -> str:
    """Return a sentence about a download: its error, its result or its progress and origin.

    ``keys`` are what to press for the downloaded model.
    """
    if one is None:
        return ""
    if one.error:
        return clean_line(" ".join(one.error.split()), limit=600)
    if one.status is DownloadStatus.DONE:
        name = clean_line(one.model_id, limit=200) if one.model_id else ""
        return f"Downloaded as {name}{'; ' if keys else ''}{keys}." if name else "Downloaded."
    done = size_text(one.bytes_done)
    progress = f"{done} of {charset.known(one.bytes_total, size_text)}"
    repo = clean_line(one.repo, limit=200)
    origin = f"{repo} from the box {one.source}" if one.source else f"from {repo}"
    progress = f"{progress}, {origin}"
    if one.status is DownloadStatus.VERIFYING:
        return f"Complete, verifying the checksum: {progress}"
    return progress


class DownloadsPane(Vertical):
    """Shows the downloads with the actions on the selected one."""

    KEYS_TITLE = "Downloads"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause", id="hub.pause", tooltip="pause the download"),
        Binding("p", "resume", "Resume", id="hub.resume", tooltip="continue the download"),
        Binding("x", "cancel", "Cancel", id="hub.cancel", tooltip="cancel the download"),
        Binding("r", "retry", "Retry", id="hub.retry-download", tooltip="start the download again"),
        Binding(
            "space",
            "mark",
            "Mark",
            id="hub.mark-download",
            tooltip="for an action on several downloads",
        ),
    ]

    def __init__(self, charset: Charset) -> None:
        super().__init__(id="transfers")
        self._charset = charset
        self._downloads: dict[str, DownloadRecord] = {}
        self.marks: frozenset[str] = frozenset()
        """The ids of the marked downloads."""
        self._offered: object = None
        """The states on which the keys depend."""

    def compose(self) -> ComposeResult:
        """Compose the table and the sentence about the selected download."""
        yield Static("Downloads", classes="heading")
        yield LiveTable(
            COLUMNS,
            empty="No downloads."
            if self._cyber.options.readonly
            else "No downloads. d on a model or a repository starts one.",
            marks=True,
            charset=self._charset,
            id="downloads",
        )
        yield Static(id="download-note")

    def show(self, downloads: Sequence[DownloadRecord]) -> None:
        """Draw ``downloads``."""
        self._downloads = {one.id: one for one in downloads}
        self.marks &= self._downloads.keys()
        self.set_class(not downloads, "-empty")
        self.set_class(not any(one.status in _OPEN for one in downloads), "-quiet")
        context = self._cyber.options.render_context()
        self.query_one(LiveTable).show(download_rows(downloads, context))
        self.query_one(LiveTable).show_marks(self.marks)
        self.show_note()

    @property
    def chosen(self) -> DownloadRecord | None:
        """The selected download."""
        key = self.query_one(LiveTable).cursor_key
        return self._downloads.get(key) if key is not None else None

    def _possible(self, action: str) -> list[DownloadRecord]:
        """Return the marked downloads, or the selected one, that allow ``action``."""
        ids = self.marks or {self.query_one(LiveTable).cursor_key}
        return [
            one
            for one in self._downloads.values()
            if one.id in ids and one.status in _ACTIONS[action]
        ]

    @property
    def model(self) -> ModelRecord | None:
        """The model of the selected download, if it is done."""
        one = self.chosen
        done = one is not None and one.status is DownloadStatus.DONE
        return self._cyber.snapshot.model(one.model_id or "") if one and done else None

    @on(LiveTable.RowHighlighted)
    def _moved(self) -> None:
        self.show_note()
        self.refresh_bindings()

    def show_note(self) -> None:
        """Show the sentence about the selected download; it names keys that work now."""
        one, options = self.chosen, self._cyber.options
        model = self.model
        keys = local_keys(self.screen) if self.query_one(LiveTable).has_focus else ""
        note = download_sentence(one, self._charset, keys=keys)
        if model is not None:
            note += f"  {model_sentence(model, options.now(), self._charset)[0]}"
        style = "$text-error" if one is not None and one.error else "$text-muted"
        place = self.query_one("#download-note", Static)
        update_static(place, Content.styled(note, style), layout=True)
        offered = (
            None if one is None else one.status,
            None if model is None else model.status,
            {self._downloads[key].status for key in self.marks},
        )
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()

    @property
    def _cyber(self) -> CyberApp:
        return cast("CyberApp", self.app)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available for a marked download, or the selected one."""
        if self.is_mounted and action in {*_ACTIONS, "mark"}:
            if self._cyber.options.readonly:
                return False
            if action == "mark":
                return self.chosen is not None
            # Pause and resume have one key.
            return bool(self._possible(action)) and not (
                action == "resume" and self._possible("pause")
            )
        return super().check_action(action, parameters)

    def mark(self, ids: frozenset[str]) -> None:
        """Mark these downloads and no others."""
        self.marks = ids
        self.query_one(LiveTable).show_marks(ids)
        self.show_note()
        self.refresh_bindings()

    def action_mark(self) -> None:
        """Mark the selected download, or remove its mark, and go to the next one."""
        self.mark(toggled(self.marks, self.query_one(LiveTable)))

    def _call(self, action: str, endpoint: Endpoint[Any, Any, Any]) -> None:
        async def call(one: DownloadRecord) -> None:
            await self._cyber.client.call(endpoint, one.id)

        self._cyber.do(act_on_each(self._possible(action), call))

    def action_pause(self) -> None:
        """Pause the downloads."""
        self._call("pause", endpoints.PAUSE_DOWNLOAD)

    def action_resume(self) -> None:
        """Continue the downloads."""
        self._call("resume", endpoints.RESUME_DOWNLOAD)

    def action_retry(self) -> None:
        """Start the downloads again."""
        self._call("retry", endpoints.RETRY_DOWNLOAD)

    def action_cancel(self) -> None:
        """Cancel the downloads after asking whether to keep the downloaded parts."""
        chosen = self._possible("cancel")
        if not chosen:
            return

        async def cancel(one: DownloadRecord, keep: bool) -> None:
            await self._cyber.client.call(
                endpoints.CANCEL_DOWNLOAD, one.id, query=queries.CancelQuery(keep=keep)
            )

        done = size_text(sum(one.bytes_done for one in chosen))
        what, parts = f"{len(chosen)} downloads", "parts"
        if len(chosen) == 1:
            what, parts = f"the download of {download_name(chosen[0])}", "part"
        ask(
            self._cyber,
            f"Cancel {what}?",
            f"{done} are downloaded. If you keep them, a later download continues there.",
            (
                Answer(CANCEL, "c", "Continue"),
                Answer("keep", "k", f"Cancel, keep the {parts}"),
                Answer("remove", "r", "Cancel and remove", destructive=True),
            ),
            lambda answer: act_on_each(chosen, partial(cancel, keep=answer == "keep")),
        )
