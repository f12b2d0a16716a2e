"""A client's connection with two ways for a request: the lean path, and aiohttp's own.

A request takes the lean path if it is plain and arrives while nothing else is under way. As long as
it is, the bytes behind it are kept. If only a task can go on with it, aiohttp gets its bytes after
all, and the forwarder's handler finds the forwarding that has begun here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from cyber_inference_tui.http.forward import Forwarding
from cyber_inference_tui.http.lean_path import LeanPath, message_size
from cyber_inference_tui.http.quick_forwarding import QuickForwarding

_BODY_SECONDS = 1.0
"""Seconds after which aiohttp gets a plain request whose body is not complete."""
_MAX_LATER = 256 << 10
_MAX_DROPPED = 16 << 20
"""Bytes that are dropped behind the last request; further ones stay in the kernel."""


class LeanConnection(RequestHandler):
    """A client's connection."""

    __slots__ = (
        "_answer_count",
        "_arrived",
        "_begun",
        "_body_timer",
        "_dropped",
        "_early",
        "_forwarding",
        "_is_free",
        "_is_usual",
        "_later",
        "_lean",
        "_left",
        "_plain",
        "is_last",
        "local_port",
        "on_writable",
        "remote",
        "was_used",
    )

    def __init__(self, server: web.Server, lean: LeanPath | None, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._lean = lean
        self._is_free = lean is not None
        """Whether the next byte begins a request, and nothing is under way."""
        self._is_usual = True
        """Whether the connection simply waits for the next request after the present one."""
        self._left = 0.0
        """The missing bytes of aiohttp's request; not finite if they are not certain."""
        self._early = b""
        """A plain request whose body is not complete."""
        self._arrived: float | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._forwarding: QuickForwarding | None = None
        """The forwarding on the lean path."""
        self._plain = b""
        """Its request."""
        self._later = b""
        """The bytes behind its request."""
        self._begun: Forwarding | None = None
        """A forwarding that began on the lean path, for aiohttp's handler."""
        self._dropped = 0
        """The number of bytes that have come behind the last request."""
        self._answer_count = 0
        """The number of aiohttp's requests that are answered."""
        self.was_used = False
        """Whether a request has come."""
        self.is_last = False
        """Whether the client has closed its sending side behind a request on the lean path."""
        self.on_writable: Callable[[], None] | None = None
        self.remote: str | None = None
        self.local_port: int | None = None

    @property
    def unanswered(self) -> int:
        """The number of requests that wait for their answers."""
        return self._request_count - self._answer_count + (self._forwarding is not None)

    @property
    def is_lean(self) -> bool:
        """Whether a request is on the lean path."""
        return self._forwarding is not None

    @property
    def is_idle(self) -> bool:
        """Whether it is open and no request is under way."""
        return self.transport is not None and not self.unanswered

    @property
    def idle_until(self) -> float:
        """The loop's time at which an idle connection is closed if no request comes."""
        return self._next_keepalive_close_time

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for requests."""
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        self.remote = str(address[0]) if isinstance(address, tuple) else address
        address = transport.get_extra_info("sockname")
        self.local_port = address[1] if isinstance(address, tuple) else None

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what is under way."""
        self._is_free = False
        self._stop_body_timer()
        self.leave()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Continue an answer for which the client was too slow."""
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    # The lean path

    def data_received(self, data: bytes) -> None:
        """Forward a plain request, or leave the bytes to aiohttp."""
        lean = self._lean
        if self._is_free and lean is not None:
            forwarding = lean.find(data, self)
        elif self._early and lean is not None and not (self._close or self._force_close):
            data, forwarding = self._early + data, None
        else:
            self._receive_more(data)
            return
        if forwarding is None and (forwarding := self._find_first(data, lean)) is None:
            return
        self._forwarding, self._plain, self._is_free = forwarding, data, False
        if not forwarding.start():
            self._hand_over(forwarding)

    def _find_first(self, data: bytes, lean: LeanPath) -> QuickForwarding | None:
        """Read a request that is not like those before; ``None`` = aiohttp gets it, now or later,
        or its body is not complete."""
        transport = self.transport
        arrived = self._arrived or self._loop.time()
        plain = None if transport is None else lean.read(data, transport)
        if plain is not None and len(data) < plain.size:
            self._wait_for_body(data, arrived)
            return None
        if self._arrived is not None:
            self._end_early()
        forwarding = None
        if plain is not None and len(data) == plain.size:
            forwarding = lean.forward(plain, data, self, arrived)
        if forwarding is None:
            self._feed(data)
        return forwarding

    def _receive_more(self, data: bytes) -> None:
        """Take bytes that do not begin a request, or that are no longer wanted."""
        if self._forwarding is not None:
            self._keep(data)
        else:
            self._feed(data)

    def _wait_for_body(self, data: bytes, arrived: float) -> None:
        """Keep a plain request whose body is not complete, for a moment."""
        self._early, self._arrived, self._is_free = data, arrived, False
        if self._body_timer is None:
            self._body_timer = self._loop.call_later(_BODY_SECONDS, self._feed_early)

    def answered(self, now: float, keep_alive: bool) -> None:
        """Wait for the next request, after the answer to one on the lean path: the hot path."""
        self._forwarding, self._plain, self.was_used = None, b"", True
        if keep_alive and self._is_usual:
            self._is_free = True
            self._next_keepalive_close_time = now + self._keepalive_timeout
        else:
            self._continue(now, keep_alive)

    def _continue(self, now: float, keep_alive: bool) -> None:
        """Continue with the bytes behind a request, or close the connection."""
        self._end_progress()
        self._is_usual = True
        if self._later:
            # What follows is answered before the connection ends.
            self.is_last = False
        if not keep_alive or self.is_last or self._close or self._force_close:
            self.force_close()
        elif self.transport is not None:
            self._is_free = True
            self._next_keepalive_close_time = now + self._keepalive_timeout
            if self._later:
                self.data_received(self._take_later())

    def needs_task(self) -> None:
        """Have aiohttp continue an answer that is not complete."""
        if self._forwarding is not None:
            self._hand_over(self._forwarding)

    def end_after_answer(self) -> None:
        """Close the connection after the answer to the request on the lean path.

        The client has closed its sending side.
        """
        self.is_last, self._is_usual = True, False

    def _hand_over(self, forwarding: QuickForwarding) -> None:
        """Let aiohttp's handler continue the forwarding, which needs a task."""
        self._end_progress()
        if self._close or self._force_close or self.transport is None:
            # aiohttp takes no more requests.
            self.leave()
            self.force_close()
            return
        self._begun, self._forwarding = forwarding.becomes(), None
        data, self._plain = self._plain, b""
        self._is_free = self._is_usual = True
        self._feed(data)
        if self._later:
            self._feed(self._take_later())
        elif self.is_last:
            self.close()

    def take_begun(self) -> Forwarding | None:
        """Return the forwarding of the request that aiohttp's handler got, if it has begun."""
        begun, self._begun = self._begun, None
        return begun

    def leave(self) -> None:
        """End the forwarding that no task runs, if there is one."""
        forwarding = self._forwarding or self._begun
        self._forwarding = self._begun = None
        if forwarding is not None:
            forwarding.leave()

    def _keep(self, data: bytes) -> None:
        """Keep bytes until the present request is answered; too many stay in the kernel."""
        self._later += data
        self._is_usual = False
        if len(self._later) > _MAX_LATER and self.transport is not None:
            self.transport.pause_reading()

    def _take_later(self) -> bytes:
        later, self._later = self._later, b""
        if len(later) > _MAX_LATER and self.transport is not None:
            self.transport.resume_reading()
        return later

    # aiohttp's way

    def _feed(self, data: bytes) -> None:
        """Let aiohttp take the bytes. The connection is in use once a head is complete."""
        if self._close:
            self._dropped += len(data)
            if self._dropped > _MAX_DROPPED and self.transport is not None:
                self.transport.pause_reading()
            return
        if self._is_free and data:
            self._is_free = False
            self._left = message_size(data)
        self._left -= len(data)
        super().data_received(data)

    def _feed_early(self) -> None:
        """Let aiohttp wait for the rest of a body."""
        early = self._early
        self._end_early()
        self._feed(early)

    def _end_early(self) -> None:
        self._early, self._arrived, self._is_free = b"", None, True
        self._stop_body_timer()

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def note_answer(self) -> None:
        """Note that aiohttp's handler has answered a request. Call it after each."""
        self._answer_count += 1
        self.was_used = True
        # If it was refused before the handler, as by changed settings.
        self.leave()
        is_over = not self._left and self._request_count == self._answer_count
        self._is_free = (
            is_over
            and self._lean is not None
            and self.transport is not None
            and not (self._close or self._force_close)
        )

    def _end_progress(self) -> None:
        """Let aiohttp's shutdown continue, which waits for requests."""
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    # aiohttp's state

    def close(self) -> None:
        """Close the connection after the present request."""
        self._is_free = self._is_usual = False
        super().close()

    def force_close(self) -> None:
        """Close the connection."""
        self._is_free = self._is_usual = False
        super().force_close()

    def drop_rest(self) -> None:
        """Close the connection after the present answer, without the rest of the request."""
        self.close()
        # aiohttp would read it.
        self._lingering_time = 0.0
        if self.transport is not None:
            # The client may not see the answer before it has sent everything.
            self.transport.resume_reading()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Close the connection after the present request, for which it waits."""
        self._is_free = self._is_usual = False
        self._request_in_progress = self._request_in_progress or self._forwarding is not None
        await super().shutdown(timeout)

    def _process_keepalive(self) -> None:
        # aiohttp takes a connection on the lean path for idle.
        if self._forwarding is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()
