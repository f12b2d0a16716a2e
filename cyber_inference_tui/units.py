"""Formats numbers for people: sizes, durations, counts of tokens."""

from __future__ import annotations


def size_text(size: int) -> str:
    """Format bytes in binary units: ``512 B``, ``3.9 MiB``, ``4.1 GiB``."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        # 1023.95 would round up to "1024.0", which belongs to the next unit.
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def context_text(tokens: int) -> str:
    """Format a context length like model cards: ``128K`` is 128 times 1,024 tokens."""
    if tokens >= 1024**2 and tokens % 1024**2 == 0:
        return f"{tokens // 1024**2}M"
    return f"{tokens // 1024}K" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:,}"


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
    """Format a count of parameters like model names: ``494M``, ``1.2B``, ``70B``."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            value = number / size
            # Two digits are enough.
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return str(number)
