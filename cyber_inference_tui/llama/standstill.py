"""Finds a llama-server whose main thread waits for itself: its requests never end.

Its other threads still answer ``/health``, and send comments in its streams. A deadlock is proved
from two sides. For half a minute the process has used no processor and no disk, and its main thread
waits for one of its threads. And asked twice for its slots and adapters, it is silent or says that
a slot works.

Work is never taken for that. The processor and a disk leave traces in ``/proc``, and so does the
lack of them: a thread that waits for either is in state R or D. A GPU gets its work in small pieces
from the main thread, which waits for it in the driver, as it waits for other machines (``--rpc``)
in the network. While a client does not read its answer, or a picture is fetched, no slot works.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from cyber_inference_tui.kernel import PROC
from cyber_inference_tui.llama.http_get import ServerAddress, http_get

_MAJOR_FAULTS, _USER, _SYSTEM = 9, 11, 12
"""Indexes in ``/proc/PID/stat`` after the name (``proc_pid_stat(5)``)."""
_TICKS = os.sysconf("SC_CLK_TCK")
_SHARE = 0.01
"""Of a core: what our own questions may cost."""
_MOST_THREADS = 4096
_MOST_BYTES = 1 << 20
_QUESTIONS = ("/slots", "/lora-adapters")
_WORKS = re.compile(rb'"is_processing":\s*true')
_LOCK = b"futex"
"""Part of the names of the kernel's functions for locks and conditions (``futex(7)``). A kernel
that hides the names says "0"."""
_TRIES = 3
_AGAIN = 0.1
"""Seconds until a process is looked at again: a thread may just answer the check of its health."""


class StandstillLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits after which a server with requests stands still."""

    interval: float = 3.0
    """Seconds between two looks at the process."""
    looks: int = 7
    """Looks in a row without work, before it is asked."""
    timeout: float = 5.0
    """Seconds for its answer."""
    strikes: int = 2
    """Further looks in a row without work, at which it is not free."""


class Look(NamedTuple):
    """A process at one moment."""

    ticks: int
    """Its processor time so far."""
    faults: int
    """The pages that it has read from a disk so far."""
    states: bytes
    """The states of its threads, a letter for each."""
    waits_in: bytes
    """The kernel's function in which its main thread waits."""


def look_at(pid: int, proc: Path = PROC) -> Look | None:
    """Look at a process; ``None`` = it is gone, or there is no ``/proc``. Blocks for milliseconds.

    Its threads, which are hundreds, are looked at only if the main thread waits for one of them.
    """
    try:
        fields = _fields(f"{proc}/{pid}/stat")
        waits_in = Path(f"{proc}/{pid}/wchan").read_bytes()
        states = bytearray(fields[0])
        if _LOCK in waits_in:
            with os.scandir(f"{proc}/{pid}/task") as threads:
                for thread in islice(threads, _MOST_THREADS):
                    with suppress(FileNotFoundError, ProcessLookupError):
                        states += _fields(f"{thread.path}/stat")[0]
        return Look(
            ticks=int(fields[_USER]) + int(fields[_SYSTEM]),
            faults=int(fields[_MAJOR_FAULTS]),
            states=bytes(states),
            waits_in=waits_in,
        )
    except (OSError, ValueError, IndexError):
        return None


def _fields(path: str) -> list[bytes]:
    # A name may contain anything, even a parenthesis; numbers follow the last one.
    return Path(path).read_bytes().rpartition(b")")[2].split()


def stood_still(before: Look | None, after: Look | None, seconds: float) -> bool:
    """Return whether a process certainly did nothing in the ``seconds`` between two looks."""
    return (
        before is not None
        and after is not None
        and after.ticks - before.ticks <= seconds * _SHARE * _TICKS
        and after.faults == before.faults
        # All sleep: none runs, waits for a processor (R) or a disk (D), or is stopped (T).
        and not after.states.strip(b"S")
        and _LOCK in after.waits_in
    )


async def is_free(server: ServerAddress, timeout: float) -> bool:
    """Return whether its main thread answers and no slot works, or it does not listen.

    Builds differ in the questions that other threads answer for the main thread.
    """
    body = b""
    try:
        for path in _QUESTIONS:
            body += (await http_get(server, path, timeout=timeout, most_bytes=_MOST_BYTES))[1]
    except TimeoutError:
        return False
    except OSError:
        # The check of its health reports this.
        return True
    return _WORKS.search(body) is None


async def watch_standstill(
    look: Callable[[], Look | None],
    is_free: Callable[[float], Awaitable[bool]],
    *,
    limits: StandstillLimits,
    busy: Callable[[], bool],
) -> None:
    """Watch a server until it stands still while it is ``busy``, then return.

    Looks are counted, not seconds: those in which this service itself was stopped do not count.
    """
    count, before = 0, None
    while count < limits.looks + limits.strikes:
        await asyncio.sleep(limits.interval)
        for _ in range(_TRIES):
            after = await asyncio.to_thread(look) if busy() else None
            still = stood_still(before, after, limits.interval)
            if still or after is None or b"R" not in after.states:
                break
            await asyncio.sleep(_AGAIN)
        before = after
        asks = still and count >= limits.looks
        count = count + 1 if still and not (asks and await is_free(limits.timeout)) else 0
