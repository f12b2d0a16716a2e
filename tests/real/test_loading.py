"""Loads: one per model however many ask, waited for with signs of life, failures told."""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from cyber_inference_tui.gguf.demo import CHAT_TEMPLATE
from tests.gguf.synthetic_projector import projector
from tests.real.conftest import Starter, StartFake, StartReal, with_states
from tests.real.service_process import ServiceProcess, chat_body, sse_data
from tests.waiting import eventually, is_alive

FAILING = {"die": {"stderr": ["E srv load_model: unknown model architecture: 'spline'"], "exit": 1}}
FLOODS = {"plain": 60_000, "long": 15, "binary": 20_000, "escape": 20_000}

SWITCHES: dict[str, dict[str, Any]] = {
    "many": {"load_seconds": 1.0},
    "comments": {"load_seconds": 8.5},
    "progress": {"load_seconds": 5.0},
    "silent": {"load_seconds": 3.0},
    "failing": FAILING,
    "failing-stream": FAILING,
    "late": {"die": {**FAILING["die"], "after": 4.0}},
    "once": {**FAILING, "die_first": 1},
    "always": FAILING,
    "killed": {"die": {"stderr": ["loading"], "signal": "SIGKILL"}},
    "no-protocol": {"protocol": False},
    "argument": {},
    "crash": {},
    "crash-first": {},
    "cut": {},
    "cut-json": {},
    **{
        f"flood-{kind}": {"flood": {"kind": kind, "lines": lines}} for kind, lines in FLOODS.items()
    },
}
"""The models of the service that most tests share, each for one of them."""


def end_of_idle(folder: Path) -> Path:
    """Once this file is there, the server of ``idle-death`` ends."""
    return folder / "now"


@pytest.fixture(scope="module")
def service(module_starter: Starter) -> ServiceProcess:
    folder = module_starter.folder
    switches = {**SWITCHES, "idle-death": {"exit_when": str(end_of_idle(folder))}}
    return module_starter.fake(
        with_states(folder, switches),
        tables={"argument": {"args": ["--badflag"]}},
    )


@pytest.fixture(scope="module")
def plain_service(module_starter: Starter) -> ServiceProcess:
    """One whose llama-server has no router protocol."""
    models = {name: SWITCHES[name] for name in ("comments", "failing", "failing-stream")}
    return module_starter.fake(models, router_child=False)


@pytest.fixture(params=["service", "plain_service"], ids=["router", "plain"])
def either(request: pytest.FixtureRequest) -> ServiceProcess:
    found: ServiceProcess = request.getfixturevalue(request.param)
    return found


def starts(service: ServiceProcess, model: str) -> int:
    """How many times the model's stand-in was started."""
    state = service.folder.parent / f"{model}.state"
    if not state.exists():
        return 0
    return sum(json.loads(line)["what"] == "start" for line in state.read_text().splitlines())


@pytest.mark.real
def test_25_clients_at_once_get_25_answers_of_one_process(start_real: StartReal) -> None:
    service = start_real()

    def ask(number: int) -> tuple[int, str]:
        if number % 2:
            answer = service.chat("demo", max_tokens=4)
            return answer.status_code, answer.json()["choices"][0]["message"]["content"]
        with service.stream("demo", max_tokens=4) as response:
            return response.status_code, response.read().decode().rstrip()[-6:]

    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(ask, range(25)))
    assert [status for status, _ in answers] == [200] * 25
    assert all(text for _, text in answers)
    assert all(text == "[DONE]" for _, text in answers[::2])
    assert len(service.servers()) == 1
    assert (service.data_dir / "logs" / "demo.000000000.log").read_text().count("--- starting") == 1


def test_many_clients_on_a_slow_load(service: ServiceProcess) -> None:
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: service.chat("many").status_code, range(25)))
    assert answers == [200] * 25
    assert starts(service, "many") == 1


def test_a_waiting_stream_hears_comments(
    either: ServiceProcess, request: pytest.FixtureRequest
) -> None:
    with either.stream("comments") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        text = response.read().decode()
    comments = [line for line in text.splitlines() if line.startswith(":")]
    assert len(comments) >= 2
    assert all(comment.startswith(": loading comments") for comment in comments)
    if request.node.callspec.id == "router":
        assert any("%" in comment for comment in comments)
    assert sse_data(text)[-1] == "[DONE]"
    assert "tok0 " in text


def test_progress_is_in_the_record(service: ServiceProcess) -> None:
    assert service.post("/admin/models/progress/load?wait=0", json={}).status_code in {200, 202}
    record = eventually(lambda: (r := service.model("progress"))["progress"] and r)
    assert record["status"] == "loading"
    assert 0 < record["progress"] < 1
    listed = {model["id"]: model["state"] for model in service.get("/v1/models").json()["data"]}
    assert listed["progress"] == "loading"


def test_a_waiting_json_request_hears_nothing_and_is_answered(service: ServiceProcess) -> None:
    answer = service.chat("silent")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"].startswith("tok0")


@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_load_says_why(either: ServiceProcess, stream: bool) -> None:
    model = "failing-stream" if stream else "failing"
    answer = either.chat(model, stream=stream)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_load_failed"
    assert "does not know the architecture" in error["message"]
    assert "unknown model architecture: 'spline'" in error["message"]
    record = either.model(model)
    assert record["status"] == "failed"
    assert "architecture" in record["error"]
    assert (record["port"], record["pid"]) == (None, None)
    assert "spline" in either.get(f"/admin/logs/{model}?lines=20").text


def test_a_load_that_fails_late_ends_the_stream_with_an_error_event(
    service: ServiceProcess,
) -> None:
    with service.stream("late") as response:
        assert response.status_code == 200
        text = response.read().decode()
    assert text.startswith(": loading late")
    errors = [value for value in sse_data(text) if value != "[DONE]"]
    assert len(errors) == 1
    assert errors[0]["error"]["code"] == "model_load_failed"


def test_the_next_request_tries_again(service: ServiceProcess) -> None:
    assert service.chat("once").status_code == 503
    assert service.chat("once").status_code == 200
    assert starts(service, "once") == 2
    assert service.model("once")["error"] is None


def test_a_server_that_keeps_dying_is_not_started_for_every_request(
    service: ServiceProcess,
) -> None:
    for _ in range(20):
        answer = service.chat("always")
        assert answer.status_code == 503
        assert "architecture" in answer.json()["error"]["message"]
    assert starts(service, "always") < 10


def test_killed_by_a_signal_in_load(service: ServiceProcess) -> None:
    answer = service.chat("killed")
    assert answer.status_code == 503
    assert "SIGKILL" in answer.json()["error"]["message"]


@pytest.mark.parametrize("router_child", [True, False])
def test_a_load_that_hangs_is_given_up(start_fake: StartFake, router_child: bool) -> None:
    service = start_fake(
        {"a": {"hang_load": True}}, config={"load_timeout": 1}, router_child=router_child
    )
    answer = service.chat("a")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_load_failed"
    assert not service.servers()


def test_slow_progress_is_no_hang(start_fake: StartFake) -> None:
    service = start_fake({"a": {"load_seconds": 4.0}}, config={"load_timeout": 2})
    assert service.chat("a").status_code == 200


def stopped(service: ServiceProcess, seconds: float) -> None:
    """The service, and nobody else, stands still for a while."""
    assert service.process is not None
    # Stopped while it waits for events, as it mostly does; a busy one reads them first.
    time.sleep(0.3)
    service.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    service.process.send_signal(signal.SIGCONT)


def test_a_stop_of_the_service_is_no_hang_of_a_load(start_fake: StartFake) -> None:
    service = start_fake({"a": {"load_seconds": 6.0}}, config={"load_timeout": 1})
    service.post("/admin/models/a/load?wait=0").raise_for_status()
    eventually(lambda: service.model("a")["progress"])
    stopped(service, 2.5)
    assert service.wait_status("a", "loaded", "failed")["status"] == "loaded"


def test_a_stop_of_the_service_is_no_hang_of_a_stream(start_fake: StartFake) -> None:
    answer = {"tokens": 6, "interval": 0.8}
    service = start_fake({"a": {"answer": answer}}, config={"stall_timeout": 1})
    with service.stream("a") as response:
        lines = response.iter_lines()
        for _ in range(4):
            next(lines)
        stopped(service, 2.5)
        assert "data: [DONE]" in list(lines)


def test_a_build_that_seems_to_speak_the_protocol_and_does_not(service: ServiceProcess) -> None:
    assert service.chat("no-protocol").status_code == 200


def test_a_wrong_argument_is_named(service: ServiceProcess) -> None:
    answer = service.chat("argument")
    assert answer.status_code == 503
    assert "--badflag" in answer.json()["error"]["message"]


@pytest.mark.real
def test_a_real_server_names_a_wrong_argument_and_a_damaged_file(
    start_real: StartReal, tmp_path: Path
) -> None:
    service = start_real({"models": {"bad": {"args": ["--badflag"]}}}, copies=("bad", "cut"))
    answer = service.chat("bad")
    assert answer.status_code == 503
    assert "--badflag" in answer.json()["error"]["message"]
    assert service.model("bad")["status"] == "failed"
    assert service.chat("demo").status_code == 200
    path = service.data_dir / "models" / "cut.gguf"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    answer = service.chat("cut")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_load_failed"
    assert service.model("cut")["status"] == "failed"


@pytest.mark.real
def test_a_real_server_names_a_broken_template_and_a_wrong_projector(
    start_real: StartReal, tmp_path: Path
) -> None:
    other = projector().write(tmp_path / "mmproj.gguf")
    tables = {
        "given": {"args": ["--chat-template", "{% for"]},
        "seeing": {"mmproj": str(other)},
    }
    service = start_real({"models": tables}, copies=("broken", "raises", "given", "seeing"))
    models_dir = service.data_dir / "models"
    for model_id, template in (("broken", "{% for"), ("raises", '{{ raise_exception("no way") }}')):
        path = models_dir / f"{model_id}.gguf"
        space = CHAT_TEMPLATE.encode()
        path.write_bytes(path.read_bytes().replace(space, template.encode().ljust(len(space))))
    for model_id, *told in (
        ("broken", "Parser Error: Unexpected EOF ...{% for"),
        ("raises", "Error: Jinja Exception: no way"),
        # llama-server ends at once after this, and its log may lose the parser's words.
        ("given", "Parser Error: Unexpected EOF ...{% for", "template is not supported: {% for"),
    ):
        message = service.chat(model_id).json()["error"]["message"]
        assert "its chat template cannot be used (its server exited with code 1: " in message
        assert any(words in message for words in told)
        assert "; give another with --chat-template or --chat-template-file in its" in message
        assert "for example" not in message.partition("\n")[0]
    message = service.chat("seeing").json()["error"]["message"]
    assert f"the projector {other} does not belong to this model (" in message
    assert "mismatch between text model (n_embd = " in message


def test_no_llama_server_says_how_to_get_one(start_fake: StartFake) -> None:
    service = start_fake({"a": {}}, config={"llama_server_path": "/no/such/llama-server"})
    answer = service.chat("a")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_load_failed"
    assert service.get("/health").status_code == 200


def test_a_server_that_dies_while_idle_is_noticed_at_once(service: ServiceProcess) -> None:
    assert service.post("/admin/models/idle-death/load", json={}).status_code == 200
    end_of_idle(service.folder.parent).touch()
    record = service.wait_status("idle-death", "failed")
    assert "out of GPU memory" in record["error"]
    assert record["pid"] is None


def test_a_crash_in_mid_stream_is_one_error_event(service: ServiceProcess) -> None:
    crash = {"tokens": 50, "interval": 0.01, "crash_after": 5}
    with service.stream("crash", fake=crash) as response:
        assert response.status_code == 200
        text = response.read().decode()
    values = sse_data(text)
    errors = [value for value in values if value != "[DONE]" and "error" in value]
    assert len(errors) == 1
    assert values[-1] is errors[0]
    assert errors[0]["error"]["code"] == "upstream_failed"
    assert len(values) == 6
    assert text.endswith("\n\n")
    assert service.chat("crash").status_code == 200


def test_a_crash_before_the_answer_is_502(service: ServiceProcess) -> None:
    assert service.chat("crash-first").status_code == 200
    answer = service.chat("crash-first", fake={"crash_after": 0})
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_failed"
    # Two servers died with it, so the next load may have to wait for a second.
    eventually(lambda: service.chat("crash-first").status_code == 200)


def test_a_cut_stream_is_one_error_event(service: ServiceProcess) -> None:
    with service.stream("cut", fake={"close_after": 3}) as response:
        values = sse_data(response.read().decode())
    assert len(values) == 4
    assert values[-1]["error"]["code"] == "upstream_failed"


def test_a_cut_json_answer_is_not_taken_for_a_whole_one(service: ServiceProcess) -> None:
    body = chat_body("cut-json", fake={"close_after": 1, "framing": "length"})
    answer = service.post("/v1/chat/completions", json=body)
    assert answer.status_code == 502


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_log_lines_stops_nothing(service: ServiceProcess, kind: str) -> None:
    model = f"flood-{kind}"
    with service.client() as client:
        for _ in range(20):
            answer: Any = client.post("/v1/chat/completions", json=chat_body(model))
            assert answer.status_code == 200
            assert client.get("/health").status_code == 200
    log = service.get(f"/admin/logs/{model}?lines=1000").text
    assert "\x1b" not in log
    assert "\x9b" not in log
    assert "\r" not in log
    server = psutil.Process(service.model(model)["pid"])
    service.post(f"/admin/models/{model}/unload", json={})
    assert not is_alive(server)


def test_a_stubborn_server_is_killed_after_stop_timeout(start_fake: StartFake) -> None:
    service = start_fake(
        {"a": {"ignore_sigterm": True, "ignore_stdin": True}}, config={"stop_timeout": 1}
    )
    assert service.chat("a").status_code == 200
    server = service.servers()[0]
    answer = service.post("/admin/models/a/unload", json={})
    assert answer.json()["status"] == "unloaded"
    assert not is_alive(server)


def test_preloaded_models_are_there_without_a_request(start_fake: StartFake) -> None:
    service = start_fake({"a": {}, "b": {}}, tables={"a": {"preload": True}})
    eventually(lambda: service.model("a")["status"] == "loaded")
    assert service.model("b")["status"] == "unloaded"
