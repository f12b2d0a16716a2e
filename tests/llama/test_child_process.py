"""Starting a child."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import pytest

from cyber_inference_tui.llama.child_process import ChildProcess
from cyber_inference_tui.llama.descendants import KillResult
from tests.llama.children import ENVIRONMENT
from tests.waiting import until


class Owner:
    """An owner that must not hear of its child."""

    def started(self, child: ChildProcess) -> None:
        raise AssertionError

    def received(self, fd: int, data: bytes) -> None:
        raise AssertionError

    def left(self) -> None:
        raise AssertionError

    def ended(self, returncode: int, descendants: KillResult) -> None:
        raise AssertionError


async def test_a_child_whose_start_fails_later_is_killed(tmp_path: Path) -> None:
    script = f"while :; do sleep 1; done # {tmp_path}"

    def present() -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if script in process.cmdline():
                    found.append(process)
        return found

    try:
        # The start fails when the process runs already: its environment has no mark. It fails at
        # the same place if another thread has taken the last descriptor.
        with pytest.raises(KeyError):
            ChildProcess.spawn(Owner(), ["/bin/sh", "-c", script], ENVIRONMENT, with_stdin=True)
        await until(lambda: not present())
    finally:
        for process in present():
            process.kill()
