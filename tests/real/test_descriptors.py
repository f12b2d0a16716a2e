"""Clients that hold connections take nothing from the service, however few files it may open."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conftest import StartFake
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually


def limited(service: ServiceProcess, soft: int, hard: int) -> ServiceProcess:
    """The service with these limits of open files."""
    script = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
    service.wrapper = ("bash", "-c", script, "bash")
    return service


def limits_of(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max open files")).split()[3:5]


@contextlib.contextmanager
def idle_connections(service: ServiceProcess, count: int) -> Iterator[list[socket.socket]]:
    held: list[socket.socket] = []
    try:
        held.extend(service.raw() for _ in range(count))
        yield held
    finally:
        for one in held:
            one.close()


def test_the_soft_limit_is_raised_and_children_get_it_back(start_fake: StartFake) -> None:
    service = limited(start_fake(start=False), 256, 4096).start()
    assert service.process is not None
    assert limits_of(service.process.pid) == ["4096", "4096"]
    assert service.chat("a").status_code == 200
    (server,) = service.servers()
    assert limits_of(server.pid) == ["256", "4096"]


@pytest.mark.parametrize("hard", [200, 64])
def test_hundreds_of_idle_connections_disturb_nobody(start_fake: StartFake, hard: int) -> None:
    service = limited(start_fake({"a": {}, "b": {}}, start=False), 64, hard).start()
    assert service.chat("a").status_code == 200
    (server,) = service.servers()
    with (
        service.stream("a", fake={"tokens": 60, "interval": 0.1}) as stream,
        idle_connections(service, 400),
    ):
        # The library is looked at every two seconds.
        begun = time.monotonic()
        eventually(
            lambda: time.monotonic() - begun > 5 and service.chat("a").status_code == 200,
            interval=0.2,
        )
        assert {"a", "b"} <= service.models().keys()
        assert service.chat("b").status_code == 200
        assert service.get("/admin/requests").status_code == 200
        assert "tok59" in stream.read().decode()
        assert server in service.servers()
    assert "its files are gone" not in service.errors()
    assert "Too many open files" not in service.errors()
    assert "Traceback" not in service.errors()


@pytest.mark.parametrize("limit", [24, 32, 63])
def test_too_few_files_are_told_at_the_start(start_fake: StartFake, limit: int) -> None:
    service = limited(start_fake(start=False), limit, limit)
    service.spawn()
    assert service.wait() == 1
    (line,) = service.errors().splitlines()
    assert line.startswith(f"Only {limit} files may be open at once")
    assert "ulimit -n" in line
