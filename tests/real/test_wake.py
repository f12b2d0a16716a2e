"""A box that sleeps is woken for a model that only it has: a service that a packet starts."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess
from tests.real.test_peers import box, pair, peer
from tests.waiting import LIMIT, eventually

MAC = "9c:6b:00:12:34:56"
PACKET = b"\xff" * 6 + bytes.fromhex(MAC.replace(":", "")) * 16


@pytest.fixture
def card() -> Iterator[socket.socket]:
    """The network card of the box that sleeps."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(LIMIT)
        yield listener


def asleep(here: ServiceProcess, there: ServiceProcess, card: socket.socket) -> str:
    """Have ``there`` sleep, known to ``here`` since before its last start; return its name."""
    name = pair(here, there)
    settings = tomllib.loads(here.config_path.read_text())
    settings["peers"][name]["wake"] = f"{MAC}@127.0.0.1:{card.getsockname()[1]}"
    here.stop()
    here.configure(settings)
    here.start()
    remembered = here.data_dir / "sleepers.json"
    eventually(lambda: remembered.exists() and b"two" in remembered.read_bytes(), what="the memory")
    there.stop()
    there.arguments = ("--port", str(there.port))
    here.stop()
    here.start()
    return name


def test_a_box_that_sleeps_is_woken_for_its_model(starter: Starter, card: socket.socket) -> None:
    here, there = box(starter, "127.0.0.1", "one"), box(starter, "127.0.0.2", "two")
    name = asleep(here, there, card)
    assert {one["id"] for one in here.get("/v1/models").json()["data"]} == {"one", "two"}
    assert here.chat("one").status_code == 200

    with ThreadPoolExecutor() as pool, here.stream("two") as answer:
        lines = answer.iter_lines()
        first = pool.submit(next, lines)
        assert card.recv(1000) == PACKET
        # The box takes long enough to wake for a comment.
        comment = first.result(LIMIT)
        assert comment.startswith(f": waking {name}, ")
        there.start()
        assert [line for line in lines if line][-1] == "data: [DONE]"

    card.setblocking(False)
    while True:
        try:
            card.recv(1000)
        except BlockingIOError:
            break
    eventually(lambda: peer(here, name)["state"] == "connected", what="the connection")
    assert here.chat("two").status_code == 200
    with pytest.raises(BlockingIOError):
        card.recv(1000)


def test_a_box_that_does_not_wake_is_not_awaited_for_ever(
    starter: Starter, card: socket.socket
) -> None:
    here = box(starter, "127.0.0.1", "one", queue_timeout=1.0)
    there = box(starter, "127.0.0.2", "two")
    name = asleep(here, there, card)
    answer = here.chat("two")
    assert answer.status_code == 502
    assert f"{name}, which did not wake within 1 s" in answer.json()["error"]["message"]
    assert card.recv(1000) == PACKET


def test_a_box_is_woken_for_a_model_that_never_fits_here(
    starter: Starter, card: socket.socket
) -> None:
    here = box(starter, "127.0.0.1", "two", max_memory_percent=0.1, queue_timeout=1.0)
    there = box(starter, "127.0.0.2", "two")
    name = asleep(here, there, card)
    assert here.model("two")["fits"] == "never"

    # Nobody comes: then it is this box that says why it cannot answer.
    answer = here.chat("two")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "insufficient_memory")
    assert card.recv(1000) == PACKET

    with here.owner() as owner:
        owner.put("/admin/config/queue_timeout", json={"value": LIMIT}).raise_for_status()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(here.chat, "two")
        assert card.recv(1000) == PACKET
        there.start()
        assert asked.result(LIMIT).status_code == 200
    (record,) = here.get("/admin/requests?limit=1").json()
    assert record["box"] == name
