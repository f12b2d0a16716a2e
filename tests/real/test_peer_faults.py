"""Boxes that fail in every way while they have requests of another one.

``here`` asks ``second``, behind a proxy with faults, before ``third``: a tie goes by the name.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest

from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess, chat_body, sse_data
from tests.real.tcp_proxy import Fault, TcpProxy
from tests.real.test_peers import pair, peer
from tests.waiting import LIMIT, eventually

WHOLE = "tok0 tok1 tok2 tok3 tok4 "
SLOW: dict[str, Any] = {"answer": {"prefill": 200.0}}
TALKS: dict[str, Any] = {"answer": {"tokens": 100_000, "interval": 0.02}}
ECHO = {"X-Fake": json.dumps({"echo": True})}
PLAIN, STREAM = {"stream": False}, {"stream": True}


@dataclass
class World:
    """Three boxes; the names are those at ``here``."""

    here: ServiceProcess
    second: ServiceProcess
    third: ServiceProcess
    proxy: TcpProxy
    second_name: str
    third_name: str

    def ask(self, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
        """Ask ``here`` as a client that no box has answered yet."""
        headers = {"User-Agent": uuid.uuid4().hex, **more.pop("headers", {})}
        return self.here.post(path, headers=headers, **more)

    def chat(self, model: str, **more: Any) -> httpx.Response:
        return self.ask(json=chat_body(model, **more))

    def box_of(self, answer: httpx.Response) -> str | None:
        box: str | None = recorded(self.here, answer)["box"]
        return box

    def answers(self, model: str) -> None:
        """Wait until a client of ``here`` has the beginning of an answer of a model."""
        eventually(
            lambda: any(
                one["model"] == model and one["phase"] == "answering"
                for one in self.here.get("/admin/requests/active").json()
            ),
            what="the first byte of the stream",
        )

    def knows(self, box: str, model: str, **values: Any) -> None:
        """Wait until ``here`` knows these values of a model on a box."""

        def is_known() -> bool:
            models = {one["id"]: one for one in peer(self.here, box)["models"]}
            record = models.get(model, {})
            return all(record.get(name) == value for name, value in values.items())

        eventually(is_known, what=f"{model} on {box}: {values}")


def recorded(service: ServiceProcess, answer: httpx.Response) -> dict[str, Any]:
    """The record of an answer in the history of a box."""
    request_id = answer.headers["X-Request-Id"]

    def find() -> dict[str, Any] | None:
        found = service.get("/admin/requests?limit=1000").json()
        return next((one for one in found if one["request_id"] == request_id), None)

    return eventually(find, what=f"the record of {request_id}")


def text_of(answer: httpx.Response) -> str:
    """The text of a whole answer: plain, a stream, or Ollama's."""
    assert answer.status_code == 200, answer.text
    if answer.headers["Content-Type"].startswith("text/event-stream"):
        events = sse_data(answer.text)
        assert events[-1] == "[DONE]", answer.text[-500:]
        deltas = [one["choices"][0]["delta"] for one in events[:-1] if one["choices"]]
        return "".join(one.get("content") or "" for one in deltas)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    if "choices" in lines[0]:
        return str(lines[0]["choices"][0]["message"]["content"])
    assert lines[-1]["done"], answer.text
    return "".join(one["message"]["content"] for one in lines)


def busy(service: ServiceProcess, model: str) -> int:
    record = service.model(model)
    return int(record["in_flight"]) + int(record["queued"])


def idle(service: ServiceProcess, model: str) -> None:
    """Wait until a box has no request for a model."""
    eventually(lambda: busy(service, model) == 0, what=f"no request for {model}")


@pytest.fixture(scope="module")
def boxes(module_starter: Starter) -> Iterator[tuple[ServiceProcess, ...]]:
    starter = module_starter
    common: dict[str, dict[str, Any]] = {"two": {}, "both": {}}
    yield (
        starter.fake(
            {**common, "fails": {"die": {"after": 1.0}}},
            config={
                "host": "127.0.0.1",
                "cors_origins": ["https://app.example"],
                "max_body_memory": 4 << 20,
            },
        ),
        starter.fake(
            {"far": {}, "line": SLOW, "loads": {"load_seconds": 200.0}, "talks": TALKS, **common},
            config={
                "host": "127.0.0.2",
                "llama_parallel": 1,
                "max_concurrent_requests": 1,
                "max_queue": 1,
                "max_body_size": 2 << 20,
            },
        ),
        starter.fake(
            {"far": {}, "line": {}, "loads": {}, "talks": {}, "fails": {}},
            config={"host": "127.0.0.3", "llama_parallel": 1, "max_concurrent_requests": 1},
        ),
    )


def forget_all(service: ServiceProcess) -> None:
    with service.owner() as owner:
        for one in owner.get("/admin/peers").json():
            owner.delete(f"/admin/peers/{one['name']}").raise_for_status()


@pytest.fixture
def world(boxes: tuple[ServiceProcess, ...]) -> Iterator[World]:
    here, second, third = boxes
    with TcpProxy("127.0.0.4", ("127.0.0.2", second.port)) as proxy:
        names = pair(here, second, url=proxy.url), pair(here, third)
        made = World(here, second, third, proxy, *names)
        for box, name in zip((second, third), names, strict=True):
            assert box.chat("far").status_code == 200
            made.knows(name, "far", status="loaded", in_flight=0)
        proxy.requests = 0
        yield made
        for box in boxes:
            # Its load would hold up all others.
            if "loads" in box.models():
                box.post("/admin/models/loads/unload", json={}).raise_for_status()
                box.wait_status("loads", "unloaded", "failed")
        for one in boxes:
            forget_all(one)


OLLAMA = {"messages": [{"role": "user", "content": "hi"}], "model": "far"}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("/v1/chat/completions", chat_body("far")),
    "stream": ("/v1/chat/completions", chat_body("far", stream=True)),
    "ollama": ("/api/chat", {**OLLAMA, "stream": False}),
    "ollama-stream": ("/api/chat", OLLAMA),
}
FAULTS = {
    "reset-at-once": Fault(after=-1),
    "reset-after-the-request": Fault(after=0),
    "closed-after-the-request": Fault("close", 0),
    "reset-in-the-head": Fault(after=20),
    "closed-after-the-head": Fault("close", 1000, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    "garbage": Fault("close", 1000, b"\x16\x03\x01 no HTTP\r\n\r\n" * 9),
    "huge-head": Fault("close", 1 << 20, b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 999_999),
    "no-event": Fault("close", 1000, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"),
    "only-comments": Fault(
        "close",
        1000,
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"d\r\n: loading a\n\n\r\n0\r\n\r\n",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_answer_without_a_byte_is_made_by_the_next_box(
    world: World, fault: str, kind: str
) -> None:
    path, body = KINDS[kind]
    world.proxy.fault = FAULTS[fault]
    if fault in {"no-event", "only-comments"} and "stream" not in kind:
        pytest.skip("an answer that no box gives to such a request")
    answer = world.ask(path, json=body)
    assert text_of(answer) == WHOLE
    assert world.box_of(answer) == world.third_name
    assert world.proxy.requests == 1


def test_a_box_that_broke_an_answer_rests_and_says_why(world: World) -> None:
    world.proxy.fault = Fault(after=0)
    assert world.box_of(world.chat("far")) == world.third_name
    record = peer(world.here, world.second_name)
    assert record["state"] == "resting"
    assert "closed the connection" in record["problem"]
    heard = record["heard_at"]
    eventually(
        lambda: peer(world.here, world.second_name)["heard_at"] != heard, what="a further update"
    )
    assert "closed the connection" in (peer(world.here, world.second_name)["problem"] or "")
    world.proxy.fault = None
    eventually(
        lambda: peer(world.here, world.second_name)["state"] == "connected", what="the end of rest"
    )
    assert world.box_of(world.chat("far")) == world.second_name


@pytest.mark.parametrize(("body", "after"), [(PLAIN, 400), (STREAM, 700)], ids=["plain", "stream"])
def test_an_answer_that_breaks_later_is_never_begun_again(
    world: World, body: dict[str, bool], after: int
) -> None:
    world.proxy.fault = Fault(after=after)
    if body["stream"]:
        answer = world.chat("far", **body)
        assert "upstream_failed" in answer.text.split("\n\n")[-2]
        assert answer.text.count("tok0") == 1
        assert "[DONE]" not in answer.text
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            world.chat("far", **body)
    (record, *_) = world.here.get("/admin/requests?limit=1").json()
    assert record["box"] == world.second_name
    assert record["error"]


@contextlib.contextmanager
def held(service: ServiceProcess, model: str, count: int = 1, **more: Any) -> Iterator[None]:
    """Have a client of a box ask a model ``count`` times; leaving the block ends that."""
    before = 0 if "/" in model else busy(service, model)
    body = json.dumps(chat_body(model, **more)).encode()
    url = httpx.URL(service.url)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.host}\r\nUser-Agent: {uuid.uuid4()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = socket.create_connection((url.host, service.port), timeout=LIMIT)
            stack.enter_context(contextlib.closing(connection))
            connection.sendall(head + body)
        if "/" not in model:
            eventually(lambda: busy(service, model) == before + count, what=f"{model} asked")
        yield


def lose_by_kill(world: World) -> Callable[[], None]:
    port = world.second.port
    world.second.kill()

    def again() -> None:
        world.second.assert_none_left()
        world.second.arguments = ("--port", str(port))
        world.second.start()

    return again


def lose_by_stop(world: World) -> Callable[[], None]:
    assert world.second.process is not None
    send = world.second.process.send_signal
    send(signal.SIGSTOP)
    return partial(send, signal.SIGCONT)


def lose_by_partition(world: World) -> Callable[[], None]:
    world.proxy.part()
    return world.proxy.join


@pytest.mark.parametrize("lose", [lose_by_kill, lose_by_stop, lose_by_partition])
def test_a_box_is_lost_with_a_request_in_each_phase(
    world: World, lose: Callable[[World], Callable[[], None]]
) -> None:
    second, third = world.second, world.third
    for box in (second, third):
        for model in ("line", "talks"):
            box.chat(model, fake={"prefill": 0.0, "tokens": 5, "interval": 0.0})
    for name in (world.second_name, world.third_name):
        for model in ("line", "talks"):
            world.knows(name, model, status="loaded", in_flight=0)
    # The cache of this client's conversation is at the second box, so it goes there again.
    quick, warm = chat_body("line", fake={"prefill": 0.0}), {"User-Agent": uuid.uuid4().hex}
    assert world.box_of(world.ask(json=quick, headers=warm)) == world.second_name
    world.knows(world.second_name, "line", in_flight=0)
    with ThreadPoolExecutor() as pool:

        def ask(model: str, **more: Any) -> Future[httpx.Response]:
            before = busy(second, model)
            headers = warm if model == "line" else {}
            asked = pool.submit(world.ask, json=chat_body(model, **more), headers=headers)
            eventually(lambda: busy(second, model) > before, what=f"{model} at the second box")
            return asked

        loading = ask("loads", **STREAM)
        prompt = ask("line")
        with held(third, "line", 40, fake={"prefill": 200.0}):
            world.knows(world.third_name, "line", queued=39)
            queued = ask("line", **STREAM)
        stream = ask("talks", **STREAM)
        world.answers("talks")
        return_ = lose(world)
        try:
            for asked in (loading, prompt, queued):
                answer = asked.result(LIMIT)
                assert text_of(answer) == WHOLE
                assert world.box_of(answer) == world.third_name
            broken = stream.result(LIMIT).text
            assert broken.count("tok0 ") == 1
            assert "upstream_failed" in broken.split("\n\n")[-2]
            assert "[DONE]" not in broken
            assert peer(world.here, world.second_name)["requests"] == 0
            assert text_of(world.chat("far")) == WHOLE
        finally:
            return_()
    for model in ("loads", "line", "talks"):
        idle(second, model)
    eventually(
        lambda: peer(world.here, world.second_name)["state"] == "connected", what="its return"
    )


def test_a_client_that_leaves_ends_its_request_in_each_phase(world: World) -> None:
    here, second = world.here, world.second
    name = world.second_name
    for model in ("line", "talks"):
        second.chat(model, fake={"prefill": 0.0, "tokens": 5, "interval": 0.0})
    with (
        held(here, f"{name}/loads"),
        held(here, f"{name}/line"),
        held(here, f"{name}/talks", **STREAM),
    ):
        for model in ("loads", "line", "talks"):
            eventually(partial(busy, second, model), what=f"{model} asked")
        with held(here, f"{name}/line"):
            eventually(lambda: busy(second, "line") == 2, what="a queue")
        eventually(lambda: busy(second, "line") == 1, what="the end of the queued request")
    for model in ("loads", "line", "talks"):
        idle(second, model)
    eventually(lambda: peer(here, name)["requests"] == 0, what="no request there")
    assert peer(here, name)["state"] == "connected"


def test_a_client_that_leaves_while_its_box_is_silent_is_forgotten(world: World) -> None:
    world.proxy.part()
    with held(world.here, f"{world.second_name}/far"):
        eventually(lambda: peer(world.here, world.second_name)["requests"] == 1, what="the request")
    eventually(lambda: peer(world.here, world.second_name)["requests"] == 0, what="its end")


def test_a_full_queue_passes_the_request_on(world: World) -> None:
    second, third = world.second, world.third
    for box in (second, third):
        assert box.chat("line", fake={"prefill": 0.0}).status_code == 200
    with held(third, "line", 40, fake={"prefill": 200.0}), held(second, "line", 2):
        world.knows(world.third_name, "line", queued=39)
        world.knows(world.second_name, "line", queued=1)
        assert world.chat(f"{world.second_name}/line").status_code == 503
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(world.chat, "line")
            eventually(lambda: busy(third, "line") == 41, what="the request at the third box")
            assert not asked.done()
            third.kill()
            third.assert_none_left()
            answer = asked.result(LIMIT)
            assert answer.status_code in {502, 503}
    third.arguments = ("--port", str(third.port))
    third.start()


def test_a_body_that_is_too_large_there_is_no_reason_to_try_again(world: World) -> None:
    large = chat_body("far", "x" * (3 << 20))
    answer = world.ask(json=large)
    assert text_of(answer) == WHOLE
    assert world.box_of(answer) == world.third_name
    assert peer(world.here, world.second_name)["state"] == "connected"
    large["model"] = f"{world.second_name}/far"
    assert world.ask(json=large).status_code == 413


def test_a_model_that_is_gone_there_is_asked_elsewhere(world: World) -> None:
    gone = httpx.Response(404, json={"error": {"message": "There is no model far."}})
    lines = f"HTTP/1.1 404 Not Found\r\nContent-Length: {len(gone.content)}\r\n\r\n".encode()
    world.proxy.fault = Fault("close", 1000, lines + gone.content)
    answer = world.chat("far")
    assert world.box_of(answer) == world.third_name
    assert peer(world.here, world.second_name)["state"] == "connected"


def echoed(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    value = answer.json()
    value["names"] = {name.lower() for name, _ in value["headers"]}
    return dict(value)


def test_a_large_body_arrives_whole_after_this_box_has_failed(world: World) -> None:
    # While it waits for its load here, the body is in a file.
    body = json.dumps(chat_body("fails", "x" * (2 << 20))).encode()
    headers = {"Content-Type": "application/json", **ECHO}
    answer = world.ask(content=body, headers=headers)
    assert echoed(answer)["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert world.box_of(answer) == world.third_name


def test_a_long_answer_of_another_box_keeps_no_body_in_memory(world: World) -> None:
    name, large = f"{world.third_name}/talks", "x" * (3 << 20)
    with held(world.here, name, content=large, fake=TALKS["answer"], **STREAM):
        world.answers(name)
        # There is no room for two such bodies.
        answer = world.ask(json=chat_body("both", large))
        assert text_of(answer) == WHOLE


def test_bodies_of_every_form_arrive_as_they_were(world: World) -> None:
    name = f"{world.second_name}/far"
    files = {"file": ("a.wav", bytes(range(256)) * 4), "model": (None, name)}
    form = echoed(world.ask("/v1/audio/transcriptions", files=files, headers=ECHO))
    assert form["target"] == "/v1/audio/transcriptions"
    text = base64.b64decode(form["body_base64"])
    assert b"\r\n\r\nfar\r\n" in text
    assert bytes(range(256)) * 4 in text

    body = json.dumps({"model": "far", "input": "hello"}).encode()
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip", **ECHO}
    found = echoed(world.ask("/v1/embeddings", content=gzip.compress(body), headers=packed))
    assert found["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert "content-encoding" not in found["names"]


def test_another_box_gets_nothing_that_belongs_to_the_client_s_way_here(world: World) -> None:
    own = {
        "Cookie": "session=secret",
        "Origin": "https://app.example",
        "Referer": "https://app.example/",
        "Sec-Fetch-Site": "cross-site",
        "X-Custom": "kept",
    }
    found = echoed(world.ask(json=chat_body("far"), headers={**own, **ECHO}))
    assert found["names"] & {one.lower() for one in own} == {"x-custom"}


def test_a_request_has_one_id_and_its_tokens_on_both_boxes(world: World) -> None:
    answer = world.chat("far", stream=True, stream_options={"include_usage": True})
    here = recorded(world.here, answer)
    there = recorded(world.second, answer)
    assert (here["tokens_in"], here["tokens_out"]) == (7, 5)
    assert (there["tokens_in"], there["tokens_out"]) == (7, 5)
    assert here["box"] == world.second_name
    assert there["box"] is None
    assert there["key_name"].startswith("box ")


def test_delay_and_slowness_change_no_answer(world: World) -> None:
    world.proxy.delay = 0.2
    for path, body in KINDS.values():
        answer = world.ask(path, json=body)
        assert text_of(answer) == WHOLE
        assert world.box_of(answer) == world.second_name
    world.proxy.delay, world.proxy.rate = 0.0, 4000.0
    assert text_of(world.chat("far", **STREAM)) == WHOLE
    assert peer(world.here, world.second_name)["state"] == "connected"


def test_boxes_that_route_to_each_other_answer_each_request_once(world: World) -> None:
    here, second = world.here, world.second

    def counts() -> list[int]:
        # Each box also asks its server for its slots now and then.
        reports = [one.upstream("both", "/fake/report")["requests"] for one in (here, second)]
        return [sum("/chat/" in one["target"] for one in requests) for requests in reports]

    for box in (here, second):
        # By itself: it may send a request to the other one.
        box.post("/admin/models/both/load").raise_for_status()
        box.wait_status("both", "loaded")
    before = counts()
    with ThreadPoolExecutor(16) as pool:
        fake = {"tokens": 5, "interval": 0.01}
        asked = [
            pool.submit(box.chat, "both", fake=fake) for box in (here, second) for _ in range(24)
        ]
        answers = [one.result(LIMIT) for one in asked]
    statuses = [one.status_code for one in answers]
    assert statuses.count(200) + statuses.count(429) == 48
    assert sum(counts()) - sum(before) == statuses.count(200)
