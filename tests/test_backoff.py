"""Pauses between looks."""

from __future__ import annotations

from cyber_inference_tui.backoff import LookTimer
from tests.monitor.clock import Clock


def looks(timer: LookTimer, clock: Clock, seconds: int) -> list[int]:
    """Look whenever it is due, each second; return when, without finding anything new."""
    due = []
    for second in range(seconds):
        if timer.is_due():
            timer.note_look(changed=False)
            due.append(second)
        clock.advance(1)
    return due


def test_pauses_grow_while_nothing_changes() -> None:
    clock = Clock()
    timer = LookTimer(least=0, most=10, clock=clock)
    assert looks(timer, clock, 70) == [0, 1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 24, 30, 38, 48, 58, 68]


def test_a_change_makes_them_short_again() -> None:
    clock = Clock()
    timer = LookTimer(least=5, most=60, clock=clock)
    before, last = looks(timer, clock, 500)[-2:]
    assert last - before == 60
    timer.note_look(changed=True)
    assert looks(timer, clock, 21) == [5, 10, 15, 20]
