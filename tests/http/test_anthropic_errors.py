"""Errors of a model's server in the shape of Anthropic's API."""

from __future__ import annotations

import json

import pytest

from cyber_inference_tui.http.error_responses import ErrorEvents, in_anthropic_shape
from tests.http.client_side import CHAT, post, stream, to_the_end, unchunked
from tests.http.test_forward import LENGTHS, commented, impatient
from tests.http.upstream import EVENTS, LAST, Recorder, Talk, answer, event, forwarding

# llama-server's answers to a prompt that is too long, plain and in a stream.
TOO_LONG = {
    "code": 400,
    "message": "request (3007 tokens) exceeds the available context size (512 tokens)",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 3007,
}
REFUSAL = json.dumps({"error": TOO_LONG}).encode()
IN_SHAPE = {"type": "error", "error": {**TOO_LONG, "type": "invalid_request_error"}}
MESSAGES = ["/v1/messages", "/v1/messages/count_tokens", "/upstream/m/v1/messages"]


@pytest.mark.parametrize("path", MESSAGES)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_refusal_has_anthropics_shape(path: str, version: str) -> None:
    reply = answer(
        "Content-Type: application/json", "X-Other: 1", body=REFUSAL, status="400 Bad Request"
    )
    async with forwarding(Recorder(reply)) as world:
        data = post(stream(), "Connection: close", path=path, version=version)
        received = await to_the_end(world.front.port, data)
        (record,) = world.records
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert head.count(b"Content-Length: %d" % len(body)) == head.count(b"Content-Length") == 1
    assert b"X-Other: 1" in head
    assert json.loads(body) == IN_SHAPE
    assert record.status == 400
    assert "exceeds the available context size" in (record.error or "")


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        (CHAT, answer(body=REFUSAL, status="400 Bad Request")),
        ("/v1/messages", answer(body=REFUSAL)),
        ("/v1/messages", answer(body=b"<html>", status="500 Oops")),
        ("/v1/messages", answer(body=b'{"detail": "x"}', status="500 Oops")),
        ("/v1/messages", answer(body=json.dumps(IN_SHAPE).encode(), status="400 Bad Request")),
        (
            "/v1/messages",
            answer("Content-Encoding: gzip", body=REFUSAL, status="400 Bad Request"),
        ),
    ],
    ids=["other path", "no error", "no JSON", "no message", "in shape", "compressed"],
)
async def test_all_else_passes_byte_for_byte(path: str, reply: bytes) -> None:
    async with forwarding(Recorder(reply)) as world:
        data = post(stream(), "Connection: close", path=path)
        received = await to_the_end(world.front.port, data)
    assert received.partition(b"\r\n\r\n")[2] == reply.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_an_error_within_a_stream(framing: str, version: str) -> None:
    before = b'event: message_start\ndata: {"type":"message_start"}\n\n'
    error = b"event: error\ndata: %b\n\n" % json.dumps(TOO_LONG).encode()

    async def script(talk: Talk) -> None:
        await talk.request()
        if framing == "chunked":
            await talk.say(answer(*EVENTS))
            for part in (before, error[:20], error[20:]):
                await talk.say(b"%x\r\n%b\r\n" % (len(part), part))
            await talk.say(LAST)
        elif framing == "length":
            await talk.say(answer(EVENTS[0], body=before + error))
        else:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
            await talk.say(head, before, error)

    async with forwarding(script) as world:
        data = post(stream(), "Connection: close", path="/v1/messages", version=version)
        received = await to_the_end(world.front.port, data)
    content = unchunked(received) if version == "1.1" else received.partition(b"\r\n\r\n")[2]
    assert content.startswith(before + b"event: error\ndata: ")
    assert json.loads(content.removeprefix(before + b"event: error\ndata: ")) == IN_SHAPE
    (record,) = world.records
    assert "exceeds the available context size" in (record.error or "")


async def test_a_stream_without_errors_is_the_servers() -> None:
    parts = ["1", "2", '{"text":"event: error"}']

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), *(event(part) for part in parts), LAST)

    async with forwarding(script) as world:
        data = post(stream(), "Connection: close", path="/v1/messages")
        content = unchunked(await to_the_end(world.front.port, data))
    assert content == b"".join(f"data: {part}\n\n".encode() for part in parts)


@pytest.mark.parametrize("path", [*MESSAGES[::2], CHAT])
async def test_a_refusal_behind_comments(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    reply = answer(body=REFUSAL, status="400 Bad Request")
    async with forwarding(Recorder(reply)) as world:
        content = unchunked(await commented(world, post(stream(), "Connection: close", path=path)))
    told = content.rpartition(b": loading m 42%, about 1 s left\n\n")[2]
    name = b"" if path == CHAT else b"event: error\n"
    assert told.startswith(name + b"data: ")
    expected = {"error": TOO_LONG} if path == CHAT else IN_SHAPE
    assert json.loads(told.removeprefix(name + b"data: ")) == expected


async def test_comments_before_a_stream_of_anthropics(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    for reply in LENGTHS[:2]:
        async with forwarding(Recorder(reply)) as world:
            data = post(stream(), "Connection: close", path="/v1/messages")
            content = unchunked(await commented(world, data))
        assert content.endswith(b'left\n\ndata: {"n":1}\n\n')


def test_an_error_is_found_wherever_the_stream_is_cut() -> None:
    inner = json.dumps(TOO_LONG).encode()
    for error in (b"event: error\ndata: %b\n\n" % inner, b'data: {"error": %b}\n\n' % inner):
        text = b": ping\n\ndata: 1\n\n" + error + b"data: 2\n\n"
        for size in range(1, len(text) + 1):
            events = ErrorEvents()
            pieces = [text[at : at + size] for at in range(0, len(text), size)]
            got = b"".join([events.feed(one) for one in pieces]) + events.rest()
            head, _, tail = got.partition(b"event: error\ndata: ")
            assert head == b": ping\n\ndata: 1\n\n"
            told, _, tail = tail.partition(b"\n\n")
            assert json.loads(told) == IN_SHAPE
            assert tail == b"data: 2\n\n"


def test_held_back_bytes_are_bounded() -> None:
    events = ErrorEvents()
    endless = b"event: error\ndata: " + b"x" * 1000
    passed = events.feed(endless)
    for _ in range(200):
        passed += events.feed(b"x" * 1000)
    assert len(passed) > 100_000


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (500, "api_error"),
        (501, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_the_status_determines_the_type(status: int, kind: str) -> None:
    for said in ({"error": {"message": "m", "type": "server_error"}}, {"error": "m"}):
        body = in_anthropic_shape(json.dumps(said).encode(), status)
        assert body is not None
        assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": "m"}}


@pytest.mark.parametrize("body", [b"", b"[1]", b"3", b"{}", b'{"error": 3}', b"[" * 100_000])
def test_bodies_without_an_error_do_not_change(body: bytes) -> None:
    assert in_anthropic_shape(body, 500) is None
