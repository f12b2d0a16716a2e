"""Runs one server process: start, readiness, load progress, output and a reliable end.

Readiness is reported in two ways, chosen by ``LaunchPlan.speaks_protocol``:

* llama-server's router protocol: with ``LLAMA_SERVER_ROUTER_PORT`` in its environment it prints
  ``cmd_child_to_router:state:{…}`` lines on stdout, with progress and ``ready``, and obeys
  ``cmd_router_to_child:exit`` on stdin. There is no polling: readiness is known within
  milliseconds.
* ``GET /health`` at short, growing intervals, for all other servers, and for a server that seems to
  know the protocol but stays silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import psutil

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.gguf.chat_template import TemplateFacts
from cyber_inference_tui.llama.child_process import ChildProcess, wait_killed
from cyber_inference_tui.llama.descendants import (
    KillResult,
    KnownProcess,
    in_words,
    marked,
    signal_group,
)
from cyber_inference_tui.llama.failure import diagnose
from cyber_inference_tui.llama.footprint import FootprintReader
from cyber_inference_tui.llama.guard import MODEL_UMASK
from cyber_inference_tui.llama.health import (
    CannotAskError,
    HealthLimits,
    ask_health,
    watch_health,
)
from cyber_inference_tui.llama.launch_plan import LaunchPlan
from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.llama.log_lines import LineSplitter, clean_output, without_protocol
from cyber_inference_tui.llama.needs import Footprint
from cyber_inference_tui.llama.port_owner import foreign_listener, listens
from cyber_inference_tui.llama.props import ask_template
from cyber_inference_tui.llama.standstill import (
    StandstillLimits,
    is_free,
    look_at,
    watch_standstill,
)
from cyber_inference_tui.llama.worker import watch_stopped
from cyber_inference_tui.records import LogLevel
from cyber_inference_tui.settings.schema import MASK

_STATE_PREFIX = b"cmd_child_to_router:state:"
_EXIT_COMMAND = b"cmd_router_to_child:exit\n"
_PROTOCOL_SILENCE = 1.0
# ``srv    load_model: initializing, n_slots = 4, n_ctx_slot = …`` (tools/server of llama.cpp);
# earlier builds have a line ``new slot, n_ctx = …`` for each slot.
_SLOTS = re.compile(rb"initializing[^=]*, n_slots = (\d{1,4})\b")
_SLOT_CONTEXT = re.compile(rb"(?:n_ctx_slot|new slot, n_ctx) = (\d{1,10})\b")
_HEALTH_POLL_FIRST = 0.01
_HEALTH_POLL_MOST = 0.2
_HEALTH_TIMEOUT = 5.0
_PROPS_TIMEOUT = 5.0
_FIRST_REQUEST = 1.0
"""Seconds after a start that belong to the request that waited for it."""
_INSIST_AFTER = 2.0
_EXIT_LOG_LINES = 12
_DIAGNOSED_LINES = 400
"""A crash may print a long stack trace after the line with the reason."""

_logger = logging.getLogger(__name__)


class ServerExitedError(Exception):
    """The process ended before it was ready; ``returncode`` as ``subprocess`` gives it."""

    def __init__(self, returncode: int) -> None:
        super().__init__(f"exited with {returncode} before it was ready")
        self.returncode = returncode


class ForeignListenerError(Exception):
    """Another program listens on the server's port; the message names it."""


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Payload(msgspec.Struct):
    """The progress of a load, or facts about the model of a ready server."""

    meta: _Meta | None = None
    stages: list[str] = []
    current: str = ""
    value: float | None = None

    @property
    def progress(self) -> float | None:
        """0 to 1, over all stages."""
        if self.value is None:
            return None
        share = min(max(self.value, 0.0), 1.0)
        if self.current in self.stages:
            return (self.stages.index(self.current) + share) / len(self.stages)
        return share


class _State(msgspec.Struct):
    state: str = ""
    payload: _Payload | None = None


_decode_state = msgspec.json.Decoder(thread_safe(_State)).decode


class ServerProcess:
    """A running server, made by ``ServerProcess.spawn``; it has ended when ``exited`` is done.

    ``progress`` is called with 0 to 1 whenever the server reports progress, and with ``None`` for a
    sign of life without a number.
    """

    def __init__(
        self,
        launch: LaunchPlan,
        *,
        log: Log,
        progress: Callable[[float | None], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.pid = 0
        """The process id, which is also the id of its process group."""
        self.address = launch.address
        self.context_size = launch.context_size
        """Tokens of context; ``None`` for another program's server."""
        self.most_requests = launch.most_requests
        """Requests that it takes at once, including those waiting for a slot; ``None`` = no limit.
        """
        self.argv = launch.shown_argv
        """Its command line, with masks for secrets."""
        self.slots: int | None = None
        """Requests that it answers at once, as it reports."""
        self.context_length: int | None = None
        """Tokens of context for one request, as it reports."""
        self.template: TemplateFacts | None = None
        """The abilities of its chat template, as it reports soon after its start."""
        self.exited: asyncio.Future[int] = loop.create_future()
        """The return code, once the process and all its descendants are gone (negative = killed by
        that signal)."""
        self.left_running = False
        """The process exited on its own, and processes that it had started kept running."""
        self._launch = launch
        self._environment = marked(launch.environment)
        self._log = log
        self._progress = progress
        self._ready: asyncio.Future[None] = loop.create_future()
        self._protocol_seen: asyncio.Future[None] = loop.create_future()
        self._listening = asyncio.Event()
        self._splitters = {1: LineSplitter(), 2: LineSplitter()}
        self._child: ChildProcess | None = None
        self._process_gone: asyncio.Future[None] = loop.create_future()
        """Done when the process itself is gone."""
        self._listens_itself = False
        """The process that we started was seen to listen on its port: it is no script."""
        self._stopping = False
        self._last_progress: tuple[str, float | None] | None = None
        """The last stage and progress of its load that it reported."""
        self._key = launch.address.key.encode()
        self._line_count = 0
        self._buffers: FootprintReader | None = FootprintReader()
        self._footprint: Footprint | None = None
        self._watch: asyncio.Task[None] | None = None
        self._hung: str | None = None

    @classmethod
    async def spawn(
        cls,
        launch: LaunchPlan,
        *,
        log: Log,
        progress: Callable[[float | None], None],
    ) -> ServerProcess:
        """Start the process. Raises ``OSError`` if the program cannot be run."""
        server = cls(launch, log=log, progress=progress)
        ChildProcess.spawn(
            server,
            launch.argv,
            server._environment,
            starter=launch.starter,
            with_stdin=True,
            folder=launch.working_directory,
            umask=-1 if launch.by_command else MODEL_UMASK,
            ruleset=launch.ruleset,
        )
        if launch.lost is not None:
            launch.lost.add_done_callback(lambda lost: server.declare_hung(lost.result()))
        return server

    async def wait_ready(self) -> None:
        """Return when the server answers requests.

        Raises ``ServerExitedError`` if it exits first, and ``ForeignListenerError`` if another
        program has its port. There is no time limit: the caller judges the progress.
        """
        if self._launch.speaks_protocol:
            await _first(self._protocol_seen, self._process_gone, timeout=_PROTOCOL_SILENCE)
        if self._protocol_seen.done():
            # llama-server listens before it loads the model: check its port meanwhile.
            self._listens_itself = await self._has_port((self.pid,))
            await _first(self._ready, self._process_gone)
        elif not self._process_gone.done():
            # It does not speak the protocol, or only contains its words.
            poll = asyncio.ensure_future(self._poll_health())
            try:
                await _first(poll, self._ready, self._process_gone)
            finally:
                poll.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await poll
        if self._process_gone.done():
            # Processes that it started may still answer, but not for long.
            await asyncio.wait({self.exited})
            raise ServerExitedError(self.exited.result())
        if not self._listens_itself:
            await self._check_port_owner()
        if not self._ready.done():
            self._ready.set_result(None)
        if not self._listens_itself:
            await self._end_start()

    async def _end_start(self) -> None:
        """Register the processes that were adopted during the start."""
        if self._child is not None:
            with contextlib.suppress(OSError, psutil.Error):
                await self.processes()
            self._child.family.loads = False

    async def processes(self) -> tuple[int, ...]:
        """Return the roots of its process trees: itself, and descendants that left its own tree."""
        if self._child is None:
            return ()
        await asyncio.to_thread(self._child.family.look)
        return self._child.family.roots

    async def roots(self) -> tuple[int, ...]:
        """Do the same, but do not look for descendants if it is no script that started a server."""
        return (self.pid,) if self._listens_itself else await self.processes()

    @property
    def look_is_due(self) -> bool:
        """Whether ``processes`` may find others than at its last call."""
        return self._child is not None and self._child.family.is_due()

    @property
    def strays(self) -> tuple[KnownProcess, ...]:
        """Descendants without its mark, as of the last look."""
        return () if self._child is None else self._child.family.strays

    async def wait_settled(self, timeout: float) -> None:
        """Wait, at most ``timeout`` seconds, for the last log line of the load.

        The log arrives on another pipe than the report of readiness, and may be later.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._listening.wait()

    def footprint(self) -> Footprint | None:
        """Return the memory it reports once it is ready; ``None`` = its log does not say."""
        if self._launch.lent is not None:
            return self._launch.lent
        if self._buffers is not None:
            self._footprint = self._buffers.read()
            if self._ready.done():
                # Stop parsing further lines: nobody waits for a line any more.
                self._buffers = None
                if self._child is not None:
                    self._child.gather()
        return self._footprint

    def start_watch(self, limits: HealthLimits, *, busy: Callable[[], bool]) -> None:
        """Check its health from now on, and kill it when it stops answering or working.

        ``busy`` returns whether it has requests. The watch ends with the process, or with ``stop``.
        """
        if not self.exited.done():
            self._watch = asyncio.ensure_future(self._watch_over(limits, busy))

    async def _watch_over(self, limits: HealthLimits, busy: Callable[[], bool]) -> None:
        if self._child is not None and self._child.family.loads:
            await asyncio.sleep(_FIRST_REQUEST)
            await self._end_start()
        if self._launch.lent is not None:
            await watch_stopped(partial(look_at, self.pid))
            self.declare_hung("it was stopped, and does not answer")
            return
        if not self._launch.by_command:
            self.template = await ask_template(self.address, _PROPS_TIMEOUT)
        async with asyncio.TaskGroup() as watches:
            watches.create_task(self._watch_health(limits, busy))
            if self._computes_itself:
                watches.create_task(self._watch_standstill(limits.standstill, busy))

    async def _watch_health(self, limits: HealthLimits, busy: Callable[[], bool]) -> None:
        if not self._launch.by_command:
            # llama-server also answers /health while it works, so it is always asked.
            busy = bool
        try:
            await watch_health(self._ask, limits=limits, busy=busy)
        except ForeignListenerError as error:
            self.declare_hung(str(error))
        else:
            self.declare_hung("it stopped answering /health (hung)")

    @property
    def _computes_itself(self) -> bool:
        """Return whether all its work is done by the process that we started.

        A script may have started a server elsewhere, such as in a container.
        """
        launch = self._launch
        remote = "--rpc" in launch.argv or launch.environment.get("LLAMA_ARG_RPC")
        return self._listens_itself and not launch.by_command and not remote

    async def _watch_standstill(self, limits: StandstillLimits, busy: Callable[[], bool]) -> None:
        await watch_standstill(
            partial(look_at, self.pid),
            partial(is_free, self.address),
            limits=limits,
            busy=busy,
        )
        self.declare_hung("it stopped working on its requests (hung)")

    def declare_hung(self, reason: str) -> None:
        """Kill a server that has stopped working; ``exit_reason`` then returns ``reason``."""
        if self._hung is not None or self.exited.done():
            return
        self._hung = reason
        _logger.warning("killing %s (pid %d): %s", self._launch.name, self.pid, reason)
        self._log.add([f"--- killed: {reason}"], LogLevel.ERROR)
        self.kill()

    async def stop(self, timeout: float, *, keep_prompts: bool = True) -> int:
        """Ask the server to exit, kill its group after ``timeout`` seconds; return the exit code.

        With ``keep_prompts`` it first saves them, in a part of that time. Returns only when the
        process and its descendants are gone and all output is read. It may be called at any time,
        and twice.
        """
        self._stopping = True
        if self._process_gone.done() and self._child is not None:
            self._child.clear()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        if not self.exited.done():
            if keep_prompts:
                timeout -= await self._save_prompts(timeout)
            self._ask_to_exit()
            first = min(timeout / 2, _INSIST_AFTER)
            await asyncio.wait({self.exited}, timeout=first)
        if not self.exited.done():
            # llama-server may miss the request to exit at the moment it begins to serve.
            self._insist_on_exit()
            await asyncio.wait({self.exited}, timeout=timeout - first)
        if not self.exited.done():
            _logger.warning("%s did not stop within %g s: killing it", self._launch.name, timeout)
            self.kill()
        return await wait_killed(self.exited, self.pid)

    async def _save_prompts(self, timeout: float) -> float:
        """Save its prompts, in half of ``timeout`` seconds; return the seconds that it took."""
        if self._launch.prompts is None or timeout <= 0:
            return 0.0
        now = asyncio.get_running_loop().time
        began = now()
        await self._launch.prompts.save(self.address, timeout / 2)
        return min(now() - began, timeout / 2)

    def kill(self) -> None:
        """SIGKILL the process group at once. Other descendants follow when the process is gone."""
        if self.pid <= 0 or self._process_gone.done():
            # Group 0 would be our own, and a released number may belong to another process by now.
            return
        signal_group(self.pid, signal.SIGKILL)

    @property
    def killed_because(self) -> str | None:
        """The reason given to ``declare_hung``, if it was killed."""
        return self._hung

    def exit_reason(self) -> tuple[str, tuple[str, ...]]:
        """Return the reason of its end in plain words, and its last log lines."""
        # Only its own lines: the log may also contain the end of an earlier process.
        own = self._log.tail(min(self._line_count, _DIAGNOSED_LINES))
        lines = tuple(line.text for line in own)
        returncode = self.exited.result() if self.exited.done() else 0
        why = self._hung or diagnose(returncode, lines, left_running=self.left_running).sentence
        return why, lines[-_EXIT_LOG_LINES:]

    def _ask_to_exit(self) -> None:
        if self._protocol_seen.done() and self._ready.done() and self._child is not None:
            # In this mode SIGTERM alone waits until stdin is closed.
            self._child.write(_EXIT_COMMAND)
        else:
            self._insist_on_exit()

    def _insist_on_exit(self) -> None:
        """Send SIGTERM and close stdin: either suffices for most servers in most states."""
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            self._child.close_stdin()

    def started(self, child: ChildProcess) -> None:
        """Handle the start (called by ``ChildProcess``, like all methods below)."""
        self._child = child
        self.pid = child.family.pid
        child.family.claim()

    def received(self, fd: int, data: bytes) -> None:
        """Handle output."""
        self._take_lines(fd, self._splitters[fd].feed(data))

    def left(self) -> None:
        """Handle the exit of the process itself."""
        if not self._process_gone.done():
            self._process_gone.set_result(None)
        if self._stopping and self._child is not None:
            # Do not wait for descendants that hold its pipes open.
            self._child.clear()

    def ended(self, returncode: int, descendants: KillResult) -> None:
        """Handle the end of the process, its descendants and its output."""
        for fd, splitter in self._splitters.items():
            self._take_lines(fd, splitter.flush())
        if self._watch is not None:
            self._watch.cancel()
        if self._launch.prompts is not None and not self._stopping:
            self._launch.prompts.drop()
        name = self._launch.name
        self.left_running = bool(descendants.found) and not self._stopping
        if self.left_running:
            _logger.warning(
                "%s (pid %d) exited, but processes that it had started kept running: %s",
                name,
                self.pid,
                in_words(descendants.found),
            )
        if descendants.left:
            _logger.error("%s: these cannot be ended: %s", name, in_words(descendants.left))
        if not self.exited.done():
            self.exited.set_result(returncode)

    def _take_lines(self, fd: int, lines: bytes) -> None:
        if fd == 1:
            lines, messages = without_protocol(lines)
            for message in messages:
                self._take_protocol(message)
        if self._buffers is not None:
            for line in lines.splitlines():
                self._read_load_line(line)
        # A server may log its command line or its environment.
        lines = clean_output(lines).replace(self._key, MASK.encode())
        if self._buffers is not None:
            self._buffers.add(lines.decode().splitlines())
        self._line_count += self._log.write(lines)

    def _read_load_line(self, line: bytes) -> None:
        """Read a line of the load; the relevant ones precede the line that the server listens."""
        if b"listening on" in line:
            self._listening.set()
            return
        if self.slots is None and (found := _SLOTS.search(line)):
            self.slots = int(found[1])
        if self.context_length is None and (found := _SLOT_CONTEXT.search(line)):
            self.context_length = int(found[1])

    def _take_protocol(self, line: bytes) -> None:
        if not line.startswith(_STATE_PREFIX):
            return
        if not self._protocol_seen.done():
            self._protocol_seen.set_result(None)
        body = line[len(_STATE_PREFIX) :]
        try:
            message = _decode_state(body)
        except msgspec.MsgspecError:
            # A very long line (facts about the model) was cut: its start is enough.
            message = _State("ready" if body.startswith(b'{"state":"ready"') else "")
        if message.state == "ready":
            if message.payload is not None and message.payload.meta is not None:
                self.context_length = message.payload.meta.n_ctx or self.context_length
            if not self._ready.done():
                self._ready.set_result(None)
        elif message.state == "loading":
            payload = message.payload or _Payload()
            # A repeated report is no progress.
            if self._last_progress != (progress := (payload.current, payload.value)):
                self._last_progress = progress
                self._progress(payload.progress)

    async def _poll_health(self) -> None:
        pause = _HEALTH_POLL_FIRST
        while not await self._healthy():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._listening.wait()
                    # It may be ready at any moment now: poll often for a while.
                    await asyncio.sleep(min(pause, _HEALTH_POLL_FIRST))
            pause = min(pause * 1.5, _HEALTH_POLL_MOST)

    async def _healthy(self) -> bool:
        """Return whether ``GET /health`` succeeds. A server without that path (404) is ready.

        A worker is ready when it listens: a question would take the place of its llama-server.
        """
        if self._launch.lent is not None:
            return await self._has_port((self.pid,))
        try:
            return await self._ask(_HEALTH_TIMEOUT) in {200, 204, 404}
        except CannotAskError:
            return False

    async def _ask(self, timeout: float) -> int | None:
        """Return the server's own answer to ``GET /health``. Raises as ``ask_health`` does.

        Raises ``ForeignListenerError`` if another program answered.
        """
        answer = await ask_health(self.address, timeout)
        if answer is not None:
            # Checked after the answer: another program could take the port in between.
            await self._check_port_owner()
        return answer

    async def _has_port(self, roots: Iterable[int]) -> bool:
        """Return whether one of these processes certainly listens on its port: a quick check."""
        return await asyncio.to_thread(listens, roots, self.address.port)

    async def _check_port_owner(self) -> None:
        known = (self.pid,) if self._child is None else self._child.family.pids
        if await self._has_port(known):
            return
        port, by_command = self.address.port, self._launch.by_command
        roots = await self.processes()
        who = await asyncio.to_thread(foreign_listener, port, roots, by_command=by_command)
        if who is not None:
            raise ForeignListenerError(f"its port {port} is taken by {who}")


async def _first(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    """Wait until one of the futures is done, at most ``timeout`` seconds; cancel none."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
