"""Runs the slow work of the scheduler in tasks: estimates, loads, stops and memory readings.

The result of each is an event. Model states are read here and never written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import NamedTuple

from cyber_inference_tui.errors import CyberError, ModelLoadError
from cyber_inference_tui.llama.needs import Need, NeedSource
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.scheduler.free_memory import excess_of
from cyber_inference_tui.scheduler.load_errors import runaway_error
from cyber_inference_tui.scheduler.memory_tracker import MemoryTracker
from cyber_inference_tui.scheduler.server_interface import Server, ServerLauncher
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.settings.schema import Settings

LOAD_WATCH = 0.25
"""Seconds between two readings of the memory that a loading server uses."""

_logger = logging.getLogger(__name__)


class NeedEstimated(NamedTuple):
    """The memory that a server with ``spec`` needs is known."""

    state: ModelState
    spec: ServerSpec
    need: Need


class LoadProgressed(NamedTuple):
    """A load reported its progress."""

    state: ModelState
    progress: float | None


class ServerReady(NamedTuple):
    """A load has ended well."""

    state: ModelState
    server: Server


class LoadFailed(NamedTuple):
    """A load has ended with an error; its process is gone."""

    state: ModelState
    error: CyberError


class ServerExited(NamedTuple):
    """A server's process has ended, by itself or by a stop."""

    state: ModelState
    server: Server


class ServerStopped(NamedTuple):
    """A server was stopped, or its load was cancelled; its process is gone."""

    state: ModelState


class MemoryRead(NamedTuple):
    """The memory was read; ``None`` if that failed."""

    reading: MemoryReading | None


Event = (
    NeedEstimated
    | LoadProgressed
    | ServerReady
    | LoadFailed
    | ServerExited
    | ServerStopped
    | MemoryRead
)


class ServerTasks:
    """Starts and stops servers in tasks that it owns, and calls ``report`` with the events."""

    def __init__(
        self,
        launcher: ServerLauncher,
        memory_tracker: MemoryTracker,
        report: Callable[[Event], None],
    ) -> None:
        self._launcher = launcher
        self._memory_tracker = memory_tracker
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()
        self._estimates: dict[ModelState, asyncio.Task[None]] = {}
        self._loads: dict[ModelState, asyncio.Task[None]] = {}
        self._reading: asyncio.Task[None] | None = None

    def _run(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancel estimates and readings, and wait for the end of all loads and stops."""
        for task in self._estimates.values():
            task.cancel()
        if self._reading is not None:
            self._reading.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # Estimates

    def estimate(self, state: ModelState) -> None:
        """Estimate the memory for the model's spec, unless an estimate is under way."""
        if state not in self._estimates:
            name = f"estimate {state.model.id}"
            self._estimates[state] = self._run(self._estimate(state), name)

    async def _estimate(self, state: ModelState) -> None:
        spec = state.spec
        need = Need()
        try:
            need = await self._launcher.need(spec)
        except CyberError as error:
            # The load will fail with the same error, and report it to the queue.
            _logger.info("the memory that %s needs is not known: %s", state.model.id, error)
        except Exception:
            # A defect of ours must not keep the queue of the model waiting for ever.
            _logger.exception("the memory that %s needs is not known", state.model.id)
        finally:
            del self._estimates[state]
        self._report(NeedEstimated(state, spec, need))

    # Loads

    def load(self, state: ModelState, settings: Callable[[], Settings]) -> None:
        """Start a server by the model's spec. ``settings`` returns those in force."""
        task = self._run(self._load(state, settings), f"load {state.model.id}")
        self._loads[state] = task
        task.add_done_callback(lambda task: self._load_ended(state, task))

    def cancel_load(self, state: ModelState) -> None:
        """Cancel the model's load. Any event of a load but ``ServerReady`` means its end."""
        if state in self._loads:
            self._loads[state].cancel()

    def _load_ended(self, state: ModelState, task: asyncio.Task[None]) -> None:
        if self._loads.get(state) is task:
            del self._loads[state]
        if task.cancelled():
            self._report(ServerStopped(state))

    async def _load(self, state: ModelState, settings: Callable[[], Settings]) -> None:
        watch = _LoadWatch(state, self._memory_tracker, settings)
        is_measured = state.need is not None and state.need.source is NeedSource.MEASURED
        try:
            server = await self._launcher.launch(
                state.spec,
                settings(),
                lambda value: self._report(LoadProgressed(state, value)),
                measure=not is_measured,
                busy=lambda: state.in_flight > 0,
                watch=watch.run if self._memory_tracker.is_enabled else None,
            )
        except CyberError as error:
            if isinstance(error, ModelLoadError) and watch.exceeded:
                # More free memory would not help, so no other model is unloaded for it.
                error.out_of_memory = False
            self._report(LoadFailed(state, error))
        except OSError as error:
            # This process lacks descriptors, memory or ports.
            reason = error.strerror or str(error)
            message = f"{state.model.id} cannot be loaded: {reason}."
            self._report(LoadFailed(state, ModelLoadError(message)))
        except Exception:
            # A defect of ours must not leave the model in "loading" with its queue.
            _logger.exception("loading %s failed unexpectedly", state.model.id)
            message = f"Loading {state.model.id} failed: see the service's log."
            self._report(LoadFailed(state, ModelLoadError(message)))
        else:
            self._report(ServerReady(state, server))
            server.exited.add_done_callback(lambda _: self._report(ServerExited(state, server)))

    # Stops

    def stop(
        self, state: ModelState, server: Server, timeout: float, *, keep_prompts: bool = True
    ) -> None:
        """Stop the server; it is killed after ``timeout`` seconds."""
        stopping = self._stop(state, server, timeout, keep_prompts=keep_prompts)
        self._run(stopping, f"unload {state.model.id}")

    async def _stop(
        self, state: ModelState, server: Server, timeout: float, *, keep_prompts: bool
    ) -> None:
        try:
            await server.stop(timeout, keep_prompts=keep_prompts)
        except TimeoutError as error:
            _logger.error("%s: %s", state.model.id, error)
        finally:
            self._report(ServerStopped(state))

    # Memory

    def read_memory(self, states: Iterable[ModelState], settings: Settings) -> asyncio.Task[None]:
        """Read the memory, unless that is under way; return the task of the reading."""
        if self._reading is None:
            self._reading = self._run(self._read_memory(states, settings), "read the memory")
        return self._reading

    async def _read_memory(self, states: Iterable[ModelState], settings: Settings) -> None:
        try:
            reading = await self._memory_tracker.read(states, settings)
        finally:
            self._reading = None
        self._report(MemoryRead(reading))


class _LoadWatch:
    """Watches the memory that the processes of a loading server use."""

    def __init__(
        self, state: ModelState, memory_tracker: MemoryTracker, settings: Callable[[], Settings]
    ) -> None:
        self._model_id = state.model.id
        self._need = state.need or Need()
        self._memory_tracker = memory_tracker
        self._settings = settings
        self.exceeded = False
        """The server uses more than was expected."""

    async def run(
        self, processes: Callable[[], Awaitable[tuple[int, ...]]]
    ) -> ModelLoadError | None:
        """Read the memory until the load has to end, and return the error for it."""
        try:
            while True:
                await asyncio.sleep(LOAD_WATCH)
                if (error := await self._check(await processes())) is not None:
                    return error
        except Exception:
            # A defect of ours, or no descriptor is left: the load goes on unwatched.
            _logger.exception("the memory that %s uses cannot be watched", self._model_id)
            return None

    async def _check(self, pids: tuple[int, ...]) -> ModelLoadError | None:
        reading = await self._memory_tracker.read_processes(pids)
        if reading is None:
            return None
        settings = self._settings()
        used = sum(process.private for process in reading.processes.values())
        excess = excess_of(self._need, used, reading, max_percent=settings.max_memory_percent)
        self.exceeded = excess is not None
        if excess is None or not excess.runaway:
            return None
        return runaway_error(self._model_id, excess, reading.total, settings)
