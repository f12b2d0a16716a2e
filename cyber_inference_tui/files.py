"""Reading a file that somebody else named: never held up by it, and bounded.

Opening a fifo waits until somebody writes to it, and a device may have no end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_file(path: Path, limit: int) -> bytes:
    """The first ``limit`` bytes of a regular file; ``/dev/null`` is an empty one.

    Raises ``OSError``, whose ``strerror`` also says when ``path`` is no file but something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # how a socket, or a device that is not there, answers
            raise _not_a_file(path, path.stat().st_mode) from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not path.samefile(os.devnull):
            raise _not_a_file(path, mode)
        return file.read(limit)


def _not_a_file(path: Path, mode: int) -> OSError:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
