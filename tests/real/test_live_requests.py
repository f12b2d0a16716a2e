"""Requests in progress: their tokens and speeds as events, and the tokens of those that are cut."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Starter, StartFake
from tests.real.service_process import ServiceProcess, sse_data
from tests.real.test_admin import read_events
from tests.real.test_requests import CHAT, records

LONG = {"max_tokens": 2000, "ignore_eos": True}


@pytest.fixture(scope="module")
def servers(
    llama_server: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    one = Starter(tmp_path_factory.mktemp("live"), demo_gguf)
    yield one.real(llama_server, {}, ())
    one.end()


def live_events(service: ServiceProcess) -> Iterator[tuple[float, dict[str, Any]]]:
    """The events about requests in progress, with the times at which they come."""
    with (
        service.client() as client,
        client.stream("GET", "/admin/events?topics=request") as response,
    ):
        for _, _, data in read_events(response):
            if "live" in data:
                yield time.monotonic(), data


def test_a_stream_is_live(start_fake: StartFake) -> None:
    service = start_fake()
    assert service.chat("a").status_code == 200
    got: list[tuple[float, dict[str, Any]]] = []
    fake = {"tokens": 100, "interval": 0.03}
    with ThreadPoolExecutor(1) as pool, service.stream("a", fake=fake) as going:
        # The events are read from the middle of the answer on.
        lines = going.iter_lines()
        next(lines)
        (before,) = service.get("/admin/requests/active").json()
        rest = pool.submit(list, lines)
        for at, data in live_events(service):
            got.append((at, data))
            if not data["live"]:
                break
        rest.result()
    figures = [data["live"][0] for _, data in got[:-1]]
    assert {one["number"] for one in figures} == {before["number"]}
    assert {one["phase"] for one in figures} == {"answering"}
    tokens = [one["tokens_out"] for one in figures]
    assert tokens == sorted(set(tokens))
    # About one in 0.03 s, on a machine that may have other work.
    speeds = [one["tokens_per_second"] for one in figures if "tokens_per_second" in one]
    assert 0 < speeds[-1] <= 36
    assert got[len(figures) // 2][1]["tokens_per_second"]["a"] == pytest.approx(
        figures[len(figures) // 2]["tokens_per_second"], rel=0.2
    )
    seconds = got[-1][0] - got[0][0]
    assert len(got) <= seconds * 4 + 2
    assert records(service)[-1]["request_id"] == before["request_id"]


@pytest.mark.real
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/completion"])
def test_the_live_tokens_are_those_of_the_server(servers: ServiceProcess, path: str) -> None:
    names = {"/v1/responses": "max_output_tokens", "/completion": "n_predict"}
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "hello"}],
        "input": "hello",
        "prompt": "hello",
        "stream": True,
        "ignore_eos": True,
        names.get(path, "max_tokens"): 1500,
    }
    assert servers.chat("demo").status_code == 200
    pid, seen = servers.model("demo")["pid"], list[dict[str, Any]]()
    while not seen:
        with servers.client() as client, client.stream("POST", path, json=body) as response:
            parts = response.iter_text()
            next(parts)
            # It is so fast that it may have ended already: then it gets another request.
            os.kill(pid, signal.SIGSTOP)
            try:
                seen = servers.get("/admin/requests/active").json()
            finally:
                os.kill(pid, signal.SIGCONT)
            for _ in parts:
                pass
    (one,), record = seen, records(servers)[-1]
    assert 0 < one["tokens_out"] <= record["tokens_out"] <= 1500
    assert one["request_id"] == record["request_id"] == response.headers["X-Request-Id"]


@pytest.mark.real
def test_a_request_that_is_cut_keeps_its_tokens(servers: ServiceProcess) -> None:
    status = None
    while status != 499:
        # It is so fast that it may have ended before its client leaves.
        with servers.stream("demo", **LONG) as response:
            text = ""
            for part in response.iter_text():
                text += part
                if text.count("data: ") > 100:
                    break
        record = records(servers)[-1]
        status = record["status"]
    seen = sum(bool(one["choices"][0]["delta"].get("content")) for one in complete(text))
    # The service may have had more than the client has read.
    assert 90 < seen <= record["tokens_out"] <= 2000


def complete(text: str) -> list[Any]:
    """The events in the beginning of a stream."""
    return sse_data(text[: text.rindex("\n\n")])
