"""A pseudo-terminal with a program in it, and what a terminal that reads it can tell."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

COLUMNS, LINES = 120, 40
START_LIMIT = 30.0
# What Textual asks at the start (DECRQM, is synchronized output there?) and a terminal that has it
# answers (DECRPM: it is, and off).
_ASKED, _ANSWER = b"\x1b[?2026$p", b"\x1b[?2026;2$y"


class EndedError(RuntimeError):
    """The program ended while it was watched."""


class Terminal:
    """``argv`` in a terminal of ``size`` cells with 24-bit colour; ``with`` ends it.

    Nobody reads what it sends but within the methods: a terminal that is left alone is one that
    does not read. ``environ`` replaces the environment.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        size: tuple[int, int] = (COLUMNS, LINES),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        own = {**(os.environ if environ is None else environ)}
        own |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            own.pop(name, None)
        self.began = time.perf_counter()
        self._child = subprocess.Popen(
            list(argv), stdin=slave, stdout=slave, stderr=slave, env=own, start_new_session=True
        )
        os.close(slave)
        self.pid = self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in (signal.SIGTERM, signal.SIGCONT):
            self._child.send_signal(number)
        deadline = time.monotonic() + 10
        while self._child.poll() is None and time.monotonic() < deadline:
            # What it says at its end has to be read, or it waits for that.
            if select.select([self._master], [], [], 0.02)[0]:
                try:
                    os.read(self._master, 65536)
                except OSError:
                    time.sleep(0.02)
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        os.close(self._master)

    def press(self, keys: str) -> float:
        """Type; the moment (``time.perf_counter``) when that was done."""
        at = time.perf_counter()
        os.write(self._master, keys.encode())
        return at

    def read(self, seconds: float) -> bytes:
        """What comes within so long; raises ``EndedError``."""
        end = time.monotonic() + seconds
        parts = []
        while (left := end - time.monotonic()) > 0 and (data := self._some(left)):
            parts.append(data)
        return b"".join(parts)

    def read_until(self, *marks: bytes, limit: float = START_LIMIT) -> tuple[float, bytes]:
        """Read up to the piece that completes all of ``marks``: when it came, and all that came.

        Raises ``TimeoutError`` with the end of what came instead.
        """
        end = time.monotonic() + limit
        came = bytearray()
        while (left := end - time.monotonic()) > 0:
            came += self._some(left)
            at = time.perf_counter()
            if came and all(mark in came for mark in marks):
                return at, bytes(came)
        raise TimeoutError(f"no {marks!r} in {limit} s; the end was {bytes(came[-500:])!r}")

    def _some(self, seconds: float) -> bytes:
        """The next piece, or nothing if none comes in that time."""
        if not select.select([self._master], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self._master, 65536)
        except OSError:
            data = b""
        if not data:
            raise EndedError("the program ended before it was measured")
        if _ASKED in data:
            os.write(self._master, _ANSWER)
        return data
