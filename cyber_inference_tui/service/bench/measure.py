"""Measures one model: has it loaded, sends it a workload, and looks at the machine meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from cyber_inference_tui.errors import ConflictError, CyberError, InvalidRequestError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.monitor.energy import energy_between
from cyber_inference_tui.records import EnergyRecord, ResourceSample, ThrottleReason
from cyber_inference_tui.scheduler.lease import Lease
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.scheduler.server_interface import Server
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.service.bench.workload import LlamaClient, Speeds, Workload, speeds_of
from cyber_inference_tui.units import counted

_LOOK_SECONDS = 1.0
_LONGEST = 3600.0
"""Seconds of one measurement at most."""


class Machine(msgspec.Struct, kw_only=True):
    """The most that was seen of the machine while it worked."""

    memory_bytes: int | None = None
    memory_percent: float | None = None
    """Of the whole main memory …"""
    gpu_memory_percent: float | None = None
    """… and of the memory of the fullest GPU that has its own."""
    temperature_c: float | None = None
    throttled: set[str] = set()
    device: str | None = None
    power_mode: str | None = None

    def look(self, sample: ResourceSample, pid: int) -> None:
        """Take a sample into account, unless it is older than the server with this ``pid``."""
        self.device = sample.device.name or self.device
        self.power_mode = sample.device.power_mode or self.power_mode
        usage = next((model for model in sample.models if model.pid == pid), None)
        if usage is None:
            return
        parts = usage.memory_private_bytes, usage.memory_mapped_bytes, usage.gpu_memory_bytes
        self.memory_bytes = max(self.memory_bytes or 0, sum(part or 0 for part in parts)) or None
        self.memory_percent = _larger(self.memory_percent, sample.memory.percent)
        for gpu in sample.gpus:
            if gpu.memory_total and gpu.memory_used is not None and not gpu.shared_memory:
                percent = 100 * gpu.memory_used / gpu.memory_total
                self.gpu_memory_percent = _larger(self.gpu_memory_percent, percent)
        degrees = [*sample.temperatures.values(), *(gpu.temperature_c for gpu in sample.gpus)]
        known = [one for one in (self.temperature_c, *degrees) if one is not None]
        self.temperature_c = max(known, default=None)
        slow = {**sample.throttling, **{gpu.name: gpu.throttled_by for gpu in sample.gpus}}
        self.throttled |= {
            f"{part}: {reason.value}"
            for part, reasons in slow.items()
            for reason in reasons
            # A busy GPU works at its power limit.
            if reason is not ThrottleReason.POWER
        }


def _larger(first: float | None, second: float | None) -> float | None:
    return max((one for one in (first, second) if one is not None), default=None)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one measurement."""

    speeds: Speeds
    joules_per_token: float | None
    machine: Machine
    spec: ServerSpec
    """The specification of the server that was measured."""
    context_size: int | None
    slots: int | None


class Measurer:
    """Measures models, one at a time.

    Requests take places at the scheduler as all others do, so that nothing is unloaded under them,
    but go straight to the model's server: rules for requests and other boxes do not change them,
    and no client has sent them. ``read_machine`` returns a sample of the machine that is at most so
    many seconds old, ``read_energy`` the energy up to now.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        read_machine: Callable[[float], Awaitable[ResourceSample]],
        read_energy: Callable[[], Awaitable[EnergyRecord | None]],
    ) -> None:
        self._scheduler = scheduler
        self._read_machine = read_machine
        self._read_energy = read_energy
        self._own = 0
        self._warm: dict[str, int] = {}
        """By model: the process of the server that has answered, so that its caches are warm."""

    @property
    def others(self) -> int:
        """The number of requests that are not its own, and run or wait, over all models."""
        return self._scheduler.in_flight + self._scheduler.waiting - self._own

    async def measure(self, model: LocalModel, workload: Workload) -> Sample:
        """Load a model, and measure it once.

        A server that is new gets a workload of the same size before, which does not count.
        ``model`` may have other settings than those in force: it is loaded with them. Call
        ``restore`` then. Raises ``CyberError`` if it cannot be loaded or measured.
        """
        async with AsyncExitStack() as places:
            state, lease, client = await places.enter_async_context(self.client(model))
            _check(workload, state, lease.server)
            for _ in range(1, workload.parallel):
                await places.enter_async_context(self._place(model))
            await places.enter_async_context(asyncio.timeout(_LONGEST))
            if self._warm.get(model.id) != lease.server.pid:
                await self._run(client, msgspec.structs.replace(workload, seed=None))
                self._warm[model.id] = lease.server.pid
            machine = Machine()
            before = await self._read_energy()
            async with self._looking(machine, lease.server.pid):
                speeds = await self._run(client, workload)
            joules = energy_between(before, await self._read_energy())
            tokens = workload.parallel * (workload.prompt + workload.tokens)
            return Sample(
                speeds=speeds,
                joules_per_token=None if joules is None else joules / tokens,
                machine=machine,
                spec=state.spec,
                context_size=lease.server.context_size,
                slots=lease.server.slots,
            )

    @asynccontextmanager
    async def client(
        self, model: LocalModel
    ) -> AsyncIterator[tuple[ModelState, Lease, LlamaClient]]:
        """Load a model with the settings that it has here, and hold a place at its server.

        Raises ``CyberError`` if it cannot be loaded, and ``ConflictError`` if somebody changes its
        settings.
        """
        state = self._scheduler.state(model.id)
        if state is None or state.model.settings != model.settings:
            self._scheduler.refresh(model)
        async with self._place(model) as lease:
            state = self._scheduler.state(model.id)
            if state is None or state.model.settings != model.settings:
                raise ConflictError(f"The settings of {model.id} were changed meanwhile.")
            silence = lease.stall_seconds(self._scheduler.settings)
            async with LlamaClient(lease.address, model.id, silence) as client:
                yield state, lease, client

    def restore(self, model: LocalModel) -> None:
        """Return a model to its settings in the catalog; its server restarts if it has others."""
        self._scheduler.refresh(model)

    @asynccontextmanager
    async def _place(self, model: LocalModel) -> AsyncIterator[Lease]:
        # The request counts from its arrival on, which is before ``acquire`` waits.
        self._own += 1
        try:
            with await self._scheduler.acquire(model) as lease:
                lease.leave_uncounted()
                yield lease
        finally:
            self._own -= 1

    async def _run(self, client: LlamaClient, workload: Workload) -> Speeds:
        chance = random.Random(workload.seed)  # noqa: S311 - for the words of prompts
        prompts = [await client.prompt(workload.prompt, chance) for _ in range(workload.parallel)]
        asked = [asyncio.ensure_future(client.ask(prompt, workload.tokens)) for prompt in prompts]
        try:
            return speeds_of(await asyncio.gather(*asked), workload)
        finally:
            # After an error of one, the others go on.
            for task in asked:
                task.cancel()

    @asynccontextmanager
    async def _looking(self, machine: Machine, pid: int) -> AsyncIterator[None]:
        """Look at the machine now and then within this block, and at its end."""

        async def look(max_age: float = math.inf) -> None:
            # A machine that cannot be read is measured without it.
            with contextlib.suppress(CyberError):
                machine.look(await self._read_machine(max_age), pid)

        async def look_again() -> None:
            while True:
                await look()
                await asyncio.sleep(_LOOK_SECONDS)

        task = asyncio.create_task(look_again(), name="look at the machine")
        try:
            yield
            # In a short block there may be no sample with the server.
            await look(math.inf if machine.memory_bytes else 0.0)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _check(workload: Workload, state: ModelState, server: Server) -> None:
    """Raise ``InvalidRequestError`` if this server cannot answer the workload."""
    model_id, spec = state.model.id, state.spec
    if spec.command:
        raise InvalidRequestError(
            f"{model_id} has a command of its own: only models on llama-server can be measured."
        )
    if spec.options.embedding:
        raise InvalidRequestError(f"{model_id} makes embeddings, and writes no answers.")
    most = min(state.places, server.slots or math.inf)
    if workload.parallel > most:
        raise InvalidRequestError(
            f"{model_id} answers {counted(int(most), 'request')} at once, and {workload.parallel}"
            " are asked for.",
            hint="Measure with fewer, or set parallel in its table.",
        )
    room, needed = server.context_length, workload.prompt + workload.tokens
    if room is not None and needed > room:
        raise InvalidRequestError(
            f"{model_id} has a context of {room:,} tokens for each request, and"
            f" {workload.prompt:,} + {workload.tokens:,} are asked for.",
            hint="Measure with fewer tokens, or load it with a larger context_size.",
        )
