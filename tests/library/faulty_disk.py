"""A file system that fails at paths chosen by a test."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from cyber_inference_tui.library.disk import Disk

PASSING = (
    errno.EMFILE,
    errno.ENFILE,
    errno.EACCES,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOMEM,
    errno.EINTR,
)


class FaultyDisk(Disk):
    """Raises the error of ``faults`` for these paths and all paths below them."""

    def __init__(self) -> None:
        self.faults: dict[Path, int] = {}

    def entries(self, directory: Path, most: int) -> list[os.DirEntry[str]]:
        self._fail(directory)
        return super().entries(directory, most)

    def stat(self, path: Path) -> os.stat_result:
        self._fail(path)
        return super().stat(path)

    def beginning(self, path: Path, most: int) -> bytes:
        self._fail(path)
        return super().beginning(path, most)

    def _fail(self, path: Path) -> None:
        for at in (path, *path.parents):
            if at in self.faults:
                raise OSError(self.faults[at], os.strerror(self.faults[at]), str(path))
