"""Repeated measurements of several variants: their order, their noise, and how they differ.

A machine gets slower as it gets warm. So the variants take turns, and each round goes through them
in the opposite direction of the round before: A B, B A, A B … Then a steady drift makes neither of
them look slower.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

LEAST_ROUNDS = 3
"""With fewer rounds the noise is not known."""

# Quantiles 0.975 of Student's t distribution, by degrees of freedom from 1.
_T = (
    *(12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093, 2.086),
)


class Spread(NamedTuple):
    """The middle of some values, and how far they lie from it."""

    median: float
    deviation: float
    """The median absolute deviation: half of the values are no farther from the median."""


class Difference(NamedTuple):
    """How much larger the values of one variant are than those of the reference."""

    change: float
    """A share: -0.06 = 6 % less."""
    noise: float
    """How far the 95 % confidence interval reaches from ``change`` towards 0; ``inf`` = there are
    too few rounds to know."""

    @property
    def is_real(self) -> bool:
        """Whether the change exceeds the noise."""
        return abs(self.change) > self.noise


def in_turns(variants: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Return the order of measurements, each with the number of its round, from 0."""
    for number in range(rounds):
        for variant in variants if number % 2 == 0 else reversed(variants):
            yield number, variant


def spread(values: Sequence[float]) -> Spread | None:
    """Return the median of the values and their deviation; ``None`` without values."""
    if not values:
        return None
    median = statistics.median(values)
    return Spread(median, statistics.median(abs(value - median) for value in values))


def paired(reference: Sequence[float], other: Sequence[float]) -> Difference | None:
    """Compare two variants that took turns, by their values of each round.

    Each round gives the logarithm of a ratio. A steady drift adds to the ratios of even rounds what
    it takes from those of odd ones; a least-squares fit separates this from the difference, whose
    error follows from what the fit leaves over. ``None`` if there are no rounds, or a value is not
    positive.
    """
    first, second = _logarithms(reference), _logarithms(other)
    if first is None or second is None:
        return None
    ratios = [after - before for before, after in zip(first, second, strict=True)]
    signs = [1 if number % 2 == 0 else -1 for number in range(len(ratios))]
    if len(ratios) < LEAST_ROUNDS:
        return Difference(math.expm1(statistics.fmean(ratios)), math.inf)
    drift, middle = statistics.linear_regression(signs, ratios)
    left = sum(
        (ratio - middle - drift * sign) ** 2 for ratio, sign in zip(ratios, signs, strict=True)
    )
    freedom = len(ratios) - 2
    mean = statistics.fmean(signs)
    about = sum((sign - mean) ** 2 for sign in signs)
    error = math.sqrt(left / freedom * (1 / len(ratios) + mean**2 / about))
    return _difference(middle, error, freedom)


def unpaired(reference: Sequence[float], other: Sequence[float]) -> Difference | None:
    """Compare the values of two different runs, such as those of two builds.

    The noise is that of the rounds of both. What changed of the machine from one run to the other
    is part of the change. ``None`` as for ``paired``.
    """
    first, second = _logarithms(reference), _logarithms(other)
    if first is None or second is None:
        return None
    middle = statistics.fmean(second) - statistics.fmean(first)
    least = min(len(first), len(second))
    if least < LEAST_ROUNDS:
        return Difference(math.expm1(middle), math.inf)
    error = math.sqrt(sum(statistics.variance(one) / len(one) for one in (first, second)))
    # Welch's number of degrees of freedom is never less than this.
    return _difference(middle, error, least - 1)


def _logarithms(values: Sequence[float]) -> list[float] | None:
    if not values or min(values) <= 0:
        return None
    return [math.log(value) for value in values]


def _difference(middle: float, error: float, freedom: int) -> Difference:
    half = _T[min(freedom, len(_T)) - 1] * error
    # The interval of a ratio is longer above than below.
    nearer = middle - half if middle > 0 else middle + half
    return Difference(math.expm1(middle), abs(math.exp(middle) - math.exp(nearer)))
