"""Results of benches, as the app and the command line show and compare them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cyber_inference_tui.records.bench import BenchFigure, BenchResult
from cyber_inference_tui.rounds import Difference, paired, unpaired
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import context_text, counted, number_text


class _Compared(NamedTuple):
    name: str
    field: str
    more: str
    less: str


_COMPARED = (
    _Compared("generation", "tokens_per_second", "faster", "slower"),
    _Compared("prompts", "prompt_tokens_per_second", "faster", "slower"),
    _Compared("energy", "joules_per_token", "more", "less"),
)


def workload_of(result: BenchResult) -> tuple[int, int, int]:
    """Return what was asked: only results of the same workload can be compared."""
    return result.prompt, result.tokens, result.parallel


def latest_alike(results: Iterable[BenchResult]) -> list[BenchResult]:
    """Return the newest result of each model, build and settings, oldest first.

    ``results`` are newest first, and only those with the workload of the newest count.
    """
    found: dict[object, BenchResult] = {}
    workload = None
    for result in results:
        workload = workload or workload_of(result)
        if workload_of(result) == workload:
            found.setdefault(tuple(facts(result).values()), result)
    return sorted(found.values(), key=lambda one: (one.run, one.id))


def difference(reference: BenchResult, other: BenchResult, field: str) -> Difference | None:
    """Return how ``other`` differs from ``reference`` in a figure; ``None`` = not comparable.

    Models that took turns in one bench are compared round by round.
    """
    first: BenchFigure | None = getattr(reference, field)
    second: BenchFigure | None = getattr(other, field)
    if first is None or second is None or workload_of(reference) != workload_of(other):
        return None
    in_turns = (reference.run, reference.power_mode) == (other.run, other.power_mode)
    if in_turns and len(first.values) == len(second.values):
        return paired(first.values, second.values)
    return unpaired(first.values, second.values)


def differences(reference: BenchResult, other: BenchResult) -> dict[str, Difference | None]:
    """Return the differences in speed and energy by what they are of."""
    return {one.name: difference(reference, other, one.field) for one in _COMPARED}


def verdict(reference: BenchResult, other: BenchResult, charset: Charset) -> str:
    """Return a sentence: ``b11669 is 6.1 % slower than b11500 (± 1.2 %); prompts the same …``."""
    name, reference_name = names(reference, other)
    found = differences(reference, other)
    speed = found[_COMPARED[0].name]
    if speed is None:
        return f"{name} cannot be compared with {reference_name}: other tokens were asked for."
    if speed.noise == math.inf:
        return f"{name} cannot be compared with {reference_name}: there were too few rounds."
    noise = percent(speed.noise)
    first = f"{name} is as fast as {reference_name}, within {noise}"
    if speed.is_real:
        word = _COMPARED[0].more if speed.change > 0 else _COMPARED[0].less
        much = percent(abs(speed.change))
        first = f"{name} is {much} {word} than {reference_name} ({charset.plus_minus} {noise})"
    parts = [first]
    for one in _COMPARED[1:]:
        change = found[one.name]
        if change is not None and change.noise < math.inf:
            parts.append(f"{one.name} {_change_words(one, change, charset)}")
    return f"{'; '.join(parts)}."


def _change_words(of: _Compared, found: Difference, charset: Charset) -> str:
    noise = percent(found.noise)
    if not found.is_real:
        return f"the same within {noise}"
    word = of.more if found.change > 0 else of.less
    return f"{percent(abs(found.change))} {word} ({charset.plus_minus} {noise})"


def names(reference: BenchResult, other: BenchResult) -> tuple[str, str]:
    """Return names for ``other`` and ``reference`` that say in what they differ."""
    mine, its = facts(other), facts(reference)
    different = [name for name in mine if mine[name] != its[name]]
    if not different:
        return _when(other), _when(reference)
    return (
        clean_line(" ".join(mine[name] or f"default {name}" for name in different)),
        clean_line(" ".join(its[name] or f"default {name}" for name in different)),
    )


def _when(result: BenchResult) -> str:
    return f"{result.model} on {result.at.astimezone():%Y-%m-%d %H:%M}"


def settings_text(result: BenchResult) -> str:
    """Return the settings that matter, in a few words: ``8K  4 slots  q8_0``."""
    return clean_line("  ".join(settings_texts(result)))


def settings_texts(result: BenchResult) -> list[str]:
    """Return the settings that matter, each in a word or two."""
    known = facts(result)
    shown = ("context", "slots", "cache", "layers", "threads")
    return [known[name] for name in shown if known[name] not in {"", "f16"}]


def workload_texts(result: BenchResult) -> list[str]:
    """Return what was asked, in a few words each."""
    asked = [f"{result.prompt:,} + {result.tokens:,} tokens"]
    return [*asked, f"{result.parallel} requests at once"] if result.parallel > 1 else asked


def change_text(found: Difference | None, charset: Charset) -> str:
    """Return a difference in a few cells: ``-6 %``, or ``± 2 %`` if it is within the noise; empty
    if there is none."""
    if found is None or found.noise == math.inf:
        return ""
    if not found.is_real:
        return f"{charset.plus_minus} {percent(found.noise)}"
    return f"{'+' if found.change > 0 else '-'}{percent(abs(found.change))}"


def figure_text(figure: BenchFigure | None, charset: Charset, *, decimals: int = 1) -> str:
    """Return the median and its spread: ``21.4 ± 0.3``; without decimals from 100 on.

    One round has no spread.
    """
    if figure is None:
        return charset.missing
    decimals = decimals if figure.median < 99.95 else 0
    known = (figure.median, figure.spread) if len(figure.values) > 1 else (figure.median,)
    return f" {charset.plus_minus} ".join(number_text(one, decimals=decimals) for one in known)


def slow_text(results: Sequence[BenchResult]) -> list[str]:
    """Return a sentence for each result that was measured on a machine that was slowed down."""
    return [
        clean_line(f"{one.model}: the machine was slowed down ({', '.join(one.throttled)}).")
        for one in results
        if one.throttled
    ]


def percent(share: float) -> str:
    """Return a share in percent: ``6 %``, ``0.4 %``."""
    return number_text(100 * share, decimals=0 if share >= 0.0995 else 1, unit="%")


def facts(result: BenchResult) -> dict[str, str]:
    """Return all that makes two results of one workload different, in words."""
    caches = (result.cache_type_k, result.cache_type_v)
    return {
        "model": result.model,
        "build": result.build or "",
        "device": result.device or "",
        "mode": result.power_mode or "",
        "context": "" if result.context_size is None else context_text(result.context_size),
        "slots": "" if result.slots is None else counted(result.slots, "slot"),
        "cache": "/".join(dict.fromkeys(caches)),
        "layers": "" if result.gpu_layers is None else counted(result.gpu_layers, "layer"),
        "threads": "" if result.threads is None else counted(result.threads, "thread"),
    }
