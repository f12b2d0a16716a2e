"""Run blocking calls that cannot be stopped in a few daemon threads, with a time limit.

The interpreter does not wait for these threads at exit, as it does for those of
``concurrent.futures``: a name server that does not answer holds a thread for half a minute.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from aiohttp.abc import AbstractResolver, ResolveResult

from cyber_inference_tui.errors import HubUnreachableError

T = TypeVar("T")

_LOOKUPS = 8
_LOOKUP_TIME = 40.0
"""Seconds; resolvers give up earlier."""


class Threads:
    """Runs at most ``most`` threads at once, including those whose callers have given up."""

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    async def run(self, work: Callable[[], T], *, limit: float) -> T:
        """Return the result of ``work``, or raise its error.

        Raises ``TimeoutError`` after ``limit`` seconds, and ``HubUnreachableError`` at once while
        all threads are busy with earlier calls.
        """
        if not self._free.acquire(blocking=False):
            raise HubUnreachableError(
                "Earlier requests to the hub are still waiting for an answer.",
                hint="Try again in a moment.",
            )
        result: Future[T] = Future()
        # From now on a caller that gives up cannot cancel it.
        result.set_running_or_notify_cancel()

        def work_in_thread() -> None:
            try:
                try:
                    value = work()
                finally:
                    self._free.release()
            except BaseException as error:  # noqa: BLE001 - raised in the caller
                result.set_exception(error)
            else:
                result.set_result(value)

        thread = threading.Thread(target=work_in_thread, name="hub", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._free.release()
            raise HubUnreachableError("This machine has no thread left for the hub.") from error
        async with asyncio.timeout(limit):
            return await asyncio.wrap_future(result)


class Resolver(AbstractResolver):
    """Looks up names in ``Threads``, so that a hanging lookup does not delay the exit."""

    def __init__(self) -> None:
        self._threads = Threads(_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of ``host``. Raises ``OSError``."""
        found = await self._threads.run(
            lambda: socket.getaddrinfo(
                host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            ),
            limit=_LOOKUP_TIME,
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""
