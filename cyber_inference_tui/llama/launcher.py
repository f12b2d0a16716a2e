"""Starts and stops model servers: port, arguments, process, readiness and cleanup.

``Launcher.launch`` either returns a ready server or cleans up everything that it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil

from cyber_inference_tui.cancellation import to_its_end
from cyber_inference_tui.errors import ModelLoadError, NoLlamaServerError, StorageError
from cyber_inference_tui.gguf.memory_estimate import MemoryEstimate
from cyber_inference_tui.gguf.repacking import read_processor
from cyber_inference_tui.kernel import PROC, has_exited_child
from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.child_process import KILL_TIMEOUT
from cyber_inference_tui.llama.descendants import adopt_orphans, reap, sweep
from cyber_inference_tui.llama.guard import ProcessGuard, find_starter
from cyber_inference_tui.llama.health import DEFAULT_LIMITS, HealthLimits
from cyber_inference_tui.llama.launch_plan import SERVER_HOST, LaunchPlan, LaunchPlanner
from cyber_inference_tui.llama.load_progress import INTERVAL, SLOW_INTERVAL, follow_load
from cyber_inference_tui.llama.load_wait import (
    LOG_TAIL_LINES,
    LoadActivity,
    PortTakenError,
    exit_error,
    wait_ready,
)
from cyber_inference_tui.llama.log import RUN_MARK, Log, LogMark
from cyber_inference_tui.llama.need_estimate import (
    NeedEstimator,
    formula_need,
    memory_parts,
)
from cyber_inference_tui.llama.needs import Footprint, LoadWatch, Need
from cyber_inference_tui.llama.orphans import PidRecord
from cyber_inference_tui.llama.ports import PortPool
from cyber_inference_tui.llama.prompts import PromptStore, ServerPrompts
from cyber_inference_tui.llama.server import (
    ForeignListenerError,
    ServerExitedError,
    ServerProcess,
)
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.llama.split import Channel, Splitter
from cyber_inference_tui.llama.worker import (
    WorkerFacts,
    examine_worker,
)
from cyber_inference_tui.records import KeptPromptsRecord, LogLevel
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.storage import Storages, touch

_PORT_TRIES = 3
_SETTLE_TIMEOUT = 0.25
_SHORTAGES = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY, errno.EINTR}
)
"""Errors of a start that may succeed a moment later."""
_REAP_INTERVAL = 4.0

_logger = logging.getLogger(__name__)


class Launcher:
    """Starts and stops the servers of all models; owns their ports, pid record and guard.

    ``find_binary`` (blocking, called in a thread) returns the llama-server to use now, so a new
    installation takes effect at the next load. ``log_for`` returns a model's log. ``measured``
    returns the memory that a server with a signature was seen to use, if known. ``prompts`` keeps
    what is in their slots from one start to the next. ``environ``, ``folder`` and
    ``available_memory`` are those of ``LaunchPlanner``.
    """

    def __init__(
        self,
        *,
        find_binary: Callable[[], LlamaBinary],
        log_for: Callable[[str], Log],
        pids: PidRecord,
        environ: Mapping[str, str],
        available_memory: Callable[[], int] = lambda: psutil.virtual_memory().available,
        measured: Callable[[str], Footprint | None] = lambda _: None,
        health: HealthLimits = DEFAULT_LIMITS,
        proc: Path = PROC,
        folder: Path = Path("/"),
        splitter: Splitter | None = None,
        prompts: PromptStore | None = None,
    ) -> None:
        self._find_binary = find_binary
        self._log_for = log_for
        self._pids = pids
        self._environ = pids.marked(environ)
        self._storages = Storages()
        self._planner = LaunchPlanner(
            environ=self._environ,
            folder=folder,
            available_memory=available_memory,
            storages=self._storages,
        )
        self._prompts = prompts
        self.processor = read_processor(proc / "cpuinfo")
        """The kind of this machine's processor, for llama.cpp."""
        self._estimator = NeedEstimator(
            measured=measured,
            environ=self._environ,
            folder=self._planner.working_directory,
            processor=self.processor,
            ruleset=self._planner.ruleset,
        )
        self._splitter = splitter
        self._closing: set[asyncio.Future[None]] = set()
        """The ends of channels to workers on other boxes."""
        self._worker: tuple[LlamaBinary, WorkerFacts] | None = None
        """The last examined worker, with the build that it belongs to."""
        self._health = health
        self._proc = proc
        self._ports = PortPool(SERVER_HOST)
        self._servers: dict[int, ServerProcess] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._starter: tuple[str, ...] = ()
        self.guard = ProcessGuard(pids.mark)
        """Kills our children when the service dies, also those of other modules."""

    async def start(self) -> None:
        """Kill leftovers of a former service, then start the guard."""
        for orphan in await asyncio.to_thread(self._pids.kill_orphans):
            _logger.warning("killed %s (pid %d), left by an earlier run", orphan.name, orphan.pid)
        adopt_orphans()
        await self.guard.start()
        self._starter = await asyncio.to_thread(find_starter, self._environ.get("PATH"))
        self._keeper = asyncio.create_task(self._keep(), name="keep descendants")

    async def close(self) -> None:
        """Stop the guard. All servers must have been stopped before."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self.guard.stop()
        await asyncio.to_thread(sweep, self._pids.mark, (), KILL_TIMEOUT)

    async def _keep(self) -> None:
        """Track the descendants of each server, and reap adopted ones that have exited."""
        ended: frozenset[psutil.Process] = frozenset()
        while True:
            await asyncio.sleep(_REAP_INTERVAL)
            try:
                if ended or has_exited_child():
                    ended = await asyncio.to_thread(reap, ended)
                for server in list(self._servers.values()):
                    if server.look_is_due:
                        await server.processes()
                self._record_strays()
            except (OSError, psutil.Error) as error:
                # Too many open files, for example: the next look may succeed.
                _logger.debug("cannot look at the processes: %s", error)

    def _record_strays(self) -> None:
        for pid, server in self._servers.items():
            self._pids.record_strays(pid, server.strays)
        self.guard.set_known(stray for one in self._servers.values() for stray in one.strays)

    async def need(self, spec: ServerSpec, *, ask_engine: bool = True) -> Need:
        """Find out the memory that a server needs: measured, by the engine, or by the formula.

        Without ``ask_engine`` no program is run, which suits a look at many models.
        """
        binary: LlamaBinary | None = None
        if not spec.command:
            # The load reports a missing llama-server; the estimate is useful before.
            with contextlib.suppress(NoLlamaServerError):
                binary = await asyncio.to_thread(self._find_binary)
        if spec.split and self._splitter is not None:
            return self._splitter.need(spec, binary, self.processor)
        return await self._estimator.need(spec, binary, ask_engine=ask_engine)

    async def command(self, spec: ServerSpec, *, measure: bool = True) -> list[str]:
        """Return the command line that ``launch`` would use now, with ``PORT`` for the port.

        Raises ``NoLlamaServerError`` if there is no server to start.
        """
        binary = await self._binary_for(spec)
        kept = await self._kept_prompts(spec, binary)
        folder = None
        if self._prompts is not None and kept is not None and kept.works is not False:
            folder = self._prompts.folder(spec.model_id)
        return self._planner.command(spec, binary, prompts=folder, measure=measure)

    async def devices(self) -> tuple[str, ...] | None:
        """Return the GPUs that the server would use; none without a llama-server.

        ``None`` = the list of GPUs failed.
        """
        with contextlib.suppress(NoLlamaServerError):
            return (await asyncio.to_thread(self._find_binary)).devices
        return ()

    async def flags(self) -> frozenset[str]:
        """Return the flags of the build that the next server gets; none without a llama-server."""
        with contextlib.suppress(NoLlamaServerError):
            return (await asyncio.to_thread(self._find_binary)).flags
        return frozenset()

    async def worker_facts(self) -> WorkerFacts:
        """Return the facts of the worker that this box can run.

        Raises ``NoLlamaServerError`` without a llama-server.
        """
        binary = await asyncio.to_thread(self._find_binary)
        if self._worker is None or self._worker[0] != binary:
            facts = await asyncio.to_thread(examine_worker, binary, self._environ)
            self._worker = binary, facts
        return self._worker[1]

    async def memory_at(
        self, spec: ServerSpec, sizes: Sequence[int]
    ) -> list[tuple[int, MemoryEstimate, Need]]:
        """Apply the formula to these context sizes: sizes by purpose, and needs by place.

        The result is empty if the memory is unknown: another program's model, unreadable files.
        """
        if spec.command or spec.weights_bytes is None:
            return []
        devices = await self.devices()
        found = []
        for size in sizes:
            one = spec.with_context(size)
            parts = memory_parts(one, devices=devices, processor=self.processor)
            need = formula_need(one, devices=devices, processor=self.processor)
            found.append((size, parts, need))
        return found

    async def launch(
        self,
        spec: ServerSpec,
        settings: Settings,
        progress: Callable[[float | None], None],
        *,
        measure: bool = True,
        busy: Callable[[], bool] = lambda: False,
        watch: LoadWatch | None = None,
    ) -> ServerProcess:
        """Start a server and return it when it answers requests.

        With ``measure`` it logs more, so that ``footprint`` knows its memory. After its start it is
        watched: a server that stops answering is killed. ``busy`` returns whether it has requests;
        the server of another program is not asked meanwhile. ``settings`` give the first port and
        the time limits. ``watch`` runs until the server is ready; if it returns a reason, the
        process is killed and the reason is raised. For a split model, another box starts a worker
        first, which ends with the server.

        Raises ``ModelLoadError`` with the reason and the last log lines if the server exits
        instead, or shows no progress for ``load_timeout`` seconds, and ``NoLlamaServerError`` if
        there is no server to start. Cancelling stops the process first.
        """
        if spec.problem is not None:
            raise ModelLoadError(
                f"{spec.model_id} cannot be loaded: {spec.problem.rstrip('.')}.", needs_person=True
            )
        binary, _ = await asyncio.gather(self._binary_for(spec), self._check_storage(spec))
        if not (spec.split and self._splitter is not None and binary is not None):
            return await self._launch(
                spec, binary, settings, progress, measure=measure, busy=busy, watch=watch
            )
        spec, channel = await self._splitter.open(spec, binary, self.processor)
        try:
            server = await self._launch(
                spec,
                binary,
                settings,
                progress,
                measure=measure,
                busy=busy,
                watch=watch,
                lost=channel.lost,
            )
        except BaseException:
            await to_its_end(channel.close())
            raise
        server.exited.add_done_callback(lambda _: self._close(channel))
        return server

    async def _launch(
        self,
        spec: ServerSpec,
        binary: LlamaBinary | None,
        settings: Settings,
        progress: Callable[[float | None], None],
        *,
        measure: bool,
        busy: Callable[[], bool],
        watch: LoadWatch | None,
        lost: asyncio.Future[str] | None = None,
    ) -> ServerProcess:
        """Start a server as ``launch`` does. It is killed when ``lost`` is done."""
        avoid: set[int] = set()
        prompts = await self._open_prompts(spec, binary)
        folder = None if prompts is None else prompts.folder
        ruleset = await self._planner.ruleset(spec, binary, folder)
        try:
            while True:
                port = self._ports.take(settings.llama_server_base_port, avoid=frozenset(avoid))
                mark = self._log_for(spec.model_id).mark()
                try:
                    launch = self._planner.plan(
                        spec,
                        binary,
                        port,
                        measure=measure,
                        starter=self._starter,
                        ruleset=ruleset,
                        prompts=prompts,
                        lost=lost,
                    )
                    server = await self._start_server(
                        launch,
                        settings,
                        mark,
                        progress,
                        size=spec.size_bytes,
                        measure=measure,
                        watch=watch,
                    )
                except PortTakenError:
                    # Another program took it between our check and the server's bind.
                    self._ports.give_back(port)
                    avoid.add(port)
                    if len(avoid) >= _PORT_TRIES:
                        raise
                except BaseException:
                    self._ports.give_back(port)
                    raise
                else:
                    server.start_watch(self._health, busy=busy)
                    return server
                finally:
                    mark.close()
        finally:
            if ruleset is not None:
                ruleset.close()

    async def _open_prompts(
        self, spec: ServerSpec, binary: LlamaBinary | None
    ) -> ServerPrompts | None:
        if binary is None or self._prompts is None or spec.lent_bytes:
            return None
        return await self._prompts.open(spec, binary, self._planner.files(spec, binary))

    async def kept_prompts(self, spec: ServerSpec) -> KeptPromptsRecord | None:
        """Return what the next server finds of its prompts; ``None`` = it is no llama-server."""
        with contextlib.suppress(NoLlamaServerError):
            return await self._kept_prompts(spec, await self._binary_for(spec))
        return None

    async def _kept_prompts(
        self, spec: ServerSpec, binary: LlamaBinary | None
    ) -> KeptPromptsRecord | None:
        if binary is None or self._prompts is None:
            return None
        return await self._prompts.record(spec, binary, self._planner.files(spec, binary))

    async def forget_prompts(self, model_id: str) -> None:
        """Delete the prompts that are kept of a model."""
        if self._prompts is not None:
            await self._prompts.forget(model_id)

    async def _binary_for(self, spec: ServerSpec) -> LlamaBinary | None:
        return None if spec.command else await asyncio.to_thread(self._find_binary)

    async def _check_storage(self, spec: ServerSpec) -> None:
        """Raise ``ModelLoadError`` if the files' storage hangs: other loads would have to wait."""
        if spec.path is None or not spec.files:
            return
        try:
            # The server itself reports a missing file.
            await self._storages.ask_async(spec.path.parent, partial(touch, spec.files))
        except StorageError as error:
            raise ModelLoadError(
                f"{spec.model_id} cannot be loaded: {error.message}", hint=error.hint
            ) from error

    async def _start_server(
        self,
        launch: LaunchPlan,
        settings: Settings,
        mark: LogMark,
        progress: Callable[[float | None], None],
        *,
        size: int | None,
        measure: bool,
        watch: LoadWatch | None,
    ) -> ServerProcess:
        log = self._log_for(launch.name)
        first = log.end
        log.add([f"{RUN_MARK}{' '.join(launch.shown_argv)}"], LogLevel.INFO)
        activity = LoadActivity(progress)
        try:
            server = await ServerProcess.spawn(launch, log=log, progress=activity.server_progress)
        except (OSError, ValueError) as error:
            # ValueError: a NUL byte in an argument or in the environment.
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise ModelLoadError(
                f"cannot run {launch.argv[0]}: {why}.",
                needs_person=not isinstance(error, OSError) or error.errno not in _SHORTAGES,
            ) from error
        log.begin_run(server.pid, first=first)
        server.exited.add_done_callback(lambda _: log.end_run(server.pid))
        self._servers[server.pid] = server
        self.guard.add(server.pid)
        self._pids.add(server.pid, launch.name)
        server.exited.add_done_callback(lambda _: self._gone(server))
        try:
            watched = None if watch is None else watch(server.roots)
            interval = SLOW_INTERVAL if launch.speaks_protocol else INTERVAL
            reading = follow_load(
                server.pid, size, activity.files_read, proc=self._proc, interval=interval
            )
            if not await wait_ready(server, activity, settings.load_timeout, reading, watched):
                raise ModelLoadError(
                    f"{launch.name} showed no progress for {settings.load_timeout:g} s while"
                    " loading.",
                    hint="Raise load_timeout if the disk is that slow.",
                )
            if measure and launch.context_size is not None:
                await server.wait_settled(_SETTLE_TIMEOUT)
            self._record_strays()
            # Read it now: later lines of the log are not parsed any more.
            server.footprint()
            if launch.prompts is not None:
                await launch.prompts.restore(server.address)
        except ServerExitedError as error:
            raise exit_error(launch, server, error.returncode, mark.lines()) from None
        except BaseException as error:
            if isinstance(error, ModelLoadError) and not error.log_tail:
                error.log_tail = mark.lines()[-LOG_TAIL_LINES:]
            # A second cancel must not leave the process behind: the stop runs to its end within its
            # own limits.
            stopping = asyncio.ensure_future(server.stop(settings.stop_timeout))
            cancelled: asyncio.CancelledError | None = None
            while not stopping.done():
                try:
                    await asyncio.wait({stopping})
                except asyncio.CancelledError as again:
                    cancelled = again
            stopping.result()
            if cancelled is not None:
                raise cancelled from None
            if not isinstance(error, ForeignListenerError):
                raise
            raise PortTakenError(
                f"{launch.name} could not be loaded: {error}.",
                hint="Set llama_server_base_port to a free range.",
                log_tail=mark.lines()[-LOG_TAIL_LINES:],
            ) from None
        return server

    def _close(self, channel: Channel) -> None:
        closing = asyncio.ensure_future(channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _gone(self, server: ServerProcess) -> None:
        self._servers.pop(server.pid, None)
        self.guard.remove(server.pid)
        self._pids.remove(server.pid)
        self._ports.give_back(server.address.port)
