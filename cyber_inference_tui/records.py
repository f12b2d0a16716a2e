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
    status: ModelStatus = ModelStatus.UNLOADED
    progress: float | None = None
    """0 to 1 while loading, where the server tells."""
    port: int | None = None
    pid: int | None = None
    pinned: bool = False
    in_flight: int = 0
    queued: int = 0
    memory_estimate_bytes: int | None = None
    memory_bytes: int | None = None
    loaded_at: datetime | None = None
    last_used_at: datetime | None = None
    error: str | None = None
    """Why it failed, or why its file cannot be read."""


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
