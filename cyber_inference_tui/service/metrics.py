"""The service's metrics: counted as things happen, put together when somebody asks.

Counting is a few additions on the event loop. A scrape copies the numbers there and has a thread
make the text of them, so that it holds up nothing, and neither loads, wakes nor keeps any model.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import datetime

import msgspec

from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import (
    ModelRecord,
    ModelStatus,
    RequestRecord,
    ResourceSample,
    SessionRecord,
)
from cyber_inference_tui.service.tallies import MAX_MODELS, Tallies, Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text format, https://prometheus.io/docs/instrumenting/exposition_formats/."""

_AT_REST = frozenset({ModelStatus.UNLOADED, ModelStatus.FAILED})


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand when somebody asks."""

    version: str
    llama_server_version: str | None
    started_at: datetime
    models: list[ModelRecord]
    running: list[SessionRecord]
    """Sessions that have not ended."""
    memory: MemoryReading | None
    """The last one that a decision of the scheduler was based on."""
    sample: ResourceSample | None
    """The machine; ``None`` = not known."""


class Snapshot(msgspec.Struct, frozen=True):
    """All that a scrape tells; nothing in it changes any more."""

    present: Present
    tallies: dict[str, Tally]
    """By the model's label."""
    refusals: dict[str, int]
    """Requests that were refused before their model was known, by the error's code."""


class Metrics:
    """Counts from its making on. ``present`` is asked at each scrape, on the event loop."""

    def __init__(self, present: Callable[[], Present]) -> None:
        self._present = present
        self._tallies = Tallies()
        self._refusals: Counter[str] = Counter()
        self._scrape: asyncio.Task[bytes] | None = None

    def note_request(self, record: RequestRecord, error_code: str | None = None) -> None:
        """A request is finished; ``error_code`` says what went wrong, if anything did."""
        self._tallies.of(label(record.model)).add_request(record, error_code)

    def note_refusal(self, code: str) -> None:
        """A request was refused with this error before its model was known."""
        self._refusals[code] += 1

    def note_session(self, record: SessionRecord) -> None:
        """A session has ended."""
        tally = self._tallies.of(label(record.model))
        tally.add_load(record)
        tally.add_unload(record)

    async def scrape(self) -> bytes:
        """The metrics in Prometheus' text format (``CONTENT_TYPE``).

        Who asks while another's text is being made gets the same one: there is never more than
        one thread at it.
        """
        if self._scrape is None:
            self._scrape = asyncio.create_task(self._render(), name="make the metrics' text")
        return await asyncio.shield(self._scrape)

    async def close(self) -> None:
        """Return when nothing is under way any more."""
        if self._scrape is not None:
            await asyncio.wait({self._scrape})

    async def _render(self) -> bytes:
        try:
            return await asyncio.to_thread(_text, self.snapshot())
        finally:
            self._scrape = None

    def snapshot(self) -> Snapshot:
        """All that there is to tell now; models that are gone are forgotten first."""
        present = self._present()
        models = self._told_of(present.models)
        there = {label(model.id) for model in models}
        there.update(label(session.model) for session in present.running)
        self._tallies.keep_only(there)
        tallies = self._tallies.copy()
        for session in present.running[:MAX_MODELS]:
            # Counted for good when it ends.
            tallies.setdefault(label(session.model), Tally()).add_load(session)
        present = msgspec.structs.replace(present, models=models)
        return Snapshot(present, tallies, dict(self._refusals))

    def _told_of(self, models: list[ModelRecord]) -> list[ModelRecord]:
        """Of too many models those that are in use, then those that were."""
        if len(models) <= MAX_MODELS:
            return models

        def rank(model: ModelRecord) -> tuple[bool, bool]:
            return model.status in _AT_REST, label(model.id) not in self._tallies

        return sorted(models, key=rank)[:MAX_MODELS]


def label(text: str) -> str:
    """``text`` as a label's value: what is not UTF-8 in a file's name is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(snapshot: Snapshot) -> bytes:
    # The library brings an HTTP server along; nobody who does not scrape should pay for it.
    from cyber_inference_tui.service.exposition import render  # noqa: PLC0415

    return render(snapshot)
