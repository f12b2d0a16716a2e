"""The service's metrics: counted as things happen, and rendered for each scrape.

Counting is a few additions on the event loop. A scrape copies the numbers there, and a thread
formats them, so it does not block the loop. It neither loads, wakes nor keeps any model.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from cyber_inference_tui.records import ModelRecord, ModelStatus, RequestRecord, SessionRecord
from cyber_inference_tui.service.metric_counters import KeyCounters, ModelCounters, Noted
from cyber_inference_tui.service.metrics_text import MetricsState, label, render

MAX_MODELS = 200
"""Models with metrics; of more models, the last used."""
MAX_KEYS = 200
"""API keys with metrics; of more keys, the last used."""

_MANY = 500
_AT_REST = frozenset({ModelStatus.UNLOADED, ModelStatus.FAILED})


class Metrics:
    """Counters since the start. ``state`` is called at each scrape, on the event loop."""

    def __init__(self, state: Callable[[], MetricsState]) -> None:
        self._state = state
        self._counters: dict[str, ModelCounters] = {}
        """By the model's label, the last used last."""
        self._noted: list[Noted] = []
        """Requests that are not counted yet."""
        self._refusals: Counter[str] = Counter()
        self._keys: dict[str, KeyCounters] = {}
        """By the name of the API key, the last used last."""
        self._scrape: asyncio.Task[bytes] | None = None

    def note_request(self, record: RequestRecord, error_code: str | None = None) -> None:
        """Count a finished request; ``error_code`` is that of its error, if it had one."""
        self.note_requests([(record, error_code)])

    def note_requests(self, noted: Iterable[Noted]) -> None:
        """Count finished requests, each with the code of its error."""
        # Many are counted together in less time.
        self._noted += noted
        if len(self._noted) >= _MANY:
            self._count_noted()

    def _count_noted(self) -> None:
        noted, self._noted = self._noted, []
        by_model: dict[str, list[Noted]] = {}
        for one in noted:
            by_model.setdefault(one[0].model, []).append(one)
        # The last used last.
        for model in reversed(dict.fromkeys([one[0].model for one in reversed(noted)])):
            self._of(model).add_requests(by_model[model])
        self._count_keys(noted)
        self._forget_surplus()

    def _count_keys(self, noted: Iterable[Noted]) -> None:
        for record, _ in noted:
            if record.key_name is not None:
                name = label(record.key_name)
                counters = self._keys.pop(name) if name in self._keys else KeyCounters()
                counters.add_request(record)
                self._keys[name] = counters

    def note_refusal(self, code: str) -> None:
        """Count a request that was refused with this error before its model was known."""
        self._refusals[code] += 1

    def note_session(self, record: SessionRecord) -> None:
        """Count a session that has ended."""
        self._count_noted()
        counters = self._of(record.model)
        counters.add_load(record)
        counters.add_unload(record)
        self._forget_surplus()

    async def scrape(self) -> bytes:
        """Return the metrics in Prometheus' text format.

        Scrapes at the same time share a text, so at most one thread formats it.
        """
        if self._scrape is None:
            self._scrape = asyncio.create_task(self._render(), name="make the metrics' text")
        return await asyncio.shield(self._scrape)

    async def close(self) -> None:
        """Wait for a scrape that is under way."""
        if self._scrape is not None:
            await asyncio.wait({self._scrape})

    async def _render(self) -> bytes:
        try:
            state, counters = self.snapshot()
            keys = {name: counters.copy() for name, counters in self._keys.items()}
            return await asyncio.to_thread(render, state, counters, dict(self._refusals), keys)
        finally:
            self._scrape = None

    def snapshot(self) -> tuple[MetricsState, dict[str, ModelCounters]]:
        """Return the present state and a copy of the counters; forgets models that are gone."""
        self._count_noted()
        state = self._state()
        state = msgspec.structs.replace(state, models=self._most_used(state.models))
        there = {label(model.id) for model in state.models}
        there.update(label(session.model) for session in state.running)
        self._counters = {
            name: model_counters for name, model_counters in self._counters.items() if name in there
        }
        counters = {name: model_counters.copy() for name, model_counters in self._counters.items()}
        for session in state.running[:MAX_MODELS]:
            # Counted for good when it ends.
            counters.setdefault(label(session.model), ModelCounters()).add_load(session)
        return state, counters

    def _of(self, model: str) -> ModelCounters:
        """Return a model's counters, which are the last used now."""
        name = label(model)
        counters = self._counters.pop(name) if name in self._counters else ModelCounters()
        self._counters[name] = counters
        return counters

    def _forget_surplus(self) -> None:
        """Forget the counters of the least recently used models and keys if there are too many."""
        while len(self._counters) > MAX_MODELS:
            del self._counters[next(iter(self._counters))]
        while len(self._keys) > MAX_KEYS:
            del self._keys[next(iter(self._keys))]

    def _most_used(self, models: list[ModelRecord]) -> list[ModelRecord]:
        """Return at most ``MAX_MODELS``: first loaded models, then models with counters."""
        if len(models) <= MAX_MODELS:
            return models
        return sorted(
            models,
            key=lambda model: (model.status in _AT_REST, label(model.id) not in self._counters),
        )[:MAX_MODELS]
