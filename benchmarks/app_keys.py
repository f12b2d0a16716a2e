"""From a key to the changed screen, while a model floods its log."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from itertools import cycle

from benchmarks import app_rest, programs
from benchmarks.app_ground import Ground, Row, percent_row
from benchmarks.terminal import Terminal

BUDGET = 0.050
# What the terminal gets only when the screen has changed as the key says.
_PAUSED, _FOLLOWS, _CURSOR = b"paused", b"following", "▸".encode()


def under_flood(ground: Ground, rate: int, seconds: float) -> list[Row]:
    """On the log's page, where it is followed, and among the models; and at rest for comparison."""
    with ground.app() as terminal:
        app_rest.open_log(terminal)
        app_rest.write_log(ground, 2000, rate)
        terminal.read(2.0)
        rest = key_times(terminal, _log_keys(), 60)
        app_rest.write_log(ground, round(rate * seconds), rate)
        terminal.read(1.0)
        before = programs.cpu_seconds([terminal.pid])
        log = key_times(terminal, _log_keys(), round((seconds - 4) * 5))
        rows = key_rows("log page at rest", rest, BUDGET) + key_rows(
            f"log page, {rate} lines/s", log
        )
        rows.append(_busy(terminal, before, log, rate))
        terminal.read(3.0)
        terminal.press("2g")
        terminal.read(1.5)
        app_rest.write_log(ground, round(rate * seconds), rate)
        terminal.read(1.0)
        models = key_times(terminal, model_keys(), round((seconds - 4) * 5))
        return rows + key_rows(f"models page, {rate} lines/s", models)


def _log_keys() -> Iterator[tuple[str, bytes]]:
    return cycle([(" ", _PAUSED), ("G", _FOLLOWS)])


def model_keys() -> Iterator[tuple[str, bytes]]:
    """Move the cursor of a table of models."""
    return cycle([("j", _CURSOR), ("k", _CURSOR)])


def key_times(terminal: Terminal, keys: Iterator[tuple[str, bytes]], count: int) -> list[float]:
    """Press one key after the other at odd times; seconds until each one's mark came."""
    chance = random.Random(1)
    found = []
    for _ in range(count):
        terminal.read(chance.uniform(0.05, 0.25))
        key, mark = next(keys)
        pressed = terminal.press(key)
        at, _ = terminal.read_until(mark, limit=10.0)
        found.append(at - pressed)
    return found


def _busy(terminal: Terminal, before: float, times: list[float], rate: int) -> Row:
    spent = programs.cpu_seconds([terminal.pid]) - before
    seconds = sum(times) + len(times) * 0.15
    return percent_row(f"log page, {rate} lines/s: processor time", spent / seconds, 1.0)


def key_rows(
    what: str, times: list[float], budget: float = BUDGET, percents: Sequence[int] = (50, 99)
) -> list[Row]:
    """Percentiles of the times, against the budget in seconds."""
    rows = []
    for percent in percents:
        value = statistics.quantiles(times, n=100)[percent - 1]
        said = f"{what}: key to changed screen, p{percent} of {len(times)}"
        rows.append(
            (said, f"{value * 1000:.0f} ms", f"{budget * 1000:.0f} ms", f"{value / budget:.2f}")
        )
    return rows
