"""Ollama's API on the forwarder: the same queue, errors, records and ends as for all requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.gguf.chat_template import TemplateFacts
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.records import ModelStatus
from tests.fakes.service import make_settings
from tests.http.client_side import CHAT, post, to_the_end, unchunked
from tests.http.raw import ask, read_answer
from tests.http.test_forward import impatient
from tests.http.test_lean_path import taken  # noqa: F401 - a fixture
from tests.http.test_ollama_answers import TIMINGS, delta, last
from tests.http.test_records import recorded
from tests.http.upstream import EVENTS, LAST, Recorder, Talk, World, answer, forwarding
from tests.scheduler.virtual import model
from tests.waiting import LIMIT, until

HI = {"messages": [{"role": "user", "content": "hi"}]}
WHOLE = json.dumps(
    {
        "choices": [{"message": {"content": " a"}, "finish_reason": "length"}],
        "timings": TIMINGS,
        "model": "m",
    }
).encode()
WHOLE_ANSWER = answer("Content-Type: application/json; charset=utf-8", body=WHOLE)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM = answer(*EVENTS) + chunk(delta(content=" a")) + chunk(last()) + LAST


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", **HI, **fields}).encode()


def lines_of(content: bytes) -> list[Any]:
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content[:-1].split(b"\n")]


async def send(world: World, path: str, **fields: object) -> tuple[int, Any]:
    async with world.front.client.post(path, data=json.dumps(fields)) as got:
        text = await got.text()
        return got.status, json.loads(text) if got.content_type != "text/plain" else text


# Answers


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_a_stream_is_lines_of_json(framing: str, version: str) -> None:
    events = delta(content=" a") + last()

    async def script(talk: Talk) -> None:
        await talk.request()
        if framing == "chunked":
            await talk.say(STREAM)
        elif framing == "length":
            await talk.say(answer(EVENTS[0], body=events))
        else:
            await talk.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", events)

    async with forwarding(script) as world:
        data = post(body(), "Connection: close", path="/api/chat", version=version)
        received = await to_the_end(world.front.port, data)
        (record,) = await recorded(world)
    start, _, rest = received.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200 OK\r\n")
    assert start.lower().count(b"content-type: application/x-ndjson") == 1
    text, end = lines_of(unchunked(received) if version == "1.1" else rest)
    assert (text["model"], text["message"]["content"]) == ("m", " a")
    assert (end["done"], end["done_reason"], end["eval_count"]) == (True, "stop", 4)
    assert (record.path, record.status, record.stream) == ("/api/chat", 200, True)
    assert (record.tokens_in, record.tokens_out) == (96, 4)


async def test_each_line_is_sent_as_soon_as_its_event_is_here() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), chunk(delta(content="first")))
        await seen.wait()
        await talk.say(chunk(last()), LAST)

    seen = asyncio.Event()
    async with forwarding(script) as world, asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(body(), path="/api/chat"))
        received = await reader.readuntil(b'"done":false}\n\r\n')
        assert b"first" in received
        seen.set()
        received += await reader.readuntil(LAST)
        writer.close()
    assert len(lines_of(unchunked(received))) == 2


@pytest.mark.parametrize("quick", [False, True])
async def test_a_single_answer(quick: bool, taken: list[str]) -> None:  # noqa: F811
    server = Recorder(WHOLE_ANSWER)
    lines = () if quick else ("Expect: 100-continue",)
    async with forwarding(server) as world:
        # Once to have the model loaded, and a connection.
        for _ in range(2):
            data = post(body(stream=False), "Connection: close", *lines, path="/api/chat")
            received = await to_the_end(world.front.port, data)
        records = await recorded(world, 2)
        assert taken == (["/v1/chat/completions"] * 2 if quick else [])
    start, _, rest = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Type: application/json; charset=utf-8\r\n" in start
    assert b"Content-Length: %d\r\n" % len(rest) in start
    result = json.loads(rest)
    assert result["message"] == {"role": "assistant", "content": " a"}
    assert (result["done"], result["done_reason"]) == (True, "length")
    assert result["total_duration"] >= result["load_duration"] > 0
    for record in records:
        assert (record.path, record.status, record.tokens_out) == ("/api/chat", 200, 4)


async def test_the_request_is_the_services_own() -> None:
    server = Recorder(WHOLE_ANSWER)
    rules = {
        "request_defaults": {"top_k": 1, "max_tokens": 9, "system": "be brief"},
        "request_overrides": {"seed": 7, "stream": True},
        "request_strip": ("min_p",),
    }
    async with forwarding(server, model("m", **rules)) as world:
        options = {"num_predict": 4, "min_p": 0.1}
        for name in ("m", "M", "m:latest", "M:LATEST"):
            got = await ask(
                world.front.port,
                "POST /api/chat HTTP/1.1",
                "Host: localhost",
                "Accept-Encoding: gzip",
                "Content-Type: text/plain",
                f"Content-Length: {len(body(model=name, stream=False, options=options))}",
                body=body(model=name, stream=False, options=options),
            )
            # The answer has the name as it was asked for.
            assert json.loads(got.body)["model"] == name
    assert len(server.seen) == 4
    for seen in server.seen:
        assert (seen.target, seen.headers["content-type"]) == (CHAT, "application/json")
        assert "accept-encoding" not in seen.headers
        messages = [{"role": "system", "content": "be brief"}, *HI["messages"]]
        expected = {"model": "m", "stream": False, "max_tokens": 4, "top_k": 1, "seed": 7}
        assert json.loads(seen.body) == {**expected, "messages": messages}


async def test_another_engine_is_asked_for_its_numbers_of_tokens() -> None:
    server = Recorder(STREAM)
    async with forwarding(server, model("c", command=("engine",))) as world:
        fields = {"options": {"num_predict": 4}, "tools": [{"type": "function"}], "think": True}
        async with world.front.client.post("/api/chat", data=body(model="c", **fields)) as got:
            assert got.status == 200
    (seen,) = server.seen
    result = json.loads(seen.body)
    assert (result["max_tokens"], result["stream_options"]) == (4, {"include_usage": True})
    assert result["tools"] == fields["tools"]


async def test_embeddings_and_completions() -> None:
    async def script(talk: Talk) -> None:
        while True:
            got = await talk.request()
            targets.append(got.target)
            vectors = {"data": [{"embedding": [1.0], "index": 0}], "usage": {"prompt_tokens": 2}}
            reply = json.dumps(vectors).encode() if "embed" in got.target else WHOLE
            await talk.say(answer("Content-Type: application/json", body=reply))

    targets: list[str] = []
    vectors = msgspec.structs.replace(
        model("e", args=("--embedding",)), metadata=ModelMetadata(architecture="bert")
    )
    coder = msgspec.structs.replace(model("c"), metadata=ModelMetadata(infill=True))
    async with forwarding(script, vectors, coder) as world:
        status, result = await send(world, "/api/embed", model="e", input="x")
        assert (status, result["embeddings"], result["prompt_eval_count"]) == (200, [[1.0]], 2)
        status, result = await send(world, "/api/embeddings", model="e", prompt="x")
        assert (status, result) == (200, {"embedding": [1.0]})
        asked = {"model": "c", "prompt": "x", "stream": False}
        for more in ({}, {"raw": True}, {"suffix": "y"}):
            status, result = await send(world, "/api/generate", **asked, **more)
            assert (status, result["done"]) == (200, True)
    assert targets == [
        "/v1/embeddings",
        "/v1/embeddings",
        CHAT,
        "/v1/completions",
        "/infill",
    ]


async def test_more_than_a_mebibyte_of_vectors() -> None:
    vectors = {"data": [{"embedding": [0.125] * 1000, "index": at} for at in range(400)]}
    reply = answer("Content-Type: application/json", body=json.dumps(vectors).encode())
    made = msgspec.structs.replace(model("m", args=("--embedding",)))
    async with forwarding(Recorder(reply), made) as world:
        status, result = await send(world, "/api/embed", model="m", input=["x"] * 400)
    assert status == 200
    assert len(result["embeddings"]) == 400


# Waiting


async def test_a_stream_that_waits_gets_lines_without_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient(monkeypatch)
    async with forwarding(Recorder(STREAM)) as world:
        received = await waited(world, post(body(), "Connection: close", path="/api/chat"))
    start, _, _ = received.partition(b"\r\n\r\n")
    assert start.count(b"application/x-ndjson") == 1
    *waits, text, end = lines_of(unchunked(received))
    assert waits
    for line in waits:
        assert (line["message"]["content"], line["done"]) == ("", False)
    assert text["message"]["content"] == " a"
    assert end["load_duration"] > 1


@pytest.mark.parametrize("reply", [WHOLE_ANSWER, answer(body=b"<oops>", status="500 Oops")])
async def test_other_answers_behind_a_wait(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    async with forwarding(Recorder(reply)) as world:
        received = await waited(world, post(body(), "Connection: close", path="/api/chat"))
    *_, result = lines_of(unchunked(received))
    if reply is WHOLE_ANSWER:
        assert (result["message"]["content"], result["done"]) == (" a", True)
    else:
        assert result == {"error": "The model's server answered 500: <oops>"}


async def waited(world: World, data: bytes) -> bytes:
    """Send a request whose model loads only when the client has a line, and return the answer."""
    world.launcher.gate.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
    writer.write(data)
    async with asyncio.timeout(LIMIT):
        received = await reader.readuntil(b'"done":false}\n\r\n')
        world.launcher.gate.set()
        received += await reader.read()
    writer.close()
    return received


async def test_a_single_answer_waits_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    async with forwarding(Recorder(WHOLE_ANSWER)) as world:
        world.launcher.gate.clear()
        asked = asyncio.create_task(
            ask(
                world.front.port,
                "POST /api/chat HTTP/1.1",
                "Host: localhost",
                f"Content-Length: {len(body(stream=False))}",
                body=body(stream=False),
            )
        )
        await until(lambda: world.scheduler.waiting == 1)
        await asyncio.wait({asked}, timeout=0.1)
        world.launcher.gate.set()
        assert (await asked).status == 200


# Errors


@pytest.mark.parametrize(
    ("path", "fields", "status", "said"),
    [
        ("/api/chat", {"model": "nope", **HI}, 404, "model 'nope' not found"),
        ("/api/chat", {"model": "nope", **HI, "stream": False}, 404, "model 'nope' not found"),
        ("/api/generate", {"model": "nope", "prompt": "x"}, 404, "model 'nope' not found"),
        ("/api/generate", {"prompt": "x"}, 404, "model '' not found"),
        ("/api/embed", {"model": "nope", "input": "x"}, 404, "model 'nope' not found"),
        ("/api/chat", {"model": "", "messages": []}, 400, "model is required"),
        ("/api/chat", {"model": "m", "messages": "hi"}, 400, "wrong type"),
        ("/api/chat", {"model": "m", **HI, "options": {"seed": "x"}}, 500, 'option "seed"'),
        ("/api/chat", {"model": "m", **HI, "format": "xml"}, 500, "invalid format"),
        ("/api/chat", {"model": "m", **HI, "think": True}, 400, "does not support thinking"),
        ("/api/chat", {"model": "m", **HI, "tools": [{}]}, 400, "does not support tools"),
        ("/api/chat", {"model": "m", **HI, "keep_alive": "10"}, 400, "time: missing unit"),
        ("/api/generate", {"model": "m", "prompt": "x", "suffix": "y"}, 400, "insert"),
        ("/api/embed", {"model": "m", "input": "x"}, 501, "does not support embeddings"),
    ],
)
async def test_bad_requests_load_nothing(
    path: str, fields: dict[str, Any], status: int, said: str
) -> None:
    async with forwarding(Recorder()) as world:
        got, result = await send(world, path, **fields)
        assert (got, list(result)) == (status, ["error"])
        assert said in result["error"]
        assert not world.launcher.servers
        assert world.scheduler.waiting == 0


async def test_methods_and_empty_bodies() -> None:
    async with forwarding(Recorder()) as world:
        for method in ("GET", "PUT", "DELETE"):
            got = await ask(world.front.port, f"{method} /api/chat HTTP/1.1", "Host: localhost")
            assert (got.status, got.headers["allow"]) == (405, "post")
            assert (got.headers["content-type"], got.body) == (
                "text/plain",
                b"405 method not allowed",
            )
        got = await ask(
            world.front.port, "POST /api/chat?x=1 HTTP/1.1", "Host: localhost", "Content-Length: 0"
        )
        assert (got.status, json.loads(got.body)) == (400, {"error": "missing request body"})


async def test_keys_are_needed_here_too() -> None:
    settings = make_settings(api_keys=("secret",))
    async with forwarding(Recorder(STREAM), front_settings=settings, api_keys=("secret",)) as world:
        got, result = await send(world, "/api/chat", model="m", **HI)
        assert (got, result) == (401, {"error": result["error"]})
        key = {"Authorization": "Bearer secret"}
        async with world.front.client.post("/api/chat", data=body(), headers=key) as answered:
            assert answered.status == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_of_the_server_before_its_answer(stream: bool) -> None:
    said = {"error": {"code": 400, "message": "too long", "n_ctx": 512, "type": "x"}}
    reply = answer(body=json.dumps(said).encode(), status="400 Bad Request")
    async with forwarding(Recorder(reply)) as world:
        got, result = await send(world, "/api/chat", model="m", stream=stream, **HI)
        assert (got, result) == (400, {"error": "too long"})
        (record,) = await recorded(world)
        assert (record.status, record.error) == (400, "too long")


async def test_an_answer_of_another_kind() -> None:
    async with forwarding(Recorder(answer(body=b"<html>"))) as world:
        got, result = await send(world, "/api/chat", model="m", stream=False, **HI)
        assert (got, list(result)) == (502, ["error"])
        assert "answer of another kind" in result["error"]


@pytest.mark.parametrize("hard", [False, True])
async def test_a_cut_stream_ends_with_an_error_line(hard: bool) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), chunk(delta(content=" a")), b"20\r\nhalf of a")
        if hard:
            await seen.wait()
            talk.reset()

    seen = asyncio.Event()
    async with forwarding(script) as world, asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(body(), "Connection: close", path="/api/chat"))
        received = await reader.readuntil(b'"done":false}\n\r\n')
        seen.set()
        received += await reader.read()
        writer.close()
        (record,) = await recorded(world)
    text, error = lines_of(unchunked(received))
    assert text["message"]["content"] == " a"
    assert list(error) == ["error"]
    assert record.error


async def test_a_client_that_leaves_ends_its_request() -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(*EVENTS), chunk(delta(content=" a")))
        # Until the connection is closed.
        assert await talk.reader.read() == b""
        gone.set()

    gone = asyncio.Event()
    async with forwarding(script) as world, asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        writer.write(post(body(), path="/api/chat"))
        await reader.readuntil(b'"done":false}\n\r\n')
        writer.transport.abort()
        await gone.wait()
        (record,) = await recorded(world)
    assert record.status == 499


async def test_a_request_is_repeated_if_its_server_dies_before_the_answer() -> None:
    async def script(talk: Talk) -> None:
        got = await talk.request()
        bodies.append(got.body)
        if len(bodies) == 1:
            await world.launcher.servers[-1].stop(0)
            talk.reset()
        else:
            await talk.say(STREAM)

    bodies: list[bytes] = []
    async with forwarding(script) as world:
        data = post(body(), "Connection: close", path="/api/chat")
        lines = lines_of(unchunked(await to_the_end(world.front.port, data)))
    assert [line["done"] for line in lines] == [False, True]
    assert bodies[0] == bodies[1]


# Loads, unloads, and the time in between


async def unloaded(world: World) -> None:
    state = world.scheduler.state("m")
    await until(lambda: state is not None and state.status is ModelStatus.UNLOADED)


async def test_a_request_for_nothing_loads_or_unloads() -> None:
    server = Recorder(STREAM)
    async with forwarding(server) as world:
        for path, empty in (("/api/chat", "message"), ("/api/generate", "response")):
            status, result = await send(world, path, model="m")
            assert (status, result["done"], result["done_reason"]) == (200, True, "load")
            assert empty in result
            state = world.scheduler.state("m")
            assert state is not None
            assert state.status is ModelStatus.LOADED
            before = state.asked_idle_timeout
            status, result = await send(world, path, model="m", keep_alive=-1)
            assert (status, result["done_reason"]) == (200, "load")
            assert (before, state.asked_idle_timeout) == (None, 0.0)
            status, result = await send(world, path, model="m", keep_alive=0)
            assert (status, result["done_reason"]) == (200, "unload")
            await unloaded(world)
            assert state.asked_idle_timeout is None
    assert server.seen == []


async def test_the_last_keep_alive_counts_until_the_model_is_unloaded() -> None:
    async with forwarding(Recorder(WHOLE_ANSWER), model("m", idle_timeout=50)) as world:
        state = None
        for keep_alive, seconds in (("5m", 300.0), (None, 300.0), (-1, 0.0), (20, 20.0)):
            fields = {"stream": False, "keep_alive": keep_alive}
            status, _ = await send(world, "/api/chat", model="m", **HI, **fields)
            assert status == 200
            await until(lambda: not world.scheduler.in_flight)
            state = world.scheduler.state("m")
            assert state is not None
            assert state.asked_idle_timeout == seconds
        await send(world, "/api/chat", model="m", **HI, stream=False, keep_alive=0)
        await unloaded(world)
        assert state is not None
        assert state.asked_idle_timeout is None


async def test_what_the_loaded_model_can_do_counts() -> None:
    async with forwarding(Recorder(WHOLE_ANSWER)) as world:
        asked = {"model": "m", **HI, "stream": False, "think": True}
        assert (await send(world, "/api/chat", **asked))[0] == 400
        assert (await send(world, "/api/chat", model="m"))[0] == 200
        world.launcher.servers[-1].template = TemplateFacts(tools=True, thinking=True)
        assert (await send(world, "/api/chat", **asked))[0] == 200


async def test_requests_one_after_the_other_on_one_connection() -> None:
    async with forwarding(Recorder(WHOLE_ANSWER)) as world, asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.front.port)
        one = post(body(stream=False), path="/api/chat")
        writer.write(one + one + post(body(stream=False)) + one)
        found = [await read_answer(reader) for _ in range(4)]
        writer.close()
    assert [got.status for got in found] == [200] * 4
    assert ["created_at" in json.loads(got.body) for got in found] == [True, True, False, True]
