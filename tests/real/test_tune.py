"""Tunings as their users run them: over HTTP, on a real llama-server and on the stand-in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.gguf.companions import large_demo
from tests.real.conftest import Starter, StartFake, StartReal
from tests.real.service_process import ServiceProcess, chat_body
from tests.waiting import eventually

SPEEDS = {"prompt": 1000.0, "generation": 100.0}
CORES = len(os.sched_getaffinity(0))
LONG_LIMIT = 300.0


def start(service: ServiceProcess, model: str, **request: Any) -> dict[str, Any]:
    answer = service.post("/admin/tune", json={"model": model, **request})
    assert answer.status_code == 202, answer.text
    begun: dict[str, Any] = answer.json()
    return begun


def ended(service: ServiceProcess) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        status: dict[str, Any] = service.get("/admin/bench").json()
        return None if status["state"] == "running" else status

    return eventually(look, what="the end of the tuning", limit=LONG_LIMIT)


def tuned(service: ServiceProcess, model: str, **request: Any) -> dict[str, Any]:
    """Tune a model, and return the outcome."""
    start(service, model, **request)
    status = ended(service)
    assert (status["state"], status["error"]) == ("done", None)
    outcome: dict[str, Any] = status["outcome"]
    return outcome


def reasons(outcome: dict[str, Any]) -> dict[str, str]:
    return {trial["change"]: trial["reason"] for trial in outcome["trials"]}


def planted(**switches: Any) -> dict[str, dict[str, Any]]:
    """A model whose speeds with some options are known."""
    return {"a": {"speeds": SPEEDS, **switches}}


@pytest.mark.timeout(LONG_LIMIT)
def test_the_right_number_of_threads_is_found_written_and_taken_back(
    start_real: StartReal,
) -> None:
    # So many threads wait for each other at every layer.
    service = start_real({"models": {"demo": {"threads": 16 * CORES}}})
    before = service.config_path.read_text()

    outcome = tuned(service, "demo", prompt=128, tokens=24)

    threads = outcome["values"]["threads"]
    assert 1 <= threads <= CORES
    assert outcome["gain"] > outcome["noise"] > 0
    written = service.config_path.read_text()
    table = written.partition("[models.demo]\n")[2]
    assert table.startswith("# Tuned on ")
    assert f"\nthreads = {threads}\n" in table

    with service.client() as client:
        undone = client.delete("/admin/tune/demo").json()
        assert undone["values"]["threads"] == 16 * CORES
        assert service.config_path.read_text() == before
        assert client.delete("/admin/tune/demo").status_code == 404


def test_a_planted_optimum_is_found_while_the_machine_gets_slower(
    start_fake: StartFake, tmp_path: Path
) -> None:
    """Each answer makes the next one half a percent slower."""
    heat = {"path": str(tmp_path / "heat"), "each": 0.005}
    better = {f"threads={CORES}": 1.06, "ubatch-size=256": 0.94, "flash-attn=off": 0.5}
    service = start_fake(planted(factors=better, heat=heat), tables={"a": {"threads": 99}})

    outcome = tuned(service, "a", tokens=4)

    assert outcome["values"] == {"threads": CORES}
    assert outcome["gain"] == pytest.approx(0.06, abs=0.01)
    found = reasons(outcome)
    assert found["no flash attention"] == found["batches of 256 tokens"] == "not better"
    # Its server runs with them.
    assert service.post("/v1/chat/completions", json=chat_body("a")).status_code == 200
    argv = service.get("/upstream/a/fake/report").json()["argv"]
    assert argv[argv.index("--threads") + 1] == str(CORES)


@pytest.mark.parametrize("surprise", [0.01, 0.2])
def test_a_smaller_cache_is_only_taken_if_the_answers_stay_the_same(
    start_fake: StartFake, surprise: float
) -> None:
    service = start_fake(
        planted(factors={"cache-type-k=q8_0": 1.2}, surprises={"cache-type-v=q8_0": surprise}),
        tables={"a": {"args": ["--no-mmap"]}},
    )
    outcome = tuned(service, "a", prompt=8, tokens=4)
    if surprise > 0.05:
        assert outcome["values"] == {}
        assert reasons(outcome)["q8_0 cache"] == "changes the answers"
        return
    args = ["--no-mmap", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0"]
    assert outcome["values"] == {"args": args}
    with service.client() as client:
        assert client.delete("/admin/tune/a").json()["values"] == {"args": ["--no-mmap"]}


def test_drafts_that_gain_are_switched_on_and_off_again(start_fake: StartFake) -> None:
    gains = {"spec-type=draft-simple": 0.9, "spec-draft-n-max=8": 1.5}
    switches = planted(factors=gains)
    service = start_fake({**switches, "small": {}}, start=False)
    (service.data_dir / "models" / "a.gguf").write_bytes(large_demo())
    service.start()

    outcome = tuned(service, "a", prompt=8, tokens=4)

    assert reasons(outcome)["drafts of 3 tokens"] == "not better"
    assert outcome["values"] == {"draft": "auto", "args": ["--spec-draft-n-max", "8"]}
    assert outcome["gain"] == pytest.approx(0.9 * 1.5 - 1, abs=0.05)
    assert 'draft = "auto"' in service.config_path.read_text()
    assert service.get("/admin/models/a/details").json()["draft"]["unused_because"] is None
    with service.client() as client:
        undone = client.delete("/admin/tune/a").json()["values"]
    assert undone == {"draft": None, "args": None}


@pytest.mark.timeout(LONG_LIMIT)
def test_a_small_model_drafts_for_a_large_one_while_that_is_tuned(
    starter: Starter, llama_server: Path, tmp_path: Path
) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "large.gguf").write_bytes(large_demo())
    config = {
        "model_dirs": [str(tmp_path / "large")],
        "llama_server_path": str(llama_server),
        "llama_server_base_port": 0,
        "models": {"large": {"context_size": 1024, "threads": CORES}},
    }
    service = starter.make(config, ("small",)).start()
    start(service, "large", prompt=32, tokens=24)
    accepted = re.compile(r"draft acceptance = \S+ \( *[1-9]\d* accepted")
    eventually(
        lambda: accepted.search(service.get("/admin/logs/large?lines=500").text),
        what="a draft that was accepted",
        limit=LONG_LIMIT,
        interval=0.2,
    )
    with service.client() as client:
        assert "drafts of" in service.get("/admin/bench").json()["step"]
        assert client.delete("/admin/bench").json()["state"] == "cancelled"
    assert "draft =" not in service.config_path.read_text()


def test_without_a_better_setting_it_keeps_its_own(start_fake: StartFake) -> None:
    service = start_fake(planted(factors={"threads=99": 1.5}), tables={"a": {"threads": 99}})
    before = service.config_path.read_text()
    outcome = tuned(service, "a", prompt=8, tokens=4)
    assert outcome["values"] == {}
    assert outcome["summary"].endswith("it keeps its settings.")
    assert service.config_path.read_text() == before


def test_a_setting_that_somebody_has_changed_since_is_not_undone(start_fake: StartFake) -> None:
    service = start_fake(planted(factors={f"threads={CORES}": 1.5}), tables={"a": {"threads": 99}})
    assert tuned(service, "a", prompt=8, tokens=4)["values"] == {"threads": CORES}
    with service.owner() as owner:
        owner.put("/admin/config/models.a.threads", json={"value": 3})
    with service.client() as client:
        refused = client.delete("/admin/tune/a")
    assert refused.status_code == 409
    assert "changed since" in refused.json()["error"]["message"]


def test_a_request_stops_the_tuning(start_fake: StartFake) -> None:
    service = start_fake(planted(answer={"interval": 3600.0}))
    begun = start(service, "a")
    assert begun["tuning"]["model"] == "a"
    eventually(lambda: service.get("/admin/status").json()["requests_in_flight"] > 0)
    body = chat_body("a", fake={"interval": 0.0})
    assert service.post("/v1/chat/completions", json=body).status_code == 200
    status = ended(service)
    assert (status["state"], status["outcome"]) == ("stopped", None)
    assert "A request came after" in status["error"]


def test_a_tuning_that_is_ended_leaves_the_model_with_its_own_settings(
    start_fake: StartFake,
) -> None:
    service = start_fake(planted(answer={"interval": 0.2}), tables={"a": {"threads": 99}})
    before = service.config_path.read_text()
    start(service, "a", prompt=8, tokens=4)
    eventually(
        lambda: service.model("a")["status"] == "loaded" and threads_of(service) == str(CORES),
        what="a server with other settings",
    )
    with service.client() as client:
        assert client.delete("/admin/bench").json()["state"] == "cancelled"
    assert service.config_path.read_text() == before
    eventually(
        lambda: service.model("a")["status"] == "loaded" and threads_of(service) == "99",
        what="a server with its own settings",
    )


def threads_of(service: ServiceProcess) -> str | None:
    """Return the threads of the server that runs, if there is one."""
    command = service.get("/admin/models/a/details").json()["command"] or []
    return command[command.index("--threads") + 1] if "--threads" in command else None


def test_energy_needs_a_meter(start_fake: StartFake) -> None:
    service = start_fake(planted())
    start(service, "a", goal="energy", prompt=8, tokens=4)
    status = ended(service)
    assert status["state"] == "failed"
    assert "measures energy" in status["error"]
