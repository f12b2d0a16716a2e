"""Requests that are slow for a known reason, and the reason that the service finds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess, chat_body
from tests.waiting import LIMIT, eventually

CHAT = "/v1/chat/completions"
USUAL = {"prefill": 0.02, "tokens": 5, "interval": 0.01, "timings": {"cached": 900, "new": 20}}
SYSTEM = "You are a careful program. Today it is {}. " + "Read all files before you answer. " * 200


class Planted:
    """Plants causes of slowness in a service, and asks it for them."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service = service
        self.client = service.client()
        self.pool = ThreadPoolExecutor(4)

    def close(self) -> None:
        self.client.close()
        self.pool.shutdown()

    def ask(self, model: str, system: str = "", stream: bool = True, **fake: Any) -> str:
        """Send a request, read its answer, and return its id."""
        body = chat_body(model, stream=stream, fake={**USUAL, **fake})
        if system:
            body["messages"].insert(0, {"role": "system", "content": system})
        answer = self.client.post(CHAT, json=body, timeout=LIMIT)
        assert answer.status_code == 200, answer.text
        return answer.headers["X-Request-Id"]

    def later(self, model: str, **fake: Any) -> Future[str]:
        """Send a request that runs meanwhile, and wait until the service has it."""
        before = self.service.model(model)
        future = self.pool.submit(self.ask, model, **fake)

        def is_there() -> bool:
            now = self.service.model(model)
            count = before["in_flight"] + before["queued"]
            return bool(now["in_flight"] + now["queued"] > count)

        eventually(is_there)
        return future

    def usual(self, model: str, count: int = 4, **fake: Any) -> None:
        """Send the requests that are compared with."""
        for _ in range(count):
            self.ask(model, **fake)

    def why(self, request_id: str) -> str:
        """Return the cause and the explanation."""
        found = self.service.get(f"/admin/requests/{request_id}/why").json()
        return f"{found['cause']}. {' '.join(found['explanation'])}"

    # The causes

    def a_load(self) -> str:
        self.usual("slow")
        self.service.post("/admin/models/slow/unload", json={})
        eventually(lambda: self.service.model("slow")["status"] == "unloaded")
        return self.ask("slow")

    def a_queue(self) -> str:
        self.usual("narrow")
        with self.meanwhile(self.later("narrow", interval=0.1), self.later("narrow")):
            return self.ask("narrow")

    def no_memory(self) -> str:
        self.usual("slow")
        self.usual("plain")
        self.usual("narrow")
        busy = {"tokens": 15, "interval": 0.1}
        with self.meanwhile(self.later("plain", **busy), self.later("narrow", **busy)):
            return self.ask("slow")

    def a_slow_upload(self) -> str:
        self.usual("plain")
        body = json.dumps(chat_body("plain", stream=True, fake=USUAL)).encode()

        def slowly() -> Iterator[bytes]:
            yield body[:30]
            time.sleep(0.8)
            yield body[30:]

        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        answer = self.client.post(CHAT, content=slowly(), headers=headers)
        return answer.headers["X-Request-Id"]

    def a_slow_client(self) -> str:
        self.usual("plain")
        # More than the buffers on the way hold.
        body = chat_body("plain", stream=True, fake={**USUAL, "tokens": 60_000, "interval": 0})
        with self.client.stream("POST", CHAT, json=body) as answer:
            time.sleep(3.0)
            answer.read()
        return answer.headers["X-Request-Id"]

    def a_changed_prompt(self) -> str:
        for _ in range(4):
            self.ask("plain", SYSTEM.format("Monday"))
        cold: dict[str, Any] = {"timings": {"cached": 0, "new": 920}, "prefill": 0.6}
        return self.ask("plain", SYSTEM.format("Tuesday"), **cold)

    def a_cold_start(self) -> str:
        self.usual("slow")
        self.service.post("/admin/models/slow/unload", json={})
        eventually(lambda: self.service.model("slow")["status"] == "unloaded")
        return self.ask("slow", timings={"cached": 0, "new": 9200}, prefill=3.0)

    def a_long_prompt(self) -> str:
        self.usual("plain")
        return self.ask("plain", timings={"cached": 900, "new": 600}, prefill=0.6)

    def a_long_answer(self) -> str:
        self.usual("plain")
        return self.ask("plain", tokens=80)

    def others_at_the_server(self) -> str:
        self.usual("plain")
        with self.meanwhile(self.later("plain", tokens=20, interval=0.1)):
            return self.ask("plain", tokens=5, interval=0.15)

    def no_free_slot(self) -> str:
        self.usual("plain")
        with self.meanwhile(self.later("plain", tokens=20, interval=0.05)):
            return self.ask("plain", slot_wait=0.8)

    @contextmanager
    def meanwhile(self, *futures: Future[str]) -> Iterator[None]:
        yield
        for future in futures:
            future.result(LIMIT)


CAUSES: list[tuple[Callable[[Planted], str], str]] = [
    (Planted.a_load, "waited for a load. slow was not loaded"),
    (Planted.a_queue, "waited in the queue. It waited"),
    (Planted.no_memory, "waited for memory. It waited"),
    (Planted.a_slow_upload, "a slow upload. Its body took"),
    (Planted.a_slow_client, "a slow client. For"),
    (
        Planted.a_changed_prompt,
        "a cold prompt. 920 of its 920 tokens were not in the cache: its"
        " prompt differs from the same client's last one near character 32 (in the system prompt).",
    ),
    (
        Planted.a_cold_start,
        "a cold prompt. 9,200 of its 9,200 tokens were not in the cache: its"
        " model had just been loaded.",
    ),
    (Planted.a_long_prompt, "a long prompt. It had 600 new tokens"),
    (Planted.a_long_answer, "a long answer. It wrote 80 tokens"),
    (Planted.others_at_the_server, "slow writing. It had 6.7 tokens/s instead of 100.0, because 1"),
    (Planted.no_free_slot, "waited for a slot. For"),
]


@pytest.fixture(scope="module")
def planted(module_starter: Starter) -> Iterator[Planted]:
    service = module_starter.fake(
        {"plain": {}, "slow": {"load_seconds": 1.0}, "narrow": {}},
        tables={"narrow": {"max_concurrent_requests": 1}},
        config={"max_loaded_models": 2},
    )
    found = Planted(service)
    yield found
    found.close()


@pytest.mark.parametrize(("plant", "said"), CAUSES, ids=[one.__name__ for one, _ in CAUSES])
def test_a_planted_cause_is_named(
    planted: Planted, plant: Callable[[Planted], str], said: str
) -> None:
    found = planted.why(plant(planted))
    assert found.startswith(said)
