"""Measures the use of each loaded model: processes, memory of GPUs, generated tokens.

A measurement never loads a model or keeps it loaded: it takes no lease, and only servers that have
requests are asked for their slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.slots import Task, TokenRate
from cyber_inference_tui.monitor.processes import ProcessReader, ProcessUsage
from cyber_inference_tui.monitor.rates import Rate
from cyber_inference_tui.records import GpuRecord, ModelUsage, ResourceSample
from cyber_inference_tui.scheduler.state import ModelState, Session

LOOK_INTERVAL = 0.9
"""Seconds between two requests to one server: about once a second."""
SLOTS_TIMEOUT = 2.0
PATIENCE = 0.25
"""Seconds that a sample waits for the answers of servers. A server that processes a long prompt is
slower, and its answer counts in the next sample."""
FRESH = 3.0
"""Seconds for which a rate is valid."""

AskSlots = Callable[[ServerAddress], Awaitable[tuple[Task, ...] | None]]
"""Returns the tasks under way at a server."""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a loaded model for a measurement."""

    id: str
    pid: int
    address: ServerAddress
    in_flight: int
    device_bytes: int | None
    """The memory that it reported to have allocated through a GPU's driver."""
    tokens_out: Callable[[], int]
    """Returns the tokens generated for finished requests so far."""
    has_slots: bool
    """True for a llama-server."""


def loaded_models(states: Iterable[ModelState]) -> list[LoadedModel]:
    """Return the models that have a server, by id."""
    found = [
        LoadedModel(
            id=state.model.id,
            pid=state.server.pid,
            address=state.server.address,
            in_flight=state.in_flight,
            device_bytes=state.footprint.device if state.footprint else None,
            tokens_out=_counter(state.session),
            has_slots=not (state.model.settings.command or state.model.lent_bytes),
        )
        for state in states
        if state.server is not None
    ]
    return sorted(found, key=lambda model: model.id)


def _counter(session: Session | None) -> Callable[[], int]:
    return lambda: session.tokens_out if session is not None else 0


class ProcessMeter:
    """Reads the servers' processes. It blocks: call it in a thread, and only once at a time.

    ``root`` is the directory with ``proc/``; ``clock`` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float], root: Path = Path("/")) -> None:
        self._clock = clock
        self._processes = ProcessReader(root, clock)
        self._rates: dict[int, Rate] = {}
        self.sees_the_drivers_pids = self._processes.pids_are_the_machines()
        """True if a GPU's driver reports pids of this process's namespace."""

    def read(self, pids: Collection[int]) -> dict[int, tuple[ProcessUsage, float | None]]:
        """Return each process, and the percentage of one core that it used since the last call."""
        found = {}
        for pid in pids:
            usage = self._processes.usage(pid)
            rate = self._rates.setdefault(pid, Rate())
            if usage is not None:
                per_second = rate.per_second(usage.cpu_ms, self._clock())
                found[pid] = usage, None if per_second is None else round(per_second / 10, 1)
        self._rates = {pid: self._rates[pid] for pid in found}
        return found


class TokenMeters:
    """Asks busy servers how many tokens they have generated. Runs on the event loop.

    ``ask`` has its own time limit. ``clock`` is monotonic, in seconds.
    """

    def __init__(self, ask: AskSlots, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._meters: dict[tuple[str, int], _TokenMeter] = {}

    async def read(self, models: Collection[LoadedModel]) -> dict[str, float | None]:
        """Return the tokens per second by id; ``None`` = unknown."""
        keys = {(model.id, model.pid) for model in models if model.has_slots}
        for key in self._meters.keys() - keys:
            self._meters.pop(key).stop()
        asking = []
        for model in models:
            if model.has_slots:
                meter = self._meters.setdefault((model.id, model.pid), _TokenMeter(self._clock))
                if (task := meter.look(model, self._ask)) is not None:
                    asking.append(task)
        if asking:
            await asyncio.wait(asking, timeout=PATIENCE)
        return {model_id: meter.rate() for (model_id, _), meter in self._meters.items()}

    async def close(self) -> None:
        """Cancel all requests to servers."""
        tasks = [task for meter in self._meters.values() if (task := meter.stop()) is not None]
        self._meters.clear()
        await asyncio.gather(*tasks, return_exceptions=True)


class _TokenMeter:
    """Measures the tokens of one server."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = TokenRate()
        self._rate: float | None = None
        self._rate_at = 0.0
        self._looked_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    def look(self, model: LoadedModel, ask: AskSlots) -> asyncio.Task[None] | None:
        """Measure if the interval is over; return the task of a request to the server, if any."""
        if self._task is not None and not self._task.done():
            return self._task
        now = self._clock()
        if self._looked_at is not None and now - self._looked_at < LOOK_INTERVAL:
            return None
        self._looked_at = now
        if model.in_flight == 0:
            self._take(model.tokens_out(), ())
            return None
        self._task = asyncio.create_task(self._look(model, ask), name=f"slots of {model.id}")
        return self._task

    async def _look(self, model: LoadedModel, ask: AskSlots) -> None:
        tasks = await ask(model.address)
        if tasks is not None:
            self._take(model.tokens_out(), tasks)

    def _take(self, finished: int, tasks: tuple[Task, ...]) -> None:
        self._rate_at = self._clock()
        self._rate = self._tokens.look(finished, tasks, self._rate_at)

    def rate(self) -> float | None:
        """Return the last rate if it is still valid."""
        return self._rate if self._clock() - self._rate_at <= FRESH else None

    def stop(self) -> asyncio.Task[None] | None:
        """Cancel the request to the server, if any, and return its task."""
        if self._task is not None:
            self._task.cancel()
        return self._task


def compose_usage(
    models: Collection[LoadedModel],
    processes: Mapping[int, tuple[ProcessUsage, float | None]],
    gpus: Collection[GpuRecord],
    tokens: Mapping[str, float | None],
) -> tuple[ModelUsage, ...]:
    """Return the records; ``gpus`` are those that report pids of our namespace."""
    found = []
    for model in models:
        usage, cpu = processes.get(model.pid, (None, None))
        on_gpus = gpu_bytes(usage.pids if usage else (model.pid,), gpus)
        found.append(
            ModelUsage(
                id=model.id,
                pid=model.pid,
                cpu_percent=cpu,
                memory_private_bytes=usage.memory.private if usage else None,
                memory_mapped_bytes=usage.memory.mapped if usage else None,
                gpu_memory_bytes=model.device_bytes if on_gpus is None else on_gpus,
                in_flight=model.in_flight,
                tokens_per_second=tokens.get(model.id),
            )
        )
    return tuple(found)


def recent_speeds(sample: ResourceSample | None, now: datetime) -> dict[str, float]:
    """Return the tokens per second of the models in a sample; nothing if it is too old."""
    if sample is None or (now - sample.at).total_seconds() > FRESH:
        return {}
    speeds = {model.id: model.tokens_per_second for model in sample.models}
    return {model_id: speed for model_id, speed in speeds.items() if speed is not None}


def gpu_bytes(pids: Collection[int], gpus: Collection[GpuRecord]) -> int | None:
    """Return the memory of these processes on all GPUs; ``None`` = no driver reports it."""
    held = [
        gpu.processes[pid]
        for gpu in gpus
        if gpu.processes is not None
        for pid in pids
        if pid in gpu.processes
    ]
    known = [size for size in held if size is not None]
    return sum(known) if known and len(known) == len(held) else None
