"""A client that goes away cancels its request upstream: in prefill, in a stream, in the queue."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.real.conftest import Starter, StartFake, StartReal
from tests.real.service_process import ServiceProcess, chat_body
from tests.waiting import eventually

CANCEL_LIMIT = 0.5
TRIES = 4


def send_chat(service: ServiceProcess, body: dict[str, Any]) -> contextlib.closing[Any]:
    """A connection with a chat request sent; closing it is the client going away."""
    connection = service.raw()
    data = json.dumps(body).encode()
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
    )
    return contextlib.closing(connection)


def wait_cancelled(service: ServiceProcess, model: str, gone: float, count: int) -> float:
    """Seconds from the client's going to the moment the stand-in saw its request cancelled."""

    def look() -> list[dict[str, Any]]:
        entries = reported(service, model)
        return entries[-1:] if len(entries) == count and entries[-1]["ended"] else []

    (entry,) = eventually(look, what="the cancellation")
    assert entry["state"] == "cancelled"
    return float(entry["ended"]) - gone


BODIES: dict[str, dict[str, Any]] = {
    "prefill": {"fake": {"prefill": 100}},
    "stream-prefill": {"stream": True, "fake": {"prefill": 100}},
    "stream": {"stream": True, "fake": {"tokens": 10_000, "interval": 0.05}},
    "stream-pause": {"stream": True, "fake": {"tokens": 2, "interval": 100}},
    "hang": {"fake": {"hang": True}},
}
"""What is asked of models of these names."""


@pytest.fixture(scope="module")
def service(module_starter: Starter) -> ServiceProcess:
    models: dict[str, dict[str, Any]] = {name: {} for name in (*BODIES, "others")}
    return module_starter.fake({**models, "slow": {"load_seconds": 2.0}})


@pytest.mark.parametrize("model", BODIES)
def test_it_is_cancelled_upstream_within_half_a_second(service: ServiceProcess, model: str) -> None:
    body = chat_body(model, **BODIES[model])
    assert service.post(f"/admin/models/{model}/load", json={}).status_code == 200
    took = []
    # The best of a few tries: what is shown is that nothing waits, not how busy the machine is.
    for number in range(1, TRIES + 1):
        with send_chat(service, body) as connection:
            eventually(partial(has_reported, service, model, number))
            if "tokens" in body["fake"]:
                assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            gone = time.time()
        took.append(wait_cancelled(service, model, gone, number))
    assert min(took) < CANCEL_LIMIT
    eventually(lambda: service.model(model)["in_flight"] == 0)


def reported(service: ServiceProcess, model: str) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = service.upstream(model, "/fake/report")["requests"]
    return requests


def has_reported(service: ServiceProcess, model: str, count: int) -> bool:
    return len(reported(service, model)) == count


def test_going_away_in_the_queue_leaves_nothing(service: ServiceProcess) -> None:
    for stream in (True, False):
        with send_chat(service, chat_body("slow", stream=stream)):
            eventually(lambda: service.model("slow")["queued"] == 1)
        eventually(lambda: service.model("slow")["queued"] == 0)
    service.wait_status("slow", "loaded", "unloaded")
    assert service.chat("slow").status_code == 200
    assert len(reported(service, "slow")) == 1


def test_others_are_not_disturbed(service: ServiceProcess) -> None:
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(service.chat, "others", fake={"tokens": 20, "interval": 0.05})
        for _ in range(10):
            with send_chat(service, chat_body("others", fake={"prefill": 100})):
                pass
        assert whole.result(60).status_code == 200
    eventually(lambda: service.model("others")["in_flight"] == 0)


def test_a_reader_that_stalls_holds_up_the_server_not_the_memory(start_fake: StartFake) -> None:
    service = start_fake()
    size = 300_000_000
    body = chat_body("a", fake={"size": size, "framing": "length"})
    assert service.chat("a").status_code == 200
    process = service.note_children()[0].parent()
    assert process is not None
    before = process.memory_info().rss
    with send_chat(service, body) as connection:
        assert connection.recv(1000)

        def stalled() -> bool:
            sent = reported(service, "a")[-1]["sent"]
            time.sleep(0.3)
            return bool(sent and reported(service, "a")[-1]["sent"] == sent)

        eventually(stalled)
        assert reported(service, "a")[-1]["sent"] < 60_000_000
        assert process.memory_info().rss - before < 40_000_000
        assert service.chat("a").status_code == 200
    eventually(lambda: service.model("a")["in_flight"] == 0)


@pytest.mark.real
def test_real_slots_are_free_again(start_real: StartReal) -> None:
    service = start_real()
    assert service.chat("demo").status_code == 200

    def busy() -> int:
        return sum(slot["is_processing"] for slot in service.upstream("demo", "/slots"))

    endless: dict[str, Any] = {"max_tokens": 1_000_000, "ignore_eos": True, "n_predict": -1}
    for stream in (True, False):
        with send_chat(service, chat_body("demo", stream=stream, **endless)):
            eventually(lambda: busy() == 1)
        # Of a request that is not streamed llama-server sees the end only when it had nothing to
        # send to anybody for a second: looking more often would keep it from seeing it.
        eventually(lambda: busy() == 0, interval=0.01 if stream else 1.5)
    eventually(lambda: service.model("demo")["in_flight"] == 0)
