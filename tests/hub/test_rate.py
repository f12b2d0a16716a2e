"""The rate at which bytes arrive."""

from __future__ import annotations

import pytest

from cyber_inference_tui.hub.rate import TransferRate


def test_the_mean_of_the_last_seconds() -> None:
    rate = TransferRate()
    assert rate.per_second is None
    for step in range(9):
        rate.add(step * 250, step * 0.25)
    assert rate.per_second == pytest.approx(1000)
    # A burst long ago does not count.
    rate = TransferRate()
    rate.add(0, 0.0)
    for step in range(40):
        rate.add(1_000_000 + step * 25, 10 + step * 0.25)
    assert rate.per_second == pytest.approx(100)


def test_there_is_no_rate_while_nothing_arrives() -> None:
    rate = TransferRate()
    rate.add(5, 0.0)
    assert rate.per_second is None
    rate.add(9, 0.01)
    assert rate.per_second is None
    for step in range(100):
        rate.add(9, 1 + step * 0.25)
    assert rate.per_second is None
