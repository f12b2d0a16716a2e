"""What is counted for the metrics, by model: plain numbers, kept for a bounded number of models."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container

from cyber_inference_tui.records import RequestRecord, SessionRecord
from cyber_inference_tui.scheduler.views import Reason

MAX_MODELS = 200
"""Models that are counted; of more, those that were used last."""

LOAD_REASONS = frozenset({"request", "asked", "preload", "restart"})
OTHER = "other"
CRASHED = "crashed"

_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_DURATION = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_QUEUE_WAIT = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SPEED = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)
_LOAD = (0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)

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
UNLOAD_REASONS = frozenset({*_UNLOAD_REASONS.values(), CRASHED, OTHER})

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
ENDPOINTS = frozenset({*(name for _, name in _ENDPOINTS), OTHER})


def endpoint_of(path: str) -> str:
    """What kind of endpoint a path is, one of ``ENDPOINTS``, also behind ``/upstream/ID``."""
    for end, name in _ENDPOINTS:
        if path.endswith(end):
            return name
    return OTHER


def status_class(status: int) -> str:
    """An HTTP status's class, such as ``2xx``."""
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER


def load_reason(text: str) -> str:
    """A session's reason to load as a label."""
    return text if text in LOAD_REASONS else OTHER


def unload_reason(text: str) -> str:
    """A session's reason to unload, in plain words there, as a label of ``UNLOAD_REASONS``."""
    if text.startswith("stopped: "):
        return CRASHED
    return _UNLOAD_REASONS.get(text, OTHER)


class Histogram:
    """How many values fell under each of ``bounds``, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """For each bound the values up to it and above the one before; last, those above all."""
        self.total = 0.0

    def observe(self, value: float | None) -> None:
        """Count one value; ``None`` = it is not known."""
        if value is not None:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.total += value

    def copy(self) -> Histogram:
        """One that does not change with this one."""
        copied = Histogram(self.bounds)
        copied.counts = self.counts.copy()
        copied.total = self.total
        return copied


class Tally:
    """All that is counted for one model. Durations are seconds."""

    __slots__ = (
        "duration",
        "errors",
        "first_token",
        "load",
        "loads",
        "queue_wait",
        "requests",
        "speed",
        "tokens_in",
        "tokens_out",
        "unloads",
    )

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        """By endpoint and class of the status."""
        self.errors: Counter[str] = Counter()
        """By the error's code."""
        self.tokens_in = 0
        self.tokens_out = 0
        self.first_token = Histogram(_FIRST_TOKEN)
        self.duration = Histogram(_DURATION)
        self.queue_wait = Histogram(_QUEUE_WAIT)
        self.speed = Histogram(_SPEED)
        """Tokens per second."""
        self.load = Histogram(_LOAD)
        self.loads: Counter[str] = Counter()
        self.unloads: Counter[str] = Counter()

    def add_request(self, record: RequestRecord, error_code: str | None) -> None:
        """Count a finished request; ``error_code`` says what went wrong, if anything did."""
        self.requests[endpoint_of(record.path), status_class(record.status)] += 1
        if error_code is not None:
            self.errors[error_code] += 1
        self.tokens_in += record.tokens_in or 0
        self.tokens_out += record.tokens_out or 0
        self.first_token.observe(record.time_to_first_token_seconds)
        self.duration.observe(record.duration_seconds)
        self.queue_wait.observe(record.queue_seconds)
        self.speed.observe(record.tokens_per_second)

    def add_load(self, record: SessionRecord) -> None:
        """Count the load of a session, ended or not."""
        self.loads[load_reason(record.load_reason)] += 1
        self.load.observe(record.load_seconds)

    def add_unload(self, record: SessionRecord) -> None:
        """Count the end of a session that has ended."""
        if record.unload_reason is not None:
            self.unloads[unload_reason(record.unload_reason)] += 1

    def copy(self) -> Tally:
        """One that does not change with this one."""
        copied = Tally()
        for name in self.__slots__:
            value = getattr(self, name)
            setattr(copied, name, value if isinstance(value, int) else value.copy())
        return copied


class Tallies:
    """The tallies of at most ``MAX_MODELS`` models."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        """The one used last stands last."""

    def of(self, model: str) -> Tally:
        """A model's tally, to add to; a new one may push out the one that was not used longest."""
        tally = self._tallies.pop(model, None) or Tally()
        self._tallies[model] = tally
        if len(self._tallies) > MAX_MODELS:
            del self._tallies[next(iter(self._tallies))]
        return tally

    def __contains__(self, model: str) -> bool:
        return model in self._tallies

    def keep_only(self, models: Container[str]) -> None:
        """Forget all other models."""
        for model in [one for one in self._tallies if one not in models]:
            del self._tallies[model]

    def copy(self) -> dict[str, Tally]:
        """All of them by model, as they are now."""
        return {model: tally.copy() for model, tally in self._tallies.items()}
