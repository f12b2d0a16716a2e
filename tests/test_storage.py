"""Calls that hang, and who waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyber_inference_tui.errors import StorageError
from cyber_inference_tui.storage import Storages

NAS = Path("/nas")


@pytest.fixture
def answer() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def failing() -> None:
    raise FileNotFoundError("gone")


def test_what_a_call_gives_or_raises_is_passed_on() -> None:
    assert Storages().ask(NAS, lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        Storages().ask(NAS, failing)


def test_while_a_call_hangs_others_fail_at_once(answer: threading.Event) -> None:
    storages = Storages()
    began: list[int] = []

    def hang() -> bool:
        began.append(1)
        return answer.wait(30)

    for _ in range(5):
        with pytest.raises(StorageError, match="/nas does not answer"):
            storages.ask(NAS, hang, 0.05)
    assert len(began) == 1
    # Another folder is another matter.
    assert storages.ask(Path("/ssd"), lambda: 7) == 7


async def test_the_event_loop_goes_on_meanwhile(answer: threading.Event) -> None:
    storages = Storages(most=1)
    asking = asyncio.ensure_future(storages.ask_async(NAS, lambda: answer.wait(30), 30))
    await asyncio.sleep(0)
    with pytest.raises(StorageError):
        await storages.ask_async(NAS, lambda: 7)
    answer.set()
    assert await asking
    with pytest.raises(FileNotFoundError):
        await storages.ask_async(NAS, failing)
