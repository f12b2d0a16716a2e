"""Tokens per second by model, for the largest graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cyber_inference_tui.records import TrendPoint
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.tui.pages.dashboard.measures import scale_for
from cyber_inference_tui.tui.pages.dashboard.timeline import Timeline
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.area import SHADES, spark


class ModelShades:
    """The shades of models, which they keep as long as they are shown."""

    def __init__(self) -> None:
        self._shades: dict[str, int] = {}

    def keep(self, models: Iterable[str]) -> dict[str, int]:
        """Return the shades of ``models``, the first ones first, and forget all others."""
        wanted = list(dict.fromkeys(models))
        kept = {name: self._shades[name] for name in wanted if name in self._shades}
        for name in wanted:
            if name not in kept:
                used = list(kept.values())
                kept[name] = min(range(SHADES), key=lambda shade: (used.count(shade), shade))
        self._shades = kept
        return kept


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens per second by model, for the largest graph."""

    models: tuple[str, ...] = ()
    series: tuple[tuple[float | None, ...], ...] = ()
    maximum: float = 10.0

    def at(self, place: int) -> dict[str, float]:
        """Return the speeds in a period by model, of those that answered."""
        found = {}
        for name, values in zip(self.models, self.series, strict=True):
            if 0 <= place < len(values) and (value := values[place]):
                found[name] = value
        return found


def speeds(
    points: Sequence[TrendPoint], timeline: Timeline, shades: dict[str, int], hold: float
) -> Speeds:
    """Return the series of the models with a shade, in the order of the shades."""
    names = {name for point in points for name in point.tokens_per_second} & shades.keys()
    found = [
        (name, timeline.values(points, partial(of_model, name), hold))
        for name in sorted(names, key=lambda name: (shades[name], name))
    ]
    if not found:
        # A machine that answers nobody has a line at the bottom, not a gap.
        return Speeds(("",), (timeline.values(points, lambda _: 0.0, hold),))
    columns = zip(*(series for _, series in found), strict=True)
    totals = [sum(value or 0.0 for value in column) for column in columns]
    return Speeds(
        tuple(name for name, _ in found),
        tuple(series for _, series in found),
        scale_for(totals, least=10),
    )


def of_model(name: str, point: TrendPoint) -> float:
    """Return the tokens per second of a model."""
    return point.tokens_per_second.get(name, 0.0)


def total_speed(point: TrendPoint) -> float:
    """Return the tokens per second of all models together."""
    return sum(point.tokens_per_second.values())


def rate_sparks(
    rates: Mapping[int, Sequence[float]], width: int, charset: Charset
) -> dict[int, str]:
    """Return the rates of running requests as graphs of one scale, by their numbers."""
    highest = max((max(one, default=0.0) for one in rates.values()), default=0.0)
    scale = scale_for([highest])
    return {number: spark(one, width, scale, charset) for number, one in rates.items()}


def speeds_elsewhere(snapshot: Snapshot) -> dict[str, float]:
    """Return tokens per second of models on other boxes, by their ids here."""
    return {
        f"{box.name}/{usage.id}": usage.tokens_per_second
        for box in snapshot.boxes
        if box.sample is not None
        for usage in box.sample.models
        if usage.tokens_per_second
    }
