"""Models whose command is a script of a person's own, as people write them."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes.launcher import SCRIPT
from tests.real.conftest import StartFake
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually, is_alive

SERVER = f'{sys.executable} -I -S {SCRIPT} --host "$1" --port "$2"'
# It leaves its session, its group and its parents, and hears no SIGTERM.
STRAY = "setsid sh -c \"trap '' TERM HUP; sh -c 'echo \\$\\$ > PID; sleep 1000' &\" &"
HOG = """
import time
taken = []
for _ in range(STEPS):
    taken.append(bytes(bytearray(b"x") * (16 << 20)))
    time.sleep(0.05)
time.sleep(60)
"""


def table(folder: Path, script: str) -> dict[str, Any]:
    """The settings of a model with this script for its server."""
    program = folder / "wrapper"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    return {"command": [str(program), "{host}", "{port}"]}


def start_with_stray(start: StartFake, folder: Path) -> tuple[ServiceProcess, psutil.Process]:
    """A service with the loaded model ``w``, whose script has started something else."""
    note = folder / "pid"
    script = STRAY.replace("PID", str(note))
    script += f"\nwhile [ ! -s {note} ]; do sleep 0.02; done\n{SERVER} & wait"
    service = start({"w": {}}, tables={"w": table(folder, script)})
    assert service.chat("w").status_code == 200
    return service, psutil.Process(int(note.read_text()))


def test_unloaded_means_that_all_its_processes_are_gone(
    start_fake: StartFake, tmp_path: Path
) -> None:
    service, stray = start_with_stray(start_fake, tmp_path)
    below = service.note_children()
    assert stray.pid in {process.pid for process in below}
    assert service.post("/admin/models/w/unload", json={}).status_code == 200
    service.wait_status("w", "unloaded")
    assert not is_alive(stray)
    # What is left is the guard, and no zombie.
    assert len(service.note_children()) == 1


def test_nothing_survives_a_service_that_is_killed(start_fake: StartFake, tmp_path: Path) -> None:
    service, stray = start_with_stray(start_fake, tmp_path)
    service.kill()
    eventually(lambda: not is_alive(stray))
    service.assert_none_left()


def test_the_next_start_ends_what_survived_service_and_guard(
    start_fake: StartFake, tmp_path: Path
) -> None:
    service, stray = start_with_stray(start_fake, tmp_path)
    assert service.process is not None
    service.process.send_signal(signal.SIGSTOP)
    (guard,) = (one for one in service.note_children() if "guard" in one.cmdline())
    guard.kill()
    service.kill()
    assert is_alive(stray)
    service.start()
    assert not is_alive(stray)
    assert service.chat("w").status_code == 200


def test_a_script_that_leaves_its_server_in_the_background_fails_with_that_reason(
    start_fake: StartFake, tmp_path: Path
) -> None:
    # The stand-in would end by itself when its script does.
    switches = {"outlive_parent": 100}
    service = start_fake({"w": switches}, tables={"w": table(tmp_path, f"nohup {SERVER} &")})
    answer = service.chat("w")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_load_failed"
    assert "went on in the background" in error["message"]
    assert service.model("w")["status"] == "failed"
    assert len(service.note_children()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="its machine is a copy of /proc")
def test_a_load_that_takes_all_the_memory_is_ended_and_nobody_else(
    start_fake: StartFake, tmp_path: Path
) -> None:
    machine = tmp_path / "machine"
    (machine / "proc").mkdir(parents=True)
    (machine / "proc/meminfo").write_text("MemTotal: 1000000 kB\nMemAvailable: 900000 kB\n")
    hog = tmp_path / "hog.py"
    hog.write_text(HOG.replace("STEPS", "24"))
    service = start_fake(
        {"a": {}, "w": {}},
        config={"system_root": str(machine), "max_memory_percent": 20},
        tables={"w": table(tmp_path, f"setsid {sys.executable} -I -S {hog}")},
    )
    assert service.chat("a").status_code == 200
    answer = service.chat("w")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_load_failed"
    assert "w was stopped while it loaded: its server had taken" in error["message"]
    assert "max_memory_percent is 20" in error["message"]
    assert service.model("a")["status"] == "loaded"
    left = [one for one in service.note_children() if str(hog) in one.cmdline()]
    assert not left
