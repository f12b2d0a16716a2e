"""What systemd hears from the service: that it is ready, that it lives, and that it stops."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyber_inference_tui.service.systemd import Systemd
from tests.waiting import until


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": address.replace("\0", "@")}

    def heard(self) -> list[str]:
        """What has come since the last call."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(1000).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    names = {"path": str(tmp_path / "notify"), "abstract": f"\0{tmp_path}"}
    manager = Manager(names[request.param])
    yield manager
    manager.socket.close()


async def test_it_reports_its_states(manager: Manager) -> None:
    systemd = Systemd(manager.environ)
    systemd.ready()
    systemd.stopping()
    systemd.end()
    assert manager.heard() == ["READY=1", "STOPPING=1"]


async def test_a_loop_that_hangs_gives_no_sign_of_life(manager: Manager) -> None:
    limit = 0.1
    systemd = Systemd({**manager.environ, "WATCHDOG_USEC": f"{limit * 1e6:.0f}"})
    systemd.ready()
    assert manager.heard() == ["READY=1", "WATCHDOG=1"]
    for _ in range(2):
        await until(lambda: "WATCHDOG=1" in manager.heard())
    time.sleep(3 * limit)
    assert manager.heard() == []
    await until(lambda: "WATCHDOG=1" in manager.heard())
    systemd.stopping()
    await until(lambda: "WATCHDOG=1" in manager.heard())
    systemd.end()
    manager.heard()
    await asyncio.sleep(2 * limit)
    assert manager.heard() == []


async def test_the_watchdog_of_another_process_is_not_ours(manager: Manager) -> None:
    wanted = {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getppid())}
    systemd = Systemd({**manager.environ, **wanted})
    systemd.ready()
    await asyncio.sleep(0.01)
    assert manager.heard() == ["READY=1"]


async def test_a_manager_that_is_gone_does_no_harm(manager: Manager) -> None:
    manager.socket.close()
    for environ in (manager.environ, {}, {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "x"}):
        systemd = Systemd(environ)
        systemd.ready()
        systemd.stopping()
        systemd.end()
