"""Starts and ends of the service: no child outlives it, nothing is in the way next time."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import socket
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.real.conftest import Starter, StartFake, StartReal
from tests.real.service_process import ServiceProcess, free_low_port, sse_data
from tests.waiting import LIMIT, eventually, is_alive

STUBBORN = {"ignore_sigterm": True, "ignore_stdin": True, "outlive_parent": 60.0}


def read_whole(service: ServiceProcess, model: str, **more: Any) -> list[Any]:
    with service.stream(model, **more) as response:
        return sse_data(response.read().decode())


@pytest.mark.real
def test_sigterm_lets_running_streams_end(start_real: StartReal) -> None:
    service = start_real({"shutdown_timeout": 200})
    long = {"max_tokens": 800, "ignore_eos": True, "temperature": 0}
    with ThreadPoolExecutor(3) as pool:
        streams = [pool.submit(read_whole, service, "demo", **long) for _ in range(3)]
        eventually(lambda: service.model("demo")["in_flight"] == 3)
        service.terminate()
        for stream in streams:
            values = stream.result(200)
            assert values[-1] == "[DONE]"
            assert not any("error" in value for value in values)
    assert service.wait() == 0
    service.assert_none_left()


@pytest.mark.usefixtures("executed")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_streams_first_and_refuse_new_work(
    start_fake: StartFake, sent: signal.Signals
) -> None:
    service = start_fake()
    with service.stream("a", fake={"tokens": 30, "interval": 0.1}) as response:
        lines = response.iter_lines()
        first = next(lines)
        service.note_children()
        assert service.process is not None
        service.process.send_signal(sent)
        values = sse_data("\n".join([first, *lines]))
        assert values[-1] == "[DONE]"
        assert len(values) == 32
    assert service.wait() == 0
    service.assert_none_left()
    with pytest.raises(OSError, match="refused"):
        service.raw()


@pytest.mark.usefixtures("executed")
def test_ctrl_c_counts_also_for_a_background_job_of_a_script(start_fake: StartFake) -> None:
    # A shell without job control starts what has a & with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        service = start_fake()
    finally:
        signal.signal(signal.SIGINT, before)
    assert service.process is not None
    service.process.send_signal(signal.SIGINT)
    assert service.wait() == 0


def test_shutdown_timeout_bounds_the_wait(start_fake: StartFake) -> None:
    service = start_fake(config={"shutdown_timeout": 1})
    with service.stream("a", fake={"tokens": 10_000, "interval": 0.1}) as response:
        lines = response.iter_lines()
        next(lines)
        service.terminate()
        assert service.wait(20) == 0
        rest = "".join(lines)
    assert '"error"' in rest
    service.assert_none_left()


def test_a_second_signal_stops_at_once(start_fake: StartFake) -> None:
    service = start_fake()
    with service.stream("a", fake={"tokens": 10_000, "interval": 0.1}) as response:
        lines = response.iter_lines()
        next(lines)
        service.terminate()
        eventually(lambda: is_refusing(service), what="the end of accepting")
        service.terminate()
        assert service.wait(15) == 0
    service.assert_none_left()


def test_any_number_of_signals_ends_with_code_0(start_fake: StartFake) -> None:
    service = start_fake()
    with service.stream("a", fake={"tokens": 10_000, "interval": 0.1}) as response:
        next(response.iter_lines())
        process = service.process
        assert process is not None
        # As fast as they can be sent, so that some come in every step of the end.
        for number in itertools.cycle((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)):
            if process.poll() is not None:
                break
            process.send_signal(number)
        assert service.wait(15) == 0
    service.assert_none_left()


def is_refusing(service: ServiceProcess) -> bool:
    try:
        service.raw().close()
    except OSError:
        return True
    return False


def test_sigterm_during_a_load(start_fake: StartFake) -> None:
    service = start_fake({"a": {"load_seconds": 60.0}})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.chat, "a")
        service.wait_status("a", "loading")
        service.terminate()
        answer = waiting.result(30)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "shutting_down"
    assert service.wait() == 0
    service.assert_none_left()


@pytest.mark.real
def test_sigkill_leaves_no_server_and_the_next_start_uses_the_same_port(
    starter: Starter, start_real: StartReal
) -> None:
    base = free_low_port()
    service = start_real({"llama_server_base_port": base})
    for _ in range(3):
        assert service.chat("demo").status_code == 200
        assert service.model("demo")["port"] == base
        service.kill()
        service.assert_none_left()
        service.start()


@pytest.mark.parametrize("router_child", [True, False])
def test_sigkill_ends_even_stubborn_servers(start_fake: StartFake, router_child: bool) -> None:
    switches: dict[str, dict[str, Any]] = {
        "ordinary": {},
        "no-sigterm": {"ignore_sigterm": True, "outlive_parent": 60.0},
        "stubborn": STUBBORN,
        "careless": {**STUBBORN, "clear_pdeathsig": True},
    }
    service = start_fake(switches, router_child=router_child)
    for model in switches:
        assert service.chat(model).status_code == 200
    assert len(service.servers()) == len(switches)
    service.kill()
    service.assert_none_left()


@pytest.mark.usefixtures("executed")
@pytest.mark.skipif(sys.platform != "linux", reason="prlimit keeps it from writing a core file")
def test_a_crash_tells_where_it_was_and_leaves_no_server(start_fake: StartFake) -> None:
    service = start_fake()
    assert service.chat("a").status_code == 200
    assert service.process is not None
    psutil.Process(service.process.pid).rlimit(psutil.RLIMIT_CORE, (0, 0))
    service.note_children()
    service.process.send_signal(signal.SIGSEGV)
    assert service.wait() == -signal.SIGSEGV
    errors = service.errors_path.read_text()
    assert "Segmentation fault" in errors
    assert "http/serve.py" in errors  # the stack of its main thread
    service.assert_none_left()


def test_sigkill_during_a_load(start_fake: StartFake) -> None:
    service = start_fake({"a": {"hang_load": True, **STUBBORN}})
    service.post("/admin/models/a/load?wait=0", json={})
    eventually(service.servers)
    service.kill()
    service.assert_none_left()


@pytest.mark.usefixtures("executed")
def test_the_next_start_ends_what_nobody_else_could(start_fake: StartFake) -> None:
    """Service and guard killed together; the server hangs on: the record of pids is left."""
    service = start_fake({"a": {**STUBBORN, "clear_pdeathsig": True}}, config={"stop_timeout": 1})
    assert service.chat("a").status_code == 200
    (server,) = service.servers()
    guards = [child for child in service.note_children() if child.pid != server.pid]
    for guard in guards:
        guard.kill()
    service.kill()
    service.start()
    eventually(lambda: not is_alive(server))
    assert service.chat("a").status_code == 200


@pytest.mark.real
def test_a_taken_base_port_is_stepped_over(start_real: StartReal) -> None:
    base = free_low_port()
    with socket.create_server(("127.0.0.1", base)):
        service = start_real({"llama_server_base_port": base}, copies=("second",))
        for model in ("demo", "second"):
            assert service.chat(model).status_code == 200
        ports = [service.model(model)["port"] for model in ("demo", "second")]
    assert ports == [base + 1, base + 2]


def test_a_port_taken_on_all_addresses_is_stepped_over(start_fake: StartFake) -> None:
    base = free_low_port()
    with socket.create_server(("0.0.0.0", base)):
        service = start_fake(config={"llama_server_base_port": base})
        assert service.chat("a").status_code == 200
        assert service.model("a")["port"] == base + 1


def test_the_services_own_port_taken(start_fake: StartFake) -> None:
    service = start_fake(start=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service.arguments = ("--port", str(port))
        process = service.spawn()
        assert service.wait(30) == 1
    assert process.returncode == 1
    assert str(port) in service.errors()
    assert "Traceback" not in service.errors()


def test_two_services_on_one_data_dir(start_fake: StartFake) -> None:
    first = start_fake()
    second = ServiceProcess(first.folder / "second", {})
    second.data_dir = first.data_dir
    second.spawn()
    assert second.wait(30) == 1
    assert first.process is not None
    assert str(first.process.pid) in second.errors()
    assert "Traceback" not in second.errors()
    assert first.chat("a").status_code == 200


@pytest.mark.usefixtures("executed")
def test_the_runtime_file(start_fake: StartFake) -> None:
    service = start_fake()
    path = service.data_dir / "service.json"
    told = json.loads(path.read_text())
    assert service.process is not None
    assert (told["pid"], told["url"]) == (service.process.pid, service.url)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    service.stop()
    assert not path.exists()


@pytest.mark.usefixtures("executed")
def test_secrets_stay_out_of_the_servers_environment(start_fake: StartFake) -> None:
    service = start_fake(start=False, config={"api_keys": ["sesame-key"]})
    service.environ = {
        "HF_TOKEN": "hf_secret",
        "AWS_SECRET_ACCESS_KEY": "aws_secret",
        "CYBER_INFERENCE_ADMIN_PASSWORD": "open-up",
    }
    service.start()
    headers = {"Authorization": "Bearer sesame-key"}
    answer = service.post(
        "/v1/chat/completions", json={"model": "a", "messages": []}, headers=headers
    )
    assert answer.status_code == 200
    token = json.loads((service.data_dir / "service.json").read_text())["token"]
    assert len(token) > 30
    below = [process for process in service.note_children() if "--port" in process.cmdline()]
    environ = str(below[0].environ()) + str(below[0].cmdline())
    for secret in ("hf_secret", "aws_secret", "sesame-key", "open-up", token):
        assert secret not in environ
        assert secret not in service.errors()


@pytest.mark.usefixtures("executed")
def test_no_terminal_code_and_little_memory(start_fake: StartFake) -> None:
    service = start_fake()
    assert service.chat("a").status_code == 200
    assert service.process is not None
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "numpy" not in maps
    assert psutil.Process(service.process.pid).memory_info().rss < 60 * 2**20


def test_many_file_descriptors_are_not_left_open(start_fake: StartFake) -> None:
    service = start_fake({"a": {"keepalive_idle": 0.2}})
    assert service.chat("a").status_code == 200
    assert service.process is not None
    process = psutil.Process(service.process.pid)
    before = process.num_fds()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: service.chat("a").status_code, range(200)))
    assert answers == [200] * 200
    eventually(lambda: process.num_fds() <= before + 10, what="closed descriptors")


@pytest.mark.usefixtures("executed")
@pytest.mark.parametrize("sign", ["data", "data/logs", "data/history.sqlite3", "asked"])
def test_sigterm_during_the_start_ends_it_in_order(
    start_fake: StartFake, tmp_path: Path, sign: str
) -> None:
    service = start_fake(start=False)
    program = tmp_path / "slow-llama-server"
    program.write_text(f"#!/bin/sh\ntouch {service.folder}/asked\nsleep 60\n")
    program.chmod(0o755)
    service.configure({"llama_server_path": str(program)})
    shutil.rmtree(service.data_dir)
    process = service.spawn()
    eventually((service.folder / sign).exists, interval=0.001, what="a sign of the start")
    service.terminate()
    assert process.wait(LIMIT) == 0, service.errors()
    service.assert_none_left()
    assert not (service.data_dir / "service.json").exists()


@pytest.mark.real
@pytest.mark.parametrize("asks", [True, False])
def test_a_server_that_somebody_ended_is_replaced(start_real: StartReal, asks: bool) -> None:
    """llama-server does not listen after a SIGTERM, and exits only when its input ends."""
    service = start_real()
    assert service.chat("demo").status_code == 200
    pid = service.model("demo")["pid"]
    psutil.Process(pid).terminate()
    eventually(lambda: not psutil.Process(pid).net_connections("tcp"), what="no listener")
    if asks:
        assert service.chat("demo").status_code == 200
    else:
        service.wait_status("demo", "failed", "unloaded")
    assert service.model("demo")["pid"] != pid
