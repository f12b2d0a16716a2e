"""Look for a newer llama-server in the background, once a day at most."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from cyber_inference_tui.llama.guard import ProcessGuard
from cyber_inference_tui.service.install_context import InstallContext
from cyber_inference_tui.service.installer_process import InstallerProcess

_TIME_LIMIT = 180.0
"""Seconds for a check: Debian's package lists are long."""
_RETRY = 3600.0
"""Seconds from a check to the next, also after a failure."""
_GRACE = 0.3

_logger = logging.getLogger(__name__)


class UpdateCheck:
    """Looks for a newer version in the background when a client asks and the last check is old."""

    def __init__(self, context: InstallContext, guard: ProcessGuard) -> None:
        self._context = context
        self._guard = guard
        self._task: asyncio.Task[None] | None = None
        self._not_before = 0.0

    async def version(self, *, look: bool) -> str | None:
        """Return the newer version, if one is known; ``look`` starts a check that is due."""
        known = await asyncio.to_thread(self._context.newer_version)
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
        argv = await asyncio.to_thread(self._context.check_argv)
        environ = await asyncio.to_thread(self._context.environ)
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
