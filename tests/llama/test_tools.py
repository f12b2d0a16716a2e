"""Tools of an installation: lines, limits, and no process left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.install.tools import ToolResult, run_tool
from tests.llama.children import named
from tests.waiting import eventually

ENVIRON = {"PATH": "/usr/bin:/bin"}


def shell(text: str, *, time_limit: float = 20.0) -> ToolResult:
    return run_tool(["/bin/sh", "-c", text], environ=ENVIRON, time_limit=time_limit)


def test_lines_of_both_streams_and_the_code() -> None:
    ended = shell("echo one; echo two >&2; printf 'three\\033[31m'; exit 7")
    assert (ended.code, ended.lines) == (7, ("one", "two", "three"))


def test_a_flood_is_cut_in_the_middle() -> None:
    ended = shell("i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done")
    assert len(ended.lines) < 1000
    assert (ended.lines[0], ended.lines[-1]) == ("0", "4999")


def test_a_line_without_end_is_cut() -> None:
    ended = shell("head -c 1000000 /dev/zero | tr '\\0' x")
    assert sum(map(len, ended.lines)) < 100_000


def test_lines_that_are_not_kept() -> None:
    seen: list[str] = []

    def keep(line: str) -> bool:
        seen.append(line)
        return line != "two"

    command = ["/bin/sh", "-c", "echo one; echo two; echo three"]
    ended = run_tool(command, environ=ENVIRON, time_limit=20.0, on_line=keep)
    assert seen == ["one", "two", "three"]
    assert ended.lines == ("one", "three")


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="cannot be run: No such file"):
        run_tool([str(tmp_path / "missing")], environ=ENVIRON, time_limit=1.0)


def test_it_is_ended_with_its_children_when_it_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="did not end"):
        shell(f"sh -c 'sleep 1000; : {tmp_path}' & sleep 1000", time_limit=0.3)
    assert not named(tmp_path)


def test_processes_left_in_its_group_are_killed(tmp_path: Path) -> None:
    # It holds none of our pipes, so the end of its parent is noticed at once.
    ended = shell(f"sh -c 'sleep 1000; : {tmp_path}' >/dev/null 2>&1 </dev/null & exit 0")
    assert ended.code == 0
    eventually(lambda: not named(tmp_path), what="its end")


def test_an_error_of_the_callback_ends_it(tmp_path: Path) -> None:
    def listen(line: str) -> bool:
        raise KeyboardInterrupt

    command = ["/bin/sh", "-c", f"trap '' TERM; echo x; sleep 60; : {tmp_path}"]
    with pytest.raises(KeyboardInterrupt):
        run_tool(command, environ=ENVIRON, time_limit=20.0, on_line=listen)
    assert not named(tmp_path)
