"""The process that gets a llama-server: its output as it comes, and a sure end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence

import psutil

from cyber_inference_tui.llama.guard import die_with_parent
from cyber_inference_tui.llama.log_lines import LineSplitter
from cyber_inference_tui.llama.output import Output

_RESULT_LIMIT = 1 << 16
_KILL_TIMEOUT = 5.0


class InstallerProcess:
    """A running ``install-llama``; it is over when ``exited`` is done.

    ``on_lines`` gets the lines of its standard error, undecoded.
    """

    def __init__(self, on_lines: Callable[[list[bytes]], None]) -> None:
        self.pid = 0
        """The process id, also the id of its process group."""
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The return code, once it is gone (negative = killed by that signal)."""
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
        """Start it in a session of its own; raises ``OSError`` when it cannot be run."""
        process = cls(on_lines)
        transport, _ = await asyncio.get_running_loop().subprocess_exec(
            lambda: Output(process),
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environ),
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        process.pid = transport.get_pid()
        return process

    @property
    def result(self) -> bytes:
        """What it wrote on standard output, as far as it is kept."""
        return bytes(self._result)

    async def stop(self, grace: float) -> None:
        """Ask it to end, and kill it with all it started after ``grace`` seconds.

        Raises ``TimeoutError`` when it does not even die.
        """
        if self.exited.done():
            return
        # Programs that it runs have sessions of their own.
        below = await asyncio.to_thread(_descendants, self.pid)
        self._signal(signal.SIGTERM)
        await asyncio.wait({self.exited}, timeout=grace)
        self._signal(signal.SIGKILL)
        for process in below:
            with contextlib.suppress(psutil.Error):
                process.kill()
        await asyncio.wait({self.exited}, timeout=_KILL_TIMEOUT)
        if not self.exited.done():
            raise TimeoutError(f"process {self.pid} does not die (it hangs in the kernel)")

    def _signal(self, number: signal.Signals) -> None:
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def received(self, fd: int, data: bytes) -> None:
        """Output has come (called by the pipe protocol)."""
        if fd == 1:
            self._result += data[: _RESULT_LIMIT - len(self._result)]
        else:
            self._on_lines(self._splitter.feed(data))

    def ended(self, returncode: int) -> None:
        """It is gone and its pipes are drained (called by the pipe protocol)."""
        self._on_lines(self._splitter.flush())
        if not self.exited.done():
            self.exited.set_result(returncode)


def _descendants(pid: int) -> list[psutil.Process]:
    """Every process below ``pid`` now."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
