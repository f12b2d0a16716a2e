"""A process's output as lines.

Output arrives as chunks of any bytes: half lines, lines of megabytes, invalid UTF-8, control
sequences. Nothing here fails on them or keeps more than its bounds.
"""

from __future__ import annotations

import re

MAX_LINE_BYTES = 16_384
"""A longer line is cut here; the rest of it, up to its newline, is skipped."""

_ROUTER_PREFIX = b"cmd_child_to_router:"
_LINE_BREAK = re.compile(rb"\r?\n|\r")


class LineSplitter:
    """Chunks in, whole lines out; at most ``MAX_LINE_BYTES`` are held back.

    A line ends with a newline, a carriage return or both: each state of a progress display
    becomes a line of its own. The lines do not
    depend on where the chunks were cut.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self._after_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, without their ends."""
        if not chunk:
            return []
        if self._after_return and chunk.startswith(b"\n"):
            # The other half of a line end that was cut in two.
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        pieces = _LINE_BREAK.split(chunk) if b"\r" in chunk else chunk.split(b"\n")
        pieces[0] = b"" if self._skipping else self._rest + pieces[0]
        if len(pieces) > 1 and self._skipping:
            # The newline that ends the cut line; the cut part was given out already.
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
        """The unfinished last line, when the stream has ended."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def is_protocol_line(line: bytes) -> bool:
    """Whether a stdout line belongs to llama-server's router protocol rather than to its log."""
    return line.startswith(_ROUTER_PREFIX)


def as_texts(lines: list[bytes]) -> list[str]:
    """Lines as text; bytes that are not UTF-8 become replacement characters.

    They are decoded together: a broken character never swallows the newline after it.
    """
    return b"\n".join(lines).decode("utf-8", "replace").split("\n") if lines else []
