"""What came of an installation, or of a look for a newer build."""

from __future__ import annotations

import msgspec


class BuildName(msgspec.Struct, frozen=True, kw_only=True):
    """One build of one source."""

    version: str
    source: str
    """``github``, ``debian`` or ``source``."""


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
    replaced: BuildName | None = None
    """What was in use before and is kept: ``--rollback`` goes back to it."""


class CheckRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What ``install-llama --check`` tells."""

    installed: InstallRecord | None
    newest: BuildName
    """The newest build that the source has."""
    up_to_date: bool | None
    """``None`` when the one in use does not come from that source."""
