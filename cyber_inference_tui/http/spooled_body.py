"""Keeps the large body of a waiting request in a file instead of in memory."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from weakref import WeakSet

from cyber_inference_tui.errors import StorageError
from cyber_inference_tui.http.body_fields import Body
from cyber_inference_tui.storage import Storages

_MOST = 32
"""Files at once. Each takes a descriptor, and room on the disk."""
_LEFT_FREE = 256 << 20
"""Bytes of the disk that stay free."""
_WRITE_LIMIT = 10.0
_READ_LIMIT = 30.0
_PIECE = 1 << 20


class SpooledBody:
    """A body in a file without a name, which ends with this object, and with the process.

    The methods block.
    """

    _file: int | None = None

    def write(self, body: Body, folder: Path) -> None:
        """Write the body to a new file in ``folder``. Raises ``OSError``."""
        if shutil.disk_usage(folder).free < len(body) + _LEFT_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # Unbuffered, because a buffer would copy the body.
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            left = memoryview(body)
            while left:
                left = left[file.write(left) :]
            self._file = os.dup(file.fileno())

    def read(self) -> memoryview:
        """Return the body as mapped memory, whose pages the kernel can drop and read again.

        They are read now, so that the event loop need not wait for the disk. Raises ``OSError``.
        """
        if self._file is None:
            raise ValueError("the body was not written")
        size = 0
        while piece := len(os.pread(self._file, _PIECE, size)):
            size += piece
        return memoryview(mmap.mmap(self._file, size, access=mmap.ACCESS_READ))

    def __del__(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)


class Spool:
    """Keeps bodies in files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._storages = Storages()
        self._bodies: WeakSet[SpooledBody] = WeakSet()

    async def write(self, body: Body) -> SpooledBody | None:
        """Return the body in a file; ``None`` if the folder takes no file now."""
        if len(self._bodies) >= _MOST:
            return None
        spooled = SpooledBody()
        self._bodies.add(spooled)
        write = partial(spooled.write, body, self._folder)
        try:
            await self._storages.ask_async(self._folder, write, _WRITE_LIMIT)
        except (OSError, RuntimeError, StorageError):
            return None
        return spooled

    async def read(self, body: SpooledBody) -> memoryview:
        """Return the body, to be sent. Raises ``StorageError``."""
        view: list[memoryview] = []
        try:
            # Not as the result, which the storages keep for a while.
            await self._storages.ask_async(
                self._folder, lambda: view.append(body.read()), _READ_LIMIT
            )
        except OSError as error:
            raise StorageError(
                f"The request's body cannot be read back from {self._folder}: {error.strerror}.",
                hint="Send the request again.",
            ) from None
        return view[0]
