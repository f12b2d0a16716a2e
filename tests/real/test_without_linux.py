"""The whole service without anything of Linux's own, as it would run on a Mac.

``tests/without_linux.py`` takes it away. The programs that only macOS has are stand-ins here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.launcher import SCRIPT
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually, is_alive

WITHOUT_LINUX = (sys.executable, "-P", str(Path(__file__).parents[1] / "without_linux.py"))
FREE = psutil.virtual_memory().total // 2 // 16384 * 16384

# A server with a child that leaves its session and its parents and hears no signal, which only its
# environment gives away.
STRAYING = f"""
setsid /bin/sh -c "trap '' TERM HUP INT; sleep 1000 & echo \\$! >stray; wait" &
while [ ! -s stray ]; do sleep 0.02; done
exec {sys.executable} -I -S {SCRIPT} --host 127.0.0.1 --port "$0"
"""

VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              {free}.
Pages active:                            446206.
Pages inactive:                          443760.
Pages speculative:                         1075.
Pages throttled:                              0.
Pages wired down:                        181483.
Pages purgeable:                              0.
"Translation faults":                8667427138.
File-backed pages:                            0.
Anonymous pages:                         596147.
"""


@pytest.fixture
def mac_programs(tmp_path: Path) -> dict[str, str]:
    """An environment in which the programs of macOS are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "vm_stat": f"cat <<'END'\n{VM_STAT.format(free=FREE // 16384)}END",
        "sysctl": (
            'case "$2" in\n'
            "machdep.cpu.brand_string) echo 'Apple M1 Pro' ;;\n"
            "kern.bootsessionuuid) echo 0D5D3D6C-0000 ;;\n"
            "*) exit 1 ;;\nesac"
        ),
    }
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def mac(
    tmp_path: Path, llama_server: Path, demo_gguf: Path, mac_programs: dict[str, str]
) -> Iterator[ServiceProcess]:
    """A service with the demo model."""
    config = {
        "llama_server_path": str(llama_server),
        "llama_server_base_port": 0,
        "llama_threads": 1,
        "models": {"straying": {"command": ["/bin/sh", "-c", STRAYING, "{port}"]}},
    }
    service = ServiceProcess(
        tmp_path / "service", config, environ=mac_programs, wrapper=WITHOUT_LINUX
    )
    models = service.data_dir / "models"
    models.mkdir(parents=True)
    shutil.copyfile(demo_gguf, models / "demo.gguf")
    yield service.start()
    service.kill()
    service.assert_none_left(20)


@pytest.mark.real
def test_it_answers_and_no_child_outlives_a_killed_service(mac: ServiceProcess) -> None:
    answer = mac.chat("demo")
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    sample = mac.get("/admin/resources").json()
    assert sample["device"]["name"] == "Apple M1 Pro"
    assert sample["memory"]["available"] == FREE
    assert [(gpu["name"], gpu["shared_memory"]) for gpu in sample["gpus"]] == [
        ("Apple M1 Pro", True)
    ]
    assert sample["cpu"]["count"] == os.cpu_count()
    eventually(lambda: mac.get("/admin/resources").json()["cpu"]["percent"] is not None)
    assert mac.chat("straying").status_code == 200
    stray = psutil.Process(int((mac.folder / "stray").read_text()))
    # A child of the service that has just begun still has the arguments of the service.
    servers = eventually(lambda: found if len(found := mac.servers()) == 2 else None)
    # Nobody asked the kernel to end them with the service: the guard does.
    mac.kill()
    eventually(lambda: not any(map(is_alive, [*servers, stray])))
    mac.start()
    assert mac.chat("demo").status_code == 200
    mac.stop()


def test_doctor_finds_no_fault_in_a_mac(tmp_path: Path, mac_programs: dict[str, str]) -> None:
    done = subprocess.run(
        [
            *WITHOUT_LINUX,
            *("-m", "cyber_inference_tui", "--data-dir", str(tmp_path), "doctor", "--offline"),
        ],
        env={**os.environ, **mac_programs},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert "Apple M1 Pro: macOS" in done.stdout
    assert "The Mac's GPU shares the machine's memory." in done.stdout
    machine = done.stdout.partition("llama-server\n")[0]
    assert "warn" not in machine
    assert "error" not in machine
