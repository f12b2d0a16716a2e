"""The meters of a small screen: a bar of the present value, and a history in the same line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from textual.content import Content

from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import fit
from cyber_inference_tui.tui.pages.dashboard.measures import Measure, scale_for
from cyber_inference_tui.tui.pages.dashboard.speeds import total_speed
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.area import spark
from cyber_inference_tui.units import number_text

GAUGES = 4
"""Measures of the machine: one line for each two."""
_GAUGE_TITLE = 9
_GAUGE_FIGURE = 8


def gauges(
    found: Sequence[Measure], snapshot: Snapshot, *, lines: int, past: bool = False
) -> list[Measure]:
    """Return the measures for ``lines`` of gauges, each with two.

    With three lines, the first has the speed and the time to first token. The bars below show the
    present memory, but not that of the ``past``.
    """
    machine = [one for one in found if one.name != "first"]
    least = {"swap": 2} if past else {"swap": 2, "memory": 1, "gpu-memory": 1}
    chosen = sorted(machine, key=lambda one: least.get(one.name, 0))[:GAUGES]
    machine = [one for one in machine if one in chosen]
    if lines < 3:
        return machine
    points = snapshot.trend
    value = sum(snapshot.speeds_now.values())
    tokens = Measure(
        name="tokens",
        title="Tokens/s",
        reading=total_speed,
        text=partial(number_text, decimals=1),
        value=value,
        maximum=scale_for([value, *map(total_speed, points)], least=10),
    )
    return [tokens, *(one for one in found if one.name == "first"), *machine]


def gauge(
    measure: Measure, values: Sequence[float | None], width: int, charset: Charset
) -> Content:
    """Return a graph on one line of ``width`` cells: a bar of the present value, and a history."""
    title = fit(measure.title, _GAUGE_TITLE, "left", charset.ellipsis)
    figure = fit(measure.figure(charset), _GAUGE_FIGURE, "right", charset.ellipsis)
    bar, room = gauge_rooms(width)
    full, rest = ("━", "─") if charset.unicode else ("#", ".")
    reach = measure.maximum - measure.minimum
    share = 0.0 if measure.value is None else (measure.value - measure.minimum) / reach
    filled = round(max(0.0, min(1.0, share)) * bar)
    line = spark(values, room, measure.maximum, charset, measure.minimum)
    return Content.assemble(
        (title, "$text-muted"),
        (figure, ""),
        ("  ", ""),
        (full * filled, "$accent"),
        (rest * (bar - filled), "$text-muted"),
        ("  ", ""),
        (line, "$accent 55%"),
    )


def gauge_rooms(width: int) -> tuple[int, int]:
    """Return the cells of a gauge's bar and of its history."""
    room = width - _GAUGE_TITLE - _GAUGE_FIGURE - 4
    bar = max(4, room // 2)
    return bar, max(0, room - bar)
