"""The counters and histograms of the metrics, kept for each model."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cyber_inference_tui.records import RequestRecord, SessionRecord
from cyber_inference_tui.scheduler.views import Reason

OTHER = "other"
CRASHED = "crashed"
LOAD_REASONS = ("request", "asked", "preload", "restart")

_UNLOAD_REASONS = {
    Reason.IDLE.value: "idle",
    Reason.ROOM.value: "room",
    Reason.REQUEST.value: "asked",
    Reason.SETTINGS.value: "settings",
    Reason.FILES.value: "files",
    Reason.REMOVED.value: "removed",
    Reason.SHORTAGE.value: "shortage",
    Reason.LIMIT.value: "limit",
    Reason.SHUTDOWN.value: "shutdown",
}
UNLOAD_REASONS = (*_UNLOAD_REASONS.values(), CRASHED, OTHER)

_ENDPOINTS = (
    ("/chat/completions", "chat_completions"),
    ("/completions", "completions"),
    ("/completion", "completions"),
    ("/infill", "infill"),
    ("/embeddings", "embeddings"),
    ("/embedding", "embeddings"),
    ("/responses", "responses"),
    ("/messages", "messages"),
    ("/rerank", "rerank"),
    ("/reranking", "rerank"),
    ("/audio/transcriptions", "transcriptions"),
)


Noted = tuple[RequestRecord, str | None]
"""The record of a finished request, and the code of its error."""


class CounterFamily(NamedTuple):
    """A counter's help text, and its labels beside ``model``."""

    text: str
    labels: tuple[str, ...]


class HistogramFamily(NamedTuple):
    """A histogram's help text, and the upper bounds of its buckets."""

    text: str
    bounds: tuple[float, ...]


COUNTERS = {
    "requests": CounterFamily("Finished requests.", ("endpoint", "status")),
    "request_errors": CounterFamily("Requests that went wrong.", ("code",)),
    "tokens": CounterFamily("Tokens read and written.", ("direction",)),
    "loads": CounterFamily("Times it was loaded.", ("reason",)),
    "unloads": CounterFamily("Times it was unloaded or stopped.", ("reason",)),
}
HISTOGRAMS = {
    "time_to_first_token_seconds": HistogramFamily(
        "From a request's arrival to the first byte of its answer, waiting included.",
        (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
    ),
    "request_duration_seconds": HistogramFamily(
        "From a request's arrival to its end.",
        (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
    ),
    "queue_wait_seconds": HistogramFamily(
        "How long a request waited for its model.",
        (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
    ),
    "tokens_per_second": HistogramFamily(
        "How fast an answer was written, as its server says.",
        (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000),
    ),
    "load_seconds": HistogramFamily(
        "How long a load took.", (0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
    ),
}


class Histogram:
    """Counts of values by bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Values up to each bound, without those of lower buckets; last, values above all."""
        self.total = 0.0

    def observe(self, value: float | None) -> None:
        """Count a value; ``None`` = it is not known."""
        if value is not None:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.total += value

    def observe_all(self, values: Iterable[float | None]) -> None:
        """Count many values at once."""
        known = sorted([value for value in values if value is not None])
        before = 0
        for number, bound in enumerate(self.bounds):
            until = bisect_right(known, bound, before)
            self.counts[number] += until - before
            before = until
            if before == len(known):
                break
        self.counts[-1] += len(known) - before
        self.total += sum(known)

    def copy(self) -> Histogram:
        """Return a histogram that does not change with this one."""
        copied = Histogram(self.bounds)
        copied.counts = self.counts.copy()
        copied.total = self.total
        return copied


class ModelCounters:
    """The counters and histograms of one model, by the names of their families."""

    __slots__ = ("counters", "energy_j", "histograms")

    def __init__(self) -> None:
        self.counters: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in COUNTERS}
        """Each by the values of its labels."""
        self.histograms = {name: Histogram(family.bounds) for name, family in HISTOGRAMS.items()}
        self.energy_j: float | None = None
        """The shares of its requests; ``None`` = of none it is known."""
        # rate() does not see a counter's first event if the counter begins with it.
        self.counters["tokens"].update({("input",): 0, ("output",): 0})
        self.counters["loads"].update({(reason,): 0 for reason in LOAD_REASONS})

    def add_requests(self, noted: Sequence[Noted]) -> None:
        """Count finished requests, each with the code of its error, if it had one."""
        records = [record for record, _ in noted]
        requests, errors = self.counters["requests"], self.counters["request_errors"]
        for (path, status), count in Counter([(one.path, one.status) for one in records]).items():
            requests[endpoint_of(path), status_class(status)] += count
        errors.update([(error_code,) for _, error_code in noted if error_code is not None])
        tokens = self.counters["tokens"]
        tokens[("input",)] += sum([one.tokens_in or 0 for one in records])
        tokens[("output",)] += sum([one.tokens_out or 0 for one in records])
        energies = [one.energy_j for one in records if one.energy_j is not None]
        if energies:
            self.energy_j = (self.energy_j or 0.0) + sum(energies)
        for name, values in (
            ("time_to_first_token_seconds", [one.time_to_first_token_seconds for one in records]),
            ("request_duration_seconds", [one.duration_seconds for one in records]),
            ("queue_wait_seconds", [one.queue_seconds for one in records]),
            ("tokens_per_second", [one.tokens_per_second for one in records]),
        ):
            self.histograms[name].observe_all(values)

    def add_load(self, record: SessionRecord) -> None:
        """Count the load of a session, ended or not."""
        self.counters["loads"][(load_reason(record.load_reason),)] += 1
        self.counters["unloads"].update({(reason,): 0 for reason in UNLOAD_REASONS})
        self.histograms["load_seconds"].observe(record.load_seconds)

    def add_unload(self, record: SessionRecord) -> None:
        """Count the end of a session that has ended."""
        if record.unload_reason is not None:
            self.counters["unloads"][(unload_reason(record.unload_reason),)] += 1

    def copy(self) -> ModelCounters:
        """Return counters that do not change with these."""
        copied = ModelCounters.__new__(ModelCounters)
        copied.energy_j = self.energy_j
        copied.counters = {name: counter.copy() for name, counter in self.counters.items()}
        copied.histograms = {name: histogram.copy() for name, histogram in self.histograms.items()}
        return copied


class KeyCounters:
    """The counters of one API key."""

    __slots__ = ("energy_j", "requests", "tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.energy_j: float | None = None
        """The shares of its requests; ``None`` = of none it is known."""

    def add_request(self, record: RequestRecord) -> None:
        """Count a finished request."""
        self.requests += 1
        self.tokens_in += record.tokens_in or 0
        self.tokens_out += record.tokens_out or 0
        if record.energy_j is not None:
            self.energy_j = (self.energy_j or 0.0) + record.energy_j

    def copy(self) -> KeyCounters:
        """Return counters that do not change with these."""
        copied = KeyCounters()
        copied.requests = self.requests
        copied.tokens_in, copied.tokens_out = self.tokens_in, self.tokens_out
        copied.energy_j = self.energy_j
        return copied


def endpoint_of(path: str) -> str:
    """Return the label for a path, also for one below ``/upstream/ID``."""
    for end, name in _ENDPOINTS:
        if path.endswith(end):
            return name
    return OTHER


def status_class(status: int) -> str:
    """Return the class of an HTTP status, such as ``2xx``."""
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER


def load_reason(text: str) -> str:
    """Return the label for a session's reason to load."""
    return text if text in LOAD_REASONS else OTHER


def unload_reason(text: str) -> str:
    """Return the label, of ``UNLOAD_REASONS``, for a session's reason to unload."""
    if text.startswith("stopped: "):
        return CRASHED
    return _UNLOAD_REASONS.get(text, OTHER)
