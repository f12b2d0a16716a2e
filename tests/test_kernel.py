"""What other systems are asked where Linux has ``/proc`` and ``prctl``; run without these."""

from __future__ import annotations

import ast
import os
import pkgutil
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import cyber_inference_tui
from cyber_inference_tui.kernel import boot_id, child_pids, output_of, sysctl
from tests.without_linux import LINUX_ONLY, run_without_linux

PACKAGE = Path(cyber_inference_tui.__file__).parent


def test_every_module_can_be_imported_without_linux() -> None:
    names = [
        one.name
        for one in pkgutil.walk_packages(cyber_inference_tui.__path__, "cyber_inference_tui.")
        if not one.name.endswith("__main__")
    ]
    assert len(names) > 200
    told = run_without_linux(
        "import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint('all')",
        *names,
    )
    assert told == "all\n"


def linux_names(source: str) -> list[str]:
    """Names of the standard library in ``source`` that only Linux has, as ``module.name``."""
    if not any(name in source for names in LINUX_ONLY.values() for name in names):
        return []
    return [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.attr in LINUX_ONLY.get(node.value.id, ())
    ]


def test_no_module_needs_a_name_that_only_linux_has() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in linux_names(path.read_text("utf-8"))
    }
    # Behind a look whether it is there.
    assert found == {"http/peer.py: socket.TCP_INFO"}
    assert linux_names("import os\nos.fdatasync(1)") == ["os.fdatasync"]


def test_what_is_removed_is_gone() -> None:
    told = run_without_linux(
        "import ctypes, os, select, psutil\n"
        "from cyber_inference_tui.kernel import find_prctl\n"
        "print(hasattr(select, 'epoll'), hasattr(os, 'fdatasync'), find_prctl())\n"
        "try: open('/proc/self/stat')\n"
        "except FileNotFoundError as error: print(error.filename)\n"
        "print(psutil.Process().pid == os.getpid())\n"
    )
    assert told == "False False None\n/proc/self/stat\nTrue\n"


def test_the_children_of_a_process() -> None:
    script = (
        "import subprocess, sys; subprocess.Popen(['cat']); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert parent.pid in child_pids(os.getpid())
        (child,) = child_pids(parent.pid)
        told = run_without_linux(
            "from cyber_inference_tui.kernel import child_pids\n"
            "print(child_pids(int(sys.argv[1])), child_pids(2**22 - 3))",
            str(parent.pid),
        )
        assert told == f"[{child}] []\n"
        parent.communicate()
    assert child_pids(parent.pid) == []


def test_children_that_the_kernel_does_not_list_whole(tmp_path: Path) -> None:
    (tmp_path / "7/task/7").mkdir(parents=True)
    (tmp_path / "7/task/8").mkdir()
    (tmp_path / "7/task/7/children").write_text("8 0 -1 x 9 " + "9" * 5000)
    assert child_pids(7, tmp_path) == [8, 9]
    assert child_pids(8, tmp_path) == []


def test_a_child_that_has_exited_and_is_not_reaped() -> None:
    script = """
import os, subprocess, sys
from cyber_inference_tui.kernel import has_exited_child
print(has_exited_child())
with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
    print(has_exited_child())
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    print(has_exited_child())
print(has_exited_child())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["False", "False", "True", "False"], "")
    told = run_without_linux(
        "from cyber_inference_tui.kernel import has_exited_child; print(has_exited_child())"
    )
    assert told == "True\n"


def test_this_run_of_the_machine_has_a_name(tmp_path: Path) -> None:
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot_id(tmp_path) == ""


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which this process, taken for a Mac's, finds its programs."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_sysctl_names_this_run_of_a_mac(mac: Path) -> None:
    program(mac / "sysctl", '[ "$*" = "-n kern.bootsessionuuid" ] && echo 0D5D-11')
    assert boot_id(mac) == "0D5D-11"
    assert sysctl("hw.model") is None


def test_sysctl_is_asked_on_macos_alone(tmp_path: Path) -> None:
    assert sysctl("kernel.ostype") is None


def test_a_program_that_does_not_answer(tmp_path: Path) -> None:
    assert output_of(str(tmp_path / "missing")) is None
    assert output_of("false") is None
    assert output_of("true") is None
    assert output_of("printf", "a\\007b\\nc\\n") == "ab\nc"


def test_open_files_where_unlimited_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from cyber_inference_tui import descriptors

    granted: list[tuple[int, int]] = []

    def refuse(_: int, limits: tuple[int, int]) -> None:
        if limits[0] == resource.RLIM_INFINITY:
            raise ValueError("current limit exceeds maximum limit")
        granted.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert descriptors.raise_limit() == 10_240
    assert granted == [(10_240, resource.RLIM_INFINITY)]


def test_what_is_written_is_flushed_without_fdatasync(tmp_path: Path) -> None:
    told = run_without_linux(
        "import os\n"
        "from cyber_inference_tui.files import flush_to_disk\n"
        "calls = []\n"
        "flush = os.fsync\n"
        "os.fsync = lambda file: calls.append(flush(file))\n"
        "with open(sys.argv[1], 'wb') as file:\n"
        "    flush_to_disk(file.fileno())\n"
        "print(calls)",
        str(tmp_path / "file"),
    )
    assert told == "[None]\n"
