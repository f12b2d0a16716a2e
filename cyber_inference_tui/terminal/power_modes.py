"""What benches have measured in the power modes of a machine, and which modes are better."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from cyber_inference_tui.records.bench import BenchFigure, BenchResult
from cyber_inference_tui.rounds import spread
from cyber_inference_tui.terminal.benches import (
    difference,
    facts,
    settings_texts,
    workload_of,
    workload_texts,
)
from cyber_inference_tui.text import clean_line


def measured_modes(results: Iterable[BenchResult], names: Collection[str]) -> list[BenchResult]:
    """Return the newest result in each of the modes ``names``, the fastest first.

    ``results`` are newest first. Those returned are of one model, build, settings and workload: the
    newest that were measured in several modes, else the newest.
    """
    found: dict[object, dict[str | None, BenchResult]] = {}
    for one in results:
        if one.power_mode in names and one.tokens_per_second is not None:
            kind = workload_of(one), *({**facts(one), "mode": ""}.values())
            found.setdefault(kind, {}).setdefault(one.power_mode, one)
    modes = max(found.values(), key=lambda by_mode: len(by_mode) > 1, default={})
    return sorted(modes.values(), key=_speed, reverse=True)


def better_modes(modes: Sequence[BenchResult], present: BenchResult) -> list[BenchResult]:
    """Return the fastest mode and that with the least energy per token.

    Each only if it beats the present mode by more than the noise.
    """
    better: dict[BenchResult, None] = {}
    for field, sign in (("tokens_per_second", 1), ("joules_per_token", -1)):
        gains = {
            one: sign * found.change
            for one in modes
            if (found := difference(present, one, field)) is not None and found.is_real
        }
        best = max(gains, key=gains.__getitem__, default=present)
        if gains.get(best, 0.0) > 0:
            better[best] = None
    return list(better)


def tokens_per_joule(result: BenchResult) -> BenchFigure | None:
    """Return the tokens for each joule, those of prompts included; ``None`` = not measured."""
    energy = result.joules_per_token
    if energy is None or min(energy.values, default=0.0) <= 0:
        return None
    values = tuple(1 / value for value in energy.values)
    found = spread(values)
    if found is None:
        return None
    return BenchFigure(median=found.median, spread=found.deviation, values=values)


def conditions(modes: Sequence[BenchResult]) -> str:
    """Return with what modes were measured, and when: ``m, 8K, 512 + 128 tokens, 2026-03-04``."""
    days = sorted({f"{one.at.astimezone():%Y-%m-%d}" for one in modes})
    days = list(dict.fromkeys((days[0], days[-1])))
    one = modes[0]
    parts = (one.model, *settings_texts(one), *workload_texts(one), " to ".join(days))
    return clean_line(", ".join(parts))


def _speed(result: BenchResult) -> float:
    return 0.0 if result.tokens_per_second is None else result.tokens_per_second.median
