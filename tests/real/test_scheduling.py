"""Memory, turns, retries and settings: the scheduler over real processes."""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.real.conftest import StartFake, StartReal
from tests.real.service_process import ServiceProcess, sse_data
from tests.waiting import eventually, is_alive

OUT_OF_MEMORY = "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9"


def reconfigure(service: ServiceProcess, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the configuration file as a person would."""
    config = tomllib.loads(service.config_path.read_text())
    change(config)
    service.configure(config)


def starts(state: Path) -> int:
    """How often the stand-ins that share this file were started."""
    lines = state.read_text().splitlines() if state.exists() else []
    return sum('"start"' in line for line in lines)


def session_of(service: ServiceProcess, model: str) -> dict[str, Any]:
    """The newest session of a model."""
    found: dict[str, Any] = service.get(f"/admin/sessions?model={model}&limit=1").json()[0]
    return found


# Memory


@pytest.mark.real
def test_what_a_real_model_takes_is_estimated_then_measured_then_remembered(
    start_real: StartReal,
) -> None:
    service = start_real()
    eventually(lambda: service.model("demo")["memory_estimate_source"] == "formula")
    before = service.model("demo")
    assert before["memory_bytes"] is None
    assert service.chat("demo", max_tokens=5).status_code == 200
    loaded = service.model("demo")
    assert loaded["memory_bytes"] == pytest.approx(before["memory_estimate_bytes"], rel=0.1)
    assert loaded["context_size"] == 8192
    service.stop()
    service.start()
    eventually(lambda: service.model("demo")["memory_estimate_source"] == "measured")
    again = service.model("demo")
    assert again["memory_estimate_bytes"] == loaded["memory_bytes"]


@pytest.mark.real
def test_a_real_model_that_cannot_fit_is_refused_with_numbers(start_real: StartReal) -> None:
    service = start_real({"max_memory_percent": 0.1})
    answer = service.chat("demo")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "insufficient_memory"
    for part in ("demo needs ", "can be free", "0.1 % may be used", "other programs hold "):
        assert part in error["message"]
    assert not service.servers()
    assert service.model("demo")["status"] == "failed"
    # The limit is live, and a refusal is no failure that has to be waited for.
    reconfigure(service, lambda config: config.pop("max_memory_percent"))
    eventually(lambda: service.chat("demo", max_tokens=2).status_code == 200)


def test_after_running_out_of_memory_an_idle_model_makes_room_for_one_more_try(
    start_fake: StartFake, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    dying = {"die": {"after": 0.1, "stderr": [OUT_OF_MEMORY], "exit": 1}, "die_first": 1}
    service = start_fake({"a": {}, "b": {**dying, "state": str(state)}})
    assert service.chat("a").status_code == 200
    assert service.chat("b").status_code == 200
    assert starts(state) == 2
    assert service.model("a")["status"] == "unloaded"
    assert session_of(service, "a")["unload_reason"] == "room for another model"
    assert "It is tried once more when a made room" in service.errors()


def test_running_out_of_memory_with_nobody_to_make_room_is_told(
    start_fake: StartFake, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    dying = {"die": {"after": 0.1, "stderr": [OUT_OF_MEMORY], "exit": 1}, "state": str(state)}
    service = start_fake({"a": dying})
    answer = service.chat("a")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_load_failed"
    assert "out of memory" in answer.json()["error"]["message"]
    assert starts(state) == 1


def test_less_context_is_tried_where_that_is_allowed(start_fake: StartFake, tmp_path: Path) -> None:
    state = tmp_path / "state"
    dying = {"die": {"after": 0.1, "stderr": [OUT_OF_MEMORY], "exit": 1}, "die_first": 1}
    service = start_fake(
        {"a": {**dying, "state": str(state)}}, config={"allow_smaller_context": True}
    )
    assert service.chat("a").status_code == 200
    assert service.model("a")["context_size"] == 4096
    argv = [json.loads(line).get("argv", []) for line in state.read_text().splitlines()]
    sizes = [words[words.index("--ctx-size") + 1] for words in argv if "--ctx-size" in words]
    assert sizes == ["8192", "4096"]
    assert "4,096 tokens of context" in service.errors()


def test_a_server_that_does_not_tell_what_it_took_is_measured(start_fake: StartFake) -> None:
    """Its processes tell it."""
    service = start_fake({"a": {"memory_mib": 300}})
    assert service.chat("a").status_code == 200
    took = eventually(lambda: service.model("a")["memory_bytes"])
    (server,) = service.servers()
    assert 300 << 20 <= took <= psutil.Process(server.pid).memory_info().rss * 1.2


# Turns


@pytest.mark.real
def test_eight_clients_that_alternate_between_two_models(start_real: StartReal) -> None:
    """40 requests for two models of which one has room: few loads, and everybody is answered."""
    service = start_real({"max_loaded_models": 1}, copies=("second",))

    def client(number: int) -> list[int]:
        models = ("demo", "second") if number % 2 else ("second", "demo")
        return [
            service.chat(models[turn % 2], max_tokens=30, ignore_eos=True).status_code
            for turn in range(5)
        ]

    with ThreadPoolExecutor(8) as pool:
        answers = [status for job in pool.map(client, range(8)) for status in job]
    assert answers == [200] * 40
    sessions = service.get("/admin/sessions?limit=1000").json()
    assert sum(session["requests"] for session in sessions) == 40
    assert len(sessions) <= 12


def test_a_stream_longer_than_the_idle_timeout_ends_before_another_model_has_its_room(
    start_fake: StartFake,
) -> None:
    service = start_fake(
        {"a": {}, "b": {}}, config={"max_loaded_models": 1, "model_idle_timeout": 1}
    )
    with ThreadPoolExecutor(1) as pool:
        with service.stream("a", fake={"tokens": 40, "interval": 0.1}) as response:
            lines = response.iter_lines()
            next(lines)
            other = pool.submit(service.chat, "b")
            eventually(lambda: service.model("b")["queued"] == 1)
            values = sse_data("\n".join(lines))
            assert values[-1] == "[DONE]"
            assert len(values) > 40
        assert other.result(60).status_code == 200
    assert session_of(service, "a")["unload_reason"] == "room for another model"


def test_who_waits_is_told_its_position(start_fake: StartFake) -> None:
    service = start_fake({"a": {}, "b": {}}, config={"max_loaded_models": 1})
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(service.chat, "a", fake={"tokens": 60, "interval": 0.1})
        eventually(lambda: service.model("a")["in_flight"] == 1)
        first = pool.submit(service.chat, "b")
        eventually(lambda: service.model("b")["queued"] == 1)
        with service.stream("b") as response:
            lines = response.iter_lines()
            comment = next(lines)
            assert comment.startswith(": queued b, 2 of 2")
            queue = service.get("/admin/queue").json()
            assert [(entry["model"], entry["position"]) for entry in queue] == [("b", 1), ("b", 2)]
            assert all(entry["waited_seconds"] > 0 for entry in queue)
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert busy.result(60).status_code == first.result(60).status_code == 200
    assert service.get("/admin/queue").json() == []


def test_where_pins_leave_no_place_it_is_said_at_once(start_fake: StartFake) -> None:
    service = start_fake(
        {"a": {}, "b": {}}, config={"max_loaded_models": 1}, tables={"a": {"pinned": True}}
    )
    assert service.chat("a").status_code == 200
    answer = service.chat("b")
    assert answer.status_code == 503
    assert "max_loaded_models is 1, and a cannot be unloaded" in answer.json()["error"]["message"]


# Settings


def test_only_the_model_whose_table_changed_restarts_after_its_requests(
    start_fake: StartFake,
) -> None:
    service = start_fake({"a": {}, "b": {}})
    assert service.chat("b").status_code == 200
    other = service.model("b")["pid"]
    with service.stream("a", fake={"tokens": 50, "interval": 0.1}) as response:
        lines = response.iter_lines()
        next(lines)
        first = service.model("a")["pid"]
        reconfigure(
            service,
            lambda config: config["models"]["a"].update(args=["--batch-size", "64"], aliases=["x"]),
        )
        eventually(lambda: service.model("a")["aliases"] == ["x"])
        values = sse_data("\n".join(lines))
        assert values[-1] == "[DONE]"
    eventually(lambda: service.model("a")["pid"] not in {None, first})
    service.wait_status("a", "loaded")
    assert service.model("b")["pid"] == other
    assert session_of(service, "a")["load_reason"] == "restart"
    ended = service.get("/admin/sessions?model=a").json()[1]
    assert ended["unload_reason"] == "its settings changed"


def test_defaults_of_requests_change_without_a_restart(start_fake: StartFake) -> None:
    service = start_fake()
    assert service.chat("a").status_code == 200
    pid = service.model("a")["pid"]

    def change(config: dict[str, Any]) -> None:
        config["models"]["a"]["request_defaults"] = {"top_k": 7}

    reconfigure(service, change)

    def has_default() -> bool:
        echoed = service.chat("a", fake={"echo": True}).json()
        return bool(json.loads(base64.b64decode(echoed["body_base64"])).get("top_k") == 7)

    eventually(has_default)
    assert service.model("a")["pid"] == pid


def test_a_broken_file_changes_nothing(start_fake: StartFake) -> None:
    service = start_fake()
    assert service.chat("a").status_code == 200
    pid = service.model("a")["pid"]
    text = service.config_path.read_text()
    service.config_path.write_text(text + "\nmax_loaded_models = -1\nllama_threads = 3\n")
    eventually(lambda: "is refused" in service.errors())
    assert service.model("a")["pid"] == pid
    assert service.chat("a").status_code == 200


def test_preloaded_models_come_in_order_while_there_is_room(start_fake: StartFake) -> None:
    service = start_fake(
        {"b": {}, "a": {}, "c": {}},
        tables={"a": {"preload": True}, "b": {"preload": True, "pinned": True}},
    )
    service.wait_status("a", "loaded")
    service.wait_status("b", "loaded")
    assert service.model("c")["status"] == "unloaded"
    assert {session_of(service, name)["load_reason"] for name in "ab"} == {"preload"}


def test_a_model_whose_file_is_deleted_ends_its_requests_and_goes(start_fake: StartFake) -> None:
    service = start_fake()
    with service.stream("a", fake={"tokens": 60, "interval": 0.1}) as response:
        lines = response.iter_lines()
        next(lines)
        (server,) = service.servers()
        (service.data_dir / "models" / "a.gguf").unlink()
        reconfigure(service, lambda config: config["models"].pop("a"))
        eventually(lambda: "a" not in service.models())
        assert is_alive(server)
        assert sse_data("\n".join(lines))[-1] == "[DONE]"
    eventually(lambda: not is_alive(server))


def test_a_new_request_that_kills_does_not_take_one_on_its_second_try_with_it(
    start_fake: StartFake,
) -> None:
    """Over real processes: all good requests are answered, whatever else comes."""
    service = start_fake({"a": {}})
    service.post("/admin/models/a/load", json={})
    first = service.model("a")["pid"]
    slow, deadly = {"prefill": 3.0}, {"crash_after": 0}
    with ThreadPoolExecutor(12) as pool:
        good = [pool.submit(service.chat, "a", f"good {number}", fake=slow) for number in range(3)]
        eventually(lambda: service.model("a")["in_flight"] == 3)
        bad = [pool.submit(service.chat, "a", "bad", fake=deadly)]
        # The next server is up, and one of them is on trial there.
        eventually(lambda: service.model("a")["pid"] not in {None, first})
        bad += [pool.submit(service.chat, "a", "bad", fake=deadly) for _ in range(3)]
        assert [one.result().status_code for one in good] == [200] * 3
        assert {one.result().status_code for one in bad} <= {502, 503}
    # A server that kept dying rests for a moment.
    eventually(lambda: service.chat("a").status_code == 200)
