"""The limit of refused requests that are kept."""

from __future__ import annotations

from cyber_inference_tui.service.refusals import BURST, PAUSE, Refusals

DOOR = "invalid_api_key"
INSIDE = "model_not_found"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_flood_is_kept_in_part_and_one_more_from_time_to_time() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    assert sum(refusals.keeps(INSIDE) for _ in range(1000)) == BURST
    clock.now += PAUSE / 2
    assert not refusals.keeps(INSIDE)
    clock.now += PAUSE / 2
    assert [refusals.keeps(INSIDE) for _ in range(3)] == [True, False, False]
    clock.now += 1000 * PAUSE
    assert sum(refusals.keeps(INSIDE) for _ in range(1000)) == BURST


def test_strangers_take_no_room_from_others() -> None:
    refusals = Refusals(Clock())
    while refusals.keeps(DOOR):
        pass
    assert not refusals.keeps("forbidden_host")
    assert refusals.keeps(INSIDE)
    assert refusals.keeps("invalid_request_error")
