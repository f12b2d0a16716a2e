"""Which links a model can be split over, and how fast it would be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cyber_inference_tui.llama.worker import WorkerFacts
from cyber_inference_tui.peers.link import (
    LEAST_GBIT,
    MOST_ROUND_TRIP,
    Link,
    expected_speed,
    split_problems,
)
from cyber_inference_tui.records.workers import LendingFacts

HERE = WorkerFacts(build="b9000 (build 9000)", protocol="8.0.0")
THERE = LendingFacts(build="b9000 (build 9000)", protocol="8.0.0", memory=8 << 30)
LINK = Link(0.2, 2.3)


def problems(here: WorkerFacts = HERE, link: Link = LINK, **there: Any) -> str:
    return " ".join(split_problems("jetson", here, msgspec.structs.replace(THERE, **there), link))


def test_a_good_link_has_no_problem() -> None:
    assert problems() == ""
    assert problems(link=Link(MOST_ROUND_TRIP, LEAST_GBIT)) == ""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (problems(link=Link(2.34, 2.3)), ("jetson", "2.3 ms", "at most 2 ms")),
        (problems(link=Link(0.2, 0.41)), ("jetson", "0.41 Gbit/s", "1 Gbit/s")),
        (problems(build="b9001"), ("b9000 (build 9000) here, b9001 on jetson", "install-llama")),
        (problems(protocol="9.0.0"), ("8.0.0 here, 9.0.0 on jetson",)),
        (problems(here=WorkerFacts(build="b9000")), ("no RPC server", "install-llama")),
        (problems(problem="no."), ("jetson lends no memory: no.",)),
    ],
)
def test_a_problem_is_told_with_its_figures(said: str, words: tuple[str, ...]) -> None:
    for word in words:
        assert word in said


def test_all_problems_are_told() -> None:
    found = split_problems("jetson", HERE, THERE, Link(9.0, 0.1))
    assert len(found) == 2


def test_the_speed_follows_from_both_parts_and_the_link() -> None:
    def speed(*, gpu_there: bool = False, round_trip_ms: float = 0.0) -> float:
        size = 25 * 10**9
        return expected_speed(
            size, size, gpu_here=False, gpu_there=gpu_there, round_trip_ms=round_trip_ms
        )

    # 50 GB at 50 GB/s: one token a second.
    assert speed() == pytest.approx(1.0)
    assert speed(gpu_there=True) > 1.5
    assert speed(round_trip_ms=1000.0) == pytest.approx(1 / 2)
