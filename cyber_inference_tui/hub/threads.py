"""Threads for questions that block and cannot be stopped: few, and waited for no longer than told.

Unlike those of ``concurrent.futures`` nobody waits for them at the end of the program: a name
server that does not answer holds a thread for half a minute.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from aiohttp.abc import AbstractResolver, ResolveResult

from cyber_inference_tui.errors import HubUnreachableError

T = TypeVar("T")

_LOOKUPS = 8
_LOOKUP_TIME = 40.0
"""Seconds; longer than resolvers take to give up."""


class Threads:
    """At most ``most`` threads at once, also of those that nobody waits for any more."""

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    async def run(self, work: Callable[[], T], *, limit: float) -> T:
        """What ``work`` gives or raises. Raises ``TimeoutError`` after ``limit`` seconds, and
        ``HubUnreachableError`` at once where all threads are still busy with earlier questions."""
        if not self._free.acquire(blocking=False):
            raise HubUnreachableError(
                "Earlier questions to the hub are still without an answer.",
                hint="Try again in a moment.",
            )
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def tell(result: T | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]  # one of both is there

        def carry_out() -> None:
            result: T | None = None
            problem: BaseException | None = None
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                problem = error
            finally:
                self._free.release()
            try:
                loop.call_soon_threadsafe(tell, result, problem)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                return

        thread = threading.Thread(target=carry_out, name="hub", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._free.release()
            raise HubUnreachableError("This machine has no thread left for the hub.") from error
        async with asyncio.timeout(limit):
            return await answer


class Resolver(AbstractResolver):
    """Looks up names in such threads: one that hangs does not hold up the end of the program."""

    def __init__(self) -> None:
        self._threads = Threads(_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of ``host``. Raises ``OSError``."""
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
        """Nothing is held."""
