"""``python -m benchmarks.terminal_bytes``: what the terminal app's widgets send to the terminal.

Runs small apps in a pseudo-terminal of 120 x 40 cells with 24-bit colour and counts. Prints a
Markdown table. ``pty_bytes`` measures any other program in the same way.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import programs
from benchmarks.terminal import COLUMNS, LINES, Terminal
from benchmarks.terminal_apps import CASES


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
    with Terminal(argv, size=size) as terminal:
        terminal.read_until(b"")
        terminal.read(settle)
        for key in keys:
            terminal.press(key)
            terminal.read(0.2)
        if keys:
            terminal.read(settle)
        cpu, began = programs.cpu_seconds([terminal.pid]), time.monotonic()
        count = len(terminal.read(seconds))
        spent = programs.cpu_seconds([terminal.pid]) - cpu
        return Sent(count, time.monotonic() - began, spent)


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
