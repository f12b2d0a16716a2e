"""A virtual world for the scheduler: a clock that jumps, and servers that are only states.

Time passes when nobody has anything to do, so a test of an idle timeout of an hour takes no time,
and a wait for something that can never happen fails at once instead of hanging.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cyber_inference_tui.errors import CyberError, ModelLoadError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.settings.schema import ModelSettings, Settings

T = TypeVar("T")


class NothingCanHappenError(AssertionError):
    """Everybody waits and no timer is set: the schedule is stuck."""


class _JumpingSelector(selectors.SelectSelector):
    """Instead of sleeping it moves the clock on."""

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
    """Run ``work`` in virtual time; whatever the loop would only log is a failure."""
    problems: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
        result = runner.run(work)
    assert not problems, problems
    return result


def now() -> float:
    """The virtual time in seconds."""
    return asyncio.get_running_loop().time()


async def ticks(count: int = 20) -> None:
    """Let everything run that can run without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


class VirtualServer:
    """A server that is up until it is stopped or crashes."""

    def __init__(self, world: VirtualLauncher, model_id: str, port: int) -> None:
        self.world = world
        self.model_id = model_id
        self.port = port
        self.pid = 1000 + port
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.stops: list[float] = []
        """The timeouts ``stop`` was called with."""

    async def stop(self, timeout: float) -> int:
        self.stops.append(timeout)
        if not self.exited.done():
            await asyncio.sleep(min(timeout, self.world.stop_seconds))
        self.end(0)
        return self.exited.result()

    def end(self, code: int) -> None:
        """The process is gone."""
        if not self.exited.done():
            self.exited.set_result(code)
            self.world.alive.remove(self)

    def obituary(self) -> tuple[str, tuple[str, ...]]:
        return f"its server exited with code {self.exited.result()}", ("last words",)

    def declare_hung(self, reason: str) -> None:
        self.end(-9)


class VirtualLauncher:
    """Launches virtual servers and checks what must hold whenever one is launched."""

    def __init__(self, *, load_seconds: float = 1.0, stop_seconds: float = 0.5) -> None:
        self.load_seconds = load_seconds
        self.stop_seconds = stop_seconds
        self.failures: dict[str, list[Exception]] = {}
        """Per model: what the next launches fail with."""
        self.launched: list[str] = []
        self.loading: set[str] = set()
        self.alive: list[VirtualServer] = []
        self.most_alive = 0
        self.swallows_cancel = False

    async def launch(
        self,
        model: LocalModel,
        settings: Settings,
        progress: Callable[[float | None], None],
    ) -> VirtualServer:
        assert not self.loading, f"{model.id} is loaded while {self.loading} is"
        assert model.id not in {server.model_id for server in self.alive}, "loaded twice"
        self.launched.append(model.id)
        self.loading.add(model.id)
        self.most_alive = max(self.most_alive, len(self.alive) + 1)
        if settings.max_loaded_models:
            assert len(self.alive) + 1 <= settings.max_loaded_models
        try:
            await asyncio.sleep(self.load_seconds / 2)
            progress(0.5)
            await asyncio.sleep(self.load_seconds / 2)
            if failures := self.failures.get(model.id):
                raise failures.pop(0)
        except asyncio.CancelledError:
            # As the real one: the process is gone before the cancellation goes on.
            await asyncio.shield(asyncio.sleep(self.stop_seconds))
            if not self.swallows_cancel:
                raise
        finally:
            self.loading.remove(model.id)
        server = VirtualServer(self, model.id, 9000 + len(self.launched))
        self.alive.append(server)
        return server


class World:
    """A scheduler over virtual servers, with the statuses it told."""

    def __init__(
        self,
        *,
        launcher: VirtualLauncher | None = None,
        max_connections: int = 100,
        **settings: Any,
    ) -> None:
        self.launcher = launcher or VirtualLauncher()
        self.statuses: list[tuple[str, ModelStatus]] = []
        self.details = 0
        self.settings = Settings(**settings)
        self.scheduler = Scheduler(
            launcher=self.launcher,
            settings=self.settings,
            max_connections=max_connections,
            on_state=self._on_state,
            on_detail=self._on_detail,
        )

    def _on_state(self, model_id: str) -> None:
        self.statuses.append((model_id, self.status(model_id)))

    def _on_detail(self, model_id: str) -> None:
        self.details += 1

    def status(self, model_id: str) -> ModelStatus:
        """A model's status now."""
        state = self.scheduler.state(model_id)
        return state.status if state else ModelStatus.UNLOADED

    def told(self, model_id: str) -> list[str]:
        """The statuses a model went through, in order."""
        return [status.value for name, status in self.statuses if name == model_id]

    def server(self, model_id: str) -> VirtualServer:
        """The model's living server."""
        return next(server for server in self.launcher.alive if server.model_id == model_id)

    async def use(self, model: LocalModel, seconds: float = 0.0) -> None:
        """One request that takes so long."""
        with await self.scheduler.acquire(model):
            await asyncio.sleep(seconds)

    def assert_at_rest(self) -> None:
        """Nobody waits and nothing is counted any more."""
        assert self.scheduler.waiting == 0
        assert self.scheduler.in_flight == 0
        for model_id in {name for name, _ in self.statuses}:
            state = self.scheduler.state(model_id)
            assert state is not None
            assert (state.in_flight, state.queued, state.leaving) == (0, 0, False)
            assert not state.waiters
            assert state.task is None

    async def assert_nothing_left(self) -> None:
        """After ``close``: no process, no task, no count."""
        await ticks()
        self.assert_at_rest()
        assert not self.launcher.alive
        assert not self.launcher.loading
        assert asyncio.all_tasks() == {asyncio.current_task()}


def model(model_id: str, **settings: Any) -> LocalModel:
    """A model with nothing but an id and settings."""
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
    """What a launch fails with."""
    return ModelLoadError(text, log_tail=("E failed to load model",))
