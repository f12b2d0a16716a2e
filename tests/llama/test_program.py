"""Programs that run to their end: code, output, limits, and every way to end them early."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.kernel import Ruleset
from cyber_inference_tui.llama.program import kill_programs, last_line, read_output, run_program
from tests.llama.children import named, wait_gone
from tests.llama.test_confinement import SYSTEM, needs_landlock

ENVIRON = {"PATH": os.defpath}


def shell(text: str, *, time_limit: float = 30.0, **options: Any) -> object:
    return read_output(["/bin/sh", "-c", text], environ=ENVIRON, time_limit=time_limit, **options)


def pid_in(fifo: Path) -> int:
    return int(fifo.read_text())


def test_code_and_output_of_both_streams() -> None:
    assert shell("echo one; echo two >&2; exit 7") == (7, "one\ntwo\n")
    assert shell("kill -SEGV $$") == (-signal.SIGSEGV, "")


def test_output_is_cut_after_a_mebibyte() -> None:
    code, output = read_output(
        ["/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"], environ=ENVIRON, time_limit=30
    )
    assert (code, len(output)) == (0, 1 << 20)


def test_a_descendant_that_holds_the_output_is_not_awaited(tmp_path: Path) -> None:
    # Within its time limit, which is an error.
    assert shell(f"sleep 1000 & echo $! > {tmp_path}/child; echo done") == (0, "done\n")
    assert wait_gone(int((tmp_path / "child").read_text()))


def test_the_time_limit_is_an_error_of_its_own(tmp_path: Path) -> None:
    # By its words: a busy machine may end it before it has done anything.
    with pytest.raises(TimeoutError, match=r"did not end within 0\.3 s"):
        shell(f"trap '' TERM; sleep 1000; : {tmp_path}", time_limit=0.3)
    assert not named(tmp_path)


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_output([tmp_path / "missing"], environ=ENVIRON, time_limit=1)


@pytest.mark.parametrize("confined", [False, pytest.param(True, marks=needs_landlock)])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_another_thread_ends_it(tmp_path: Path, how: str, confined: bool) -> None:
    os.mkfifo(tmp_path / "pid")
    ruleset = Ruleset(SYSTEM, [Path("/dev/null"), tmp_path]) if confined else None
    stop = threading.Event()
    found: list[object] = []
    text = f"echo $$ > {tmp_path}/pid; exec sleep 1000"
    thread = threading.Thread(target=lambda: found.append(shell(text, stop=stop, ruleset=ruleset)))
    thread.start()
    pid = pid_in(tmp_path / "pid")
    if how == "stop":
        stop.set()
    while thread.is_alive():
        if how == "kill":
            # Again, because the thread may not have registered the program yet.
            kill_programs()
        thread.join(0.1)
    assert found == [(-signal.SIGKILL, "")]
    assert wait_gone(pid)


def test_a_guarded_program_runs_like_any_other() -> None:
    chunks: list[bytes] = []
    code = run_program(
        ["/bin/sh", "-c", "echo x; exit 3"],
        environ=ENVIRON,
        time_limit=30,
        on_output=chunks.append,
        guarded=True,
    )
    assert (code, b"".join(chunks)) == (3, b"x\n")


@pytest.mark.parametrize(
    ("output", "line"), [("", ""), ("\n \n", ""), ("a\nb\n\n", "b"), ("  a  ", "a")]
)
def test_the_last_line(output: str, line: str) -> None:
    assert last_line(output) == line
