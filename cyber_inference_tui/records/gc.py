"""Records of what can be deleted to free the disk."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

_Days = Annotated[int, Meta(ge=0, le=36_500)]
_Bytes = Annotated[int, Meta(ge=0, le=1 << 53)]


class GcQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for, besides partial downloads, outdated revisions and duplicates."""

    unused_days: _Days | None = None
    """Models that nobody has used for so many days."""
    room_bytes: _Bytes | None = None
    """Only as much as frees so many bytes on the disk of ``models_dir`` in all, the least recently
    used models last."""


class GcOrder(GcQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan to carry out: its query, and the token of one of its two parts."""

    token: Annotated[str, Meta(max_length=64)]


class GcItem(msgspec.Struct, frozen=True, kw_only=True):
    """Something to delete."""

    reason: str
    """``partial download``, ``outdated revision``, ``duplicate`` or ``unused``."""
    name: str
    """The id of a model, a repository with a commit, or a path."""
    origin: str
    """As in a model: ``models_dir``, ``hub cache``, ``lm studio`` or ``ollama``."""
    path: str
    freed_bytes: int
    """Bytes on the disk that are free once it and all items before it are deleted."""
    last_used_at: datetime | None = None
    """The last request to the model here; ``None`` = there was none."""
    copy_of: str | None = None
    """Another model with the same contents."""


class GcPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a plan that is carried out as a whole."""

    items: tuple[GcItem, ...] = ()
    freed_bytes: int = 0
    token: str = ""
    """Names exactly this part, with the files as they are now."""


class GcPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to delete (``GET /admin/gc``)."""

    own: GcPart
    """Files in ``models_dir``."""
    others: GcPart
    """Files of other programs, after those of our own."""
    free_bytes: int
    """Bytes that are free on the disk of ``models_dir``."""
    missing_bytes: int = 0
    """Bytes of the wished room that would still be missing."""
    hashing: int = 0
    """Files that may be duplicates and are being read. Until it is 0, ask again."""


class GcResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was deleted (``POST /admin/gc``)."""

    freed_bytes: int
    deleted: tuple[GcItem, ...] = ()
    problems: tuple[str, ...] = ()
    """What was not deleted, and why."""
