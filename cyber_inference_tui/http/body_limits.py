"""Limits of requests' bodies: the memory that all of them may take together, and their time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from aiohttp import web

from cyber_inference_tui.errors import BodyMemoryError
from cyber_inference_tui.monitor.main_memory import MainMemory, MainMemoryReading

if TYPE_CHECKING:
    from cyber_inference_tui.settings.schema import Settings

BODY_TIMEOUT = 60.0
"""Seconds without a byte of a body, and those after which its rate counts."""
LEAST_RATE = 1000.0
"""Bytes a second, on average, that a client has to send of a body."""

_PART = 16
"""Bodies may take the memory divided by this."""
_LEAST_MEMORY = 256 << 20


def default_memory(machine: MainMemoryReading | None) -> int:
    """Return the bytes that all bodies may take on a machine."""
    return max(_LEAST_MEMORY, machine.total // _PART if machine is not None else 0)


class BodyLimits:
    """What the bodies of requests have taken of their common memory, and what each may take.

    A body counts from its first byte until it is no longer needed. Plain requests that their server
    takes at once do not count: they have at most 256 KiB (``lean_path``). ``settings`` returns the
    settings in force.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._default = default_memory(MainMemory(settings().system_root).read())
        self.timeout = BODY_TIMEOUT
        self.least_rate = LEAST_RATE
        self.turns = asyncio.Lock()
        """Held for each step of work on a large body, and until other tasks have run after it."""
        self.used = 0
        """The bytes that all bodies take now."""

    @property
    def memory(self) -> int:
        """The bytes that all bodies may take."""
        return self._settings().max_body_memory or self._default

    def share(self) -> BodyShare:
        """Return the share of one body. Use it as ``with``."""
        return BodyShare(self)


BODY_LIMITS = web.AppKey("body_limits", BodyLimits)


class BodyShare:
    """The memory that one body takes. It ends with the block."""

    def __init__(self, limits: BodyLimits) -> None:
        self.limits = limits
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.resize(0)

    def check(self, size: int) -> None:
        """Raise ``BodyMemoryError`` if the body cannot have this size now."""
        more = size - self.size
        if more > 0 and self.limits.used + more > self.limits.memory:
            raise BodyMemoryError(
                "The bodies of other requests take all the memory for them.",
                hint="Try again later; max_body_memory sets how much they may take.",
            )

    def resize(self, size: int) -> None:
        """Give the body this size. Raises ``BodyMemoryError`` if the memory is not enough."""
        self.check(size)
        self.limits.used += size - self.size
        self.size = size
