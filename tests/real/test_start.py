"""Starts where something is missing or in the way: room on the disk, a home, an earlier run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.real.conftest import StartFake, StartReal
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually

_CAN_MOUNT = "unshare -m sh -c 'mount -t tmpfs tmpfs /mnt'"

Start = Callable[..., ServiceProcess]


@pytest.fixture
def start(tmp_path: Path, llama_server: Path) -> Iterator[Start]:
    """Makes services with the real llama-server that are run by a wrapper."""
    started: list[ServiceProcess] = []

    def start(*wrapper: str) -> ServiceProcess:
        config = {"llama_server_path": str(llama_server), "llama_server_base_port": 0}
        folder = tmp_path / f"service{len(started)}"
        service = ServiceProcess(folder, config, wrapper=wrapper)
        started.append(service)
        return service

    yield start
    for service in started:
        if service.process is not None and service.process.poll() is None:
            service.kill()


def command(service: ServiceProcess, *words: str) -> subprocess.CompletedProcess[str]:
    """A command line beside the service, in its surrounding."""
    return subprocess.run(
        [
            *service.wrapper,
            *(sys.executable, "-m", "cyber_inference_tui", *words, "--port", str(service.port)),
            *("--config", str(service.config_path), "--data-dir", str(service.data_dir)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# A disk without room


@pytest.mark.real
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_disk_without_room_keeps_no_service_from_starting(
    start: Start, demo_gguf: Path, kind: str
) -> None:
    if subprocess.run(_CAN_MOUNT, shell=True, capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    fill = "dd if=/dev/zero of=$D/fill bs=4k 2>/dev/null || true"
    fill = fill if kind == "full" else "mount -o remount,ro $D"
    service = start(
        *("unshare", "-m", "sh", "-c"),
        "mount -t tmpfs -o size=8m tmpfs $D && mkdir $D/models && cp $M $D/models; "
        f'{fill}; exec "$@"',
        "sh",
    )
    service.data_dir.mkdir()
    model = shutil.copyfile(demo_gguf, service.folder / "tiny.gguf")
    service.environ |= {"D": str(service.data_dir), "M": str(model)}
    service.start()
    why = "No space left on device" if kind == "full" else "Read-only file system"
    errors = service.errors()
    assert "Traceback" not in errors
    for name in ("service.lock", "service.json"):
        assert f"{service.data_dir / name} cannot be written: {why}" in errors
    assert service.chat("tiny").status_code == 200
    assert service.get("/admin/requests").status_code == 200
    if kind == "full":
        answer = service.post("/admin/models/tiny/unload", json={})
        assert answer.status_code == 200
        with service.client() as client:
            headers = {"Content-Type": "application/json"}
            assert client.delete("/admin/models/tiny", headers=headers).status_code == 200
    service.stop()


# A machine without a home


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become a user who is not there")
@pytest.mark.parametrize("home", [None, "", "rel"])
def test_a_user_without_home_and_name_who_gives_paths(start: Start, home: str | None) -> None:
    rights = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    who = ("setpriv", *rights, "--reuid=54321", "--regid=54321", "--clear-groups")
    if shutil.which("setpriv") is None or subprocess.run([*who, "true"], check=False).returncode:
        pytest.skip("cannot become another user")
    own = ("env", "-u", "HOME") if home is None else ("env", f"HOME={home}")
    service = start(*who, *own)
    service.arguments = ("--demo",)
    service.data_dir.mkdir()
    os.chown(service.data_dir, 54321, 54321)
    service.start()
    assert service.chat("demo").status_code == 200
    commands = [("status",), ("config", "show")]
    if home is None:
        commands += [("load", "demo"), ("logs", "demo"), ("list-models",), ("config", "path")]
        commands += [("config", "check"), ("unload", "demo")]
    for words in commands:
        done = command(service, *words)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert "unexpected" not in command(service, "doctor", "--offline").stderr
    service.stop()
    # What is not given needs one.
    done = subprocess.run(
        [*service.wrapper, sys.executable, "-m", "cyber_inference_tui", "status"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 5
    assert done.stderr == (
        "There is no home directory. Give --config and --data-dir, or set HOME.\n"
    )


# Earlier runs


def has_text(path: Path, text: str) -> bool:
    return text in path.read_text()


def log_of(service: ServiceProcess, *, starts: int) -> str | None:
    """The log of the demo model, once it has all lines of that many starts."""
    text = service.get("/admin/logs/demo?lines=100000").text
    return text if text.count("listening on") == starts else None


@pytest.mark.real
def test_logs_survive_a_restart(start_real: StartReal) -> None:
    service = start_real()
    assert service.chat("demo").status_code == 200
    before = eventually(lambda: log_of(service, starts=1))
    demo = service.data_dir / "logs" / "demo.000000000.log"
    service.stop()
    for kind in ("restart", "crash"):
        service.start()
        assert service.get("/admin/logs/demo?lines=100000").text.startswith(before)
        logs = {log["id"]: log for log in service.get("/admin/logs").json()}
        assert logs["demo"]["running"] is False
        assert len(logs["service"]["runs"]) >= 2
        assert service.chat("demo").status_code == 200
        page = service.get("/admin/log-lines/demo?after=0&limit=1").json()
        assert page["lines"][0]["number"] == 0
        assert page["lines"][0]["text"] == before.splitlines()[0]
        if kind == "restart":
            before = eventually(lambda: log_of(service, starts=2))
            eventually(partial(has_text, demo, before.splitlines()[-1]))
            service.kill()
            service.assert_none_left()
    service.stop()
    # The model is gone, its log is not.
    service.arguments = ()
    service.start()
    assert "demo" not in service.models()
    assert service.get("/admin/logs/demo?lines=100000").text.startswith(before)
    done = command(service, "logs", "demo", "-n", "100000")
    assert done.stdout.startswith(before)


# Where relative paths start


@pytest.mark.real
def test_relative_paths_among_arguments_count_from_the_configuration(
    start_real: StartReal,
) -> None:
    table = {"args": ["--jinja", "--chat-template-file", "templates/own.jinja"]}
    service = start_real({"models": {"demo": table}, "llama_args": ["--slot-save-path", "slots"]})
    (service.folder / "templates").mkdir()
    (service.folder / "slots").mkdir()
    template = "{% for m in messages %}<|user|>own {{ m.content }}{% endfor %}<|assistant|>"
    (service.folder / "templates/own.jinja").write_text(template)
    assert service.chat("demo").status_code == 200
    assert service.upstream("demo", "/props")["chat_template"] == template


# What the environment says


def test_quotes_of_an_env_file_are_removed_and_told_once(start_fake: StartFake) -> None:
    service = start_fake({"a": {}}, start=False)
    service.environ |= {
        "CYBER_INFERENCE_API_KEYS": '"sk-secret"',
        "CYBER_INFERENCE_ADMIN_PASSWORD": "",
        "CYBER_INFERENCE_LOG_LEVEL": "'WARNING'",
        "CYBER_INFERENCE_MAX_QUEUE": "",
    }
    service.start()
    assert service.get("/v1/models").status_code == 401
    key = {"Authorization": "Bearer sk-secret"}
    assert service.get("/v1/models", headers=key).status_code == 200
    log = service.get("/admin/logs/service?lines=100").text
    assert log.count("CYBER_INFERENCE_API_KEYS: the quotes around its value") == 1
    assert "sk-secret" not in log + service.errors()
    settings = {one["key"]: one for one in service.get("/admin/config").json()}
    assert settings["log_level"]["value"] == "warning"
    assert settings["admin_password"]["source"] == "default"
    service.stop()
    kept = (service.data_dir / "logs/service.000000000.log").read_text()
    assert "CYBER_INFERENCE_API_KEYS: the quotes" in kept
