"""Tells systemd that the service is ready, and that its event loop is alive: sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping


class Systemd:
    """The service manager that started this process, if ``environ`` names its socket.

    Without one, the calls do nothing. From ``ready`` on, a unit with ``WatchdogSec`` gets a sign of
    life twice in that time. The event loop sends it, so that one that hangs sends none: then
    systemd ends the service and starts it again.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            # An abstract socket: unix(7).
            self._address = "\0" + self._address[1:]
        for_us = environ.get("WATCHDOG_PID", "") in {"", str(os.getpid())}
        limit = environ.get("WATCHDOG_USEC", "")
        self._pause = int(limit) / 2e6 if for_us and limit.isdecimal() else 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Report that requests are accepted, and begin the signs of life."""
        self._send("READY=1")
        if self._address and self._pause:
            self._live(asyncio.get_running_loop())

    def stopping(self) -> None:
        """Report that the service stops. The signs of life go on until ``end``."""
        self._send("STOPPING=1")

    def end(self) -> None:
        """End the signs of life."""
        if self._timer is not None:
            self._timer.cancel()

    def _live(self, loop: asyncio.AbstractEventLoop) -> None:
        self._send("WATCHDOG=1")
        self._timer = loop.call_later(self._pause, self._live, loop)

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # A manager that is gone, or too busy for now, is no reason to fail or to wait.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.setblocking(False)
            sender.sendto(state.encode(), self._address)
