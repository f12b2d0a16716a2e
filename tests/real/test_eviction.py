"""Unloading: never under a running answer, in order, and only when the process is gone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.real.conftest import Starter, StartFake, StartReal
from tests.real.service_process import ServiceProcess, sse_data
from tests.waiting import eventually, is_alive

SLOW = {"tokens": 20, "interval": 0.1}


def read_stream(service: ServiceProcess, model: str, tokens: int = 20) -> float:
    """Read a whole stream; the moment of its end."""
    with service.stream(model, fake={"tokens": tokens, "interval": 0.1}) as response:
        assert response.status_code == 200
        values = sse_data(response.read().decode())
    assert values[-1] == "[DONE]"
    assert len(values) == tokens + 2
    return time.monotonic()


# The services are shared: a test must not mind which models are loaded at its beginning.


@pytest.fixture(scope="module")
def one_place(module_starter: Starter) -> ServiceProcess:
    """One model at a time is loaded."""
    return module_starter.fake({"a": {}, "b": {}, "c": {}}, config={"max_loaded_models": 1})


@pytest.fixture(scope="module")
def impatient(module_starter: Starter) -> ServiceProcess:
    """Models are unloaded after half a second."""
    return module_starter.fake(config={"model_idle_timeout": 0.5})


def test_eviction_waits_for_a_busy_stream(one_place: ServiceProcess) -> None:
    service = one_place

    def ask_b() -> float:
        assert service.chat("b").status_code == 200
        return time.monotonic()

    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(read_stream, service, "a")
        eventually(lambda: service.model("a")["in_flight"] == 1)
        other = pool.submit(ask_b)
        eventually(lambda: service.model("b")["status"] == "queued")
        assert service.model("a")["status"] == "loaded"
        assert stream.result(60) < other.result(60)
    assert service.model("a")["status"] == "unloaded"
    assert len(service.servers()) == 1


def test_the_evicted_process_is_gone_before_the_next_starts(
    start_fake: StartFake, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    switches = {"state": str(state), "ignore_sigterm": True, "ignore_stdin": True}
    service = start_fake(
        {"a": switches, "b": switches}, config={"max_loaded_models": 1, "stop_timeout": 1}
    )
    for model in ("a", "b", "a"):
        assert service.chat(model).status_code == 200
        assert len(service.servers()) == 1


def test_the_least_recently_used_idle_model_goes(start_fake: StartFake) -> None:
    # What takes longer to load is missed more: on a busy machine that could be b.
    service = start_fake(
        {"a": {"load_seconds": 2.0}, "b": {}, "c": {}}, config={"max_loaded_models": 2}
    )
    for model in ("a", "b", "a", "c"):
        assert service.chat(model).status_code == 200
    statuses = {model_id: record["status"] for model_id, record in service.models().items()}
    assert statuses == {"a": "loaded", "b": "unloaded", "c": "loaded"}


def test_a_pinned_model_stays(start_fake: StartFake) -> None:
    service = start_fake({"a": {}, "b": {}, "c": {}}, config={"max_loaded_models": 2})
    assert service.chat("a").status_code == 200
    assert service.post("/admin/models/a/pin", json={}).json()["pinned"] is True
    for model in ("b", "c", "b"):
        assert service.chat(model).status_code == 200
    assert service.model("a")["status"] == "loaded"
    assert service.post("/admin/models/a/unpin", json={}).json()["pinned"] is False
    assert service.chat("c").status_code == 200
    assert service.model("a")["status"] == "unloaded"


def test_models_taking_turns_all_get_answers(one_place: ServiceProcess) -> None:
    models = ("a", "b", "c")
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(one_place.chat, models[n % 3]) for n in range(24)]
        assert [answer.result(100).status_code for answer in answers] == [200] * 24
    assert len(one_place.servers()) == 1


def test_a_busy_model_does_not_starve_another(one_place: ServiceProcess) -> None:
    """Overlapping streams keep ``a`` busy without a pause; ``b`` gets its turn all the same."""
    service = one_place
    enough = threading.Event()

    def keep_busy(delay: float) -> int:
        count = 0
        enough.wait(delay)
        while not enough.is_set():
            read_stream(service, "a", tokens=10)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(keep_busy, number * 0.3) for number in range(3)]
        try:
            eventually(lambda: service.model("a")["in_flight"] >= 2)
            assert service.chat("b").status_code == 200
        finally:
            enough.set()
        assert all(one.result(60) for one in busy)


def test_idle_unload_never_cuts_a_stream(impatient: ServiceProcess) -> None:
    service = impatient
    read_stream(service, "a", tokens=20)
    service.wait_status("a", "unloaded")
    assert not service.servers()
    read_stream(service, "a", tokens=10)


def test_an_own_idle_timeout_and_zero_for_never(start_fake: StartFake) -> None:
    service = start_fake(
        {"a": {}, "b": {}},
        config={"model_idle_timeout": 0.3},
        tables={"b": {"idle_timeout": 0}},
    )
    assert service.chat("b").status_code == 200
    assert service.chat("a").status_code == 200
    service.wait_status("a", "unloaded")
    assert service.model("b")["status"] == "loaded"


def test_looking_at_a_model_does_not_keep_it(impatient: ServiceProcess) -> None:
    service = impatient
    assert service.chat("a").status_code == 200

    def look() -> bool:
        service.get("/v1/models")
        service.get("/health")
        service.get("/admin/status")
        return bool(service.model("a")["status"] == "unloaded")

    eventually(look)


def test_unload_waits_for_its_requests_unless_forced(start_fake: StartFake) -> None:
    service = start_fake()
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(read_stream, service, "a")
        eventually(lambda: service.model("a")["in_flight"] == 1)
        unload = pool.submit(service.post, "/admin/models/a/unload", json={})
        assert stream.result(60)
        assert unload.result(60).json()["status"] == "unloaded"
    with service.stream("a", fake={"tokens": 10_000, "interval": 0.1}) as response:
        lines = response.iter_lines()
        next(lines)
        server = service.servers()[0]
        forced = service.post("/admin/models/a/unload?force=1", json={})
        assert forced.json()["status"] == "unloaded"
        assert not is_alive(server)
        assert '"upstream_failed"' in "".join(lines)


def test_a_full_queue_is_429(start_fake: StartFake) -> None:
    service = start_fake({"a": {"load_seconds": 3.0}}, config={"max_queue": 2})
    with ThreadPoolExecutor(8) as pool:
        answers = [job.result(60) for job in [pool.submit(service.chat, "a") for _ in range(8)]]
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 2 + [429] * 6
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) >= 1


def test_queue_timeout(start_fake: StartFake) -> None:
    service = start_fake({"a": {"load_seconds": 60.0}}, config={"queue_timeout": 0.5})
    answer = service.chat("a")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "queue_timeout"
    assert service.model("a")["queued"] == 0


@pytest.mark.real
def test_real_eviction_waits_for_the_stream(start_real: StartReal) -> None:
    service = start_real({"max_loaded_models": 1}, copies=("second",))
    with service.stream("demo", max_tokens=400, ignore_eos=True, temperature=0) as response:
        lines = response.iter_lines()
        next(lines)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(service.chat, "second")
            values = sse_data("\n".join(lines))
            assert values[-1] == "[DONE]"
            assert other.result(60).status_code == 200
    assert service.model("demo")["status"] == "unloaded"
    assert len(service.servers()) == 1
