"""What came of an installation, or of a look for a newer build."""

from __future__ import annotations

import msgspec


class InstallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The llama-server in use after ``install-llama`` (its ``--json``)."""

    path: str
    version: str
    source: str
    """``github``, ``debian`` or ``source``; ``setting`` or ``path`` for one that was there."""
    devices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    installed: bool = False
    """Whether it is new; otherwise it was there already."""


class NewestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The newest build that a source has."""

    version: str
    source: str


class CheckRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What ``install-llama --check`` tells."""

    installed: InstallRecord | None
    newest: NewestRecord
    up_to_date: bool | None
    """``None`` when the one in use does not come from that source."""
