"""Run ``install-llama`` as a child process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence

from cyber_inference_tui.llama.child_process import ChildProcess, wait_killed
from cyber_inference_tui.llama.descendants import KillResult, marked, signal_group
from cyber_inference_tui.llama.log_lines import LineSplitter

_RESULT_LIMIT = 1 << 16


class InstallerProcess:
    """A running ``install-llama``, until ``exited`` is done.

    ``on_lines`` receives the lines of its standard error, undecoded.
    """

    def __init__(self, on_lines: Callable[[list[bytes]], None]) -> None:
        self.pid = 0
        """The process id, also the id of its process group."""
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The return code, once the process and all its descendants are gone; negative = killed
        by that signal."""
        self._is_gone = False
        self._on_lines = on_lines
        self._splitter = LineSplitter()
        self._result = bytearray()

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        environ: Mapping[str, str],
        on_lines: Callable[[list[bytes]], None],
    ) -> InstallerProcess:
        """Start the process in a session of its own; raises ``OSError``."""
        process = cls(on_lines)
        ChildProcess.spawn(process, argv, marked(environ))
        return process

    @property
    def result(self) -> bytes:
        """The beginning of its standard output."""
        return bytes(self._result)

    async def stop(self, grace: float) -> None:
        """Ask the process to end; after ``grace`` seconds kill it with its descendants.

        Raises ``TimeoutError`` if it survives even that.
        """
        if self.exited.done():
            return
        self._signal(signal.SIGTERM)
        await asyncio.wait({self.exited}, timeout=grace)
        self._signal(signal.SIGKILL)
        await wait_killed(self.exited, self.pid)

    def _signal(self, number: signal.Signals) -> None:
        if not self._is_gone:
            signal_group(self.pid, number)

    def started(self, child: ChildProcess) -> None:
        """Called by ``ChildProcess`` when the process runs."""
        self.pid = child.family.pid

    def received(self, fd: int, data: bytes) -> None:
        """Called by ``ChildProcess`` for each piece of output."""
        if fd == 1:
            self._result += data[: _RESULT_LIMIT - len(self._result)]
        else:
            self._on_lines(self._splitter.feed(data).splitlines())

    def left(self) -> None:
        """Called by ``ChildProcess`` when the process is gone; its descendants may still run."""
        self._is_gone = True

    def ended(self, returncode: int, descendants: KillResult) -> None:
        """Called by ``ChildProcess`` when all descendants are gone and the pipes are drained."""
        self._on_lines(self._splitter.flush().splitlines())
        if not self.exited.done():
            self.exited.set_result(returncode)
