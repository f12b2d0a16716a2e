"""The service itself, and its settings."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import msgspec


class LlamaServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The ``llama-server`` in use."""

    path: str | None = None
    version: str | None = None
    problem: str | None = None
    """Why there is none, in a sentence or two."""
    devices_problem: str | None = None
    """Why it did not tell which GPUs it would use."""


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The service in one glance (``GET /admin/status``)."""

    version: str
    pid: int
    uptime_seconds: float
    host: str
    port: int
    llama_server: LlamaServerRecord
    config_path: str | None = None
    data_dir: str | None = None
    models_dir: str | None = None
    models_loaded: int
    requests_in_flight: int
    requests_queued: int
    last_event_id: int = 0
    """The newest event: whoever follows the events after it misses nothing."""


class InstallState(StrEnum):
    """Where getting a llama-server stands."""

    IDLE = "idle"
    """None was begun since the service started."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class InstallSource(msgspec.Struct, frozen=True, kw_only=True):
    """One way to get a llama-server on this machine."""

    name: Literal["github", "debian", "source"]
    summary: str
    """What one gets, and what it takes, in a few words."""
    possible: bool = True
    problem: str | None = None
    """Why it is not possible here."""
    recommended: bool = False
    """What ``auto`` would take."""


class InstallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Getting a llama-server (``GET /admin/install``); its output is the log ``install``."""

    state: InstallState = InstallState.IDLE
    source: str | None = None
    step: str | None = None
    """What is being done, in a few words: ``downloading``, ``compiling`` …"""
    progress: float | None = None
    """0 to 1 of the whole, where that is known."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    version: str | None = None
    """What was installed."""
    warnings: tuple[str, ...] = ()
    """What does not keep it from working, such as a GPU that it does not use."""
    update: str | None = None
    """A newer version that could be had, where that is known."""
    sources: tuple[InstallSource, ...] = ()


class LoginRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``POST /admin/login``: for ``expires_in`` seconds, ``access_token`` is sent as
    ``Authorization: Bearer``."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - what kind it is, in the words of RFC 6750
    expires_in: int


class SettingEffect(StrEnum):
    """What a changed setting does to a running service."""

    NOTHING = "nothing"
    """The value is the one that holds already."""
    NOW = "now"
    """It applies at once, and stops nothing."""
    RESTARTS_MODELS = "restarts models"
    """Models are loaded anew, each after its requests."""
    RESTARTS_SERVICE = "restart needed"
    """It applies when the service is started the next time."""
    OVERRIDDEN = "overridden"
    """It is written to the file, but an environment variable or a flag says otherwise."""


class ConfigCheckRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a change would do, told before it is made (``PUT /admin/config/KEY?check=1``)."""

    key: str
    value: Any
    """As it would hold, after reading; secrets masked."""
    effect: SettingEffect
    models: tuple[str, ...] = ()
    """The loaded models that would be loaded anew."""


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
    group: str = ""
    """The title of its group; empty for a model's key."""


class ServiceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``service`` event.

    ``state`` is ``started`` or ``stopping``; ``problems`` when ``/admin/problems`` has changed;
    and, while a llama-server is got, ``installing``, ``installed``, ``install failed`` or
    ``install cancelled``.
    """

    state: str
    message: str = ""


class GapEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``gap`` event: a reader was too slow, or resumed too late, and lost events."""

    missed: int | None
    """How many; ``None`` where that is not known."""
    topic: str | None
    """Of which topic; ``None`` = of all, because the service was started anew since."""
