"""Checks whether a server answers: a single health check, and a watch over a loaded server."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

import msgspec

from cyber_inference_tui.llama.http_get import ServerAddress, http_get
from cyber_inference_tui.llama.standstill import StandstillLimits

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})
"""Connection errors that are caused by us and not by the server."""


class CannotAskError(Exception):
    """We lack files, memory or ports for a connection."""


async def ask_health(server: ServerAddress, timeout: float) -> int | None:
    """Return the HTTP status of ``GET /health``, asked on a connection of its own.

    ``None`` = nobody listens; 0 = the listener gives no HTTP answer in ``timeout`` seconds. Raises
    ``CannotAskError``.
    """
    try:
        status, _ = await http_get(server, "/health", timeout=timeout, most_bytes=0)
    except OSError as error:
        # TimeoutError is an OSError.
        if error.errno in _OURS:
            raise CannotAskError(str(error)) from error
        return None if isinstance(error, ConnectionRefusedError) else 0
    return status


class HealthLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits after which a server without answers counts as hung."""

    interval: float = 3.0
    """Seconds between an answer and the next check."""
    again: float = 0.5
    """Seconds until the next check if nobody listens: that is not for want of time."""
    timeout: float = 10.0
    """Seconds for an answer."""
    strikes: int = 3
    """Checks in a row without an answer."""
    standstill: StandstillLimits = StandstillLimits()
    """The limits for a server that answers, but does not work."""


DEFAULT_LIMITS = HealthLimits()


async def watch_health(
    ask: Callable[[float], Awaitable[int | None]],
    *,
    limits: HealthLimits,
    busy: Callable[[], bool],
) -> None:
    """Check the server until it counts as hung, then return.

    ``ask`` is ``ask_health`` of the server; its argument is the time limit in seconds. Any HTTP
    status counts as an answer. A ``busy`` server is not asked: a server that handles one request at
    a time answers nothing else meanwhile.
    """
    strikes = 0
    pause = limits.interval
    while strikes < limits.strikes:
        await asyncio.sleep(pause)
        pause = limits.interval
        if busy():
            strikes = 0
            continue
        try:
            answer = await ask(limits.timeout)
        except CannotAskError:
            continue
        if answer or busy():
            strikes = 0
        else:
            strikes += 1
            pause = limits.again if answer is None else limits.interval
