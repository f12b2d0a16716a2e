"""The event bus of the service, which also keeps its last events in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    ModelRecord,
    ModelStatus,
    RecentEvent,
    ServiceEvent,
    TrendMark,
    with_event,
)
from cyber_inference_tui.records.events import EventKind, EventTone
from cyber_inference_tui.service.events import Data, EventBus
from cyber_inference_tui.service.trend_points import mark_kind
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import size_text

_LONGEST_TEXT = 1000
"""Characters of an event; an error may be longer."""
_LONGEST_MARK = 200

_Words = tuple[str, EventTone]

_INSTALL_WORDS: dict[str, _Words] = {
    "installed": ("{}", "good"),
    "install failed": ("was not installed: {}", "bad"),
    "install cancelled": ("installation cancelled", "none"),
}


class RecentEvents(EventBus):
    """Publishes events, and keeps the last important events in words.

    Each is published as a ``service`` event, too, right before the event that it describes. ``now``
    returns the time with its zone, and ``on_mark`` gets the events that explain the graphs.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        first_id: int | None = None,
        on_mark: Callable[[TrendMark], None] = lambda mark: None,
    ) -> None:
        super().__init__(first_id=first_id)
        self._now = now
        self._on_mark = on_mark
        self.recent: tuple[RecentEvent, ...] = ()
        """The last events in words, newest first."""
        self._models: dict[str, ModelRecord] | None = None
        self._downloads: dict[str, DownloadStatus] = {}

    def begin(self, models: Iterable[ModelRecord]) -> None:
        """Begin to keep events; ``models`` are all models at this moment."""
        self._models = {model.id: model for model in models}
        self._add(self.last_id, "service", "service", ("started", "good"))

    def publish(self, topic: str, data: Data) -> None:
        """Publish ``data``; if it is important, publish an event in words before it."""
        if self._models is not None:
            before = self._models.get(data.id) if isinstance(data, ModelRecord) else None
            kind, subject, words = self._in_words(topic, data, self._models)
            if words is not None:
                event = self._add(self.last_id + 1, kind, subject, words)
                if isinstance(data, ModelRecord) and before is not None:
                    self._mark(before.status, data.status, event)
                super().publish("service", ServiceEvent(state="event", event=event))
        super().publish(topic, data)

    def _add(self, event_id: int, kind: EventKind, subject: str, words: _Words) -> RecentEvent:
        text, tone = words
        text = clean_line(" ".join(text.split()), limit=_LONGEST_TEXT)
        event = RecentEvent(
            id=event_id, at=self._now(), kind=kind, subject=subject, text=text, tone=tone
        )
        self.recent = with_event(self.recent, event)
        return event

    def _mark(self, before: ModelStatus, after: ModelStatus, event: RecentEvent) -> None:
        kind = mark_kind(before, after)
        if kind is not None:
            text = clean_line(event.text, limit=_LONGEST_MARK)
            self._on_mark(TrendMark(at=event.at, kind=kind, subject=event.subject, text=text))

    def _in_words(
        self, topic: str, data: Data, models: dict[str, ModelRecord]
    ) -> tuple[EventKind, str, _Words | None]:
        """Return the kind, the subject and the words of an event; no words if it is minor."""
        match data:
            case ModelRecord(id=model_id):
                before, models[model_id] = models.get(model_id), data
                return "model", model_id, _model_words(before, data)
            case {"id": str(model_id), "status": None} if topic == "model":
                known = models.pop(model_id, None)
                return "model", model_id, ("was removed from the disk", "none") if known else None
            case DownloadRecord(id=download_id):
                status = self._downloads.get(download_id)
                self._downloads[download_id] = data.status
                new = status not in {None, data.status}
                return (
                    "download",
                    data.model_id or data.name,
                    _download_words(data) if new else None,
                )
            case {"id": str(download_id), "status": None} if topic == "download":
                self._downloads.pop(download_id, None)
            case {"error": None} if topic == "config":
                return "config", "service", ("applied changed settings", "good")
            case {"error": str(error)} if topic == "config":
                return "config", "service", (error, "bad")
            case ServiceEvent(state="stopping"):
                return "service", "service", ("is stopping", "busy")
            case ServiceEvent(state=state, message=message) if state in _INSTALL_WORDS:
                form, tone = _INSTALL_WORDS[state]
                text = form.format(message.removeprefix("llama-server "))
                return "install", "llama-server", (text, tone)
        return "service", "service", None


def _model_words(before: ModelRecord | None, after: ModelRecord) -> _Words | None:
    """Return words for the change of a model; ``None`` for a minor change."""
    if before is None:
        return "was found", "good"
    if before.status is not after.status:
        return _status_words(before, after)
    if before.pinned != after.pinned:
        return ("pinned" if after.pinned else "unpinned"), "none"
    return None


def _status_words(before: ModelRecord, after: ModelRecord) -> _Words:
    match after.status:
        case ModelStatus.QUEUED:
            waiting = "request waits" if after.queued == 1 else "requests wait"
            return (f"queued: {after.queued} {waiting}" if after.queued else "queued"), "busy"
        case ModelStatus.LOADING:
            return "loading", "busy"
        case ModelStatus.LOADED:
            took = f", uses {size_text(after.memory_bytes)}" if after.memory_bytes else ""
            return f"loaded{took}", "good"
        case ModelStatus.UNLOADING:
            return "unloading", "none"
        case ModelStatus.FAILED:
            reason = (after.error or "failed").splitlines()[0]
            return reason.removeprefix(f"{after.id} "), "bad"
        case ModelStatus.UNLOADED:
            if before.status is ModelStatus.FAILED:
                return "can be tried again", "none"
            # A queued model whose requests all ended was never loaded.
            was_up = before.status in {ModelStatus.LOADED, ModelStatus.UNLOADING}
            return ("unloaded" if was_up else "no longer needed"), "none"


def _download_words(download: DownloadRecord) -> _Words | None:
    """Return words for the end of a download; ``None`` while it has not ended."""
    match download.status:
        case DownloadStatus.DONE:
            size = f", {size_text(download.bytes_total)}" if download.bytes_total else ""
            return f"was downloaded{size}", "good"
        case DownloadStatus.FAILED:
            return f"was not downloaded: {download.error or 'the reason is unknown'}", "bad"
        case DownloadStatus.CANCELLED:
            return "download cancelled", "none"
    return None
