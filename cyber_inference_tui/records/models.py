"""Local models and their state."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from cyber_inference_tui.records.checks import ModelCheck


class ModelStatus(StrEnum):
    """The state of a model, in the order that a model goes through."""

    UNLOADED = "unloaded"
    QUEUED = "queued"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"
    FAILED = "failed"


class Fit(StrEnum):
    """The way in which a model fits into this machine's memory."""

    NOW = "now"
    """In the free memory."""
    AFTER_UNLOADING = "after unloading"
    """After idle models are unloaded."""
    NEVER = "never"
    """Not even after all models are unloaded that may be: a load would be refused."""


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A local model and its state (``GET /admin/models``)."""

    id: str
    aliases: tuple[str, ...] = ()
    preset_of: str | None = None
    """The id of the model of which it is a preset, with a server of its own."""
    path: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    """The SHA-256 of a model in one file, if it was downloaded, or hashed for another box."""
    architecture: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    """Tokens of context that a request may use; of an unloaded model, after a load."""
    context_size: int | None = None
    """Tokens of context that its server was or would be started with; slots may share them."""
    trained_context_length: int | None = None
    """Tokens that the model was trained with."""
    slots: int | None = None
    """Requests that its server answers at the same time, if known."""
    capabilities: tuple[str, ...] = ()
    """The things it can do, among ``completion chat tools thinking vision audio infill`` or
    ``embeddings`` or ``rerank``. Empty for a ``command`` and for an unreadable file."""
    vision: bool = False
    """It has a projector for images."""
    embedding: bool = False
    """It computes embeddings instead of text."""
    origin: str = "models_dir"
    """The source of its file: ``models_dir``, ``model_dirs``, ``settings`` (a path in them),
    ``demo``, ``hub cache``, ``lm studio`` or ``ollama``. Only files in ``models_dir`` can be
    deleted."""
    status: ModelStatus = ModelStatus.UNLOADED
    progress: float | None = None
    """0 to 1 while loading, if the server reports it."""
    port: int | None = None
    pid: int | None = None
    split: tuple[str, ...] = ()
    """The other box that holds, or would hold, a part of it."""
    pinned: bool = False
    in_flight: int = 0
    queued: int = 0
    expected_wait_seconds: float | None = None
    """Seconds that a new request would wait; ``None`` if unknown."""
    memory_estimate_bytes: int | None = None
    memory_estimate_source: str | None = None
    """``measured`` (at an earlier load), ``engine``, ``formula`` or ``upper bound``."""
    memory_bytes: int | None = None
    """The memory that its load took; ``None`` while it is not loaded."""
    fits: Fit | None = None
    """``None`` if its need is unknown, and while it is loaded."""
    fits_reason: str | None = None
    """The reason, in one sentence with the numbers."""
    loaded_at: datetime | None = None
    last_used_at: datetime | None = None
    unload_at: datetime | None = None
    """The time of its unload if no request comes; ``None`` while it is busy or pinned."""
    error: str | None = None
    """The reason why it failed, or why its file is unreadable."""
    exit_code: int | None = None
    """The exit code of the server that failed (negative = the signal that ended it)."""
    unreadable: bool = False
    """It cannot be loaded, because its file cannot be read; false while it has a server."""


class ProblemRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file or setting that is no usable model (``GET /admin/problems``)."""

    where: str
    """The path of a file or folder, or a table or alias in the settings."""
    reason: str


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session of a model's server, from load to unload (``GET /admin/sessions``)."""

    id: int = 0
    """The number in the history; it grows with time."""
    model: str
    load_reason: str
    """``request``, ``asked``, ``preload`` or ``restart``."""
    unload_reason: str | None = None
    """The reason of the unload, in plain words; ``None`` while it is loaded."""
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
    """A file of a model."""

    path: str
    size_bytes: int | None = None


class DraftRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The model or head that drafts a model's answers, or could."""

    kind: str
    """As in llama-server's ``--spec-type``: ``draft-mtp``, ``draft-eagle3``, ``draft-dflash`` (all
    made for the model) or ``draft-simple`` (a small model)."""
    name: str
    """The small model's id, or the name of the head's file."""
    files: tuple[FileRecord, ...] = ()
    """None if it is in the model's own file."""
    unused_because: str | None = None
    """Why it does not draft; ``None`` = it does, from the next load on."""


class DraftTotals(msgspec.Struct, frozen=True, kw_only=True):
    """The drafts of a model's requests in the history, and the speeds with and without them."""

    tokens_drafted: int
    tokens_accepted: int
    tokens_per_second_p50: float | None = None
    """Half of the answers with drafts reach it; ``None`` = there are fewer than five."""
    undrafted_tokens_per_second_p50: float | None = None
    """The same of answers without drafts."""


class AdapterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter of a model."""

    id: int
    """Its number in requests: ``"lora": [{"id": 0, "scale": 0.5}]``."""
    name: str
    path: str
    size_bytes: int | None = None
    scale: float | None
    """The strength for requests that name none: of the running server, else of the next start.
    ``None`` = the server did not answer in time."""
    initial_scale: float | None = None
    """The strength at each start; ``None`` = the model's own arguments name the adapter."""


class MemoryPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a model's memory, such as ``weights`` or ``KV cache``."""

    name: str
    size_bytes: int


class MemoryAtContext(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of a model with ``context_size`` tokens of context, by the formula."""

    context_size: int
    total_bytes: int
    parts: tuple[MemoryPart, ...] = ()
    fits: Fit | None = None
    current: bool = False
    """The model is, or would be, started with this size."""


class KeptPromptsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's server finds of its prompts after its next load."""

    works: bool | None = None
    """Whether a restored prompt is used again; ``None`` = not tried yet, or the last try failed."""
    reason: str = ""
    """Why not, as a part of a sentence."""
    prompts: int = 0
    tokens: int = 0
    size_bytes: int = 0
    """Bytes of their files."""


class ModelSettingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a model's table ``[models."ID"]``."""

    key: str
    value: Any
    """The value in its own table; ``None`` = not set."""
    effective: Any
    """The value that applies to the model."""
    source: str
    """``model`` (its own table), ``base`` (that of the model whose preset it is), or the source of
    the general setting: ``default``, ``file``, ``env``, ``flag``."""
    help: str


class ModelDetails(msgspec.Struct, frozen=True, kw_only=True):
    """All facts of a model (``GET /admin/models/ID/details``)."""

    model: ModelRecord
    facts: dict[str, Any] = {}
    """Facts of the file's header, by names such as ``layers`` or ``attention heads``."""
    files: tuple[FileRecord, ...] = ()
    projector: FileRecord | None = None
    draft: DraftRecord | None = None
    drafted: DraftTotals | None = None
    """``None`` = none of its requests in the history had a draft."""
    adapters: tuple[AdapterRecord, ...] = ()
    memory: tuple[MemoryAtContext, ...] = ()
    """Estimates for several context sizes, smallest first."""
    command: tuple[str, ...] = ()
    """The command line of its server: of the running server, or that of the next load, in which
    ``PORT`` replaces a port that is not chosen yet."""
    command_problem: str | None = None
    """The reason why there is no command."""
    kept_prompts: KeptPromptsRecord | None = None
    """``None`` for a ``command``, and without a llama-server."""
    settings: tuple[ModelSettingRecord, ...] = ()
    check: ModelCheck | None = None
    """What was tried with it; ``None`` = nothing, or its files, settings or build have changed."""
