"""Models on the Hugging Face Hub, and their downloads."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from cyber_inference_tui.records.models import Fit


class HubModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that a search found."""

    repo: str
    downloads: int | None = None
    likes: int | None = None
    updated_at: datetime | None = None
    gated: bool = False
    """Its licence has to be accepted on its page before a download."""
    parameters: int | None = None
    architecture: str | None = None
    context_length: int | None = None
    licence: str | None = None
    """Its short name, such as ``apache-2.0``."""


class HubCardRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a repository, and the beginning of its model card."""

    model: HubModelRecord
    text: str = ""
    """Plain text with headings (``# Title``), list items (``- one``) and code (four spaces); every
    other line is a paragraph."""


class HubFileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file in a repository."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None


class HubFilesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A model in a repository, with its shards in ``files``."""

    name: str
    """The ``filename`` of a download: the path of the first file."""
    quantization: str | None = None
    size_bytes: int | None = None
    """The size of all files, with the projector and the draft head."""
    files: tuple[HubFileRecord, ...]
    projector: HubFileRecord | None = None
    draft: HubFileRecord | None = None
    """The head that drafts its answers."""
    memory_estimate_bytes: int | None = None
    fits: Fit | None = None
    evicts: tuple[str, ...] = ()
    """The loaded models that a load would unload."""
    projector_kept_back: bool = False
    """It fits only with its projector in main memory: it sees images, but more slowly."""
    suggested: bool = False
    """The best model of the repository for this machine."""
    local_id: str | None = None
    """The id of the local model, if it is downloaded already."""


class DownloadStatus(StrEnum):
    """The state of a download."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DownloadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A download of a model with all its files (``GET /admin/downloads``)."""

    id: str
    repo: str
    revision: str | None = None
    """The commit that it is taken from, once known."""
    filename: str | None = None
    """The model's first file."""
    quantization: str | None = None
    status: DownloadStatus
    bytes_done: int = 0
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    """The rate over the last seconds; ``None`` while nothing is received."""
    seconds_left: float | None = None
    model_id: str | None = None
    """The id of the local model, once done."""
    error: str | None = None
    """The reason of a failure, or of the wait for the next try."""
    created_at: datetime | None = None
    source: str | None = None
    """The box that sends a file of it now, or has sent one; ``None`` = all come from the hub."""

    @property
    def share(self) -> float | None:
        """The part done, 0 to 1; ``None`` while the total is unknown."""
        if self.status is DownloadStatus.DONE:
            return 1.0
        return min(1.0, self.bytes_done / self.bytes_total) if self.bytes_total else None

    @property
    def name(self) -> str:
        """The short name of the model."""
        return (self.filename or self.repo).rpartition("/")[2].removesuffix(".gguf")
