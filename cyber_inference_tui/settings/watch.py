"""Whether a file changed, told without a service of the operating system (network disks, SSH)."""

from __future__ import annotations

from pathlib import Path

_Stamp = tuple[int, int, int] | None


class FileWatch:
    """Remembers how a file was; ``changed`` tells once for every change. Blocking, but tiny."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()

    def changed(self) -> bool:
        """Whether the file is another than at the last look (written, replaced, gone, back)."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        return True

    def _look(self) -> _Stamp:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
