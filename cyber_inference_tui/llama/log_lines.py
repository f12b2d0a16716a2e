"""Splits a process's output into lines.

Output arrives in chunks of any bytes: half lines, lines of megabytes, invalid UTF-8, control
sequences. Nothing here fails on them or exceeds its bounds.
"""

from __future__ import annotations

import re

MAX_LINE_BYTES = 16_384
"""A longer line is cut here; the rest up to its newline is skipped."""

_ROUTER_PREFIX = b"cmd_child_to_router:"
_LINE_BREAK = re.compile(rb"\r?\n|\r")


class LineSplitter:
    """Turns chunks into whole lines; holds back at most ``MAX_LINE_BYTES``.

    A line ends with a newline, a carriage return or both: each state of a progress display becomes
    a line. The lines do not depend on the limits of the chunks.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self._after_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that ``chunk`` completes, without their line ends."""
        if not chunk:
            return []
        if self._after_return and chunk.startswith(b"\n"):
            # The second half of a line end at the limit of two chunks.
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        pieces = _LINE_BREAK.split(chunk) if b"\r" in chunk else chunk.split(b"\n")
        pieces[0] = b"" if self._skipping else self._rest + pieces[0]
        if len(pieces) > 1 and self._skipping:
            # The newline that ends the cut line, whose first part was already returned.
            pieces.pop(0)
            self._skipping = False
        self._rest = pieces.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            pieces.append(self._rest)
            self._rest = b""
            self._skipping = True
        if max(map(len, pieces), default=0) <= MAX_LINE_BYTES:
            return pieces
        return [
            piece if len(piece) <= MAX_LINE_BYTES else piece[:MAX_LINE_BYTES] + b" [line cut]"
            for piece in pieces
        ]

    def flush(self) -> list[bytes]:
        """Return the unfinished last line at the end of the stream."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def is_protocol_line(line: bytes) -> bool:
    """Return whether a line of stdout belongs to llama-server's router protocol, not to its log."""
    return line.startswith(_ROUTER_PREFIX)


def as_texts(lines: list[bytes]) -> list[str]:
    """Decode lines; bytes that are not UTF-8 become replacement characters.

    All lines are decoded together: a broken character never swallows the newline after it.
    """
    return b"\n".join(lines).decode("utf-8", "replace").split("\n") if lines else []
