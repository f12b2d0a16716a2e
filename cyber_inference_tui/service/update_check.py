"""Look for a newer llama-server in the background, once a day at most."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from cyber_inference_tui.llama.guard import ProcessGuard
from cyber_inference_tui.service.installer_process import InstallerProcess

_TIME_LIMIT = 180.0
"""Seconds for a check: Debian's package lists are long."""
_RETRY = 3600.0
"""Seconds from a check to the next, also after a failure."""
_GRACE = 0.3

_logger = logging.getLogger(__name__)


class NewerVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The newer version, if one is known."""

    version: str | None = None
    due: bool = False
    """It is time for another check."""


class UpdateCheck:
    """Runs ``argv`` in the background when a client asks and the result of ``known`` is old.

    ``known``, ``argv`` and ``environ`` block, and are called in a thread.
    """

    def __init__(
        self,
        *,
        known: Callable[[], NewerVersion],
        argv: Callable[[], Sequence[str]],
        environ: Callable[[], Mapping[str, str]],
        guard: ProcessGuard,
    ) -> None:
        self._known = known
        self._argv = argv
        self._environ = environ
        self._guard = guard
        self._task: asyncio.Task[None] | None = None
        self._not_before = 0.0

    async def version(self, *, look: bool) -> str | None:
        """Return the newer version, if one is known; ``look`` starts a check that is due."""
        known = await asyncio.to_thread(self._known)
        now = asyncio.get_running_loop().time()
        if look and known.due and self._task is None and now >= self._not_before:
            self._not_before = now + _RETRY
            self._task = asyncio.create_task(self._look(), name="look for a newer llama-server")
            self._task.add_done_callback(self._looked)
        return known.version

    def _looked(self, _: asyncio.Task[None]) -> None:
        self._task = None

    async def stop(self) -> None:
        """End a check that is under way."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _look(self) -> None:
        argv = await asyncio.to_thread(self._argv)
        environ = await asyncio.to_thread(self._environ)
        try:
            process = await InstallerProcess.spawn(argv, environ, lambda _: None)
        except OSError as error:
            _logger.info("cannot look for a newer llama-server: %s", error.strerror)
            return
        self._guard.add(process.pid)
        try:
            await asyncio.wait({process.exited}, timeout=_TIME_LIMIT)
        finally:
            # Also when this task is cancelled; the process' own limits bound the wait.
            with contextlib.suppress(TimeoutError):
                await process.stop(_GRACE)
            self._guard.remove(process.pid)
