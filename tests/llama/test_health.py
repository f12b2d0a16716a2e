"""Health checks of a server, and the watch that repeats them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial

import pytest

from cyber_inference_tui.llama.health import (
    CannotAskError,
    HealthLimits,
    ask_health,
    watch_health,
)
from cyber_inference_tui.llama.http_get import ServerAddress
from tests.llama.children import HOST
from tests.waiting import LIMIT

OK = b"HTTP/1.1 200 OK\r\n\r\n"
QUICK = HealthLimits(interval=0.001, timeout=0.05, strikes=3)


def address(port: int) -> ServerAddress:
    return ServerAddress(HOST, port, "server-key")


class Answers:
    """Gives prepared answers in order, and repeats the last one; ``None`` = silence."""

    def __init__(self, *answers: bytes | None) -> None:
        self._answers = list(answers)
        self.asked: list[bytes] = []
        self.open = 0
        self.third = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        if len(self.asked) == 3:
            self.third.set()
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is not None:
            writer.write(answer)
        await reader.read()
        self.open -= 1
        writer.close()


@asynccontextmanager
async def serving(answers: Answers) -> AsyncIterator[int]:
    server = await asyncio.start_server(answers.serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        async with asyncio.timeout(LIMIT):
            # Our side has closed all its connections.
            while answers.open:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (OK, 200),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 503),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", 404),
        (b"SSH-2.0 200\r\n", 0),
        (b"HTTP/1.1 abc\r\n", 0),
        (b"x" * 10_000, 0),
        (None, 0),
    ],
)
async def test_one_question_one_answer(answer: bytes | None, status: int | None) -> None:
    answers = Answers(answer)
    async with serving(answers) as port:
        assert await ask_health(address(port), 0.3) == status
    assert answers.asked[0].startswith(b"GET /health HTTP/1.1\r\n")
    assert b"Connection: close" in answers.asked[0]
    assert b"\r\nAuthorization: Bearer server-key\r\n" in answers.asked[0]


async def test_nobody_there_is_no_answer() -> None:
    with closing(socket.create_server((HOST, 0))) as listener:
        port = listener.getsockname()[1]
    assert await ask_health(address(port), 30) is None


async def test_a_want_of_our_own_is_not_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio, "open_connection", fail)
    with pytest.raises(CannotAskError):
        await ask_health(address(1), 30)


async def test_three_silences_in_a_row_are_a_hang() -> None:
    answers = Answers(None)
    async with serving(answers) as port, asyncio.timeout(LIMIT):
        await watch_health(partial(ask_health, address(port)), limits=QUICK, busy=lambda: False)
    assert len(answers.asked) == 3


async def test_a_port_without_a_listener_is_asked_again_soon() -> None:
    asked = []

    async def refused(timeout: float) -> None:
        asked.append(timeout)

    limits = HealthLimits(interval=1.0, again=0.0, strikes=1000)
    async with asyncio.timeout(LIMIT):
        await watch_health(refused, limits=limits, busy=lambda: False)
    assert len(asked) == 1000


async def test_an_answer_between_silences_saves_it() -> None:
    refused = b"HTTP/1.1 500 Oh\r\n\r\n"
    answers = Answers(None, None, refused, None, None, OK, None)
    async with serving(answers) as port, asyncio.timeout(LIMIT):
        await watch_health(partial(ask_health, address(port)), limits=QUICK, busy=lambda: False)
    assert len(answers.asked) == 9


async def test_a_server_that_answers_is_asked_on_until_the_watch_is_cancelled() -> None:
    answers = Answers(OK)
    async with serving(answers) as port, asyncio.timeout(LIMIT):
        watch = asyncio.ensure_future(
            watch_health(partial(ask_health, address(port)), limits=QUICK, busy=lambda: False)
        )
        await answers.third.wait()
        watch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watch


def excuses(*times: bool) -> Iterator[bool]:
    yield from times
    while True:
        yield False


async def test_a_server_with_an_excuse_is_not_asked_and_silence_then_does_not_count() -> None:
    answers = Answers(None)
    # ``busy`` is called before and after each check: busy, then two checks fail as it becomes busy.
    excuse = excuses(True, True, False, True, False, True)
    async with serving(answers) as port, asyncio.timeout(LIMIT):
        await watch_health(
            partial(ask_health, address(port)), limits=QUICK, busy=lambda: next(excuse)
        )
    assert len(answers.asked) == 2 + 3
