"""The abilities of an output stream: colours, characters and width."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset, charset_for, charset_of
from cyber_inference_tui.terminal.tone import Tone

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"
"""SGR codes (ECMA-48); the colours are the terminal's own."""
TONE_CODES: dict[Tone, tuple[str, ...]] = {
    "none": (),
    "good": (GREEN,),
    "busy": (YELLOW,),
    "bad": (RED,),
    "dim": (DIM,),
    "accent": (),
    "strong": (BOLD,),
}
"""The SGR codes of each tone."""


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """A stream's abilities. ``width`` is in columns, ``None`` for a pipe or a file."""

    color: bool = False
    charset: Charset = UNICODE
    width: int | None = None

    @property
    def interactive(self) -> bool:
        """It is a terminal, so that signs, cuts and progress make sense."""
        return self.width is not None

    @property
    def ellipsis(self) -> str:
        """Marks a cut."""
        return self.charset.dots

    def paint(self, text: str, *codes: str) -> str:
        """Return ``text`` with the SGR ``codes``, or unchanged without colours."""
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self.color and codes and text else text


def terminal_of(stream: TextIO | None, environ: Mapping[str, str]) -> Terminal:
    """Return the abilities of ``stream``, by ``NO_COLOR`` (https://no-color.org) and ``TERM``.

    The width is ``$COLUMNS`` if set, else the terminal's, else 80.
    """
    if stream is None:
        return Terminal(charset=ASCII)
    if not stream.isatty():
        return Terminal(charset=charset_for(stream.encoding))
    width = environ.get("COLUMNS", "")
    columns = int(width) if width.isdecimal() and int(width) > 0 else _columns(stream)
    color = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Terminal(color=color, charset=charset_of(environ, stream.encoding), width=columns)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def stdout_terminal(environ: Mapping[str, str]) -> Terminal:
    """Return the abilities of standard output."""
    return terminal_of(sys.stdout, environ)


def stderr_terminal(environ: Mapping[str, str]) -> Terminal:
    """Return the abilities of standard error, which shows progress and notes."""
    return terminal_of(sys.stderr, environ)
