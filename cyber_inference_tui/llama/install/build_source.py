"""What every source of llama-server builds offers, so that they can be tried in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One build that a source has for this machine."""

    source: str
    version: str
    """As the source names it: ``b6543``, ``0.7.0+dfsg-2``."""
    backend: str = ""
    """What it is made for (``CUDA``): a device of that name has to show, or it is no good."""


class Progress(Protocol):
    """Who is told how far an installation is."""

    def begin(self, source: str) -> None:
        """This source's turn: whatever was told of the one before it is over."""

    def step(self, text: str, *, upto: float | None = None) -> None:
        """A new step begins; ``text`` is one plain line.

        At its end ``upto`` (0 to 1) of the source's whole work is done, as far as one can guess.
        """

    def advance(self, done: int, total: int | None) -> None:
        """``done`` of ``total`` units (bytes or per mille) of this step; ``None`` = unknown."""

    def line(self, text: str) -> None:
        """A line that a program at work on this step has printed."""


class BuildSource(Protocol):
    """A place to get llama-server from. Both methods block and raise ``InstallError``."""

    @property
    def name(self) -> str:
        """Short name, also the beginning of the folder's name."""

    def offer(self, version: str | None, progress: Progress) -> Offer:
        """The build of that version, or the newest one."""

    def unpack(self, offer: Offer, staging: Path, final: Path, progress: Progress) -> None:
        """Put the build into ``staging``: ``lib/`` with everything, ``bin/llama-server`` into it.

        ``staging`` will be renamed to ``final`` afterwards, for builds that name their own place.
        """

    def finished(self) -> None:
        """The build is in use: what was kept for another try may go."""

    def close(self) -> None:
        """Give back what ``offer`` keeps for ``unpack``."""
