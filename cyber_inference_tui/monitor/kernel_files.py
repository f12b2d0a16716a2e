"""Reads the kernel's small files cheaply and repeatedly, without trusting their content.

A file that is missing, truncated, full of garbage or a directory reads as ``None``. Nothing here
raises.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from cyber_inference_tui.text import clean_line

READ_LIMIT = 262144
"""The maximum bytes of a file; ``/proc/stat`` of 1,024 cores has about 100,000."""
LIST_LIMIT = 4096
"""The maximum entries of a directory."""
LARGEST = 1 << 56
"""All values here (bytes, Hz, µW) are below this, so their sums fit into 64 bits."""

_PROBE_SECONDS = 30.0
_CHUNK = 65536
# The kernel returns such files in whole lines, up to a page at a time. Lines are shorter than 1
# KiB, so a read that leaves more space than that in its page was the last one.
_LAST_CHUNK = 3072
_INTEGER = re.compile(rb"\s*(-?[0-9]{1,19})\s*\Z")


class ProbeTimer:
    """Decides when a sensor looks for its files: at first, and then every 30 s of ``clock``."""

    __slots__ = ("_clock", "_next")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = float("-inf")

    def is_due(self) -> bool:
        """Return whether to look now, and count the next 30 s if so."""
        due = (now := self._clock()) >= self._next
        if due:
            self._next = now + _PROBE_SECONDS
        return due


class KeptFile:
    """A file that is opened once and read repeatedly from its start.

    While it cannot be opened, each ``read`` tries again, so it may appear later. If its device
    disappears and returns, it is opened again. Only for files of ``/proc`` and ``/sys``, which
    change in place; use ``read_bytes`` for files that programs replace.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._path = str(path)

    def read(self) -> bytes | None:
        """Return its present content; ``None`` = it cannot be read."""
        kept = self._descriptor >= 0
        content = self._read()
        # ENODEV or similar: the device is gone, but its name may exist again.
        return self._read() if content is None and kept else content

    def number(self) -> int | None:
        """Return its content as an integer."""
        return integer(self.read())

    def text(self) -> str | None:
        """Return its content as a clean line; ``None`` if that is empty."""
        return line(self.read())

    def close(self) -> None:
        """Close it; a later read opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> bytes | None:
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            return _read_all(self._descriptor)
        except (OSError, ValueError):
            self.close()
            return None

    def __del__(self) -> None:
        self.close()


def read_bytes(path: Path) -> bytes | None:
    """Return a file's content (up to ``READ_LIMIT``); ``None`` = it cannot be read."""
    return KeptFile(path).read()


def _read_all(descriptor: int) -> bytes:
    content = os.pread(descriptor, _CHUNK, 0)
    last = len(content)
    while last >= _LAST_CHUNK and len(content) < READ_LIMIT:
        chunk = os.pread(descriptor, _CHUNK, len(content))
        last = len(chunk)
        content += chunk
    return content


def read_integer(path: Path) -> int | None:
    """Return the integer that a file contains."""
    return integer(read_bytes(path))


def read_line(path: Path, limit: int = 200) -> str | None:
    """Return the first line of a file, cleaned; ``None`` if it is empty or cannot be read."""
    return line(read_bytes(path), limit)


def integer(content: bytes | None) -> int | None:
    """Return ``content`` as an integer; white space is allowed."""
    # int() alone accepts "1_000" and "+5", which no kernel writes.
    found = _INTEGER.match(content) if content else None
    return int(found[1]) if found else None


def celsius(millidegrees: int | None) -> float | None:
    """Convert a kernel temperature to °C; ``None`` = an implausible value.

    A zone without power reads as -256 °C on some boards.
    """
    if millidegrees is None or not -100_000 < millidegrees < 250_000:
        return None
    return millidegrees / 1000


def line(content: bytes | None, limit: int = 200) -> str | None:
    """Return the first line of ``content`` (a NUL also ends it), cleaned; ``None`` if empty."""
    if not content:
        return None
    first = content.split(b"\0", 1)[0].split(b"\n", 1)[0]
    return clean_line(first.decode("utf-8", "replace"), limit=limit).strip() or None


def entries(folder: Path) -> tuple[str, ...]:
    """Return the names in a directory in natural order (``card2`` before ``card10``)."""
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry, _ in zip(found, range(LIST_LIMIT), strict=False)]
    except OSError:
        return ()
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    parts = re.split(r"([0-9]{1,18})", name)
    return tuple((int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts))
