"""The records that travel the wire between the service and its clients: one definition for both.

Sizes are bytes, durations seconds, times ISO 8601 in UTC (``datetime`` with a zone). A field is
``None`` where the machine or the file does not tell; a number is never made up.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()


def to_json(value: Any) -> bytes:
    """A record (or a list, a dict of them) as JSON on one line.

    A file name that is not UTF-8 holds lone surrogates, which JSON cannot carry: they become "?".
    """
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_encodable(msgspec.to_builtins(value)))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


class ModelStatus(StrEnum):
    """Where a model stands; the order is the order of a life."""

    UNLOADED = "unloaded"
    QUEUED = "queued"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"
    FAILED = "failed"


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One local model and what is going on with it (``GET /admin/models``)."""

    id: str
    aliases: tuple[str, ...] = ()
    path: str | None = None
    size_bytes: int | None = None
    architecture: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    """What the model was trained with, in tokens."""
    context_size: int | None = None
    """What its server was started with, in tokens, or would be."""
    status: ModelStatus = ModelStatus.UNLOADED
    progress: float | None = None
    """0 to 1 while loading, where the server tells."""
    port: int | None = None
    pid: int | None = None
    pinned: bool = False
    in_flight: int = 0
    queued: int = 0
    expected_wait_seconds: float | None = None
    """How long a request that came now would wait; ``None`` where nothing is known of it."""
    memory_estimate_bytes: int | None = None
    memory_estimate_source: str | None = None
    """``measured`` (it took that much before), ``engine``, ``formula`` or ``upper bound``."""
    memory_bytes: int | None = None
    """What it took when it was loaded; ``None`` while it is not."""
    loaded_at: datetime | None = None
    last_used_at: datetime | None = None
    error: str | None = None
    """Why it failed, or why its file cannot be read."""


class WaitingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request that waits for a model (``GET /admin/queue``)."""

    model: str
    position: int
    """From 1, among those that wait for this model."""
    waited_seconds: float
    expected_wait_seconds: float | None
    """From now on; ``None`` where nothing is known of it."""


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a model's server, from load to unload (``GET /admin/sessions``)."""

    id: int = 0
    """Given by the history; it grows with time."""
    model: str
    load_reason: str
    """``request``, ``asked``, ``preload`` or ``restart``."""
    unload_reason: str | None = None
    """Why it ended, in plain words; ``None`` while it is loaded."""
    loaded_at: datetime
    unloaded_at: datetime | None = None
    load_seconds: float
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    context_size: int | None = None
    memory_estimate_bytes: int | None = None
    memory_bytes: int | None = None


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One finished request (``GET /admin/requests``). Never its prompt, never its answer."""

    id: int = 0
    """Given by the history; it grows with time."""
    at: datetime
    """When it came."""
    model: str
    path: str
    status: int
    """The HTTP status that the client saw; 499 = it went away first."""
    stream: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_per_second: float | None = None
    """While answering, as the server measured it."""
    time_to_first_token_seconds: float | None = None
    """From its arrival to the first byte of the answer's body, waiting included."""
    queue_seconds: float = 0.0
    """How long it waited for a place at its model."""
    duration_seconds: float
    client: str | None = None
    """The address it came from."""
    error: str | None = None
    """What went wrong, in one sentence."""


class ModelTotals(msgspec.Struct, frozen=True, kw_only=True):
    """One model's requests summed up, as far back as the history goes (``GET /admin/totals``)."""

    model: str
    requests: int
    failures: int
    """Those with a status of 400 or more, or with an error."""
    tokens_in: int
    """Of the requests whose number of tokens is known."""
    tokens_out: int
    last_used_at: datetime
    """When the latest one came."""


class LlamaServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The ``llama-server`` in use."""

    path: str | None = None
    version: str | None = None


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The service in one glance (``GET /admin/status``)."""

    version: str
    pid: int
    uptime_seconds: float
    host: str
    port: int
    llama_server: LlamaServerRecord
    models_loaded: int
    requests_in_flight: int
    requests_queued: int


class ConfigValueRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One setting's effective value (``GET /admin/config``); secrets are masked."""

    key: str
    value: Any
    source: str
    """``default``, ``file``, ``env`` or ``flag``."""
    default: Any
    help: str
    secret: bool = False
    live: bool = False
    """Applies without a restart of the service."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a process's output, cleaned of control sequences."""

    at: datetime
    text: str


class LogEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``log`` event: new lines of one process, in order."""

    id: str
    """A model's id, or ``service``."""
    lines: tuple[LogLine, ...]


class ServiceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``service`` event: ``state`` is ``started`` or ``stopping``."""

    state: str
    message: str = ""


class GapEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``gap`` event: a reader was too slow, or resumed too late, and lost events."""

    missed: int | None
    """How many; ``None`` where that is not known."""
    topic: str | None
    """Of which topic; ``None`` = of all, because the service was started anew since."""
