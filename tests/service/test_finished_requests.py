"""Finished requests are recorded in batches, and before anybody reads them."""

from __future__ import annotations

import asyncio

import pytest

from cyber_inference_tui.records import RequestRecord
from cyber_inference_tui.records.queries import RequestQuery
from cyber_inference_tui.service import finished_requests
from cyber_inference_tui.service.finished_requests import FinishedRequests
from cyber_inference_tui.service.metric_counters import Noted
from tests.fakes.service import FakeService
from tests.service.history_records import request
from tests.waiting import until

LONG = 3600.0


class Over:
    """A finished request, perhaps with a record that cannot be made."""

    def __init__(self, number: int, *, broken: bool = False) -> None:
        self.error_code = f"code-{number}"
        self._number = number
        self._broken = broken

    def record(self) -> RequestRecord:
        if self._broken:
            raise ValueError("broken")
        return request(self._number)


def numbers(batches: list[list[Noted]]) -> list[list[int | None]]:
    return [[record.tokens_in for record, _ in batch] for batch in batches]


async def test_requests_are_noted_together_after_the_pause() -> None:
    batches: list[list[Noted]] = []
    finished = FinishedRequests(batches.append, pause=0.01)
    for number in range(3):
        finished.add(Over(number))
    assert batches == []
    await until(lambda: batches)
    assert numbers(batches) == [[0, 1, 2]]
    assert [code for _, code in batches[0]] == ["code-0", "code-1", "code-2"]
    finished.add(Over(3))
    await until(lambda: len(batches) == 2)
    assert numbers(batches) == [[0, 1, 2], [3]]


async def test_a_flush_notes_all_requests_so_far_once() -> None:
    batches: list[list[Noted]] = []
    finished = FinishedRequests(batches.append, pause=0.0)
    finished.flush()
    finished.add(Over(1))
    finished.flush()
    finished.flush()
    await asyncio.sleep(0.01)
    assert numbers(batches) == [[1]]


async def test_few_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished_requests, "_BATCH", 3)
    batches: list[list[Noted]] = []
    finished = FinishedRequests(batches.append, pause=LONG)
    for number in range(7):
        finished.add(Over(number))
    assert numbers(batches) == [[0, 1, 2], [3, 4, 5]]
    finished.flush()
    assert numbers(batches)[2:] == [[6]]


async def test_a_broken_record_spoils_no_other(caplog: pytest.LogCaptureFixture) -> None:
    batches: list[list[Noted]] = []
    finished = FinishedRequests(batches.append, pause=LONG)
    for number in range(3):
        finished.add(Over(number, broken=number == 1))
    finished.flush()
    assert numbers(batches) == [[0, 2]]
    assert caplog.text.count("a request was not recorded") == 1


async def test_readers_find_what_has_just_finished() -> None:
    service = FakeService("m")
    noted: list[Noted] = []
    service.finished = FinishedRequests(noted.extend, pause=LONG)
    service.finished.add(Over(1))
    await service.past.requests(RequestQuery())
    assert len(noted) == 1
    service.finished.add(Over(2))
    await service.past.totals()
    assert len(noted) == 2
    service.finished.flush()
