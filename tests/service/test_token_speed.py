"""Speeds over the last seconds, by a clock of the test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.service.token_speed import WINDOW, AnswerSpeed, ModelSpeed


def test_an_answer_at_a_steady_pace_has_a_steady_speed() -> None:
    speed = AnswerSpeed(10.0)
    assert speed.look(5, 10.2) is None
    found = [speed.look(1 + round(20 * step / 4), 10 + step / 4) for step in range(2, 60)]
    assert set(found) == {20.0}


def test_an_answer_that_stops_slows_down_within_seconds() -> None:
    speed = AnswerSpeed(0.0)
    for step in range(1, 41):
        speed.look(1 + step * 10, step / 4)
    found = [speed.look(401, 10 + step / 4) for step in range(1, 20)]
    known = [one for one in found if one is not None]
    assert known == sorted(known, reverse=True)
    assert known[3] > 0
    assert known[-1] == 0.0


def test_an_answer_that_nobody_looked_at_has_its_mean_speed() -> None:
    assert AnswerSpeed(0.0).look(601, 60.0) == 10.0


def test_the_speed_of_a_model_is_that_of_all_its_answers() -> None:
    speed = ModelSpeed()
    for step in range(1, 41):
        now = step / 4
        speed.add(5, now - 0.25, now)
        speed.add(2.5, now - 0.25, now)
        if now >= 1:
            assert speed.speed(now) == pytest.approx(30.0, rel=0.01)
    assert speed.speed(10 + WINDOW / 2) == pytest.approx(15.0, rel=0.05)
    assert speed.speed(10 + WINDOW + 0.25) == 0.0


def test_an_answer_that_comes_at_its_end_counts_for_all_its_time() -> None:
    speed = ModelSpeed()
    # 40 tokens per second for 10 s, known only now.
    speed.add(400, 90.0, 100.0)
    assert speed.speed(100.0) == pytest.approx(40.0, rel=0.01)
    assert speed.speed(101.0) < 40


@given(
    st.lists(
        st.tuples(st.floats(0, 1e4), st.floats(0, 100), st.floats(0, 3)), min_size=1, max_size=30
    )
)
def test_no_speed_is_more_than_the_tokens(parts: list[tuple[float, float, float]]) -> None:
    speed, now, total = ModelSpeed(), 50.0, 0.0
    for tokens, seconds, pause in parts:
        now += pause
        speed.add(tokens, now - seconds, now)
        total += tokens
        assert 0 <= speed.speed(now) <= total * 1.01
    assert len(speed._parts) <= WINDOW * 4 + 2
    assert speed.speed(now + WINDOW + 1) == 0.0
