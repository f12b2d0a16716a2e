"""Vectors of texts: how alike two are, and how one looks."""

from __future__ import annotations

import math
from collections.abc import Sequence

SHOWN = 6
"""The first values of a vector that are shown."""


def cosine_similarity(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The cosine of the angle between two vectors, from -1 to 1.

    ``None`` where it is not defined: different sizes, a vector of nothing, values that are no
    finite numbers.
    """
    if len(one) != len(other) or not one:
        return None
    # Scaled by their greatest value, so that no square becomes too large or nothing.
    most = max(map(abs, one)), max(map(abs, other))
    if not all(math.isfinite(value) for value in (*one, *other)) or not all(most):
        return None
    first = [value / most[0] for value in one]
    second = [value / most[1] for value in other]
    product = sum(a * b for a, b in zip(first, second, strict=True))
    length = math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in second))
    return max(-1.0, min(1.0, product / length))


def vector_text(vector: Sequence[float], ellipsis: str) -> str:
    """Its size and its first values: ``768 values   0.0123  -0.0441  …``."""
    shown = "  ".join(f"{value:.4f}" for value in vector[:SHOWN])
    rest = f"  {ellipsis}" if len(vector) > SHOWN else ""
    return f"{len(vector):,} value{'' if len(vector) == 1 else 's'}   {shown}{rest}"
