"""Lines of figures: a name, a bar up to a limit, and a value with its unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cyber_inference_tui.records.bench import BenchResult
from cyber_inference_tui.terminal.benches import figure_text
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.power_modes import tokens_per_joule
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.units import number_text, size_text

_COLD, _END = 20.0, 100.0
"""The ends of a scale of °C without a limit."""
_HOT, _TOO_HOT = 85.0, 95.0
"""°C that are a problem if no limit is known."""
_NEAR_LIMIT = 5.0
"""°C below its limit from which a temperature is a problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line: a name, a bar if there is a whole, and a figure."""

    name: str
    figure: str
    share: float | None = None
    """The filled part of the bar, 0 to 1."""
    more: str = ""
    """A second figure, for which there may be no room."""
    tone: str = ""
    """``busy`` or ``bad`` if it is a problem."""
    essential: bool = False
    """It is also shown where there is room for little."""


def percent_row(name: str, value: float | None, charset: Charset) -> Row:
    """Return a row of a percentage."""
    figure = charset.known(value, partial(number_text, unit="%"))
    share = None if value is None else value / 100
    return Row(name=name, figure=figure, share=share)


def clock_text(hertz: float) -> str:
    """Return a clock as text."""
    return f"{hertz / 1e9:.2f} GHz"


def clock_row(name: str, hertz: int | None, most: int | None) -> Row | None:
    """Return a row of a clock, if it is known."""
    if hertz is None:
        return None
    if not most:
        return Row(name=name, figure=clock_text(hertz))
    return Row(name=name, figure=f"{hertz / 1e9:.2f} of {clock_text(most)}", share=hertz / most)


def size_row(
    name: str, used: int | None, total: int | None, charset: Charset, *, essential: bool = False
) -> Row:
    """Return a row of bytes, both figures in the unit of ``total``."""
    if total is None:
        return Row(name=name, figure=charset.missing, essential=essential)
    whole = size_text(total)
    number, _, unit = whole.partition(" ")
    decimals = len(number.partition(".")[2])
    step = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit)
    part = charset.known(used, lambda size: f"{size / step:.{decimals}f}")
    share = used / total if used is not None and total else None
    return Row(name=name, figure=f"{part} of {whole}", share=share, essential=essential)


def watts_row(name: str, watts: float | None, limit: float | None, charset: Charset) -> Row:
    """Return a row of a power."""
    decimals = 1 if (limit or watts or 0) < 100 else 0
    figure = charset.known(watts, partial(number_text, decimals=decimals))
    if not limit:
        figure = f"{figure} W" if watts is not None else figure
        return Row(name=name, figure=figure)
    share = None if watts is None else watts / limit
    whole = f"{figure} of {limit:,.{decimals}f} W"
    return Row(name=name, figure=whole, share=share)


def heat_row(name: str, degrees: float | None, limit: float | None, charset: Charset) -> Row | None:
    """Return a row of a temperature, if it is known; near its limit it is a problem."""
    if degrees is None:
        return None
    unit = "°C" if charset.unicode else "C"
    limit = limit if limit and limit > _COLD else None
    hot, too_hot = (limit - _NEAR_LIMIT, limit) if limit else (_HOT, _TOO_HOT)
    return Row(
        name=name,
        figure=f"{degrees:.0f} of {limit:.0f} {unit}" if limit else f"{degrees:.0f} {unit}",
        share=(degrees - _COLD) / ((limit or _END) - _COLD),
        tone="" if degrees < hot else "busy" if degrees < too_hot else "bad",
    )


def rate_text(rate: float) -> str:
    """Return a rate in bytes per second as text."""
    return f"{size_text(int(rate))}/s"


def mode_rows(modes: Sequence[BenchResult], charset: Charset) -> list[Row]:
    """Return a row of each measured power mode, below a row with the units."""
    speeds = ["tokens/s", *(figure_text(one.tokens_per_second, charset) for one in modes)]
    known = [figure_text(tokens_per_joule(one), charset, decimals=2) for one in modes]
    energies = ["tokens/J", *known]
    if set(known) == {charset.missing}:
        energies = [""] * len(speeds)
    names = ["", *(plain(one.power_mode or "", limit=40) for one in modes)]
    widths = [max(map(len, texts)) for texts in (speeds, energies)]
    return [
        Row(name=name, figure=f"{speed:>{widths[0]}}   {energy:>{widths[1]}}".rstrip())
        for name, speed, energy in zip(names, speeds, energies, strict=True)
    ]
