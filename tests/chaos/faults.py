"""The faults of processes and of the machine; ``outside`` adds those of files and clients.

A fault gets the world and a source of choices, and is mended before it returns. Requests run
meanwhile.
"""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator

import psutil

from tests.chaos.clients import FAKE, REAL
from tests.chaos.world import PORTS, World
from tests.waiting import LIMIT

Fault = Callable[[World, random.Random], None]
FAULTS: dict[str, Fault] = {}
_WAIT = 3.0
"""Seconds to wait for the phase in which a fault is to happen; without it there is no fault."""


def fault(function: Fault) -> Fault:
    """Add a fault under its name."""
    FAULTS[function.__name__.replace("_", "-")] = function
    return function


def pause(rng: random.Random, most: float) -> None:
    time.sleep(rng.uniform(0.0, most))


def _found(look: Callable[[], psutil.Process | None]) -> psutil.Process | None:
    deadline = time.monotonic() + _WAIT
    while (process := look()) is None and time.monotonic() < deadline:
        time.sleep(0.002)
    return process


def _any_server(world: World, rng: random.Random) -> psutil.Process | None:
    world.load(rng.choice([*REAL, *FAKE]))

    def look() -> psutil.Process | None:
        servers = world.service.servers()
        return rng.choice(servers) if servers else None

    return _found(look)


def _server_of(world: World, model: str, *statuses: str) -> psutil.Process | None:
    def look() -> psutil.Process | None:
        record = world.service.models().get(model, {})
        if record.get("pid") is None or record["status"] not in statuses:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(record["pid"])
        return None

    return _found(look)


def _harm(process: psutil.Process | None, rng: random.Random) -> None:
    """Kill a process, or hold it for a moment."""
    if process is None:
        return
    how = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, "hold"])
    with contextlib.suppress(psutil.Error):
        if isinstance(how, signal.Signals):
            process.send_signal(how)
            return
        process.suspend()
        try:
            pause(rng, 2.0)
        finally:
            process.resume()


# Servers, in every phase


@fault
def server_in_use(world: World, rng: random.Random) -> None:
    _harm(_any_server(world, rng), rng)


@fault
def server_starting(world: World, rng: random.Random) -> None:
    model = rng.choice([*REAL, "fake"])
    world.post(f"/admin/models/{model}/unload?force=1")
    before = {process.pid for process in world.service.servers()}
    world.load(model)

    def look() -> psutil.Process | None:
        new = [one for one in world.service.servers() if one.pid not in before]
        return new[0] if new else None

    _harm(_found(look), rng)


@fault
def server_loading(world: World, rng: random.Random) -> None:
    world.post("/admin/models/fake-slow/unload?force=1")
    world.load("fake-slow")
    process = _server_of(world, "fake-slow", "loading")
    pause(rng, 0.8)
    _harm(process, rng)


@fault
def server_stopping(world: World, rng: random.Random) -> None:
    model = rng.choice(["fake-stubborn", "fake-stubborn", *REAL])
    world.load(model)
    process = _server_of(world, model, "loaded")
    if process is None:
        return
    if rng.random() < 0.3:
        # Held, it cannot end when it is asked to: it has to be killed.
        process.suspend()
    world.post(f"/admin/models/{model}/unload?force=1&wait=0", limit=0.2)
    pause(rng, 1.0)
    _harm(process, rng)
    with contextlib.suppress(psutil.Error):
        process.resume()


@fault
def guard(world: World, rng: random.Random) -> None:
    guards = [
        process
        for process in world.service.note_children()
        if _command(process)[:1] == ["/bin/sh"] and _command(process)[-1:] == ["guard"]
    ]
    if guards:
        _harm(rng.choice(guards), rng)


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


# The service itself


@fault
def service_killed(world: World, rng: random.Random) -> None:
    if rng.random() < 0.5:
        world.load(rng.choice(["fake-slow", "fake-stubborn", "fake-stubborn", *REAL]))
        pause(rng, 1.5)
    assert world.service.process is not None
    with world.restarted(killed=True):
        deadly = [signal.SIGKILL, signal.SIGKILL, signal.SIGUSR1]
        world.service.process.send_signal(rng.choice(deadly))
        world.service.wait()


@fault
def service_ended(world: World, rng: random.Random) -> None:
    asked = rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    twice = rng.random() < 0.4
    assert world.service.process is not None
    with world.restarted(killed=twice):
        world.service.process.send_signal(asked)
        if twice:
            pause(rng, 0.5)
            world.service.process.send_signal(asked)
        code = world.service.wait(LIMIT)
        assert code == 0, f"it ended with {code} after {asked.name}"


@fault
def service_held(world: World, rng: random.Random) -> None:
    process = psutil.Process(world.pid)
    process.suspend()
    try:
        pause(rng, 2.0)
    finally:
        process.resume()


@fault
def harmless_signals(world: World, rng: random.Random) -> None:
    numbers = [signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT, signal.SIGURG, signal.SIGPIPE]
    process = psutil.Process(world.pid)
    for _ in range(200):
        process.send_signal(rng.choice(numbers))


# The machine


@contextlib.contextmanager
def _limited(pid: int, which: int, value: int) -> Iterator[None]:
    soft, hard = resource.prlimit(pid, which)
    resource.prlimit(pid, which, (value, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, which, (soft, hard))


@fault
def disk_full(world: World, rng: random.Random) -> None:
    """No file of the service can grow: each write fails."""
    with _limited(world.pid, resource.RLIMIT_FSIZE, 0):
        world.load(rng.choice(REAL))
        pause(rng, 2.0)


@fault
def descriptors_gone(world: World, rng: random.Random) -> None:
    """Nothing can be opened, or very little: connections cannot be accepted either."""
    most = max(16, psutil.Process(world.pid).num_fds() + rng.randint(-4, 8))
    with world.away(killed=False), _limited(world.pid, resource.RLIMIT_NOFILE, most):
        pause(rng, 2.0)


@fault
def memory_full(world: World, rng: random.Random) -> None:
    world.fill_memory(True)
    try:
        world.load(rng.choice(REAL))
        pause(rng, 2.0)
    finally:
        world.fill_memory(False)


@fault
def ports_taken(world: World, rng: random.Random) -> None:
    with contextlib.ExitStack() as stack:
        for port in range(world.base_port, world.base_port + PORTS // 2):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        world.load(rng.choice([*REAL, *FAKE]))
        pause(rng, 1.5)
