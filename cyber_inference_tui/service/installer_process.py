"""The process that gets a llama-server: its output as it comes, and a sure end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence

from cyber_inference_tui.llama.descendants import MARK, KillResult, marked, signal_group
from cyber_inference_tui.llama.guard import prepare_child
from cyber_inference_tui.llama.log_lines import LineSplitter
from cyber_inference_tui.llama.pipe_protocol import KILL_TIMEOUT, PipeProtocol

_RESULT_LIMIT = 1 << 16


class InstallerProcess:
    """A running ``install-llama``; it is over when ``exited`` is done.

    ``on_lines`` gets the lines of its standard error, undecoded.
    """

    def __init__(self, on_lines: Callable[[list[bytes]], None]) -> None:
        self.pid = 0
        """The process id, also the id of its process group."""
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The return code, once it and all that it started are gone (negative = killed by that
        signal)."""
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
        """Start it in a session of its own; raises ``OSError`` when it cannot be run."""
        process = cls(on_lines)
        environment = marked(environ)
        await asyncio.get_running_loop().subprocess_exec(
            lambda: PipeProtocol(process, environment[MARK]),
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
            preexec_fn=prepare_child(),
        )
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
        self._signal(signal.SIGTERM)
        await asyncio.wait({self.exited}, timeout=grace)
        self._signal(signal.SIGKILL)
        await asyncio.wait({self.exited}, timeout=2 * KILL_TIMEOUT)
        if not self.exited.done():
            raise TimeoutError(f"process {self.pid} does not die (it hangs in the kernel)")

    def _signal(self, number: signal.Signals) -> None:
        if not self._is_gone:
            signal_group(self.pid, number)

    def started(self, output: PipeProtocol) -> None:
        """It runs (called by ``PipeProtocol``, as all below)."""
        self.pid = output.family.pid

    def received(self, fd: int, data: bytes) -> None:
        """Output has come."""
        if fd == 1:
            self._result += data[: _RESULT_LIMIT - len(self._result)]
        else:
            self._on_lines(self._splitter.feed(data))

    def left(self) -> None:
        """It is gone, what it started may not be."""
        self._is_gone = True

    def ended(self, returncode: int, descendants: KillResult) -> None:
        """It and all that it started are gone and its pipes are drained."""
        self._on_lines(self._splitter.flush())
        if not self.exited.done():
            self.exited.set_result(returncode)
