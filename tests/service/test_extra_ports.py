"""Further ports: opened if they are free, and as the setting says."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cyber_inference_tui.records import PortRecord
from cyber_inference_tui.service.extra_ports import ExtraPorts, Stop
from cyber_inference_tui.settings.schema import Settings
from tests.real.imported_service import adopt_orphans

HOST = "127.0.0.1"
OWN = 1
LISTEN = """
import os, socket, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], os.getpid(), flush=True)
    sys.stdin.read()
"""
# Not a child of this process: those are its own.
IN_BACKGROUND = ("sh", "-c", 'exec 3<&0; "$@" <&3 &', "sh")


def free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def serve(listener: socket.socket) -> Stop:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), sock=listener)

    async def stop() -> None:
        server.close()

    return stop


@asynccontextmanager
async def opened(*ports: int) -> AsyncIterator[ExtraPorts]:
    extra = ExtraPorts()
    await extra.begin((HOST, OWN), Settings(extra_ports=ports), serve)
    try:
        yield extra
    finally:
        await extra.close()


async def test_they_follow_the_setting() -> None:
    one, two, three = free_port(), free_port(), free_port()
    async with opened(one, two, one, OWN) as extra:
        assert extra.records == (PortRecord(port=one), PortRecord(port=two))
        assert [await answers(port) for port in (one, two, three)] == [True, True, False]
        await extra.configure(Settings(extra_ports=(three, two)))
        assert extra.records == (PortRecord(port=three), PortRecord(port=two))
        assert [await answers(port) for port in (one, two, three)] == [False, True, True]
        await extra.configure(Settings())
        assert not any(extra.records)
        assert not await answers(two)
        await extra.configure(Settings(extra_ports=(one,)))
    assert not await answers(one)
    await extra.configure(Settings(extra_ports=(one, two)))
    assert not await answers(two)


async def test_a_port_in_use_is_reported_and_left_alone() -> None:
    # A test before may have left this on.
    adopt_orphans(False)
    with subprocess.Popen(
        [*IN_BACKGROUND, sys.executable, "-c", LISTEN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        taken, pid = map(int, other.stdout.readline().split())
        other.wait()
        free = free_port()
        async with opened(taken, free) as extra:
            busy, fine = extra.records
            assert fine == PortRecord(port=free)
            assert busy.port == taken
            assert busy.problem is not None
            assert busy.problem.startswith("in use by python")
            assert busy.problem.endswith(f"(pid {pid})")
            # Until its end closes its output.
            other.communicate()
            # The program may only be restarting: the port stays its own.
            await extra.configure(Settings(extra_ports=(taken, free)))
            assert extra.records == (busy, fine)
            await extra.configure(Settings(extra_ports=(free,)))
            await extra.configure(Settings(extra_ports=(taken, free)))
            assert extra.records == (PortRecord(port=taken), fine)
            assert await answers(taken)


async def test_a_port_for_root_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(host: str, port: int) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cyber_inference_tui.service.extra_ports.listening_socket", refuse)
    async with opened(80) as extra:
        assert extra.records == (PortRecord(port=80, problem="only root may listen on it"),)
