"""A service in the background: it is found, started once, and survives the end of its starter."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psutil
import pytest

from cyber_inference_tui.cli.background import (
    FoundService,
    arguments_of,
    environment_of,
    find_or_start,
    stop_limit,
    stop_service,
)
from cyber_inference_tui.cli.options import GlobalOptions
from cyber_inference_tui.errors import ConflictError, CyberError, NoServiceError
from cyber_inference_tui.service.runtime import (
    DataDirectoryLock,
    data_directory_holder,
    read_runtime_file,
)
from cyber_inference_tui.settings.schema import Settings
from tests.cli.conftest import CommandLine, Spawn
from tests.cli.stand_in import StandIn
from tests.waiting import LIMIT, is_alive

STARTER = """
import os, sys
from cyber_inference_tui.cli.background import find_or_start
from cyber_inference_tui.cli.options import GlobalOptions
found = find_or_start(GlobalOptions(flags={"port": 0}, environ=dict(os.environ)))
print(found.pid, found.url, found.started, flush=True)
sys.stdin.read()
"""

Find = Callable[..., FoundService]


@pytest.fixture
def find(environ: Mapping[str, str], data_dir: Path, config: Path) -> Find:
    """``find_or_start`` on a port that the kernel chooses."""

    def find(**options: object) -> FoundService:
        flags = options.pop("flags", {"port": 0})
        given = GlobalOptions(flags=flags, environ=environ)  # type: ignore[arg-type]
        return find_or_start(given, **options)  # type: ignore[arg-type]

    return find


@pytest.fixture
def starter(
    environ: Mapping[str, str], data_dir: Path, config: Path
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Processes that call ``find_or_start``, print the result, and wait."""
    made: list[subprocess.Popen[str]] = []

    def start(**options: object) -> subprocess.Popen[str]:
        given = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **options}
        process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-c", STARTER],
            env=dict(environ),
            text=True,
            **given,  # type: ignore[call-overload]
        )
        made.append(process)
        return process

    yield start
    for process in made:
        process.kill()
        process.wait(60)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def printed(process: subprocess.Popen[str]) -> tuple[int, str, bool]:
    """Return the printed pid and URL, and whether the process started the service."""
    assert process.stdout is not None
    pid, url, started = process.stdout.readline().split()
    return int(pid), url, started == "True"


def answers(url: str, token: str = "") -> bool:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(f"{url}/admin/status", headers=headers, trust_env=False, timeout=10)
    return answer.status_code == 200


def test_one_is_started_found_again_and_stopped(find: Find, data_dir: Path) -> None:
    first = find()
    assert first.started
    assert first.pid is not None
    assert answers(first.url)
    process = psutil.Process(first.pid)
    assert os.getsid(first.pid) == first.pid
    assert process.cwd() == "/"
    assert Path(f"/proc/{first.pid}/fd/0").readlink() == Path("/dev/null")
    second = find()
    assert (second.url, second.pid, second.started) == (first.url, first.pid, False)
    assert first.token == second.token != ""
    assert first.token not in repr(first)
    assert stop_service(first.pid, limit=stop_limit(Settings()))
    assert stop_service(first.pid, limit=0)
    assert not is_alive(first.pid)
    assert read_runtime_file(data_dir) is None


def test_service_stop_ends_it_and_restart_keeps_its_options(
    find: Find, data_dir: Path, call: CommandLine
) -> None:
    assert call("service", "stop").code == 3
    first = find(flags={"port": 0, "log_level": "debug"})
    assert first.pid is not None
    outcome = call("service", "restart", "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    assert not is_alive(first.pid)
    assert answers(record["url"], (read_runtime_file(data_dir) or first).token)
    again = psutil.Process(record["pid"]).cmdline()
    assert again[again.index("--background") :] == [
        *("--background", "--port", "0", "--log-level", "debug")
    ]
    outcome = call("service", "stop", "--json")
    assert json.loads(outcome.out) == {"pid": record["pid"], "stopped": True}
    assert data_directory_holder(data_dir) is None


def test_a_broken_configuration_does_not_cost_the_running_service(
    find: Find, data_dir: Path, call: CommandLine, config: Path
) -> None:
    first = find()
    config.write_text("prot = 1\n")
    assert call("service", "restart").code == 5
    assert data_directory_holder(data_dir) == first.pid


def test_one_in_the_foreground_is_stopped_but_not_restarted(
    spawn: Spawn, data_dir: Path, call: CommandLine
) -> None:
    service = spawn("serve", "--port", "0", stdout=subprocess.PIPE)
    assert service.stdout is not None
    assert service.stdout.readline().startswith(b"listening on")
    outcome = call("service", "restart")
    assert outcome.code == 1
    assert "does not run in the background" in outcome.err
    assert call("service", "stop").code == 0
    assert service.wait(LIMIT) == 0


def test_its_output_is_kept_apart_and_small(find: Find, data_dir: Path) -> None:
    output = data_dir / "logs" / "service-output.log"
    for _ in range(3):
        started = find()
        assert started.pid is not None
        assert output.stat().st_mode & 0o777 == 0o600
        stop_service(started.pid, limit=30)
        # Its log went to its own file.
        assert output.read_text() == f"listening on {started.url}\n"
        assert "shutting down" in (data_dir / "logs" / "service.000000000.log").read_text()
    assert sorted(path.name for path in output.parent.glob("service-output*")) == [
        "service-output.log",
        "service-output.log.1",
    ]


def test_the_token_opens_a_service_with_a_password(find: Find, config: Path) -> None:
    config.write_text("admin_password = 'sesame'\n")
    for _ in range(2):
        found = find()
        assert not answers(found.url)
        assert answers(found.url, found.token)


def test_starters_at_once_share_one_service(
    starter: Callable[..., subprocess.Popen[str]],
) -> None:
    found = [printed(process) for process in [starter() for _ in range(3)]]
    assert len({(pid, url) for pid, url, _ in found}) == 1
    assert sorted(started for _, _, started in found) == [False, False, True]


def test_it_survives_the_death_of_its_starter(
    starter: Callable[..., subprocess.Popen[str]], find: Find
) -> None:
    process = starter()
    pid, url, _ = printed(process)
    process.kill()
    process.wait(60)
    assert answers(url)
    found = find()
    assert (found.pid, found.started) == (pid, False)


def test_it_survives_a_terminal_that_hangs_up(
    starter: Callable[..., subprocess.Popen[str]],
) -> None:
    master, slave = pty.openpty()
    # The controlling terminal of its own session, as in a login over SSH.
    process = starter(stdin=slave, start_new_session=True, preexec_fn=take_terminal)
    os.close(slave)
    _, url, _ = printed(process)
    os.close(master)
    assert process.wait(60) == -signal.SIGHUP
    assert answers(url)


def take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_service_of_a_foreground_terminal_is_found(spawn: Spawn, find: Find) -> None:
    process = spawn("serve", "--port", "0", stdout=subprocess.PIPE)
    assert process.stdout is not None
    url = process.stdout.readline().decode().split()[-1]
    found = find()
    assert (found.url, found.pid, found.started) == (url, process.pid, False)
    process.terminate()
    assert process.wait(60) == 0


def test_a_runtime_file_left_behind_is_no_service(find: Find) -> None:
    first = find()
    assert first.pid is not None
    psutil.Process(first.pid).kill()
    os.waitpid(first.pid, 0)
    second = find()
    assert second.started
    assert second.pid != first.pid
    assert answers(second.url)


def test_another_directorys_service_is_attached_to_without_its_pid(
    find: Find, stand_in: StandIn
) -> None:
    found = find(flags={"port": stand_in.port})
    assert found == FoundService(url=stand_in.url)
    stand_in.password = "sesame"
    assert find(flags={"port": stand_in.port}) == FoundService(url=stand_in.url)


def test_another_program_on_the_port_is_named(find: Find, data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        accepted: list[socket.socket] = []

        def answer() -> None:
            while True:
                connection, _ = other.accept()
                accepted.append(connection)
                if connection.recv(4096):
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")
                    connection.close()
                    return

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NoServiceError, match=f"127.0.0.1:{port}") as error:
            find(flags={"port": port})
        thread.join(10)
        for connection in accepted:
            connection.close()
    assert "--port" in error.value.hint
    assert not data_dir.exists()


def test_a_failed_start_shows_the_output_of_the_service(find: Find, data_dir: Path) -> None:
    heard: list[str] = []
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # nothing answers there, and nothing else can listen
        port = taken.getsockname()[1]
        with pytest.raises(CyberError) as error:
            find(flags={"host": "0.0.0.0", "port": port}, notify=heard.append)
    assert error.value.message == (
        f"The service did not start: Port {port} on 0.0.0.0 is in use by another program. "
        "Choose another with --port."
    )
    output = data_dir / "logs" / "service-output.log"
    assert str(output) in error.value.hint
    # The secrets made for the address were printed here, not logged.
    (text,) = heard
    password = text.split("admin password")[1].split()[0]
    assert password not in output.read_text()


def test_none_is_started_on_another_machine(find: Find, data_dir: Path, config: Path) -> None:
    with pytest.raises(NoServiceError, match="no address of this machine"):
        # A network for documentation, without machines.
        find(flags={"host": "2001:db8::1", "port": 1})
    assert config.read_text() == ""


def test_a_key_and_a_password_are_made_for_an_open_address(
    find: Find, config: Path, data_dir: Path
) -> None:
    config.write_text("host = '0.0.0.0'\n")
    heard: list[str] = []
    found = find(notify=heard.append)
    assert len(heard) == 1
    assert found.started
    assert found.url.startswith("http://127.0.0.1:")
    assert not answers(found.url)
    assert answers(found.url, found.token)
    assert "made" not in (data_dir / "logs" / "service-output.log").read_text()
    assert find(notify=heard.append).token == found.token
    assert len(heard) == 1


def test_a_broken_configuration_is_reported_before_the_start(
    find: Find, config: Path, data_dir: Path
) -> None:
    config.write_text("prot = 1\n")
    with pytest.raises(CyberError, match="did you mean port"):
        find()
    assert not data_dir.exists()


def test_a_directory_whose_service_does_not_answer_is_waited_for(
    find: Find, data_dir: Path
) -> None:
    with DataDirectoryLock(data_dir), pytest.raises(ConflictError, match=f"pid {os.getpid()}"):
        find(limit=0.1)
    lock = DataDirectoryLock(data_dir)
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        if looks == 3:  # the old service has ended
            lock.__exit__(None, None, None)
        return time.monotonic()

    with lock:
        assert find(clock=clock).started


def test_a_service_without_a_runtime_file_is_found_by_its_address(
    find: Find, data_dir: Path
) -> None:
    # The file cannot be written, as on a full disk.
    (data_dir / "service.json").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = find(flags={"port": port})
    assert (found.url, found.token, found.started) == (f"http://127.0.0.1:{port}", "", True)
    assert found.pid == data_directory_holder(data_dir)
    assert found.pid is not None
    assert (
        f"{data_dir}/service.json cannot be written"
        in (data_dir / "logs/service-output.log").read_text()
    )
    assert stop_service(found.pid, limit=30)


def test_a_start_that_takes_too_long_is_ended(find: Find, data_dir: Path) -> None:
    calls = 0

    def clock() -> float:
        # Time flies once the service has been started.
        nonlocal calls
        calls += 1
        return 0.0 if calls == 1 else 1000.0

    with pytest.raises(CyberError, match="did not start in time"):
        find(clock=clock)
    assert data_directory_holder(data_dir) is None


def test_ctrl_c_while_it_starts_ends_it(find: Find, data_dir: Path) -> None:
    calls = 0

    def clock() -> float:
        nonlocal calls
        calls += 1
        if calls == 3:  # after the deadline was set, and once the service has been started
            raise KeyboardInterrupt
        return 0.0

    before = psutil.Process().children()
    with pytest.raises(KeyboardInterrupt):
        find(clock=clock)
    assert psutil.Process().children() == before
    assert data_directory_holder(data_dir) is None


def test_a_process_that_ignores_the_signal_has_not_stopped() -> None:
    code = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not stop_service(process.pid, limit=0.1)
        process.kill()


def test_options_and_relative_paths_reach_it_as_they_were_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text("models_dir = 'in-the-file'\n")
    environ = {
        "HOME": str(tmp_path),
        "CYBER_INFERENCE_CONFIG": "my.toml",
        "CYBER_INFERENCE_DATA_DIR": "data",
        "CYBER_INFERENCE_MODEL_DIRS": "a,~/b",
        "CYBER_INFERENCE_LLAMA_SERVER_PATH": "bin/llama-server",
        "CYBER_INFERENCE_MAX_QUEUE": "7",
    }
    options = GlobalOptions(flags={"port": 0, "log_level": "debug"}, demo=True, environ=environ)
    assert arguments_of(options, options.load())[5:] == [
        *("--background", "--port", "0", "--log-level", "debug", "--demo")
    ]
    there = environment_of(environ, options.load())
    assert there == {
        **environ,
        "CYBER_INFERENCE_CONFIG": str(tmp_path / "my.toml"),
        "CYBER_INFERENCE_DATA_DIR": str(tmp_path / "data"),
        "CYBER_INFERENCE_MODEL_DIRS": f'["{tmp_path}/a","{tmp_path}/b"]',
        "CYBER_INFERENCE_LLAMA_SERVER_PATH": str(tmp_path / "bin/llama-server"),
    }
    elsewhere = GlobalOptions(flags=options.flags, environ=there)
    monkeypatch.chdir("/")
    assert (
        elsewhere.load().settings
        == GlobalOptions(flags={"port": 0, "log_level": "debug"}, environ=there).load().settings
    )
    named = GlobalOptions(config=tmp_path / "my.toml", environ={"HOME": str(tmp_path)})
    assert arguments_of(named, named.load())[-2:] == ["--config", str(tmp_path / "my.toml")]


def test_a_service_has_ended_though_its_parent_has_not_noticed() -> None:
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert stop_service(pid, limit=10)
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        process.communicate(timeout=60)
