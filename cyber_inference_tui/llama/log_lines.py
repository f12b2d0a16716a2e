"""Splits a process's output into lines, and cleans them, by whole chunks.

Output arrives in chunks of any bytes: half lines, lines of megabytes, invalid UTF-8, control
sequences. Nothing here fails on them or exceeds its bounds. Lines are bytes, each with a newline at
its end: most chunks pass without a step for each line.
"""

from __future__ import annotations

from cyber_inference_tui.text import MAX_CHARACTERS, clean_lines

MAX_LINE_BYTES = 16_384
"""A longer line is cut here; the rest up to its newline is skipped."""

_CUT = b" [line cut]"
_ROUTER_PREFIX = b"cmd_child_to_router:"
_PLAIN = bytes([*range(0x20, 0x7F), 0x0A])
"""The bytes of lines that need no cleaning."""


class LineSplitter:
    """Turns chunks into whole lines; holds back at most ``MAX_LINE_BYTES``.

    A line ends with a newline, a carriage return or both: each state of a progress display becomes
    a line. The lines do not depend on the limits of the chunks.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self._after_return = False

    def feed(self, chunk: bytes) -> bytes:
        """Return the lines that ``chunk`` completes, each with a newline at its end."""
        if not chunk:
            return b""
        if self._after_return and chunk.startswith(b"\n"):
            # The second half of a line end at the limit of two chunks.
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._skipping:
            # Up to the newline that ends the cut line, whose first part was already returned.
            _, newline, chunk = chunk.partition(b"\n")
            self._skipping = not newline
        whole, newline, self._rest = (self._rest + chunk).rpartition(b"\n")
        lines = whole + newline
        if _may_have_line_over(MAX_LINE_BYTES, lines):
            lines = b"\n".join(map(_cut, lines.split(b"\n")))
        if len(self._rest) > MAX_LINE_BYTES:
            lines += _cut(self._rest) + b"\n"
            self._rest = b""
            self._skipping = True
        return lines

    def flush(self) -> bytes:
        """Return the unfinished last line at the end of the stream, with a newline."""
        rest, self._rest = self._rest, b""
        return rest + b"\n" if rest else b""


def _cut(line: bytes) -> bytes:
    return line if len(line) <= MAX_LINE_BYTES else line[:MAX_LINE_BYTES] + _CUT


def _may_have_line_over(limit: int, lines: bytes) -> bool:
    """Return False if no line is longer than ``limit``.

    A longer line fills at least one of the pieces of half that length.
    """
    step = limit // 2
    return any(
        lines.find(b"\n", start, start + step) < 0 for start in range(0, len(lines) - step, step)
    )


def without_protocol(lines: bytes) -> tuple[bytes, list[bytes]]:
    """Return the lines of the log, and apart from them those of llama-server's router protocol.

    The latter have no newline.
    """
    if _ROUTER_PREFIX not in lines:
        return lines, []
    every = lines.splitlines(keepends=True)
    log = b"".join(line for line in every if not line.startswith(_ROUTER_PREFIX))
    return log, [line.rstrip(b"\n") for line in every if line.startswith(_ROUTER_PREFIX)]


def clean_output(lines: bytes) -> bytes:
    """Return the lines as clean UTF-8 (see ``text.clean_line``), each with its newline."""
    special = lines.translate(None, _PLAIN)
    if not special.strip(b"\t"):
        if special:
            lines = lines.replace(b"\t", b"    ")
        if not _may_have_line_over(MAX_CHARACTERS, lines):
            return lines
    # All lines are decoded together: a broken character never swallows the newline after it.
    texts = clean_lines(lines.decode("utf-8", "replace").split("\n"))
    return "\n".join(texts).encode()
