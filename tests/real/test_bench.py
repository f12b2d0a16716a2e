"""Benches as their users run them: over HTTP, on a real llama-server and on the stand-in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.rounds import paired
from tests.real.conftest import Starter, StartFake, StartReal, with_states
from tests.real.service_process import ServiceProcess, chat_body
from tests.real.test_admin import read_events
from tests.waiting import eventually

SPEEDS = {"prompt": 1000.0, "generation": 100.0}


def start(service: ServiceProcess, *models: str, **more: Any) -> dict[str, Any]:
    answer = service.post("/admin/bench", json={"models": list(models), **more})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(service: ServiceProcess) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        status: dict[str, Any] = service.get("/admin/bench").json()
        return None if status["state"] == "running" else status

    return eventually(look, what="the end of the bench")


def test_a_real_server_is_measured_and_the_result_is_kept(start_real: StartReal) -> None:
    service = start_real(copies=("other",))
    begun = start(service, "demo", "other", prompt=48, tokens=8, rounds=3)
    assert (begun["state"], begun["total"]) == ("running", 6)

    status = ended(service)

    assert (status["state"], status["error"], status["done"]) == ("done", None, 6)
    assert [result["model"] for result in status["results"]] == ["demo", "other"]
    kept = service.get("/admin/bench/results").json()
    assert [(one["model"], one["run"]) for one in kept] == [
        ("other", status["started_at"]),
        ("demo", status["started_at"]),
    ]
    for result in kept:
        assert (result["prompt"], result["tokens"], result["parallel"]) == (48, 8, 1)
        assert result["build"]
        assert result["joules_per_token"] is None
        for name in (
            "prompt_tokens_per_second",
            "tokens_per_second",
            "time_to_first_token_seconds",
        ):
            figure = result[name]
            assert len(figure["values"]) == 3
            assert sorted(figure["values"])[1] == figure["median"] > 0

    # By its own log, whose last lines come a moment after its answer, the server read each prompt
    # whole, and wrote each answer whole; the first one did not count.
    def whole() -> bool:
        log = service.get("/admin/logs/demo?lines=5000").text
        prompts = re.findall(r"prompt eval time = .*? / +(\d+) tokens", log)
        answers = re.findall(r"(?<!prompt) eval time = .*? / +(\d+) tokens", log)
        return (prompts, answers) == (["48"] * 4, ["8"] * 4)

    eventually(whole, what="all measurements in its log")
    # Nobody has asked the models, as far as anybody is told.
    assert service.get("/admin/requests").json() == []
    assert service.get("/admin/totals").json() == []
    assert [one["requests"] for one in service.get("/admin/sessions").json()] == [0, 0]


def test_requests_at_once_are_measured_together(start_real: StartReal) -> None:
    service = start_real({"llama_parallel": 2})
    start(service, "demo", prompt=32, tokens=4, parallel=2, rounds=1)
    status = ended(service)
    assert status["error"] is None
    (result,) = status["results"]
    assert (result["slots"], result["parallel"]) == (2, 2)
    assert result["tokens_per_second"]["median"] > 0


def test_a_context_that_is_too_small_is_refused_with_the_way_out(start_real: StartReal) -> None:
    service = start_real({"default_context_size": 256, "llama_parallel": 1})
    start(service, "demo", prompt=250, tokens=7, rounds=1)
    status = ended(service)
    assert status["state"] == "failed"
    assert "context of 256 tokens" in status["error"]
    assert "context_size" in status["error"]


def test_a_request_stops_the_bench_and_is_answered(start_fake: StartFake) -> None:
    # The second token never comes.
    service = start_fake(
        {"a": {"speeds": SPEEDS, "answer": {"interval": 3600.0}}, "b": {}},
        config={"max_loaded_models": 2},
    )
    assert service.post("/admin/models/b/load").status_code == 200
    start(service, "a")
    eventually(lambda: "round 1" in (service.get("/admin/bench").json()["step"] or ""))
    eventually(lambda: _sent(service, "a"), what="a request of the bench")

    assert service.post("/v1/chat/completions", json=chat_body("b")).status_code == 200

    status = ended(service)
    assert status["state"] == "stopped"
    assert status["error"] == "A request came after 0 of 6 measurements."
    assert service.get("/admin/bench/results").json() == []
    # Its own request was ended at the server, too, and took no place any more.
    eventually(lambda: "running" not in _states(service, "a"), what="the end at the server")
    assert service.get("/admin/status").json()["requests_in_flight"] == 0


def test_more_requests_at_once_than_a_model_takes_are_refused(start_fake: StartFake) -> None:
    service = start_fake({"a": {"speeds": SPEEDS}}, tables={"a": {"max_concurrent_requests": 1}})
    start(service, "a", parallel=2)
    status = ended(service)
    assert status["state"] == "failed"
    assert "a answers 1 request at once, and 2 are asked for." in status["error"]


def test_a_model_whose_settings_change_is_not_measured_further(start_fake: StartFake) -> None:
    service = start_fake({"a": {"speeds": SPEEDS, "answer": {"interval": 0.05}}})
    start(service, "a", rounds=100, prompt=4, tokens=4)
    eventually(lambda: service.get("/admin/bench").json()["done"] > 0)
    with service.owner() as owner:
        changed = owner.put("/admin/config/models.a.threads", json={"value": 3})
        assert changed.status_code == 200
    status = ended(service)
    assert status["error"] == "The settings of a were changed meanwhile."
    assert service.get("/admin/bench/results").json() == []


def test_a_pinned_model_is_not_unloaded_for_a_bench(start_fake: StartFake) -> None:
    tables = {"b": {"pinned": True}}
    models: dict[str, dict[str, Any]] = {"a": {"speeds": SPEEDS}, "b": {}}
    service = start_fake(models, tables=tables, config={"max_loaded_models": 1})
    assert service.post("/admin/models/b/load").status_code == 200
    start(service, "a")
    status = ended(service)
    assert (status["state"], status["done"]) == ("failed", 0)
    assert "a" in status["error"]
    assert service.model("b")["status"] == "loaded"


def test_models_that_do_not_fit_together_are_loaded_in_turns(
    start_fake: StartFake, tmp_path: Path
) -> None:
    """Each new server answers once before it counts."""
    models = with_states(tmp_path, {"a": {"speeds": SPEEDS}, "b": {"speeds": SPEEDS}})
    service = start_fake(models, config={"max_loaded_models": 1})
    start(service, "a", "b", rounds=2, prompt=4, tokens=4)
    assert ended(service)["state"] == "done"
    # a b, b a
    starts = [(tmp_path / f"{name}.state").read_text().count('"start"') for name in ("a", "b")]
    assert starts == [2, 1]
    assert _states(service, "a") == ["done", "done"]


def test_the_progress_comes_as_events(start_fake: StartFake) -> None:
    service = start_fake({"a": {"speeds": SPEEDS}})
    seen = []
    with (
        service.client() as client,
        client.stream("GET", "/admin/events?topics=bench") as response,
    ):
        events = read_events(response)
        start(service, "a", rounds=2, prompt=4, tokens=4)
        for _, topic, data in events:
            assert topic == "bench"
            seen.append((data["state"], data["done"]))
            if data["state"] != "running":
                break
    assert seen[0] == ("running", 0)
    assert seen[-1] == ("done", 2)
    assert seen == sorted(seen, key=lambda one: (one[0] == "done", one[1]))


def test_no_bench_begins_while_a_request_runs_and_only_one_at_a_time(start_fake: StartFake) -> None:
    service = start_fake({"a": {"speeds": SPEEDS, "answer": {"interval": 3600.0}}})
    with service.client() as client:
        body = chat_body("a", stream=True)
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            parts = answer.iter_bytes()
            assert next(parts)
            refused = service.post("/admin/bench", json={"models": ["a"]})
            assert refused.status_code == 409
            assert "1 request is running or waiting" in refused.json()["error"]["message"]
    eventually(lambda: service.get("/admin/status").json()["requests_in_flight"] == 0)

    start(service, "a")
    assert service.post("/admin/bench", json={"models": ["a"]}).status_code == 409
    with service.client() as client:
        stopped = client.delete("/admin/bench").json()
    assert (stopped["state"], stopped["results"]) == ("cancelled", [])
    assert service.get("/admin/status").json()["requests_in_flight"] == 0


def test_an_unknown_model_is_no_bench(start_fake: StartFake) -> None:
    service = start_fake()
    assert service.post("/admin/bench", json={"models": ["nix"]}).status_code == 404
    assert service.get("/admin/bench").json()["state"] == "idle"


@pytest.mark.parametrize("better", [1.0, 1.03])
def test_the_comparison_stays_right_while_the_machine_gets_slower(
    start_fake: StartFake, tmp_path: Path, better: float
) -> None:
    """Each answer makes the next one 2 % slower, so the last of 14 is a fifth slower."""
    heat = {"path": str(tmp_path / "heat"), "each": 0.02}
    faster = {name: speed * better for name, speed in SPEEDS.items()}
    service = start_fake(
        {"a": {"speeds": SPEEDS, "heat": heat}, "b": {"speeds": faster, "heat": heat}}
    )
    start(service, "a", "b", prompt=8, tokens=4)
    results = {
        one["model"]: one["tokens_per_second"]["values"] for one in ended(service)["results"]
    }
    # Measured one after the other, b would have looked slower.
    assert max(results["b"][-3:]) < min(results["a"][:2])

    difference = paired(results["a"], results["b"])
    assert difference is not None
    assert difference.is_real == (better > 1.0)
    assert difference.change == pytest.approx(better - 1, abs=0.008)


NVPMODEL = """#!/bin/sh
echo "$2" >> {root}/asked
{refuses}
printf 'pmode:%04d' "$2" > {root}/var/lib/nvpmodel/status
"""


def jetson(
    starter: Starter, folder: Path, *, refuses: str = "", answer: dict[str, Any] | None = None
) -> ServiceProcess:
    """A service on a machine with two power modes, of which 15W is set."""
    root, programs = folder / "machine", folder / "programs"
    for name, text in {
        "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=15W >\n",
        "var/lib/nvpmodel/status": "pmode:0001",
    }.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    programs.mkdir()
    for name, text in {
        "nvpmodel": NVPMODEL.format(root=root, refuses=refuses),
        "sudo": '#!/bin/sh\nshift\nexec "$@"\n',
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    service = starter.fake(
        {"a": {"speeds": SPEEDS}}, config={"system_root": str(root)}, start=False
    )
    service.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    return service.start()


def test_each_power_mode_is_measured_and_the_present_one_returns(
    starter: Starter, tmp_path: Path
) -> None:
    service = jetson(starter, tmp_path)
    start(service, "a", prompt=4, tokens=4, rounds=2, power_modes=True)
    status = ended(service)
    assert (status["state"], status["error"], status["total"]) == ("done", None, 4)
    assert [one["power_mode"] for one in status["results"]] == ["MAXN", "15W"]
    assert (tmp_path / "machine/var/lib/nvpmodel/status").read_text() == "pmode:0001"
    assert (tmp_path / "machine/asked").read_text().split() == ["0", "1"]


def test_a_power_mode_that_may_not_be_set_is_a_clear_end(starter: Starter, tmp_path: Path) -> None:
    service = jetson(starter, tmp_path, refuses="echo 'sudo: a password is required'; exit 1")
    start(service, "a", power_modes=True)
    status = ended(service)
    assert status["state"] == "failed"
    assert "The power mode MAXN cannot be set: sudo: a password is required." in status["error"]
    assert "NOPASSWD" in status["error"]


def test_a_request_during_another_power_mode_brings_the_present_one_back(
    starter: Starter, tmp_path: Path
) -> None:
    service = jetson(starter, tmp_path, answer={"interval": 3600.0})
    start(service, "a", power_modes=True)
    eventually(lambda: _sent(service, "a"), what="a request of the bench")
    assert (tmp_path / "machine/var/lib/nvpmodel/status").read_text() == "pmode:0000"
    # Its own answer comes at once.
    body = chat_body("a", fake={"interval": 0.0})
    assert service.post("/v1/chat/completions", json=body).status_code == 200
    assert ended(service)["state"] == "stopped"
    assert (tmp_path / "machine/var/lib/nvpmodel/status").read_text() == "pmode:0001"
    # It had as many threads as the other mode has cores.
    service.wait_status("a", "unloaded")


def test_a_machine_without_power_modes_says_so(start_fake: StartFake) -> None:
    service = start_fake({"a": {"speeds": SPEEDS}})
    start(service, "a", power_modes=True)
    assert "no power modes" in ended(service)["error"]


def _states(service: ServiceProcess, model: str) -> list[str]:
    report = service.get(f"/upstream/{model}/fake/report").json()
    return [one["state"] for one in report["requests"] if one["target"] == "/completion"]


def _sent(service: ServiceProcess, model: str) -> bool:
    live = service.get("/admin/models").json()
    return any(one["id"] == model and one["in_flight"] for one in live)
