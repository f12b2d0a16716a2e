"""Adds up the energy that the machine uses, from its power or its energy counters.

The power between two readings counts as a straight line (trapezoidal rule). A counter of energy
counts by its difference, which needs no such rule. A longer time without a reading is a gap: its
energy is not known and counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cyber_inference_tui.records import EnergyRecord

LONGEST_STEP = 30.0
"""Seconds between two readings; more are a gap."""
_MOST_WATTS = 10_000.0
"""More is a counter that was set back, for example while the machine was suspended."""


class Part(NamedTuple):
    """A reading of a part of the machine: its power in W, or its counter in J."""

    name: str
    """``board``, ``CPU`` or the name of a GPU; no two parts of a machine have the same."""
    watts: float | None = None
    counter_j: float | None = None
    wraps_at_j: float | None = None
    """The value after which the counter begins again at 0; ``None`` = it never does."""


class EnergyMeter:
    """The energy since the first reading; ``add`` all readings in their order."""

    def __init__(self) -> None:
        self.joules = 0.0
        self.gaps = 0
        """The number of times that the energy between two readings was unknown."""
        self._seconds = self._longest_gap = 0.0
        self._last: tuple[float, Sequence[Part]] | None = None

    @property
    def record(self) -> EnergyRecord | None:
        """The energy so far; ``None`` = nothing has been read."""
        if self._last is None:
            return None
        return EnergyRecord(
            joules=self.joules,
            seconds=self._seconds,
            covers=tuple(part.name for part in self._last[1]),
            gaps=self.gaps,
            longest_gap_seconds=self._longest_gap,
        )

    def add(self, at: float, parts: Sequence[Part]) -> None:
        """Add a reading of ``parts``, if there are any.

        ``at`` is in seconds of a clock that goes on while the machine is suspended.
        """
        if not parts:
            return
        before, self._last = self._last, (at, parts)
        if before is None:
            return
        seconds = at - before[0]
        joules = _joules(before[1], parts, seconds)
        if joules is None:
            self.gaps += 1
            self._longest_gap = max(self._longest_gap, seconds)
        else:
            self.joules += joules
            self._seconds += seconds


def _joules(before: Sequence[Part], now: Sequence[Part], seconds: float) -> float | None:
    """Return the energy between two readings; ``None`` = it is not known."""
    if not 0 <= seconds <= LONGEST_STEP:
        return None
    if [part.name for part in before] != [part.name for part in now]:
        return None
    used = [_part_joules(*pair, seconds) for pair in zip(before, now, strict=True)]
    known = [joules for joules in used if joules is not None]
    return sum(known) if len(known) == len(used) else None


def _part_joules(before: Part, now: Part, seconds: float) -> float | None:
    if before.counter_j is not None and now.counter_j is not None:
        joules = now.counter_j - before.counter_j
        if joules < 0 and now.wraps_at_j is not None:
            joules += now.wraps_at_j
        return joules if 0 <= joules <= _MOST_WATTS * seconds else None
    if before.watts is not None and now.watts is not None:
        return (before.watts + now.watts) / 2 * seconds
    return None


def energy_between(before: EnergyRecord | None, after: EnergyRecord | None) -> float | None:
    """Return the energy from one reading to a later one, in J.

    ``None`` = it is not known: nothing is measured, something else is measured, or there was a gap.
    """
    if before is None or after is None or before.gaps != after.gaps:
        return None
    return after.joules - before.joules if before.covers == after.covers else None
