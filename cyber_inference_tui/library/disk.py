"""The file system as scans see it: existing, missing and unreadable files."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

from cyber_inference_tui.files import read_file

NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors of a path that leads nowhere. After any other error the file may exist."""


class Disk:
    """Reads directories, statuses and small files. Tests replace it with a faulty one."""

    def reach(self, path: Path) -> None:
        """Prepare for reading ``path`` in another way. Raises ``OSError``."""

    def entries(self, directory: Path, most: int) -> list[os.DirEntry[str]]:
        """Return the first ``most`` entries of a directory. Raises ``OSError``, ``ValueError``."""
        with os.scandir(directory) as listing:
            return list(itertools.islice(listing, most))

    def stat(self, path: Path) -> os.stat_result:
        """Return the status of the target of ``path``. Raises ``OSError``, ``ValueError``."""
        return path.stat()

    def beginning(self, path: Path, most: int) -> bytes:
        """Return the first ``most`` bytes of a file. Raises ``OSError``, ``ValueError``."""
        return read_file(path, most)

    def status(self, path: Path) -> os.stat_result | None:
        """Return the status of the target of ``path``; ``None`` = it is gone.

        Raises ``OSError`` if that is unknown.
        """
        try:
            return self.stat(path)
        except ValueError:  # a NUL in the path
            return None
        except OSError as error:
            if self.is_gone(path, error):
                return None
            raise

    def is_gone(self, path: Path, error: OSError) -> bool:
        """Return whether ``error`` at ``path`` means that no file is there.

        A missing file or folder is gone only if its parent folder can be read and does not list it.
        If the parent is missing as well, the same applies to it.
        """
        if error.errno not in NOWHERE:
            return False
        if error.errno != errno.ENOENT:
            return True
        target = Path(os.path.realpath(path))
        if target == target.parent:
            return True
        try:
            return all(entry.name != target.name for entry in self.entries(target.parent, _ALL))
        except OSError as above:
            return self.is_gone(target.parent, above)


_ALL = 1_000_000


def error_text(error: OSError | ValueError) -> str:
    """Return the system's own message for an error."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
