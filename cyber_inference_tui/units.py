"""Formats numbers for people: sizes, durations, ages, counts."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*(?:([kmgt])(i?b)?|b)?", re.IGNORECASE)

J_PER_KWH = 3_600_000.0


def size_text(size: int, *, estimate: bool = False) -> str:
    """Format bytes with three significant digits: ``512 B``, ``49.1 MiB``, ``1.30 GiB``.

    ``estimate`` puts a ``~`` before the number: ``~2.90 GiB``.
    """
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        # 999.5 would round up to 1000, which has four digits.
        if value < 999.5:
            break
        value, unit = value / 1024, larger
    decimals = 0 if unit == "B" else sum(value < limit for limit in (0.9995, 9.995, 99.95))
    return f"{'~' if estimate else ''}{value:.{decimals}f} {unit}"


def context_text(tokens: int) -> str:
    """Format a context length as on model cards: ``128K`` is 128 times 1,024 tokens."""
    if tokens >= 1024**2 and tokens % 1024**2 == 0:
        return f"{tokens // 1024**2}M"
    return f"{tokens // 1024}K" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:,}"


def contexts_text(context: int | None, trained: int | None) -> str | None:
    """Format the context in force and the trained one: ``8K / 32K``; ``None`` if it is unknown."""
    known = [context_text(tokens) for tokens in (context, trained) if tokens]
    return " / ".join(known) if context else None


def bytes_of(text: str) -> int | None:
    """Return the bytes that a person means by ``12GB``, ``12 GiB``, ``12G`` or ``800000``.

    ``GB`` are powers of 1,000, ``G`` and ``GiB`` of 1,024. ``None`` = it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    number, unit, ending = found.groups()
    base = 1000 if (ending or "").casefold() == "b" else 1024
    power = "kmgt".index(unit.casefold()) + 1 if unit else 0
    return int(float(number) * base**power)


def duration_text(seconds: float) -> str:
    """Format a duration in its two largest units: ``1.2 s``, ``4 min 10 s``, ``2 h 5 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for (large, big), (small, little) in (
        ((86400, "d"), (3600, "h")),
        ((3600, "h"), (60, "min")),
        ((60, "min"), (1, "s")),
    ):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {big}" + (f" {rest} {little}" if rest else "")
    return f"{whole} s"


def count_text(number: int) -> str:
    """Format a number of parameters as in model names: ``494M``, ``1.2B``, ``70B``."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        # 999.6M would round up to "1000M", which belongs to the next unit.
        if number >= 0.9995 * size:
            value = number / size
            # Whole where a decimal says nothing any more.
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return str(number)


def number_text(value: float, *, decimals: int = 0, unit: str = "") -> str:
    """Format a number with thousands separators: ``8,192``, ``21.4``, ``63 %``, ``4.8 W``."""
    return f"{value:,.{decimals}f}" + (f" {unit}" if unit else "")


def energy_text(joules: float) -> str:
    """Format an energy: ``0.42 J``, ``9,850 J``, from 10 kJ on in Wh: ``2.78 Wh``."""
    return _three_digits(joules, "J") if joules < 9_999.5 else watt_hours_text(joules)


def watt_hours_text(joules: float) -> str:
    """Format an energy in Wh, so that a column has one unit: ``0.71 Wh``, ``3,217 Wh``."""
    return _three_digits(joules / J_PER_KWH * 1000, "Wh")


def _three_digits(value: float, unit: str) -> str:
    return number_text(value, decimals=sum(value < most for most in (9.995, 99.95)), unit=unit)


def percent_text(share: float) -> str:
    """Format a share (0 to 1) as percent, rounded down: only a whole is ``100 %``."""
    return f"{int(share * 100)} %"


def speed_text(speed: float) -> str:
    """Format tokens per second with one decimal."""
    return number_text(speed, decimals=1)


def seconds_text(seconds: float) -> str:
    """Format seconds with two decimals: ``31.40 s``."""
    return number_text(seconds, decimals=2, unit="s")


def counted(number: int, noun: str) -> str:
    """Format a number of things: ``1 request``, ``1,204 requests``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def countdown_text(seconds: float) -> str:
    """Format the time left as a clock: ``0:07``, ``3:12``, ``2:05:00``, ``3 d 04 h``."""
    # Rounded up: "0:00" means that the time is over, not that a part of a second is left.
    whole = max(0, -int(-seconds // 1))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02} h"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def age_text(seconds: float) -> str:
    """Format an age in its largest unit: ``now``, ``12 s``, ``5 min``, ``3 h``, ``4 d``."""
    if seconds < 1:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
