"""Notice changes of a file by polling, which also works on network disks."""

from __future__ import annotations

from pathlib import Path

_Stamp = tuple[int, int, int] | None


class FileWatch:
    """Compares a file's state with that of the last look. Blocks, though shortly."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()

    def changed(self) -> bool:
        """Return whether the file was written, replaced or removed since the last look."""
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
