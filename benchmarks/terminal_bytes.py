"""``python -m benchmarks.terminal_bytes``: what the terminal app's widgets send to the terminal.

Runs small apps in a pseudo-terminal of 120 x 40 cells with 24-bit colour and counts. Prints a
Markdown table. ``pty_bytes`` measures any other program in the same way.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.terminal_apps import CASES

COLUMNS, LINES = 120, 40
# What Textual asks at the start (DECRQM, is synchronized output there?) and a terminal that has it
# answers (DECRPM: it is, and off).
_ASKED, _ANSWER = b"\x1b[?2026$p", b"\x1b[?2026;2$y"


@dataclass(frozen=True)
class Sent:
    """What a program sent in the measured time."""

    bytes_sent: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Bytes a second."""
        return self.bytes_sent / self.seconds


def pty_bytes(
    argv: Sequence[str],
    seconds: float,
    keys: Sequence[str] = (),
    *,
    settle: float = 2.0,
    size: tuple[int, int] = (COLUMNS, LINES),
) -> Sent:
    """Run a program in a terminal and count what it sends.

    It gets ``settle`` seconds after its first output, then the ``keys`` one by one (each a string
    of what the terminal would send) and ``settle`` seconds more if there are any; then it is
    measured for ``seconds``. Raises ``RuntimeError`` if it ends before.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        environ.pop(name, None)
    child = subprocess.Popen(
        list(argv), stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
    )
    os.close(slave)
    try:
        _read(master, 30, until_first=True)
        _read(master, settle)
        for key in keys:
            os.write(master, key.encode())
            _read(master, 0.2)
        if keys:
            _read(master, settle)
        cpu, began = _cpu_seconds(child.pid), time.monotonic()
        count = _read(master, seconds)
        return Sent(count, time.monotonic() - began, _cpu_seconds(child.pid) - cpu)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        os.close(master)


def _read(master: int, seconds: float, *, until_first: bool = False) -> int:
    """Read for so long, or until there is something; the number of bytes."""
    end = time.monotonic() + seconds
    count = 0
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select([master], [], [], left)
        if not ready:
            break
        try:
            data = os.read(master, 65536)
        except OSError:
            data = b""
        if not data:
            raise RuntimeError("the program ended before it was measured")
        if _ASKED in data:
            os.write(master, _ANSWER)
        count += len(data)
        if until_first:
            return count
    if until_first:
        raise RuntimeError("the program shows nothing")
    return count


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), the fields 14 and 15 of ``stat``)."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="measured for each case")
    parser.add_argument("--only", default="", help="cases with this text in their name")
    options = parser.parse_args()
    print(f"In a terminal of {COLUMNS} x {LINES}, 24-bit colour:\n")
    print("| case | bytes/s | CPU |\n|---|---:|---:|")
    for case in CASES:
        if options.only in case:
            argv = [sys.executable, "-m", "benchmarks.terminal_apps", case]
            sent = pty_bytes(argv, options.seconds)
            cpu = sent.cpu_seconds / sent.seconds
            print(f"| {case} | {sent.per_second:,.0f} | {cpu:.1%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
