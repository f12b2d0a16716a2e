"""Chats of Ollama's API that are too long."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.http.ollama.shorter_chat import shorter_chat
from tests.http.client_side import post, to_the_end, unchunked
from tests.http.test_ollama import STREAM, body, lines_of
from tests.http.test_records import recorded
from tests.http.upstream import Talk, answer, forwarding


def refusal(tokens: int, context: int, kind: str = "exceed_context_size_error") -> bytes:
    said = {"code": 400, "message": "too long", "type": kind}
    return json.dumps({"error": {**said, "n_prompt_tokens": tokens, "n_ctx": context}}).encode()


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def shortened(messages: list[Any], said: bytes) -> list[Any] | None:
    request = json.dumps({"model": "m", "messages": messages, "top_k": 1}).encode()
    shorter = shorter_chat(request, said)
    if shorter is None:
        return None
    answered = json.loads(shorter)
    assert (answered.pop("model"), answered.pop("top_k")) == ("m", 1)
    messages = answered.pop("messages")
    assert answered == {}
    return messages


TALK = [
    message("system", "s"),
    message("user", "a" * 1000),
    message("assistant", "b" * 1000),
    message("user", "c" * 1000),
    message("assistant", "d" * 1000),
    message("tool", "e" * 1000),
    message("user", "f"),
]


def test_the_oldest_messages_go() -> None:
    # About 5,000 bytes are 5,000 tokens, of which three quarters of the context may stay.
    assert shortened(TALK, refusal(5000, 4200)) == [TALK[0], *TALK[3:]]
    assert shortened(TALK, refusal(5000, 3000)) == [TALK[0], TALK[-1]]
    assert shortened(TALK, refusal(5000, 1)) == [TALK[0], TALK[-1]]


def test_nothing_to_leave_out() -> None:
    assert shortened([TALK[0], TALK[-1]], refusal(5000, 100)) is None
    assert shortened([], refusal(5000, 100)) is None
    assert shortened(TALK, refusal(5000, 100, "other")) is None
    assert shortened(TALK, b'{"error": "x"}') is None
    assert shortened(TALK, b"<html>") is None
    assert shorter_chat(b'{"prompt": "x"}', refusal(5000, 100)) is None


_ROLES = st.sampled_from(["system", "user", "assistant", "tool"])


@given(st.lists(st.tuples(_ROLES, st.integers(0, 300))), st.integers(1, 5000), st.integers(1, 5000))
def test_a_shorter_chat_is_an_end_of_the_longer(
    drawn: list[tuple[str, int]], tokens: int, context: int
) -> None:
    messages = [message(role, str(at) + "x" * size) for at, (role, size) in enumerate(drawn)]
    while (rest := shortened(messages, refusal(tokens, context))) is not None:
        assert len(rest) < len(messages)
        assert rest[-1:] == messages[-1:]
        systems = [one for one in messages if one["role"] == "system"]
        others = [one for one in rest if one["role"] != "system"]
        assert [one for one in rest if one["role"] == "system"] == systems
        assert others[0]["role"] == "user"
        messages = rest


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("truncate", [True, False])
async def test_a_chat_that_is_too_long_is_sent_again(stream: bool, truncate: bool) -> None:
    async def script(talk: Talk) -> None:
        while True:
            got = await talk.request()
            seen.append(len(json.loads(got.body)["messages"]))
            if seen[-1] > 2:
                data = refusal(5000, 4200)
                await talk.say(
                    answer("Content-Type: application/json", body=data, status="400 Bad Request")
                )
            else:
                await talk.say(STREAM)

    seen: list[int] = []
    async with forwarding(script) as world:
        # Once to have the model loaded, and a connection.
        for _ in range(2):
            asked = body(messages=TALK, stream=stream, truncate=truncate)
            data = post(asked, "Connection: close", path="/api/chat")
            received = await to_the_end(world.front.port, data)
        records = await recorded(world, 2)
        assert world.scheduler.in_flight == 0
    if truncate:
        assert seen == [7, 5, 2] * 2
        assert [line["done"] for line in lines_of(unchunked(received))] == [False, True]
        assert [record.status for record in records] == [200, 200]
    else:
        assert seen == [7] * 2
        assert received.endswith(b'\r\n\r\n{"error":"too long"}')
        assert [record.status for record in records] == [400, 400]
