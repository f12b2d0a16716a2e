"""Whether a server answers: one question, and a watch over a loaded server that asks on and on."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

import msgspec

from cyber_inference_tui.llama.http_get import http_get

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})
"""Errors of a connection that tell of us and not of the server."""


class CannotAskError(Exception):
    """We have no means to ask now (files, memory, ports)."""


async def ask_health(host: str, port: int, timeout: float) -> int | None:
    """The HTTP status of ``GET /health``, asked on a connection of its own.

    ``None`` when nobody listens, 0 when whoever listens gives no HTTP answer in ``timeout``
    seconds. Raises ``CannotAskError``.
    """
    try:
        status, _ = await http_get(host, port, "/health", timeout=timeout, most_bytes=0)
    except OSError as error:
        # TimeoutError is one of them.
        if error.errno in _OURS:
            raise CannotAskError(str(error)) from error
        return None if isinstance(error, ConnectionRefusedError) else 0
    return status


class HealthLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When a server that does not answer counts as hung."""

    interval: float = 10.0
    """Seconds between an answer and the next question."""
    timeout: float = 10.0
    """Seconds it has for an answer."""
    strikes: int = 3
    """Questions in a row without an answer."""


DEFAULT_LIMITS = HealthLimits()


async def watch_health(
    ask: Callable[[float], Awaitable[int | None]],
    *,
    limits: HealthLimits,
    busy: Callable[[], bool],
) -> None:
    """Return when the server counts as hung; until then ask on, until cancelled.

    ``ask`` is ``ask_health`` of the server; it gets the time limit in seconds. An answer of any
    HTTP status will do. While ``busy`` it is not asked: a server that does one thing at a time
    answers nothing else meanwhile.
    """
    strikes = 0
    while strikes < limits.strikes:
        await asyncio.sleep(limits.interval)
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
