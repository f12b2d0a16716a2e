"""Reading the kernel's small files: cheaply, again and again, and trusting nothing in them.

A file that is missing, cut short, full of rubbish or a directory reads as ``None``. Nothing here
raises.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cyber_inference_tui.text import clean_line

READ_LIMIT = 262144
"""Bytes of a file that are looked at; ``/proc/stat`` of 1,024 cores has about 100,000."""
LIST_LIMIT = 4096
"""Entries of a directory that are looked at."""
LARGEST = 1 << 56
"""Nothing that is counted here (bytes, Hz, µW) reaches this; sums stay within 64 bits."""

_CHUNK = 65536
# The kernel hands out such files in whole lines, up to a page at a time. A line is shorter than
# 1 KiB, so that a read with more room than that left in its page was the last one.
_LAST_CHUNK = 3072
_INTEGER = re.compile(rb"\s*(-?[0-9]{1,19})\s*\Z")


class KeptFile:
    """A file that is opened once and read again and again from its start.

    It may appear late: as long as it cannot be opened, each ``read`` tries again. A device that
    went away and came back is opened anew. Only for files of ``/proc`` and ``/sys``, which are
    changed in place; a file that programs replace must be opened each time (``read_bytes``).
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._path = str(path)

    def read(self) -> bytes | None:
        """What it holds now, or ``None`` if it cannot be read."""
        kept = self._descriptor >= 0
        content = self._read()
        # ENODEV and its like: the device behind the descriptor is gone, perhaps not its name.
        return self._read() if content is None and kept else content

    def number(self) -> int | None:
        """The one integer that it holds."""
        return integer(self.read())

    def text(self) -> str | None:
        """The one line of text that it holds, cleaned; ``None`` if that is empty."""
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
    """A file's content (up to ``READ_LIMIT``), or ``None`` if it cannot be read."""
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
    """The one integer that a file holds."""
    return integer(read_bytes(path))


def read_line(path: Path, limit: int = 200) -> str | None:
    """The first line of a file, cleaned; ``None`` if it is empty or cannot be read."""
    return line(read_bytes(path), limit)


def integer(content: bytes | None) -> int | None:
    """The one integer that ``content`` consists of, apart from white space."""
    # int() alone would take "1_000" and "+5", which no kernel writes.
    found = _INTEGER.match(content) if content else None
    return int(found[1]) if found else None


def celsius(millidegrees: int | None) -> float | None:
    """A temperature as the kernel writes it, in °C; ``None`` for what no sensor can mean.

    A zone without power reads as -256 °C on some boards.
    """
    if millidegrees is None or not -100_000 < millidegrees < 250_000:
        return None
    return millidegrees / 1000


def line(content: bytes | None, limit: int = 200) -> str | None:
    """The first line of ``content`` (a NUL ends it as well), cleaned; ``None`` if empty."""
    if not content:
        return None
    first = content.split(b"\0", 1)[0].split(b"\n", 1)[0]
    return clean_line(first.decode("utf-8", "replace"), limit=limit).strip() or None


def entries(folder: Path) -> tuple[str, ...]:
    """The names in a directory, numbers in their order (``card2`` before ``card10``)."""
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry, _ in zip(found, range(LIST_LIMIT), strict=False)]
    except OSError:
        return ()
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    parts = re.split(r"([0-9]{1,18})", name)
    return tuple((int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts))
