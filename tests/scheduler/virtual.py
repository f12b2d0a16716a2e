"""A virtual world for the scheduler: a virtual clock, and servers without processes.

The clock jumps to the next timer when nothing else can run. So a test of an idle timeout of an hour
takes no time, and a wait that can never end fails at once instead of hanging.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from cyber_inference_tui.errors import CyberError, ModelLoadError
from cyber_inference_tui.gguf.chat_template import TemplateFacts
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.need_estimate import with_smaller_contexts
from cyber_inference_tui.llama.needs import Footprint, LoadWatch, Need
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.monitor.memory_reading import GpuMemory, MemoryReading, ProcessMemory
from cyber_inference_tui.records import ModelStatus, Priority, SessionRecord
from cyber_inference_tui.scheduler.policy import Policy, decide
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.settings.schema import ModelSettings, Settings

T = TypeVar("T")


class NothingCanHappenError(AssertionError):
    """All tasks wait and no timer is set: the schedule is stuck."""


class _JumpingSelector(selectors.SelectSelector):
    """Advances the clock instead of sleeping."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise NothingCanHappenError
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose ``time`` is the virtual clock."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in virtual time; an error that the loop would only log is a failure."""
    problems: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
        result = runner.run(work)
    assert not problems, problems
    return result


def now() -> float:
    """Return the virtual time in seconds."""
    return asyncio.get_running_loop().time()


async def ticks(count: int = 20) -> None:
    """Let all tasks run that can run without the clock advancing."""
    for _ in range(count):
        await asyncio.sleep(0)


class VirtualServer:
    """A server that runs until it is stopped or crashes."""

    def __init__(self, world: VirtualLauncher, model_id: str, port: int, pid: int) -> None:
        self.world = world
        self.model_id = model_id
        self.address = ServerAddress("127.0.0.1", port, "server-key")
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.stops: list[float] = []
        """The timeouts in calls of ``stop``."""
        self.keeps_prompts: bool | None = None
        """Whether the last call of ``stop`` wanted its prompts kept."""
        self.context_size: int | None = None
        self.argv: tuple[str, ...] = ("llama-server",)
        self.slots: int | None = world.slots.get(model_id)
        self.context_length: int | None = None
        self.template: TemplateFacts | None = None
        self.most_requests: int | None = world.most_requests.get(model_id)
        self.says: Footprint | None = None

    async def stop(self, timeout: float, *, keep_prompts: bool = True) -> int:
        self.stops.append(timeout)
        self.keeps_prompts = keep_prompts
        if not self.exited.done():
            await asyncio.sleep(min(timeout, self.world.stop_seconds))
        self.end(0)
        return self.exited.result()

    def end(self, code: int) -> None:
        """End the process."""
        if not self.exited.done():
            self.exited.set_result(code)
            self.world.alive.remove(self)
            if self.world.machine is not None:
                self.world.machine.give_back(self.pid)

    def footprint(self) -> Footprint | None:
        return self.says

    def exit_reason(self) -> tuple[str, tuple[str, ...]]:
        return f"its server exited with code {self.exited.result()}", ("last words",)

    def declare_hung(self, reason: str) -> None:
        self.end(-9)


class VirtualMachine:
    """The memory of a machine, with servers and other programs.

    ``total`` is in bytes. With ``cards`` (their sizes), ``device`` memory is on the first card that
    has some. The memory of an ended server becomes free after ``back_seconds``.
    """

    def __init__(
        self, total: int, *, cards: tuple[int, ...] = (), back_seconds: float = 0.0
    ) -> None:
        self.total = total
        self.cards = cards
        self.back_seconds = back_seconds
        self.others = 0
        """The main memory of other programs."""
        self.held: dict[int, Footprint] = {}
        self.reads = 0

    def used(self) -> int:
        """Return the main memory that the kernel counts as used."""
        return self.others + sum(self._host(one) for one in self.held.values())

    def _host(self, footprint: Footprint) -> int:
        return footprint.host + (0 if self.cards else footprint.device)

    def claimed(self) -> int:
        """Return the same, with the weights that the kernel could drop."""
        return self.used() + sum(one.mapped for one in self.held.values())

    def device_used(self) -> int:
        return sum(one.device for one in self.held.values()) if self.cards else 0

    def has_room_for(self, footprint: Footprint) -> bool:
        """Return whether it fits physically, without regard to limits."""
        return self.used() + self._host(footprint) <= self.total and (
            not self.cards or self.device_used() + footprint.device <= sum(self.cards)
        )

    def take(self, pid: int, footprint: Footprint) -> None:
        self.held[pid] = footprint

    def give_back(self, pid: int) -> None:
        if self.back_seconds:
            asyncio.get_running_loop().call_later(self.back_seconds, self.held.pop, pid, None)
        else:
            self.held.pop(pid, None)

    async def read(self, pids: Collection[int]) -> MemoryReading | None:
        self.reads += 1
        await asyncio.sleep(0)
        left = self.device_used()
        gpus = []
        for number, size in enumerate(self.cards):
            taken = min(left, size)
            left -= taken
            gpus.append(GpuMemory(name=f"card {number}", total=size, free=size - taken))
        return MemoryReading(
            total=self.total,
            available=max(0, self.total - self.used()),
            gpus=tuple(gpus),
            processes={
                pid: ProcessMemory(private=self.held[pid].host, mapped=self.held[pid].mapped)
                for pid in pids
                if pid in self.held
            },
        )


class VirtualLauncher:
    """Launches virtual servers and checks the invariants of launches."""

    def __init__(
        self,
        *,
        load_seconds: float = 1.0,
        stop_seconds: float = 0.5,
        machine: VirtualMachine | None = None,
        needs: Mapping[str, Need] | None = None,
        real: Mapping[str, Footprint] | None = None,
    ) -> None:
        self.machine = machine
        self.needs = dict(needs or {})
        self.real = dict(real or {})
        """The memory that models use, if it differs from their need."""
        self.most_requests: dict[str, int] = {}
        """By model: the requests that its server accepts at once, if limited."""
        self.slots: dict[str, int] = {}
        """By model: the slots of its server, if it reports them."""
        self.full_contexts: dict[str, int] = {}
        self.kept_back: list[bool] = []
        """By launch: whether its projector stays in main memory."""
        self.contexts: list[int | None] = []
        """By launch: the context if it was less than the settings ask for, else ``None``."""
        self.problems: list[str] = []
        """Broken invariants; an exception in ``launch`` would count as a failed load."""
        self.on_launch: Callable[[str, Footprint], None] = lambda model_id, footprint: None
        self.load_seconds = load_seconds
        self.stop_seconds = stop_seconds
        self.failures: dict[str, list[Exception]] = {}
        """By model: the errors of the next launches."""
        self.launched: list[str] = []
        self.loading: set[str] = set()
        self.alive: list[VirtualServer] = []
        self.most_alive = 0
        self.swallows_cancel = self.fails_on_cancel = False
        self.silent: set[str] = set()
        """Models whose servers do not report the memory that they use."""
        self.grows: dict[str, Sequence[int]] = {}
        """By model: the bytes of main memory that its loads use, second by second."""

    async def need(self, spec: ServerSpec, *, ask_engine: bool = True) -> Need:
        need = self.needs.get(spec.model_id, Need())
        self.full_contexts.setdefault(spec.model_id, spec.context_size or 1)
        found = msgspec.structs.replace(
            need,
            footprint=self._with_context(spec),
            projector=0 if spec.projector_kept_back else need.projector,
        )
        if spec.least_context is None:
            return found
        return with_smaller_contexts(found, spec, self._with_context)

    def _with_context(self, spec: ServerSpec) -> Footprint:
        need = self.needs.get(spec.model_id, Need())
        if spec.projector_kept_back:
            need = need.with_projector_kept_back()
        footprint = need.footprint
        if not spec.limited or spec.context_size is None:
            return footprint
        share = spec.context_size / self.full_contexts[spec.model_id]
        return Footprint(
            mapped=footprint.mapped,
            host=int(footprint.host * share),
            device=int(footprint.device * share),
        )

    async def launch(
        self,
        spec: ServerSpec,
        settings: Settings,
        progress: Callable[[float | None], None],
        *,
        measure: bool = True,
        busy: Callable[[], bool] = lambda: False,
        watch: LoadWatch | None = None,
    ) -> VirtualServer:
        model_id = spec.model_id
        if self.loading:
            self.problems.append(f"{model_id} is loaded while {self.loading} is")
        if model_id in {server.model_id for server in self.alive}:
            self.problems.append(f"{model_id} is loaded twice")
        self.launched.append(model_id)
        self.kept_back.append(spec.projector_kept_back)
        self.contexts.append(spec.context_size if spec.limited else None)
        self.loading.add(model_id)
        need = await self.need(spec)
        footprint = self.real.get(model_id, need.footprint)
        self.on_launch(model_id, footprint)
        pid = 10_000 + len(self.launched)
        fits = self.machine is None or self.machine.has_room_for(footprint)
        if self.machine is not None and fits:
            self.machine.take(pid, footprint)
        self.most_alive = max(self.most_alive, len(self.alive) + 1)
        if settings.max_loaded_models and len(self.alive) + 1 > settings.max_loaded_models:
            self.problems.append(f"{model_id} is one more than max_loaded_models")
        try:
            if growth := self.grows.get(model_id):
                await self._grow(pid, growth, watch)
            await asyncio.sleep(self.load_seconds / 2)
            progress(0.5)
            await asyncio.sleep(self.load_seconds / 2)
            if not fits:
                raise ModelLoadError(f"{model_id}: out of memory", out_of_memory=True)
            if failures := self.failures.get(model_id):
                raise failures.pop(0)
        except asyncio.CancelledError:
            # As in the real launcher, the process has ended before the cancellation continues.
            await asyncio.shield(asyncio.sleep(self.stop_seconds))
            if self.fails_on_cancel:
                self._free(pid)
                raise load_error("it was killed") from None
            if not self.swallows_cancel:
                self._free(pid)
                raise
        except Exception:
            self._free(pid)
            raise
        finally:
            self.loading.remove(model_id)
        server = VirtualServer(self, model_id, 9000 + len(self.launched), pid)
        if self.machine is not None and model_id not in self.silent:
            server.says = footprint
        self.alive.append(server)
        return server

    async def _grow(self, pid: int, sizes: Sequence[int], watch: LoadWatch | None) -> None:
        """Use these amounts in turn, for a second each, until the watch ends the load."""
        assert self.machine is not None
        assert watch is not None

        async def pids() -> tuple[int, ...]:
            return (pid,)

        watching = asyncio.ensure_future(watch(pids))
        try:
            for size in sizes:
                self.machine.take(pid, Footprint(host=size))
                await asyncio.wait({watching}, timeout=1)
                if watching.done() and (reason := watching.result()) is not None:
                    raise reason
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    def _free(self, pid: int) -> None:
        if self.machine is not None:
            self.machine.give_back(pid)


class QueueRecord(NamedTuple):
    """The queue of a model, and the expected wait of the next request."""

    model_id: str
    status: ModelStatus
    queued: int
    wait: float | None


class World:
    """A scheduler over virtual servers, with the statuses that it reported."""

    def __init__(
        self,
        *,
        launcher: VirtualLauncher | None = None,
        policy: Policy = decide,
        **settings: Any,
    ) -> None:
        self.launcher = launcher or VirtualLauncher()
        self.sessions: list[SessionRecord] = []
        self.statuses: list[tuple[str, ModelStatus]] = []
        self.details = 0
        self.queues: list[QueueRecord] = []
        """The queue of the model at each notification."""
        self.settings = Settings(**settings)
        self.scheduler = Scheduler(
            launcher=self.launcher,
            settings=self.settings,
            on_state=self._on_state,
            on_detail=self._on_detail,
            on_session=self.sessions.append,
            read_memory=self.launcher.machine.read if self.launcher.machine else None,
            policy=policy,
        )

    def _on_state(self, model_id: str) -> None:
        self.statuses.append((model_id, self.status(model_id)))
        self._note_queue(model_id)

    def _on_detail(self, model_id: str) -> None:
        self.details += 1
        self._note_queue(model_id)

    def _note_queue(self, model_id: str) -> None:
        state = self.scheduler.state(model_id)
        if state is not None:
            wait = self.scheduler.waits.seconds_of_next(state)
            self.queues.append(QueueRecord(model_id, state.status, state.queued, wait))

    def status(self, model_id: str) -> ModelStatus:
        """Return a model's present status."""
        state = self.scheduler.state(model_id)
        return state.status if state else ModelStatus.UNLOADED

    def statuses_of(self, model_id: str) -> list[str]:
        """Return the statuses of a model, in order."""
        return [status.value for name, status in self.statuses if name == model_id]

    def server(self, model_id: str) -> VirtualServer:
        """Return the model's running server."""
        return next(server for server in self.launcher.alive if server.model_id == model_id)

    async def use(
        self, model: LocalModel, seconds: float = 0.0, priority: Priority = Priority.NORMAL
    ) -> None:
        """Send a request that takes so many seconds."""
        with await self.scheduler.acquire(model, priority=priority):
            await asyncio.sleep(seconds)

    def assert_at_rest(self) -> None:
        """Check that nobody waits, all counts are zero, and no invariant was broken."""
        assert not self.launcher.problems, self.launcher.problems
        assert self.scheduler.waiting == 0
        assert self.scheduler.in_flight == 0
        for model_id in {name for name, _ in self.statuses}:
            state = self.scheduler.state(model_id)
            assert state is not None
            assert (state.in_flight, state.queued, state.leaving) == (0, 0, None)
            assert not state.waiters
            assert state.shares is None or not state.shares.running(0)
        names = {task.get_name().split()[0] for task in asyncio.all_tasks()}
        assert not names & {"load", "unload"}

    async def assert_nothing_left(self) -> None:
        """Check that after ``close`` there is no process, no task and no count."""
        await ticks()
        self.assert_at_rest()
        assert not self.launcher.alive
        assert not self.launcher.loading
        assert asyncio.all_tasks() == {asyncio.current_task()}


def model(model_id: str, **settings: Any) -> LocalModel:
    """Return a model with only an id and settings."""
    return LocalModel(
        id=model_id,
        aliases=(),
        path=None,
        shards=(),
        mmproj=None,
        size_bytes=None,
        metadata=None,
        problem=None,
        settings=ModelSettings(**settings),
        removable=False,
    )


def load_error(text: str = "the model file is damaged") -> CyberError:
    """Return the error of a launch."""
    return ModelLoadError(text, log_tail=("E failed to load model",))
