"""Models on the Hugging Face Hub, and downloads of them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from cyber_inference_tui.records.models import Fit


class HubModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One repository that a search found."""

    repo: str
    downloads: int | None = None
    likes: int | None = None
    updated_at: datetime | None = None
    gated: bool = False
    """Its licence has to be accepted on its page first."""
    parameters: int | None = None
    architecture: str | None = None
    context_length: int | None = None


class HubFileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One file in a repository."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None


class HubFilesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One model in a repository: its shards in ``files``, and what goes with it."""

    name: str
    """What to ask a download for: the path of its first file."""
    quantization: str | None = None
    size_bytes: int | None = None
    """Of all its files and its projector."""
    files: tuple[HubFileRecord, ...]
    projector: HubFileRecord | None = None
    memory_estimate_bytes: int | None = None
    fits: Fit | None = None
    evicts: tuple[str, ...] = ()
    """The loaded models that would have to go, where it fits after unloading."""
    suggested: bool = False
    """The best of them for this machine."""
    local_id: str | None = None
    """The local model that this is, where it is here already."""


class DownloadStatus(StrEnum):
    """Where a download stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DownloadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One download of a model with all its files (``GET /admin/downloads``)."""

    id: str
    repo: str
    revision: str | None = None
    """The commit it is taken from, once that is known."""
    filename: str | None = None
    """The model's first file."""
    quantization: str | None = None
    status: DownloadStatus
    bytes_done: int = 0
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    """Over the last seconds; ``None`` while nothing moves."""
    seconds_left: float | None = None
    model_id: str | None = None
    """The local model it became, once done."""
    error: str | None = None
    """Why it failed, or why it waits before the next try."""
    created_at: datetime | None = None
