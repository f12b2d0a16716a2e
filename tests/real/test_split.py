"""One model across two boxes, with llama.cpp's own worker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from cyber_inference_tui.llama.worker import worker_program
from tests.real import any_link
from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess, descendants
from tests.real.tcp_proxy import TcpProxy
from tests.real.test_peers import answering, command, in_flight, pair, peer
from tests.waiting import eventually, is_alive

MODEL = "demo"
QUESTION = {"temperature": 0, "seed": 1, "max_tokens": 48}


class Boxes:
    """Two boxes: ``here`` splits the model ``demo`` over both, if ``there`` allows it."""

    link: TcpProxy
    """The way from ``here`` to ``there``."""

    def __init__(self, starter: Starter, llama_server: Path) -> None:
        self._starter = starter
        self._llama_server = llama_server
        self.here = self.start("127.0.0.1", "--demo")
        self.there = self.start("127.0.0.2")
        self.link = TcpProxy("127.0.0.3", ("127.0.0.2", self.there.port))
        self.name = pair(self.here, self.there, url=self.link.url)
        self.name_there = str(self.there.get("/admin/peers").json()[0]["name"])
        self.whole = text_of(ask(self.here))
        """The answer of the model on one box."""
        self.unload()
        self.change(self.here, f"models.{MODEL}.split", [self.name])

    def start(self, host: str, *arguments: str) -> ServiceProcess:
        config = {
            "host": host,
            "llama_server_path": str(self._llama_server),
            "llama_server_base_port": 0,
            "llama_threads": 1,
            "default_context_size": 2048,
            "stop_timeout": 5,
        }
        service = self._starter.make(config, (), arguments)
        service.wrapper = (sys.executable, any_link.__file__)
        return service.start()

    def unload(self) -> None:
        with self.here.owner() as owner:
            owner.post(f"/admin/models/{MODEL}/unload").raise_for_status()

    def change(self, service: ServiceProcess, key: str, value: Any) -> None:
        with service.owner() as owner:
            answer = owner.put(f"/admin/config/{key}", json={"value": value})
        assert answer.status_code == 200, answer.text

    def allow(self, allowed: bool = True) -> None:
        self.change(self.there, f"peers.{self.name_there}.worker", allowed)
        eventually(
            lambda: bool(peer(self.here, self.name)["lends"]) is allowed, what="the permission"
        )
        if allowed:
            # Each box runs its worker once for a moment, to know the version of its protocol.
            self.here.post(f"/admin/peers/{self.name}/check").raise_for_status()

    def worker(self) -> psutil.Process:
        return eventually(lambda: next(iter(workers(self.there)), None), what="the worker")

    def assert_free(self) -> None:
        """Nothing of the split model is left on either box."""
        eventually(lambda: not workers(self.there), what="the end of the worker")
        eventually(lambda: not servers(self.here), what="the end of the server")
        eventually(lambda: not lent(self.there), what="the end of what is booked")

    def failure(self) -> str:
        eventually(lambda: record(self.here)["status"] == "failed", what="the failure", limit=40)
        return str(record(self.here)["error"])


def lent(service: ServiceProcess) -> list[str]:
    """The memory that a box lends, as its last sample has it."""
    models = service.get("/admin/resources").json()["models"]
    return [one["id"] for one in models if one["id"].startswith("worker")]


def children(service: ServiceProcess, name: str) -> list[psutil.Process]:
    assert service.process is not None
    found = []
    for child in descendants(service.process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if is_alive(child) and child.name().startswith(name):
                found.append(child)
    return found


def workers(service: ServiceProcess) -> list[psutil.Process]:
    return children(service, "ggml-rpc")


def servers(service: ServiceProcess) -> list[psutil.Process]:
    return children(service, "llama-server")


def record(service: ServiceProcess) -> dict[str, Any]:
    return dict(service.get(f"/admin/models/{MODEL}").json())


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def ask(service: ServiceProcess) -> httpx.Response:
    return service.chat(MODEL, "Who are you?", **QUESTION)


@pytest.fixture
def boxes(starter: Starter, llama_server: Path) -> Iterator[Boxes]:
    if worker_program(llama_server) is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("this llama-server has no ggml-rpc-server beside it")
    boxes = Boxes(starter, llama_server)
    with boxes.link:
        yield boxes


def test_the_tokens_are_those_of_one_box(boxes: Boxes) -> None:
    boxes.allow()
    assert len(boxes.whole) > 60
    assert text_of(ask(boxes.here)) == boxes.whole
    assert record(boxes.here)["split"] == [boxes.name]
    (worker,) = workers(boxes.there)
    # No port of it is open beyond the machine, and none is here.
    listening = [one for one in worker.net_connections() if one.status == psutil.CONN_LISTEN]
    assert [one.laddr.ip for one in listening] == ["127.0.0.1"]
    assert not workers(boxes.here)
    # Its memory is booked there as the parts of models are.
    eventually(lambda: lent(boxes.there) == [f"worker for {boxes.name_there}"], what="the booking")

    boxes.unload()
    boxes.assert_free()
    # The next load gets a worker of its own.
    assert text_of(ask(boxes.here)) == boxes.whole
    assert boxes.worker().pid != worker.pid


def test_a_box_lends_memory_only_if_its_owner_allows_it(boxes: Boxes) -> None:
    refused = ask(boxes.here)
    assert refused.status_code == 503
    message = refused.json()["error"]["message"]
    assert f'worker = true in the table [peers."{boxes.name_there}"]' in message
    assert not workers(boxes.there)
    check = command(boxes.here, "peers", "check", boxes.name)
    said = check.communicate(timeout=60)[0]
    assert check.returncode == 1
    assert "worker = true" in said

    boxes.allow()
    check = command(boxes.here, "peers", "check", boxes.name, "--model", MODEL)
    said = check.communicate(timeout=60)[0]
    assert check.returncode == 0, said
    assert "can be split" in said
    assert "tokens/s" in said
    assert text_of(ask(boxes.here))

    boxes.allow(False)
    assert "its owner has removed this box or changed its rights" in boxes.failure()
    boxes.assert_free()


def test_a_removed_box_loses_its_worker_at_once(boxes: Boxes) -> None:
    boxes.allow()
    text_of(ask(boxes.here))
    with boxes.there.owner() as owner:
        owner.delete(f"/admin/peers/{boxes.name_there}").raise_for_status()
    assert "its owner has removed this box" in boxes.failure()
    boxes.assert_free()


def test_a_lost_box_ends_its_worker(boxes: Boxes) -> None:
    boxes.allow()
    text_of(ask(boxes.here))
    worker = boxes.worker()
    boxes.here.kill()
    eventually(lambda: not is_alive(worker), what="the end of the worker", limit=40)


def test_a_link_that_is_silent_ends_both_parts(boxes: Boxes) -> None:
    boxes.allow()
    text_of(ask(boxes.here))
    worker = boxes.worker()
    boxes.link.part()
    assert f"the connection to the worker on {boxes.name} is lost" in boxes.failure()
    eventually(lambda: not is_alive(worker), what="the end of the worker", limit=40)
    boxes.link.join()
    boxes.assert_free()


SLOW = 0.2
"""Seconds for which the link holds each piece, so that a load or a prompt is under way for long."""


class End(NamedTuple):
    """How a worker ends, and what is said of it."""

    signal: signal.Signals
    words: str

    def of(self, worker: psutil.Process) -> None:
        worker.send_signal(self.signal)

    def sentence(self, boxes: Boxes) -> str:
        return f"the worker on {boxes.name} ended: {self.words}"


KILLED = End(signal.SIGKILL, "it was killed by SIGKILL")
STOPPED = End(signal.SIGSTOP, "it was stopped, and does not answer")
ends = pytest.mark.parametrize("end", [KILLED, STOPPED], ids=["killed", "stopped"])


@ends
def test_a_worker_that_ends_idle(boxes: Boxes, end: End) -> None:
    boxes.allow()
    text_of(ask(boxes.here))
    end.of(boxes.worker())
    error = boxes.failure()
    assert error.startswith(f"{MODEL} stopped: {end.sentence(boxes)}")
    boxes.assert_free()
    # It can be loaded again.
    assert text_of(ask(boxes.here))


@ends
def test_a_worker_that_ends_in_a_load(boxes: Boxes, end: End) -> None:
    boxes.allow()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, boxes.here)
        worker = boxes.worker()
        # From now on each of the many questions of a load takes a while.
        boxes.link.delay = SLOW
        eventually(lambda: servers(boxes.here), what="the server")
        assert record(boxes.here)["status"] == "loading"
        end.of(worker)
        refused = asked.result()
    assert refused.status_code == 503, refused.text
    assert end.sentence(boxes) in refused.text
    boxes.assert_free()


@ends
def test_a_worker_that_ends_in_a_prompt(boxes: Boxes, end: End) -> None:
    """The request has no byte of an answer, so it gets all of it from the next server."""
    boxes.allow()
    text_of(ask(boxes.here))
    worker = boxes.worker()
    boxes.link.delay = SLOW
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, boxes.here)
        eventually(lambda: in_flight(boxes.here, MODEL) == 1, what="the request")
        end.of(worker)
        boxes.link.delay = 0.0
        assert text_of(asked.result()) == boxes.whole
    assert boxes.worker().pid != worker.pid
    log = boxes.here.errors_path.read_text()
    assert end.sentence(boxes) in log


def test_a_request_without_a_byte_goes_to_a_box_with_the_whole_model(boxes: Boxes) -> None:
    boxes.allow()
    spare = boxes.start("127.0.0.4", "--demo")
    text_of(ask(boxes.here))
    worker = boxes.worker()
    boxes.link.delay = SLOW
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(answering, boxes.here, MODEL, **QUESTION)
        eventually(lambda: in_flight(boxes.here, MODEL) == 1, what="the request")
        # Only now: otherwise it would have gone there at once.
        name = pair(boxes.here, spare)
        eventually(lambda: peer(boxes.here, name)["models"], what="the models there")
        KILLED.of(worker)
        assert asked.result() == name
    boxes.assert_free()


@ends
def test_a_worker_that_ends_in_a_stream(boxes: Boxes, end: End) -> None:
    boxes.allow()
    text_of(ask(boxes.here))
    lines: list[str] = []
    with boxes.here.stream(MODEL, max_tokens=1500, ignore_eos=True) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if len(lines) == 10:
                end.of(boxes.worker())
    events = [json.loads(line[6:]) for line in lines if line.startswith('data: {"error"')]
    assert len(events) == 1, lines[-3:]
    assert end.sentence(boxes) in events[0]["error"]["message"]
    boxes.assert_free()
