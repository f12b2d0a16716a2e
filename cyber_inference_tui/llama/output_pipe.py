"""Reads one output of a child process: at once, or in large pieces.

A llama-server writes each line of its log on its own, a dozen or more per small request. To wake
the event loop for each of them costs more than to forward the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable

_CAPACITY = 1 << 20
"""Bytes that a pipe buffers. Linux allows that much to every user, until a user's pipes together
exceed a limit (``pipe-user-pages-soft``); then, and on other systems, it is 64 KiB."""
_READ = 65_536
_REST = 0.05
"""Seconds between two reads of a pipe whose output is gathered."""
_LAST_READS = 2 * _CAPACITY // _READ


class OutputPipe:
    """A pipe from a child; ``received`` is called with its output, ``ended`` at the end of it.

    After a read of ``_READ`` bytes it rests for as long as ``received`` took, so that an endless
    writer leaves half of the loop's time to others: the pipe fills up, and then blocks the writer.
    """

    def __init__(self, received: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._received = received
        self._ended = ended
        self._fd, self.write_end = os.pipe()
        os.set_blocking(self._fd, False)
        if (set_size := getattr(fcntl, "F_SETPIPE_SZ", None)) is not None:
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.write_end, set_size, _CAPACITY)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.gathers = False
        """Rest after each read, so that one read takes many lines; nobody waits for a line."""
        self.closed = False

    def start(self) -> None:
        """Begin to read, once the child has the write end."""
        os.close(self.write_end)
        if not self.closed:
            self._loop.add_reader(self._fd, self._read)

    def abandon(self) -> None:
        """Close both ends, if no child could be started."""
        os.close(self.write_end)
        self.close()

    def finish(self) -> None:
        """Read what a process wrote before its exit, and then without rests until the end."""
        self.gathers = False
        for _ in range(_LAST_READS):
            if self.closed or not self._take():
                break
        if not self.closed:
            self._read_on()

    def close(self) -> None:
        """Read no more."""
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._ended()

    def _take(self) -> int:
        """Read once, and return the number of bytes; the end of the output closes the pipe."""
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return 0
        if data:
            self._received(data)
        else:
            self.close()
        return len(data)

    def _read(self) -> None:
        # Not the loop's clock, which may be constant during a callback.
        began = time.perf_counter()
        size = self._take()
        if size == _READ:
            self._rest(time.perf_counter() - began)
        elif size and self.gathers:
            self._rest(_REST)

    def _rest(self, seconds: float) -> None:
        if not self.closed:
            self._loop.remove_reader(self._fd)
            self._timer = self._loop.call_later(seconds, self._read_on)

    def _read_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.add_reader(self._fd, self._read)
