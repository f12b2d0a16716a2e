"""The file system as scans ask it: what is there, what is gone, and what cannot be read now."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

from cyber_inference_tui.files import read_file

NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors of a path that leads nowhere. After any other error the thing may well be there."""


class Disk:
    """Reads directories, statuses and small files. A test gives scans one that has faults."""

    def reach(self, path: Path) -> None:
        """Called before something at ``path`` is read in another way; raises ``OSError``."""

    def entries(self, directory: Path, most: int) -> list[os.DirEntry[str]]:
        """The first ``most`` entries of a directory; raises ``OSError``, ``ValueError``."""
        with os.scandir(directory) as listing:
            return list(itertools.islice(listing, most))

    def stat(self, path: Path) -> os.stat_result:
        """The status of what ``path`` leads to; raises ``OSError``, ``ValueError``."""
        return path.stat()

    def beginning(self, path: Path, most: int) -> bytes:
        """The first ``most`` bytes of a file; raises ``OSError``, ``ValueError``."""
        return read_file(path, most)

    def status(self, path: Path) -> os.stat_result | None:
        """The status of what ``path`` leads to; ``None`` where it is gone.

        Raises ``OSError`` where that cannot be told.
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
        """Whether ``error``, met at ``path``, means that nothing is there.

        A missing file or folder is gone only when the folder around it can be read and does not
        list it. Where that folder is missing as well, the same holds for it.
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
    """What kept the system from reading something, in its own words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
