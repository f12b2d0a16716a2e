"""Lends memory of this box to models of other boxes: a worker of llama.cpp's RPC for each."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

from cyber_inference_tui.cancellation import to_its_end
from cyber_inference_tui.errors import (
    ConflictError,
    CyberError,
    NoLlamaServerError,
    NotFoundError,
    PeerRightsError,
)
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.worker import WorkerFacts
from cyber_inference_tui.records.workers import MOST_DEVICES, LendingFacts, WorkerQuery
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.scheduler.server_interface import Server
from cyber_inference_tui.settings.schema import ModelSettings, PeerSettings, Settings

_MOST_WORKERS = 4
"""Workers for one box."""
_START_SECONDS = 100.0
"""For a worker to run: idle models may have to be unloaded for it, and busy ones be waited for."""
_STEP = 64 << 20
"""Other boxes get the memory in whole steps of so many bytes."""


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that runs."""

    box: str
    """The box that it is for."""
    token: str
    """A random name, under which that box reaches it."""
    server: Server


class Workers:
    """The workers for other boxes.

    ``facts`` returns what this box's build can do. The scheduler has each worker like a pinned
    model, so that its memory counts as used, and idle models make room for it.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        settings: Callable[[], Settings],
        facts: Callable[[], Awaitable[WorkerFacts]],
    ) -> None:
        self._scheduler = scheduler
        self._settings = settings
        self._facts = facts
        self._names: set[str] = set()
        self._running: dict[str, Worker] = {}

    def is_allowed(self, box: str) -> bool:
        """Return whether the owner allows workers for a box."""
        return self._settings().peers.get(box, PeerSettings()).worker

    def lends(self, box: str) -> int:
        """Return the bytes that a worker for a box may have now; 0 = it may not run."""
        return self.room() // _STEP * _STEP if self.is_allowed(box) else 0

    def room(self) -> int:
        """Return the bytes for one more model, after unloading idle ones: of GPUs, if any."""
        return self._scheduler.fit_check().rooms()[-1].free_after_unloading_bytes or 0

    async def facts(self, box: str) -> LendingFacts:
        """Return what this box could lend to a model of another one."""
        if not self.is_allowed(box):
            return LendingFacts(problem=_not_allowed(box).message)
        try:
            facts = await self._facts()
        except NoLlamaServerError as error:
            return LendingFacts(problem=error.message)
        if not facts.protocol:
            return LendingFacts(
                problem="Its llama.cpp has no RPC server that runs (ggml-rpc-server).",
                build=facts.build,
            )
        await self._scheduler.refresh_memory()
        return LendingFacts(
            build=facts.build,
            protocol=facts.protocol,
            memory=self.room(),
            devices=min(max(1, facts.gpus), MOST_DEVICES),
            has_gpu=facts.gpus > 0,
        )

    @asynccontextmanager
    async def lend(self, box: str, asked: WorkerQuery) -> AsyncIterator[Worker]:
        """Run a worker for a box while the context lasts. Raises ``CyberError``."""
        if not self.is_allowed(box):
            raise _not_allowed(box)
        model = LocalModel(
            id=self._free_name(box),
            settings=ModelSettings(pinned=True),
            lent_bytes=asked.memory,
        )
        self._names.add(model.id)
        token = secrets.token_urlsafe()
        try:
            server = await self._start(model)
            worker = self._running[token] = Worker(box=box, token=token, server=server)
            yield worker
        finally:
            self._running.pop(token, None)
            await to_its_end(self._end(model))

    async def _start(self, model: LocalModel) -> Server:
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._scheduler.load(model)
        except TimeoutError:
            raise CyberError("The memory for it has not become free.") from None
        state = self._scheduler.state(model.id)
        if state is None or state.server is None:
            raise CyberError("It ended at once.")
        return state.server

    async def _end(self, model: LocalModel) -> None:
        await self._scheduler.unload(model, force=True)
        self._scheduler.forget(model.id)
        self._names.discard(model.id)

    def find(self, token: str, box: str) -> Worker:
        """Return the worker with this token. Raises ``NotFoundError``, also for another box."""
        worker = self._running.get(token)
        if worker is None or worker.box != box:
            raise NotFoundError("There is no such worker.")
        return worker

    def _free_name(self, box: str) -> str:
        names = (f"worker for {box}{f' {n}' if n > 1 else ''}" for n in range(1, _MOST_WORKERS + 1))
        name = next((name for name in names if name not in self._names), None)
        if name is None:
            raise ConflictError(f"There are {_MOST_WORKERS} workers for {box} already.")
        return name


def _not_allowed(box: str) -> PeerRightsError:
    return PeerRightsError(
        f'Its owner has to allow it: worker = true in the table [peers."{box}"] there.'
    )
