"""How long the terminal app takes to its first page, beside the least app that Textual can be."""

from __future__ import annotations

import statistics

from benchmarks import programs
from benchmarks.app_ground import APP_MARK, BARE_MARK, LOADED_MARK, Ground, Row, bare


def measure(ground: Ground, rounds: int) -> list[Row]:
    """Both in turns; the first of each is not counted, it may have to compile."""
    times: dict[str, list[float]] = {"bare": [], "page": [], "data": []}
    cpu: dict[str, list[float]] = {"bare": [], "page": []}
    for turn in range(rounds + 1):
        with bare() as terminal:
            at, _ = terminal.read_until(BARE_MARK)
            if turn:
                times["bare"].append(at - terminal.began)
                cpu["bare"].append(programs.cpu_seconds([terminal.pid]))
        with ground.app() as terminal:
            at, came = terminal.read_until(APP_MARK)
            used = programs.cpu_seconds([terminal.pid])
            filled = at if LOADED_MARK in came else terminal.read_until(LOADED_MARK)[0]
            if turn:
                times["page"].append(at - terminal.began)
                times["data"].append(filled - terminal.began)
                cpu["page"].append(used)
    found = {name: statistics.median(values) for name, values in times.items()}
    spent = {name: statistics.median(values) for name, values in cpu.items()}
    said = f"start, median of {rounds}"
    return [
        (f"{said}: bare Textual app", _ms(found["bare"]), "", "1.00"),
        _against(f"{said}: first page", found["page"], found["bare"], "1.5 of bare"),
        _against(f"{said}: page filled", found["data"], found["bare"], "bare"),
        _against(f"{said}: processor time to first page", spent["page"], spent["bare"], "bare"),
    ]


def _against(what: str, value: float, base: float, budget: str) -> Row:
    return (what, _ms(value), budget, f"{value / base:.2f}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
