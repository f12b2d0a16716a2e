from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.slots import (
    SlotPrompt,
    Task,
    TokenRate,
    ask_prompts,
    ask_slots,
    ask_tokens,
    parse_prompts,
    parse_slots,
)

IDLE = {"id": 1, "n_ctx": 8192, "speculative": False, "is_processing": False}
BUSY = {
    **IDLE,
    "id": 0,
    "is_processing": True,
    "id_task": 7,
    "params": {"seed": 1, "lora": []},
    "next_token": [{"has_next_token": True, "n_remain": -1, "n_decoded": 42}],
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


def address(port: int) -> ServerAddress:
    return ServerAddress("127.0.0.1", port, "server-key")


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_tasks_are_those_of_busy_slots() -> None:
    assert parse_slots(body([BUSY, IDLE])) == (Task(0, 7, 42),)
    assert parse_slots(body([IDLE])) == ()


def test_prompts_are_those_of_free_slots_that_had_a_request() -> None:
    free = {**IDLE, "id": 2, "id_task": 0, "n_prompt_tokens": 1503}
    assert parse_prompts(body([{**BUSY, "n_prompt_tokens": 9}, IDLE, free])) == (
        SlotPrompt(2, 1503),
    )
    # Restored, and not used since.
    assert parse_prompts(body([{**IDLE, "id_task": -1, "n_prompt_tokens": 9}])) == ()
    # Earlier builds do not count them.
    assert parse_prompts(body([{**IDLE, "id_task": 3}])) == ()
    assert parse_prompts(b"{}") == ()


async def test_a_server_that_is_gone_has_no_prompts() -> None:
    assert await ask_prompts(address(1), 1.0) == ()
    assert await ask_tokens(address(1), 1.0) is None


def test_other_builds_say_it_a_little_differently() -> None:
    assert parse_slots(body([{**BUSY, "next_token": {"n_decoded": 5}}])) == (Task(0, 7, 5),)
    assert parse_slots(body([{**BUSY, "next_token": []}])) == (Task(0, 7, 0),)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"id":0}]',
        b'[{"id":0,"is_processing":true}]',
        b'[{"id":0,"is_processing":true,"next_token":[{}]}]',
        b'[{"id":"\xff","is_processing":true}]',
        b"[" * 100_000,
        body([BUSY])[:-1],
    ],
)
def test_anything_else_is_no_answer(text: bytes) -> None:
    assert parse_slots(text) is None


@given(st.binary())
def test_no_bytes_are_too_odd(text: bytes) -> None:
    parse_slots(text)


@pytest.mark.parametrize(
    ("answer", "tasks"),
    [
        (HEAD + b"[]", ()),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", ()),
        (b"", None),
        (b"HTTP/1.1 200", None),
        (HEAD, None),
        (b"HTTP/1.1 501 Not Implemented\r\n\r\n[]", None),
        (b"SSH-2.0 200 OK\r\n\r\n[]", None),
    ],
)
async def test_only_a_good_answer_is_read(answer: bytes, tasks: tuple[Task, ...] | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await ask_slots(address(port), 30) == tasks


async def test_it_asks_over_a_connection_of_its_own() -> None:
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HEAD + body([BUSY]))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await ask_slots(address(port), 30) == (Task(0, 7, 42),)
    assert asked[0].startswith(b"GET /slots HTTP/1.1\r\n")
    assert b"Connection: close" in asked[0]
    assert b"\r\nAuthorization: Bearer server-key\r\n" in asked[0]
    assert await ask_slots(address(port), 30) is None


async def test_silence_and_floods_end() -> None:
    gone = asyncio.Event()
    flooding = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if flooding:
                writer.write(HEAD + b"[")
                while True:
                    writer.write(b" " * 65536)
                    await writer.drain()
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()
            gone.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await ask_slots(address(port), 0.01) is None
        await asyncio.wait_for(gone.wait(), 30)
        gone.clear()
        flooding = True
        assert await ask_slots(address(port), 30) is None
        await asyncio.wait_for(gone.wait(), 30)


def test_the_rate_of_a_steady_stream() -> None:
    rate = TokenRate()
    assert rate.look(0, [Task(0, 1, 10)], 1.0) is None
    assert rate.look(0, [Task(0, 1, 60)], 2.0) == 50
    assert rate.look(0, [Task(0, 1, 160), Task(1, 2, 20)], 4.0) == 60
    assert rate.look(0, [Task(0, 1, 160), Task(1, 2, 20)], 5.0) == 0


def test_requests_that_finish_between_two_looks_count_whole() -> None:
    rate = TokenRate()
    rate.look(100, [], 1.0)
    assert rate.look(150, [], 2.0) == 50
    assert rate.look(150, [Task(0, 1, 30)], 3.0) == 30
    assert rate.look(190, [], 4.0) == 10


def test_a_request_that_is_late_to_count_as_finished_makes_no_jump() -> None:
    rate = TokenRate()
    rate.look(0, [Task(0, 1, 5000)], 1.0)
    # The task has left its slot; another one has begun.
    assert rate.look(0, [Task(0, 2, 40)], 2.0) == 40
    assert rate.look(5030, [Task(0, 2, 90)], 3.0) == 80
    assert rate.look(5030, [Task(0, 2, 140)], 4.0) == 50


def test_a_cancelled_request_is_given_up() -> None:
    rate = TokenRate()
    rate.look(0, [Task(0, 1, 5000), Task(1, 2, 10)], 1.0)
    assert rate.look(0, [Task(1, 2, 60)], 2.0) == 50
    assert rate.look(0, [Task(1, 2, 110)], 3.0) == 50
    assert rate.look(0, [Task(1, 2, 160)], 4.0) == 50
    assert rate.look(160, [], 5.0) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=40))
def test_counts_add_up_over_time(steps: list[tuple[int, bool]]) -> None:
    """One slot whose task sometimes finishes just before the look, without delay."""
    rate = TokenRate()
    rate.look(0, [Task(0, 0, 0)], 0.0)
    finished = decoded = task = 0
    counted = 0.0
    for second, (new, ends) in enumerate(steps, 1):
        decoded += new
        if ends:
            finished, decoded, task = finished + decoded, 0, task + 1
        counted += rate.look(finished, [Task(0, task, decoded)], float(second)) or 0
    assert counted == finished + decoded
