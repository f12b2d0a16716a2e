"""What the terminal app costs while nothing much happens: bytes, processor time, memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx

from benchmarks import programs
from benchmarks.app_ground import APP_MARK, BARE_MARK, LOADED_MARK, Ground, Row, bare, percent_row
from benchmarks.terminal import Terminal

SETTLE = 4.0
REST_BYTES, LOG_BYTES = 2_000, 45_000
LINES = 20
"""Log lines a second on the log page."""


@dataclass(frozen=True)
class Cost:
    """Of some seconds: bytes to the terminal a second, share of a core, resident bytes."""

    sent: float
    cpu: float
    resident: int


def cost(terminal: Terminal, seconds: float) -> Cost:
    """What the program in the terminal costs in the next ``seconds``."""
    before, began = programs.cpu_seconds([terminal.pid]), time.monotonic()
    sent = len(terminal.read(seconds))
    spent, took = programs.cpu_seconds([terminal.pid]) - before, time.monotonic() - began
    return Cost(sent / took, spent / took, programs.resident_bytes([terminal.pid]))


def dashboard(ground: Ground, seconds: float) -> list[Row]:
    """The dashboard of two loaded models that do nothing, and a bare app beside it."""
    with bare() as terminal:
        terminal.read_until(BARE_MARK)
        terminal.read(SETTLE)
        least = cost(terminal, 2.0)
    with ground.app() as terminal:
        terminal.read_until(APP_MARK, LOADED_MARK)
        terminal.read(SETTLE)
        found = cost(terminal, seconds)
    return [
        bytes_row("dashboard at rest: sent", found.sent, REST_BYTES),
        percent_row("dashboard at rest: processor time", found.cpu, 0.03),
        ("bare Textual app: resident", f"{least.resident / 1e6:.0f} MB", "", "1.00"),
        (
            "dashboard at rest: resident",
            f"{found.resident / 1e6:.0f} MB",
            "75 MB",
            f"{found.resident / 75e6:.2f}",
        ),
    ]


def log_page(ground: Ground, seconds: float) -> list[Row]:
    """The log page following a log that gets 20 lines a second."""
    with ground.app() as terminal:
        open_log(terminal)
        write_log(ground, round(LINES * (seconds + SETTLE + 2)), LINES)
        terminal.read(SETTLE)
        found = cost(terminal, seconds)
    return [
        bytes_row(f"log page, {LINES} lines/s: sent", found.sent, LOG_BYTES),
        percent_row(f"log page, {LINES} lines/s: processor time", found.cpu, 0.1),
    ]


def open_log(terminal: Terminal) -> None:
    """Show the log of the model that writes."""
    terminal.read_until(APP_MARK, LOADED_MARK)
    terminal.read(1.0)
    terminal.press("G")  # the cursor on the last model, which is the one
    terminal.read(0.5)
    terminal.press("o")
    terminal.read_until(b"following")
    terminal.read(1.0)


def write_log(ground: Ground, lines: int, rate: int) -> None:
    """Have the model write so many lines, so many a second."""
    path = f"/v1/chat/completions?lines={lines}&rate={rate}"
    body = {"model": "writer", "messages": []}
    httpx.post(
        f"{ground.service.url}{path}", json=body, timeout=60, trust_env=False
    ).raise_for_status()


def bytes_row(what: str, sent: float, budget: int) -> Row:
    """Bytes a second, against a budget."""
    return (what, f"{sent / 1000:.1f} kB/s", f"{budget / 1000:.0f} kB/s", f"{sent / budget:.2f}")
