"""The load of one server: how long nothing was heard of it, and why it failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.llama.confinement import way_out
from cyber_inference_tui.llama.failure import Cause, diagnose
from cyber_inference_tui.llama.launch_plan import LaunchPlan
from cyber_inference_tui.llama.server import ServerProcess

LOG_TAIL_LINES = 12
_PAUSED_AFTER = 1.0
"""Seconds of delay after which this process counts as having been stopped itself."""


class PortTakenError(ModelLoadError):
    """Another program has the server's port; another port may be free."""


class LoadActivity:
    """Records the signs of progress of a load, and passes them on."""

    def __init__(self, progress: Callable[[float | None], None]) -> None:
        self._progress = progress
        self._now = asyncio.get_running_loop().time
        self._last = self._now()
        self._has_progress = False

    def silence(self) -> float:
        """Return the seconds since the last sign."""
        return self._now() - self._last

    def reset(self) -> None:
        """Count the silence from now: nobody was listening for a while."""
        self._last = self._now()

    def server_progress(self, value: float | None) -> None:
        """Handle the server's own report of progress."""
        self._last = self._now()
        self._has_progress = self._has_progress or value is not None
        self._progress(value)

    def files_read(self, share: float | None) -> None:
        """Handle the share of its files that the server was seen to have read."""
        self._last = self._now()
        if not self._has_progress:
            # The server's own report is more precise.
            self._progress(share)


async def wait_ready(
    server: ServerProcess,
    activity: LoadActivity,
    timeout: float,
    reading: Coroutine[Any, Any, None],
    watched: Awaitable[ModelLoadError | None] | None,
) -> bool:
    """Return whether the server became ready before ``timeout`` seconds without a sign of life.

    Raises ``ServerExitedError`` if it exits instead, and the result of ``watched``.
    """
    loop = asyncio.get_running_loop()
    ready = asyncio.ensure_future(server.wait_ready())
    following = asyncio.ensure_future(reading)
    watching = None if watched is None else asyncio.ensure_future(watched)
    awaited: set[asyncio.Future[Any]] = {ready} if watching is None else {ready, watching}
    try:
        while not ready.done():
            left = timeout - activity.silence()
            if left <= 0:
                return False
            due = loop.time() + left
            await asyncio.wait(awaited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if watching in awaited and watching.done():
                awaited.remove(watching)
                if (reason := watching.result()) is not None and not ready.done():
                    # Kill it before memory runs out.
                    server.kill()
                    raise reason
            if loop.time() > due + _PAUSED_AFTER:
                # The service was stopped (SIGSTOP, a paused virtual machine). Timers expire
                # before the server's reports are read.
                activity.reset()
        ready.result()
        return True
    finally:
        for task in (work := {ready, following, *awaited}):
            task.cancel()
        await asyncio.wait(work)
        if not ready.cancelled():
            ready.exception()


def exit_error(
    launch: LaunchPlan, server: ServerProcess, code: int, lines: tuple[str, ...]
) -> ModelLoadError:
    """Return the error of a load whose server has exited; ``lines`` are those of its log."""
    tail = lines[-LOG_TAIL_LINES:]
    if (why := server.killed_because) is not None:
        return ModelLoadError(
            f"{launch.name} could not be loaded: {why}.", log_tail=tail, server_exit=code
        )
    found = diagnose(code, lines, left_running=server.left_running)
    kind = PortTakenError if found.cause is Cause.PORT_TAKEN else ModelLoadError
    return kind(
        f"{launch.name} could not be loaded: {found.sentence}.",
        hint="" if launch.ruleset is None else way_out(lines),
        log_tail=tail,
        out_of_memory=found.out_of_memory,
        needs_person=found.needs_person,
        server_exit=code,
    )
