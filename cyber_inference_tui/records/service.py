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
    build: int | None = None
    """The number of its build."""
    problem: str | None = None
    """The reason why there is no llama-server, in a sentence or two."""
    devices_problem: str | None = None
    """The reason why it did not list its GPUs."""


OFFERED_PORTS = {11434: "Ollama", 8080: "llama.cpp"}
"""Ports for ``extra_ports``, and the programs that clients look for there."""


class PortRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``extra_ports``."""

    port: int
    problem: str | None = None
    """The reason why it is not open, in a few words."""


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the service (``GET /admin/status``)."""

    version: str
    pid: int
    uptime_seconds: float
    host: str
    port: int
    extra_ports: tuple[PortRecord, ...] = ()
    llama_server: LlamaServerRecord
    config_path: str | None = None
    data_dir: str | None = None
    models_dir: str | None = None
    models_loaded: int
    requests_in_flight: int
    requests_queued: int
    last_event_id: int = 0
    """The id of the newest event: a client that follows the events after it misses none."""


class InstallState(StrEnum):
    """The state of an installation."""

    IDLE = "idle"
    """No installation was started since the service runs."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class InstallSource(msgspec.Struct, frozen=True, kw_only=True):
    """A source to install a llama-server from."""

    name: Literal["github", "debian", "source"]
    summary: str
    """A few words on the result and its cost."""
    possible: bool = True
    problem: str | None = None
    """The reason why it is not possible on this machine."""
    recommended: bool = False
    """``auto`` would choose it."""


class InstallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The installation of a llama-server (``GET /admin/install``); its log is ``install``."""

    state: InstallState = InstallState.IDLE
    source: str | None = None
    step: str | None = None
    """The present step, in a few words: ``downloading``, ``compiling`` …"""
    progress: float | None = None
    """0 to 1 of the whole, if known."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    version: str | None = None
    """The installed version."""
    warnings: tuple[str, ...] = ()
    """Problems that do not prevent its use, such as an unused GPU."""
    update: str | None = None
    """A newer version, if one is known."""
    sources: tuple[InstallSource, ...] = ()


class LoginRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``POST /admin/login``. ``access_token`` is valid for ``expires_in`` seconds,
    as ``Authorization: Bearer``."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - what kind it is, in the words of RFC 6750
    expires_in: int


class LogoutRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``POST /admin/logout``: the login of the request's token has ended."""

    ended: bool = True


class SettingEffect(StrEnum):
    """The effect of a changed setting on a running service."""

    NOTHING = "nothing"
    """The value applies already."""
    NOW = "now"
    """It applies at once and restarts nothing."""
    RESTARTS_MODELS = "restarts models"
    """Models are reloaded, each after its requests."""
    RESTARTS_SERVICE = "restart needed"
    """It applies after a restart of the service."""
    OVERRIDDEN = "overridden"
    """It is written to the file, but an environment variable or a flag overrides it."""


class ConfigCheckRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The effect that a change would have (``PUT /admin/config/KEY?check=1``)."""

    key: str
    value: Any
    """The value as it would apply; secrets are masked."""
    effect: SettingEffect
    models: tuple[str, ...] = ()
    """The loaded models that would be reloaded."""


class ConfigValueRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The effective value of a setting (``GET /admin/config``); secrets are masked."""

    key: str
    value: Any
    source: str
    """``default``, ``file``, ``env`` or ``flag``."""
    default: Any
    help: str
    secret: bool = False
    guarded: bool = False
    """Only its owner may change it over HTTP: with a login, or the token of ``service.json``."""
    live: bool = False
    """Applies without a restart of the service."""
    group: str = ""
    """The title of its group; empty for a model's key."""
