"""Judges the power mode of a Jetson: by what was measured in each mode, else by their names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from cyber_inference_tui.doctor.facts import DeviceFacts
from cyber_inference_tui.doctor.records import Finding
from cyber_inference_tui.records.bench import BenchResult
from cyber_inference_tui.terminal.benches import difference, figure_text, verdict
from cyber_inference_tui.terminal.charset import UNICODE
from cyber_inference_tui.terminal.power_modes import (
    better_modes,
    conditions,
    measured_modes,
    tokens_per_joule,
)

_WATTS = re.compile(r"([0-9]{1,3})\s*W", re.IGNORECASE)


def check_power_mode(facts: DeviceFacts, benches: Sequence[BenchResult]) -> list[Finding]:
    """Name the mode, and say what ``benches`` (newest first) have measured in the board's modes."""
    if facts.power_mode is None:
        return []
    numbers = {name: number for number, name in facts.power_modes.items()}
    modes = measured_modes(benches, numbers)
    by_name = {one.power_mode: one for one in modes}
    present = by_name.get(facts.power_mode)
    faster = _faster_by_name(facts)
    if faster is None or _is_compared(present, by_name.get(faster)):
        found = [Finding.ok("jetson", f"The power mode is {facts.power_mode}.")]
    else:
        text = f"The power mode is {facts.power_mode}; the board has {faster}, which is faster."
        found = [Finding.hint("jetson", text, _switch(numbers[faster]))]
    if modes:
        text = f"Measured with {conditions(modes)}: {'; '.join(map(_figures, modes))}."
        found.append(Finding.ok("jetson", text))
    if present is not None:
        better = better_modes(modes, present)
        found += [_comparison(present, one, numbers[one.power_mode or ""]) for one in better]
    return found


def _is_compared(present: BenchResult | None, other: BenchResult | None) -> bool:
    """Return whether the speeds of both were measured often enough to know which is faster."""
    if present is None or other is None:
        return False
    speed = difference(present, other, "tokens_per_second")
    return speed is not None and speed.noise < math.inf


def _faster_by_name(facts: DeviceFacts) -> str | None:
    """Return the mode with the most power, if that is more than the present mode has."""
    powers = {name: _power(name) for name in facts.power_modes.values()}
    known = {name: power for name, power in powers.items() if power is not None}
    best = max(known, key=known.__getitem__, default=None)
    now = _power(facts.power_mode or "")
    return best if best is not None and now is not None and known[best] > now else None


def _power(name: str) -> float | None:
    """Return the watts of a mode from its name; ``MAXN`` and similar modes have no limit."""
    if name.upper().startswith("MAXN"):
        return float("inf")
    found = _WATTS.search(name)
    return float(found[1]) if found else None


def _switch(number: int) -> str:
    return f"`sudo nvpmodel -m {number}` sets it, if the power supply and the cooling allow."


def _figures(mode: BenchResult) -> str:
    text = f"{mode.power_mode} {figure_text(mode.tokens_per_second, UNICODE)} tokens/s"
    if (energy := tokens_per_joule(mode)) is not None:
        text += f" and {figure_text(energy, UNICODE, decimals=2)} tokens per joule"
    return f"{text} while it was slowed down" if mode.throttled else text


def _comparison(present: BenchResult, better: BenchResult, number: int) -> Finding:
    text = verdict(present, better, UNICODE)
    speed = difference(present, better, "tokens_per_second")
    if speed is not None and speed.is_real and speed.change < 0:
        # Less energy at the price of speed: that is a matter of taste.
        return Finding.ok("jetson", text)
    return Finding.hint("jetson", text, _switch(number))
