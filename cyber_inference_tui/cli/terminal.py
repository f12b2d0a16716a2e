"""What a stream can show: colour, signs beyond ASCII, how many columns."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from cyber_inference_tui.records import ModelStatus

DIM, BOLD, RED, GREEN, YELLOW, CYAN = "2", "1", "31", "32", "33", "36"
_PROBE = "●◐◌◍○✖…"

_SIGNS: dict[ModelStatus, tuple[str, str, str]] = {
    # status: the sign, its stand-in where only ASCII can be shown, the colour
    ModelStatus.LOADED: ("●", "*", GREEN),
    ModelStatus.LOADING: ("◐", "~", YELLOW),
    ModelStatus.QUEUED: ("◌", ".", YELLOW),
    ModelStatus.UNLOADING: ("◍", "-", YELLOW),
    ModelStatus.UNLOADED: ("○", "o", DIM),
    ModelStatus.FAILED: ("✖", "!", RED),
}


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """A stream's abilities. ``width`` is in columns, ``None`` for a pipe or a file."""

    color: bool = False
    unicode: bool = True
    width: int | None = None

    @property
    def interactive(self) -> bool:
        """A person looks at it: signs, cuts and progress make sense."""
        return self.width is not None

    @property
    def ellipsis(self) -> str:
        """What marks a cut."""
        return "…" if self.unicode else "..."

    def paint(self, text: str, *codes: str) -> str:
        """``text`` in the SGR ``codes``, or as it is where there is no colour."""
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self.color and codes else text

    def state(self, status: ModelStatus) -> tuple[str, str]:
        """A status as a sign and a word (the word alone in a pipe), and its colour."""
        sign, plain, color = _SIGNS[status]
        if not self.interactive:
            return status.value, color
        return f"{sign if self.unicode else plain} {status.value}", color


def terminal_of(stream: TextIO | None, environ: Mapping[str, str]) -> Terminal:
    """The abilities of ``stream``. ``NO_COLOR`` (https://no-color.org) and ``TERM=dumb`` count.

    The width is ``$COLUMNS`` where it is set, else what the terminal tells, else 80.
    """
    if stream is None:
        return Terminal(unicode=False)
    try:
        _PROBE.encode(stream.encoding or "ascii")
        unicode = True
    except (UnicodeEncodeError, LookupError):
        unicode = False
    if not stream.isatty():
        return Terminal(unicode=unicode)
    width = environ.get("COLUMNS", "")
    columns = int(width) if width.isdecimal() and int(width) > 0 else _columns(stream)
    color = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Terminal(color=color, unicode=unicode, width=columns)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def stdout_terminal(environ: Mapping[str, str]) -> Terminal:
    """The abilities of standard output."""
    return terminal_of(sys.stdout, environ)


def stderr_terminal(environ: Mapping[str, str]) -> Terminal:
    """The abilities of standard error, where progress and notes go."""
    return terminal_of(sys.stderr, environ)
