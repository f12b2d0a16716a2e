"""Many requests at once: what the engine takes is what it gets."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cyber_inference_tui.llama.spec import STREAMS
from tests.fakes.launcher import SCRIPT
from tests.real.conftest import StartFake, StartReal
from tests.real.service_process import ServiceProcess, chat_body
from tests.waiting import eventually

COMMAND = [sys.executable, "-I", "-S", str(SCRIPT), "--host", "{host}", "--port", "{port}"]


@contextlib.contextmanager
def hanging(service: ServiceProcess, model: str, count: int) -> Iterator[list[socket.socket]]:
    """So many requests whose answers do not end before the block does."""
    endless: dict[str, Any] = {"fake": {"hang": True}, "max_tokens": 100_000, "ignore_eos": True}
    body = json.dumps(chat_body(model, stream=True, **endless)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(service.raw()) for _ in range(count)]
        for one in sockets:
            one.sendall(head.encode() + body)
        yield sockets


def counts(service: ServiceProcess, model: str) -> tuple[int, int]:
    """How many requests are at the model, and how many wait."""
    record = service.model(model)
    return record["in_flight"], record["queued"]


def await_counts(service: ServiceProcess, model: str, at_it: int, waiting: int) -> None:
    eventually(lambda: counts(service, model) == (at_it, waiting))


def test_a_program_of_ones_own_gets_all_requests_at_once(start_fake: StartFake) -> None:
    service = start_fake({"a": {}}, tables={"a": {"command": COMMAND}})
    service.post("/admin/models/a/load", json={})
    with hanging(service, "a", 300):
        eventually(lambda: counts(service, "a") == (300, 0))
        # They are counted when they are sent.
        eventually(lambda: len(service.upstream("a", "/fake/report")["requests"]) == 300)


def test_a_llama_server_gets_as_many_as_it_has_threads_for(start_fake: StartFake) -> None:
    tables = {"small": {"args": ["--threads-http", "20"]}}
    service = start_fake({"a": {}, "small": {}}, tables=tables)
    for model, places in (("a", STREAMS), ("small", 12)):
        service.post(f"/admin/models/{model}/load", json={})
        with hanging(service, model, places + 5):
            await_counts(service, model, places, 5)
        await_counts(service, model, 0, 0)


def test_the_limit_changes_while_requests_run(start_fake: StartFake) -> None:
    service = start_fake({"a": {}}, config={"max_concurrent_requests": 2, "max_queue": 6})
    service.post("/admin/models/a/load", json={})
    pid = service.model("a")["pid"]

    def limit(key: str, value: int) -> None:
        with service.client() as client:
            assert client.put(f"/admin/config/{key}", json={"value": value}).status_code == 200

    with hanging(service, "a", 8):
        eventually(lambda: counts(service, "a") == (2, 6))
        refused = service.chat("a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["Retry-After"]) >= 1
        limit("max_concurrent_requests", 5)
        eventually(lambda: counts(service, "a") == (5, 3))
        # Nobody is cut off, and the model's own number is above the general one.
        limit("max_concurrent_requests", 1)
        assert counts(service, "a") == (5, 3)
        limit('models."a".max_concurrent_requests', 7)
        eventually(lambda: counts(service, "a") == (7, 1))
    assert service.model("a")["pid"] == pid


@pytest.mark.real
def test_real_streams_go_to_the_server_together(start_real: StartReal) -> None:
    service = start_real({"llama_args": ["--threads-http", "40"]})
    service.post("/admin/models/demo/load", json={})
    with hanging(service, "demo", 36):
        # It has four slots: the others wait in it.
        eventually(lambda: counts(service, "demo") == (32, 4))
        assert service.get("/v1/models/demo").status_code == 200
        assert service.upstream("demo", "/health") == {"status": "ok"}
