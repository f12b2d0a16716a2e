"""Pauses between tries that fail."""

from __future__ import annotations


def backoff(first: float, longest: float, failures: int) -> float:
    """Return how many seconds to wait after ``failures`` failures in a row.

    The wait is ``first`` seconds after the first failure, doubles with each further failure, and is
    at most ``longest``.
    """
    return min(longest, first * 2.0 ** min(failures - 1, 32))
