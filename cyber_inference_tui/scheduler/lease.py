"""The place of a request at a loaded model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.records import Priority
from cyber_inference_tui.scheduler.server_interface import Server
from cyber_inference_tui.scheduler.state import ModelState, Session
from cyber_inference_tui.settings.schema import Settings


class Lease:
    """A request's place at a loaded model, which is not unloaded until ``release``."""

    __slots__ = (
        "_begin",
        "_is_retry",
        "_priority",
        "_released",
        "_session",
        "_since",
        "_state",
        "_waits",
        "_was_sent",
        "server",
    )

    def __init__(
        self,
        released: Callable[[ModelState, float, float], float],
        state: ModelState,
        server: Server,
        since: float,
        session: Session | None,
        *,
        begin: float,
        is_sent: bool = False,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        self._released: Callable[[ModelState, float, float], float] | None = released
        self._state = state
        self.server = server
        """The server, which may have exited."""
        self._since = since
        self._session = session
        self._begin = begin
        """The mark of ``EnergyShares`` when it took the place."""
        self._is_retry = False
        self._waits = self._was_sent = is_sent
        self._priority = priority
        if state.shares is not None:
            state.shares.begin(priority)

    @property
    def address(self) -> ServerAddress:
        """The address of the server."""
        return self.server.address

    def stall_seconds(self, settings: Settings) -> float:
        """Return after how many seconds without a byte the server counts as hung; 0 = never."""
        return settings.stall_timeout

    @property
    def model_id(self) -> str:
        """The id of the model."""
        return self._state.model.id

    @property
    def stopped_on_purpose(self) -> bool:
        """True if the service stopped the server (by force, if the request was still running)."""
        return self._state.stopped_on_purpose is self.server

    @property
    def on_forced_unload(self) -> set[Callable[[], None]]:
        """The functions to call when the model is unloaded although it has requests."""
        return self._state.on_forced_unload

    @property
    def server_exited(self) -> bool:
        """True if the server has exited."""
        return self.server.exited.done()

    async def wait_exited(self, timeout: float) -> None:
        """Wait until the server has exited, for at most ``timeout`` seconds."""
        await asyncio.wait({self.server.exited}, timeout=timeout)

    def exit_reason(self) -> str:
        """Return why the server exited, in plain words."""
        return self.server.exit_reason()[0]

    def count(self, tokens_in: int | None, tokens_out: int | None) -> None:
        """Add the request's tokens to the totals of the session."""
        session = self._session
        if session is not None:
            session.tokens_in += tokens_in or 0
            session.tokens_out += tokens_out or 0

    def leave_uncounted(self) -> None:
        """Take the request out of the session's number of requests: no client has sent it."""
        if self._session is not None:
            self._session.requests -= 1

    def keep_loaded(self, idle_timeout: float) -> None:
        """Set the model's idle timeout until it is unloaded, in seconds; 0 = never.

        Call it before ``release``.
        """
        state = self._state
        if state.server is self.server:
            # The timer may be after the end of the new timeout.
            state.asked_idle_timeout, state.early_timer = idle_timeout, None

    def mark_retry(self) -> None:
        """Note that a former server died with this request.

        If this server dies, too, the request is blamed and not the server.
        """
        if self._session is not None and not self._is_retry:
            self._is_retry = True
            self._session.retries += 1

    async def wait_alone(self, timeout: float) -> None:
        """Wait until all other requests have received the start of their answer, or the server has
        exited; for at most ``timeout`` seconds."""
        state, session = self._state, self._session
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while session is not None and session.unanswered and not self.server_exited:
                    state.changed.clear()
                    await state.changed.wait()

    def sent(self) -> None:
        """Note that the request is being sent to the server."""
        session = self._session
        if session is not None and not (self._was_sent or self.server.exited.done()):
            self._was_sent = self._waits = True
            session.unanswered += 1

    def begun(self) -> None:
        """Note that the answer has begun, or will never come."""
        session = self._session
        if session is not None and self._waits:
            self._waits = False
            session.unanswered -= 1
            if session.retries and not session.unanswered:
                # A request may ``wait_alone``.
                self._state.changed.set()

    @property
    def was_alone(self) -> bool:
        """True if no other request was without an answer when the server died."""
        return self._was_sent and self._session is not None and self._session.lost == 1

    def answered(self) -> None:
        """Note that the request was answered, so that its server counts as one that works."""
        if self._session is not None:
            self._session.answered = True

    def release(self) -> tuple[float, float] | None:
        """Give the place back when the request has ended. Further calls have no effect.

        Return the marks of ``EnergyShares`` at its begin and its end.
        """
        released, self._released = self._released, None
        if released is not None:
            if self._waits:
                self.begun()
            if self._is_retry and self._session is not None:
                self._session.retries -= 1
            if self._state.shares is not None:
                self._state.shares.end(self._priority)
            now = asyncio.get_running_loop().time()
            return self._begin, released(self._state, self._since, now)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
