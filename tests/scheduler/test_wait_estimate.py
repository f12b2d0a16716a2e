"""Estimates of waits, and the history of loads."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cyber_inference_tui.llama.needs import Footprint, Measurement
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.admission import Admission
from cyber_inference_tui.scheduler.load_history import LoadHistory
from cyber_inference_tui.scheduler.state import ModelState, Session
from cyber_inference_tui.scheduler.wait_estimate import WaitEstimate, WaitEstimator
from cyber_inference_tui.settings.schema import Settings
from tests.scheduler.virtual import model, now, run


def measurement(signature: str, seconds: float, size: int | None = 1000) -> Measurement:
    return Measurement(
        signature=signature,
        model="m",
        footprint=Footprint(host=5),
        context_size=None,
        load_seconds=seconds,
        size_bytes=size,
        at=datetime(2026, 1, 31, tzinfo=UTC),
    )


class Queue:
    """Models with their states; the estimates are for the first one."""

    def __init__(self) -> None:
        self.states: dict[str, ModelState] = {}
        self.admission = Admission(self.states, max_overtake=8)
        self.history = LoadHistory()

    def add(
        self,
        status: ModelStatus,
        *,
        load_seconds: float | None = None,
        progress: float | None = None,
        elapsed: float = 0.0,
        request_seconds: float | None = None,
        places: int = 1,
    ) -> ModelState:
        one = model(f"m{len(self.states)}")
        state = ModelState(one, resolve(one, Settings()), places)
        self.states[one.id] = state
        state.status, state.progress, state.request_seconds = status, progress, request_seconds
        if load_seconds is not None:
            self.history.recall(measurement(state.spec.signature, load_seconds))
        if status is ModelStatus.LOADING:
            state.session = Session("request", now() - elapsed)
        if status is ModelStatus.LOADED:
            state.in_flight = 1
        return state

    def queued(self, load_seconds: float | None = 10.0) -> ModelState:
        return self.add(
            ModelStatus.QUEUED, load_seconds=load_seconds, request_seconds=2.0, places=4
        )

    def wait(self, position: int = 1) -> float | None:
        estimator = WaitEstimator(self.states, self.admission, self.history)
        return estimator.seconds(self.states["m0"], position)


@pytest.mark.parametrize(
    ("load_seconds", "elapsed", "progress", "left"),
    [
        (10.0, 4.0, None, 6.0),
        (100.0, 4.0, 0.5, 4.0),
        (100.0, 4.0, 0.05, 96.0),
        (10.0, 40.0, None, 0.0),
        (None, 4.0, None, None),
    ],
)
def test_the_rest_of_a_load_follows_from_its_progress_or_from_past_loads(
    load_seconds: float | None, elapsed: float, progress: float | None, left: float | None
) -> None:
    async def main() -> None:
        queue = Queue()
        queue.add(
            ModelStatus.LOADING, load_seconds=load_seconds, elapsed=elapsed, progress=progress
        )
        assert queue.wait() == left

    run(main())


def test_a_wait_is_the_sum_of_what_comes_before() -> None:
    async def main() -> None:
        queue = Queue()
        asked = queue.queued()
        assert queue.wait() == 10.0
        # Four at a time: the fifth waits for one round of requests.
        assert queue.wait(4) == 10.0
        assert queue.wait(5) == 12.0
        queue.add(ModelStatus.LOADING, load_seconds=8.0, elapsed=5.0)
        queue.admission.enqueue(queue.queued(), takes_place=True, reason="request")
        busy = queue.add(ModelStatus.LOADED, request_seconds=7.0)
        queue.admission.enqueue(asked, takes_place=True, reason="request")
        later = queue.queued()
        queue.admission.enqueue(later, takes_place=True, reason="request")
        assert queue.wait() == 10.0 + 3.0 + 10.0
        queue.admission.blocked = frozenset({asked.model.id})
        assert queue.wait() == 10.0 + 3.0 + 10.0 + 7.0
        busy.pinned = True
        assert queue.wait() == 10.0 + 3.0 + 10.0

    run(main())


def test_a_wait_with_an_unknown_part_is_unknown() -> None:
    async def main() -> None:
        queue = Queue()
        queue.queued(load_seconds=None)
        assert queue.wait() is None

        queue = Queue()
        asked = queue.queued()
        unknown = queue.queued(load_seconds=None)
        queue.admission.enqueue(unknown, takes_place=True, reason="request")
        assert queue.wait() is None

        queue = Queue()
        asked = queue.queued()
        queue.admission.blocked = frozenset({asked.model.id})
        queue.add(ModelStatus.LOADED)
        assert queue.wait() is None

        queue = Queue()
        queue.add(ModelStatus.LOADED)
        assert queue.wait() is None

    run(main())


def test_a_full_server_serves_its_places_in_turn() -> None:
    async def main() -> None:
        queue = Queue()
        queue.add(ModelStatus.LOADED, request_seconds=6.0, places=3)
        assert queue.wait(1) == 2.0
        assert queue.wait(6) == 12.0

    run(main())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0.2, ", about 1 s"), (12.4, ", about 12 s"), (600.0, ", about 10 min")],
)
def test_words(seconds: float | None, words: str) -> None:
    queued = WaitEstimate(
        status=ModelStatus.QUEUED, progress=None, position=2, waiting=5, seconds=seconds
    )
    assert queued.in_words("tiny") == f"queued tiny, 2 of 5{words}"


def test_measured_loads_predict_the_same_and_other_loads() -> None:
    new: list[Measurement] = []
    load_history = LoadHistory(on_new=new.append)
    assert load_history.load_seconds("a", 1000) is None
    load_history.recall(measurement("a", 2.0))
    assert new == []
    assert load_history.footprint("a") == Footprint(host=5)
    assert load_history.load_seconds("a", None) == 2.0
    # 500 bytes a second.
    assert load_history.load_seconds("b", 5000) == 10.0
    assert load_history.load_seconds("b", None) is None
    assert load_history.footprint("b") is None
    load_history.learn(measurement("a", 4.0))
    assert load_history.load_seconds("a", None) == 4.0
    assert new == [measurement("a", 4.0)]


def test_the_oldest_measurements_are_forgotten() -> None:
    load_history = LoadHistory()
    for number in range(2_100):
        load_history.recall(measurement(str(number), 1.0))
    assert load_history.footprint("0") is None
    assert load_history.footprint("2099") is not None
