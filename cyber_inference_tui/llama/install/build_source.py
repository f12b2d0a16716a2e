"""The interface of all sources of llama-server builds, for the installer."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A build that a source has for this machine."""

    source: str
    version: str
    """The name that the source uses: ``b6543``, ``0.7.0+dfsg-2``."""
    backend: str = ""
    """The backend it is made for (``CUDA``): the build is unusable if it lists no device of that
    name."""


class Progress(Protocol):
    """Receives the progress of an installation."""

    def begin(self, source: str) -> None:
        """Begin with another source; earlier progress is over."""

    def step(self, text: str, *, upto: float | None = None) -> None:
        """Begin a step; ``text`` describes it in one line.

        When the step ends, ``upto`` (0 to 1) of the source's whole work is done, by estimate.
        """

    def advance(self, done: int, total: int | None) -> None:
        """Report ``done`` of ``total`` units (bytes or per mille; ``None`` = unknown) of this
        step."""

    def line(self, text: str) -> None:
        """Report a line of output from the program that does this step."""


class BuildSource(Protocol):
    """A source of llama-server builds. Both methods block and raise ``InstallError``."""

    @property
    def name(self) -> str:
        """The short name, which also starts the name of the build's folder."""

    def offer(self, version: str | None, progress: Progress) -> Offer:
        """Return the build of that version, or the newest one."""

    def unpack(self, offer: Offer, staging: Path, final: Path, progress: Progress) -> None:
        """Put the build into ``staging``: all files in ``lib/``, and a link ``bin/llama-server``.

        ``staging`` is renamed to ``final`` afterwards; some builds contain their own place.
        """

    def finished(self) -> None:
        """Remove the files kept for another try: the build is in use."""

    def close(self) -> None:
        """Release what ``offer`` keeps for ``unpack``."""
