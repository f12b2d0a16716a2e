"""Finished requests as the service tells of them: once each, with the server's own numbers."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.real.conftest import Starter, StartFake, StartReal
from tests.real.service_process import ServiceProcess, chat_body, sse_data
from tests.real.test_admin import read_events
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
MARKS = itertools.count()


def records(service: ServiceProcess) -> list[dict[str, Any]]:
    """All finished requests so far: a last one of our own shows that no more are to come."""
    mark = f"/upstream/{min(service.models())}/mark-{next(MARKS)}"
    assert service.get(mark).status_code >= 400
    found: list[dict[str, Any]] = []
    # From the beginning of the service on, as far as it is kept.
    headers = {"Last-Event-ID": "1"}
    with (
        service.client() as client,
        client.stream("GET", "/admin/events?topics=request", headers=headers) as response,
    ):
        for _, topic, data in read_events(response):
            if topic == "request" and data.get("path") == mark:
                return found
            if topic == "request" and "/mark-" not in data.get("path", "/mark-"):
                found.append(data)
    raise AssertionError("the events ended")


def chat(service: ServiceProcess, model: str, **more: Any) -> httpx.Response:
    return service.post(CHAT, json=chat_body(model, **more))


# With the server's own numbers


@pytest.fixture(scope="module")
def servers(
    llama_server: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    one = Starter(tmp_path_factory.mktemp("requests"), demo_gguf)
    tables = {
        "embedder": {"args": ["--embedding", "--pooling", "mean"]},
        "ranker": {"args": ["--reranking"]},
        "drafter": {"args": ["-md", str(demo_gguf), "--spec-type", "draft-simple"]},
    }
    yield one.real(llama_server, {"models": tables}, ("embedder", "ranker", "drafter"))
    one.end()


def last(events: list[Any], key: str) -> Any:
    return next(one[key] for one in reversed(events) if isinstance(one, dict) and one.get(key))


def check_timings(record: dict[str, Any], timings: dict[str, Any]) -> None:
    """Check that a record has the figures that the server reported."""
    assert record["tokens_per_second"] == pytest.approx(timings["predicted_per_second"])
    assert record["tokens_cached"] == timings["cache_n"]
    assert record["prompt_seconds"] == pytest.approx(timings["prompt_ms"] / 1000, abs=1e-6)
    assert record["answer_seconds"] == pytest.approx(timings["predicted_ms"] / 1000, abs=1e-6)
    assert record["tokens_drafted"] == timings.get("draft_n")
    assert record["tokens_accepted"] == timings.get("draft_n_accepted")


def of_timings(timings: dict[str, Any]) -> tuple[Any, ...]:
    return timings["cache_n"] + timings["prompt_n"], timings["predicted_n"]


def of_usage(usage: dict[str, Any]) -> tuple[Any, ...]:
    return usage["prompt_tokens"], usage.get("completion_tokens")


def of_messages(usage: dict[str, Any]) -> tuple[Any, ...]:
    return usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"]


def of_responses(usage: dict[str, Any]) -> tuple[Any, ...]:
    return usage["input_tokens"], usage["output_tokens"]


def of_completion(answer: dict[str, Any]) -> tuple[Any, ...]:
    return answer["tokens_evaluated"], answer["tokens_predicted"]


TEXT = {"prompt": "hello there", "max_tokens": 9, "n_predict": 9}
WHOLE: list[tuple[str, dict[str, Any], Callable[[Any], tuple[Any, ...]]]] = [
    (CHAT, chat_body("demo"), lambda got: of_usage(got["usage"])),
    ("/v1/completions", TEXT, lambda got: of_usage(got["usage"])),
    ("/completion", TEXT, of_completion),
    ("/v1/messages", chat_body("demo"), lambda got: of_messages(got["usage"])),
    (
        "/v1/responses",
        {"input": "hello there", "max_output_tokens": 9},
        lambda got: of_responses(got["usage"]),
    ),
    # An answer of some hundred kilobytes that tells it at its beginning.
    (
        "/v1/embeddings",
        {"model": "embedder", "input": ["hello there"] * 30},
        lambda got: of_usage(got["usage"]),
    ),
    (
        "/v1/rerank",
        {"model": "ranker", "query": "hello", "documents": ["there", "world"]},
        lambda got: of_usage(got["usage"]),
    ),
]


@pytest.mark.real
@pytest.mark.parametrize(("path", "body", "told"), WHOLE, ids=[path for path, _, _ in WHOLE])
def test_whole_answers(
    servers: ServiceProcess,
    path: str,
    body: dict[str, Any],
    told: Callable[[Any], tuple[Any, ...]],
) -> None:
    # Twice, so that the prompt is in the cache once.
    for _ in range(2):
        got = servers.post(path, json={"model": "demo", **body}).json()
        record = records(servers)[-1]
        assert (record["path"], record["status"], record["error"]) == (path, 200, None)
        assert (record["tokens_in"], record["tokens_out"]) == told(got)
        if "timings" in got:
            check_timings(record, got["timings"])
        else:
            assert record["tokens_per_second"] is None


STREAMS: list[tuple[str, dict[str, Any], Callable[[list[Any]], tuple[Any, ...]]]] = [
    (CHAT, chat_body("demo"), lambda got: of_timings(last(got, "timings"))),
    (
        CHAT,
        chat_body("demo", stream_options={"include_usage": True}),
        lambda got: of_usage(last(got, "usage")),
    ),
    (CHAT, chat_body("demo", timings_per_token=True), lambda got: of_timings(last(got, "timings"))),
    ("/v1/completions", TEXT, lambda got: of_usage(last(got, "usage"))),
    ("/completion", TEXT, lambda got: of_completion(got[-1])),
    (
        "/v1/messages",
        chat_body("demo"),
        lambda got: of_messages({**got[0]["message"]["usage"], **last(got, "usage")}),
    ),
    (
        "/v1/responses",
        {"input": "hello there", "max_output_tokens": 9},
        lambda got: of_responses(got[-1]["response"]["usage"]),
    ),
]


@pytest.mark.real
@pytest.mark.parametrize(("path", "body", "told"), STREAMS)
@pytest.mark.parametrize("tokens", [8, 600])
def test_streams(
    servers: ServiceProcess,
    path: str,
    body: dict[str, Any],
    told: Callable[[list[Any]], tuple[Any, ...]],
    tokens: int,
) -> None:
    counts = dict.fromkeys(("max_tokens", "n_predict", "max_output_tokens"), tokens)
    body = {"model": "demo", "stream": True, "ignore_eos": True, **body}
    body |= {name: count for name, count in counts.items() if name in body}
    for _ in range(2):
        got = [one for one in sse_data(servers.post(path, json=body).text) if one != "[DONE]"]
        record = records(servers)[-1]
        assert (record["path"], record["status"], record["error"]) == (path, 200, None)
        assert (record["tokens_in"], record["tokens_out"]) == told(got)
        assert 0 < record["tokens_out"] <= tokens
        if any("timings" in one for one in got):
            check_timings(record, last(got, "timings"))
        first, whole = record["time_to_first_token_seconds"], record["duration_seconds"]
        assert 0 < first <= whole


@pytest.mark.real
def test_the_phases_of_a_request(servers: ServiceProcess) -> None:
    servers.post("/admin/models/drafter/unload", json={})
    for is_loaded in (False, True):
        got = chat(servers, "drafter", temperature=0, max_tokens=20)
        record = records(servers)[-1]
        check_timings(record, got.json()["timings"])
        assert record["request_id"] == got.headers["X-Request-Id"]
        # The draft model is the model itself.
        assert record["tokens_drafted"] >= record["tokens_accepted"] > 0
        assert (record["tokens_cached"] > 0) == is_loaded
        phases = ("body_seconds", "queue_seconds", "prompt_seconds", "answer_seconds")
        assert sum(record[name] or 0.0 for name in phases) <= record["duration_seconds"]
        assert record["stall_seconds"] is None
        if not is_loaded:
            assert record["queue_ahead"] == 0
            assert 0 < record["load_seconds"] <= record["queue_seconds"]


@pytest.mark.real
def test_errors_of_the_server_are_told_in_its_words(servers: ServiceProcess) -> None:
    answer = chat(servers, "demo", max_tokens="many")
    record = records(servers)[-1]
    assert record["status"] == answer.status_code == 400
    assert record["error"].startswith(answer.json()["error"]["message"][:50])
    assert record["tokens_in"] is None


# A server that dies


@pytest.mark.parametrize("stream", [False, True])
def test_a_crash_before_a_byte_is_answered_by_the_next_server(
    start_fake: StartFake, tmp_path: Path, stream: bool
) -> None:
    state = tmp_path / "state"
    switches = {"crash_first": 1, "state": str(state), "answer": {"crash_after": 0}}
    service = start_fake({"a": switches})
    with OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "hello"}]
        if stream:
            chunks = client.chat.completions.create(model="a", messages=messages, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            whole = client.chat.completions.create(model="a", messages=messages)
            text = whole.choices[0].message.content or ""
    assert text == "tok0 tok1 tok2 tok3 tok4 "
    notes = [json.loads(line)["what"] for line in state.read_text().splitlines()]
    assert notes == ["start", "crash", "start"]
    (record,) = records(service)
    assert (record["status"], record["error"], record["stream"]) == (200, None, stream)
    assert service.errors().count("Sending the request again") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_second_crash_is_told(start_fake: StartFake, tmp_path: Path, stream: bool) -> None:
    state = tmp_path / "state"
    service = start_fake({"a": {"state": str(state)}})
    answer = chat(service, "a", stream=stream, fake={"crash_after": 0})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")
    notes = [json.loads(line)["what"] for line in state.read_text().splitlines()]
    assert notes == ["start", "crash"] * 2
    record = records(service)[0]
    assert record["status"] == 502
    assert "SIGKILL" in record["error"]


@pytest.mark.real
def test_real_servers_that_are_killed_are_replaced(start_real: StartReal) -> None:
    service = start_real()
    assert service.chat("demo").status_code == 200
    pid = service.model("demo")["pid"]
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(chat, service, "demo", stream=stream) for stream in (False, True)]
        eventually(lambda: service.model("demo")["in_flight"] == 2)
        os.kill(pid, signal.SIGKILL)
        whole, stream = (one.result(60) for one in answers)
    assert whole.json()["choices"][0]["message"]["content"]
    assert stream.text.endswith("data: [DONE]\n\n")
    assert service.model("demo")["pid"] != pid
    assert [record["status"] for record in records(service)] == [200] * 3


def test_unloading_by_force_starts_nothing_again(start_fake: StartFake) -> None:
    service = start_fake()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(chat, service, "a", fake={"hang": True})
        eventually(lambda: service.model("a")["in_flight"] == 1)
        service.post("/admin/models/a/unload?force=1", json={})
        assert answer.result(60).status_code == 502
    assert service.model("a")["status"] == "unloaded"
    assert service.errors().count("loaded in") == 1


# A server that is silent


@pytest.mark.real
def test_a_real_server_that_hangs_is_replaced(start_real: StartReal) -> None:
    service = start_real({"stall_timeout": 1.0})
    assert service.chat("demo").status_code == 200
    pid = service.model("demo")["pid"]
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(chat, service, "demo", stream=stream) for stream in (False, True)]
        whole, stream = (one.result(60) for one in answers)
    assert whole.status_code == 200
    assert stream.text.endswith("data: [DONE]\n\n")
    assert service.model("demo")["pid"] != pid
    assert [record["status"] for record in records(service)] == [200] * 3
    assert "sent nothing for 1 s (stall_timeout)" in service.errors()


def test_one_stream_that_stalls_beside_another(start_fake: StartFake) -> None:
    service = start_fake(config={"stall_timeout": 0.5})
    assert service.chat("a").status_code == 200
    with (
        ThreadPoolExecutor(1) as pool,
        service.stream("a", fake={"tokens": 10_000, "interval": 0.05}) as going,
    ):
        lines = going.iter_lines()
        assert next(lines)
        stalled = pool.submit(chat, service, "a", stream=True, fake={"tokens": 2, "interval": 100})
        # Read on, so that it is the server that the other one waits for.
        while not stalled.done():
            next(lines)
        for _ in range(4):
            assert "error" not in next(lines)
        pid = service.model("a")["pid"]
    *_, error = sse_data(stalled.result().text)
    assert error["error"]["code"] == "upstream_failed"
    assert "sent nothing for 0.5 s (stall_timeout)" in error["error"]["message"]
    eventually(lambda: service.model("a")["in_flight"] == 0)
    assert service.model("a")["pid"] == pid
    first, cut, left = records(service)
    assert (first["status"], cut["status"], left["status"]) == (200, 200, 499)
    assert "stall_timeout" in cut["error"]


def test_a_request_that_hangs_every_server_is_told(start_fake: StartFake) -> None:
    service = start_fake(config={"stall_timeout": 0.3})
    answer = chat(service, "a", fake={"hang": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")
    assert "sent nothing for 0.3 s (stall_timeout)" in answer.json()["error"]["message"]
    assert [record["status"] for record in records(service)][:1] == [502]
