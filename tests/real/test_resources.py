"""Samples of the machine and its models, compared with what others say of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from tests.real.conftest import StartFake, StartReal
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually

MIB = 1 << 20
LONG = {"max_tokens": 8000, "ignore_eos": True, "temperature": 0}


def resources(service: ServiceProcess) -> dict[str, Any]:
    answer = service.get("/admin/resources")
    assert answer.status_code == 200, answer.text
    sample: dict[str, Any] = answer.json()
    return sample


def usage(service: ServiceProcess, model: str) -> dict[str, Any]:
    """What the loaded ``model`` uses, once a sample has it."""

    def look() -> dict[str, Any] | None:
        return next((one for one in resources(service)["models"] if one["id"] == model), None)

    return eventually(look, interval=0.1, what=f"a sample with {model}")


@contextmanager
def streaming(service: ServiceProcess, model: str, **more: Any) -> Iterator[None]:
    """A stream that is read until the block ends."""
    leave = threading.Event()

    def read() -> None:
        with service.stream(model, **more) as response:
            for _ in response.iter_raw():
                if leave.is_set():
                    return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        leave.set()
        reader.join(60)


@pytest.mark.real
def test_a_sample_agrees_with_free_and_ps(start_real: StartReal) -> None:
    service = start_real()
    assert service.chat("demo").status_code == 200
    eventually(lambda: resources(service)["models"], interval=0.2)
    sample = resources(service)
    total = psutil.virtual_memory().total
    assert sample["memory"]["total"] <= total
    if sample["memory"]["total"] == total:
        # Other programs run meanwhile.
        available = psutil.virtual_memory().available
        assert abs(sample["memory"]["available"] - available) < total / 10
    pid = service.model("demo")["pid"]
    (model,) = [one for one in sample["models"] if one["id"] == "demo"]
    assert model["pid"] == pid
    rss = model["memory_private_bytes"] + model["memory_mapped_bytes"]
    assert abs(rss - psutil.Process(pid).memory_info().rss) < max(4 * MIB, rss / 20)
    assert {disk["path"] for disk in sample["disks"]} == {
        str(service.data_dir),
        str(service.data_dir / "models"),
    }


@pytest.mark.real
def test_tokens_per_second_of_a_running_stream(start_real: StartReal) -> None:
    service = start_real({"sample_interval": 0.5})
    assert service.chat("demo").status_code == 200
    with streaming(service, "demo", **LONG):
        busy = eventually(
            lambda: one if (one := usage(service, "demo"))["tokens_per_second"] else None,
            interval=0.2,
            what="tokens per second",
        )
        assert busy["in_flight"] == 1
        assert busy["tokens_per_second"] > 0
        assert busy["cpu_percent"] > 0
    eventually(lambda: service.model("demo")["in_flight"] == 0)
    eventually(
        lambda: usage(service, "demo")["tokens_per_second"] == 0, interval=0.2, what="rest again"
    )


def test_watching_does_not_keep_a_model_loaded(start_fake: StartFake) -> None:
    service = start_fake(config={"model_idle_timeout": 2, "sample_interval": 0.2})
    assert service.chat("a").status_code == 200
    seen: list[dict[str, Any]] = []
    with (
        service.client() as client,
        client.stream("GET", "/admin/events?topics=resources") as events,
    ):
        for line in events.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:]))
                resources(service)
                if len(seen) > 2 and not seen[-1]["models"]:
                    break
                assert len(seen) < 200
    assert [one["id"] for one in seen[0]["models"]] == ["a"]
    assert service.model("a")["status"] == "unloaded"
    history = service.get("/admin/resources?history=60").json()
    times = [sample["at"] for sample in history]
    assert times == sorted(times)
    assert {sample["at"] for sample in seen} <= set(times)


def test_reading_loads_nothing_and_bad_questions_are_refused(start_fake: StartFake) -> None:
    service = start_fake()
    assert resources(service)["models"] == []
    for bad in ("x", "-1", "", "1.5", "1e3", "9" * 20):
        answer = service.get(f"/admin/resources?history={bad}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "history")
    assert isinstance(service.get("/admin/resources?history=9999999999").json(), list)
    assert service.model("a")["status"] == "unloaded"


def test_a_server_that_does_not_tell_its_tokens_has_no_rate(start_fake: StartFake) -> None:
    """The stand-in tells which slots are busy, but no tokens: nothing is made up."""
    service = start_fake(config={"sample_interval": 0.2})
    with streaming(service, "a", fake={"tokens": 10_000, "interval": 0.05}):
        eventually(lambda: service.model("a")["in_flight"] == 1)
        eventually(
            lambda: (
                (one := usage(service, "a"))["in_flight"] == 1 and one["tokens_per_second"] is None
            ),
            interval=0.1,
            what="no rate",
        )
