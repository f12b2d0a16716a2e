"""Local models, and what is going on with them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class ModelStatus(StrEnum):
    """Where a model stands; the order is the order of a life."""

    UNLOADED = "unloaded"
    QUEUED = "queued"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"
    FAILED = "failed"


class Fit(StrEnum):
    """Whether a model finds room in this machine's memory."""

    NOW = "now"
    """In what is free."""
    AFTER_UNLOADING = "after unloading"
    """If idle models go."""
    NEVER = "never"
    """Not even if every model goes that may go: it would be refused."""


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
    """Tokens of context that one request may use: of the loaded model, else as a load would have
    it."""
    context_size: int | None = None
    """What its server was started with, in tokens, or would be; its slots may have parts of it."""
    trained_context_length: int | None = None
    """Tokens that the model was trained with."""
    slots: int | None = None
    """Requests its server answers at once, where that is known."""
    vision: bool = False
    """It has a projector."""
    embedding: bool = False
    """It makes vectors, not text."""
    origin: str = "models_dir"
    """Whose directory it lies in: ``models_dir``, ``model_dirs``, ``settings`` (a path there),
    ``demo``, ``hub cache``, ``lm studio`` or ``ollama``. Only those of ``models_dir`` can be
    deleted."""
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
    fits: Fit | None = None
    """``None`` where nothing is known of its need, and while it is loaded."""
    fits_reason: str | None = None
    """Why, in one sentence with the numbers."""
    loaded_at: datetime | None = None
    last_used_at: datetime | None = None
    unload_at: datetime | None = None
    """When it will be unloaded if nobody asks it; ``None`` while it is busy or stays."""
    error: str | None = None
    """Why it failed, or why its file cannot be read."""


class ProblemRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Something here that is no model, and why (``GET /admin/problems``)."""

    where: str
    """A file or folder, or a table or alias in the settings."""
    reason: str


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


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a model."""

    path: str
    size_bytes: int | None = None


class MemoryPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of what a model takes, such as ``weights`` or ``KV cache``."""

    name: str
    size_bytes: int


class MemoryAtContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a model would take with a context of ``context_size`` tokens, by the formula."""

    context_size: int
    total_bytes: int
    parts: tuple[MemoryPart, ...] = ()
    fits: Fit | None = None
    current: bool = False
    """It is the size that the model is, or would be, started with."""


class ModelSettingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a model's table ``[models."ID"]``."""

    key: str
    value: Any
    """What its own table says; ``None`` = nothing."""
    effective: Any
    """What holds for the model in the end."""
    source: str
    """``model`` (its own table), else the source of the general setting: ``default``, ``file``,
    ``env``, ``flag``."""
    help: str


class ModelDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Everything there is to know of one model (``GET /admin/models/ID/details``)."""

    model: ModelRecord
    facts: dict[str, Any] = {}
    """What its header says, by plain names such as ``layers`` or ``attention heads``."""
    files: tuple[FileRecord, ...] = ()
    projector: FileRecord | None = None
    memory: tuple[MemoryAtContext, ...] = ()
    """At several context sizes, the smallest first."""
    command: tuple[str, ...] = ()
    """Its server's command line: the running one's, or the one it would be started with (a port
    that is chosen then stands as ``PORT``)."""
    command_problem: str | None = None
    """Why there is none."""
    settings: tuple[ModelSettingRecord, ...] = ()
