"""The faults of a real day. Each is brought about at a random moment, and mended before it returns.

A fault gets the world and a source of choices; requests run meanwhile.
"""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import signal
import socket
import sqlite3
import struct
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


def _pause(rng: random.Random, most: float) -> None:
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
            _pause(rng, 2.0)
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
    _pause(rng, 0.8)
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
    _pause(rng, 1.0)
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
        world.load(rng.choice(["fake-slow", "fake-stubborn", *REAL]))
        _pause(rng, 0.5)
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
            _pause(rng, 0.5)
            world.service.process.send_signal(asked)
        code = world.service.wait(LIMIT)
        assert code == 0, f"it ended with {code} after {asked.name}"


@fault
def service_held(world: World, rng: random.Random) -> None:
    process = psutil.Process(world.pid)
    process.suspend()
    try:
        _pause(rng, 2.0)
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
        _pause(rng, 2.0)


@fault
def descriptors_gone(world: World, rng: random.Random) -> None:
    """Nothing can be opened, or very little: connections cannot be accepted either."""
    most = max(16, psutil.Process(world.pid).num_fds() + rng.randint(-4, 8))
    with world.away(killed=False), _limited(world.pid, resource.RLIMIT_NOFILE, most):
        _pause(rng, 2.0)


@fault
def memory_full(world: World, rng: random.Random) -> None:
    world.fill_memory(True)
    try:
        world.load(rng.choice(REAL))
        _pause(rng, 2.0)
    finally:
        world.fill_memory(False)


@fault
def ports_taken(world: World, rng: random.Random) -> None:
    with contextlib.ExitStack() as stack:
        for port in range(world.base_port, world.base_port + PORTS // 2):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        world.load(rng.choice([*REAL, *FAKE]))
        _pause(rng, 1.5)


# Files


@fault
def settings_broken(world: World, rng: random.Random) -> None:
    path = world.service.config_path
    good = path.read_bytes()
    try:
        broken = [
            b"port = [",
            b"\xff\xfe",
            b'max_loaded_models = "many"',
            b"",
            good[: len(good) // 2],
        ]
        data = rng.choice(broken)
        if data:
            path.write_bytes(data)
        else:
            path.unlink()
        _pause(rng, 3.0)
    finally:
        path.write_bytes(good)


@fault
def settings_changed(world: World, rng: random.Random) -> None:
    """Valid changes: of everything, and of one model alone, which restarts it."""
    tables = dict(world.config["models"])
    model = rng.choice([*REAL, "fake"])
    tables[model] = {**tables.get(model, {}), "context_size": rng.choice([256, 1024])}
    world.service.configure({**world.config, "max_loaded_models": 2, "models": tables})
    try:
        _pause(rng, 3.0)
    finally:
        world.service.configure(world.config)


@fault
def model_file(world: World, rng: random.Random) -> None:
    """A file vanishes, is damaged or replaced, also under a server that has loaded it."""
    path = world.models_dir / "spare.gguf"
    beside = path.with_suffix(".aside")
    if rng.random() < 0.7:
        world.load("spare")
        _pause(rng, 1.0)
    how = rng.choice(["vanished", "cut", "noise", "replaced"])
    if how == "vanished":
        path.unlink()
    elif how == "cut":
        with path.open("r+b") as file:
            file.truncate(rng.choice([0, 100, 4096, path.stat().st_size // 2]))
    elif how == "noise":
        with path.open("r+b") as file:
            file.seek(rng.choice([0, 8, 64, 1024]))
            file.write(rng.randbytes(64))
    _pause(rng, 2.5)
    shutil.copyfile(world.gguf, beside)
    beside.replace(path)


@fault
def history_locked(world: World, rng: random.Random) -> None:
    with contextlib.suppress(sqlite3.Error), contextlib.closing(world.history()) as database:
        database.execute("BEGIN EXCLUSIVE")
        _pause(rng, 3.0)
        database.rollback()


@fault
def history_damaged(world: World, rng: random.Random) -> None:
    for path in world.service.data_dir.glob("history.sqlite3*"):
        if rng.random() < 0.7:
            with contextlib.suppress(OSError), path.open("r+b") as file:
                file.seek(rng.randrange(max(1, path.stat().st_size)))
                file.write(rng.randbytes(200))


# Bad clients


def _head(length: int = 0, path: str = "/v1/chat/completions") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


_BODY = b'{"model":"fake","stream":true,"messages":[],"fake":{"tokens":200,"interval":0.01}}'


@fault
def clients_that_leave(world: World, rng: random.Random) -> None:
    """In the middle of a head, a body or an answer; with a reset or an end."""
    whole = _head(len(_BODY)) + _BODY
    for _ in range(10):
        with contextlib.suppress(OSError), world.service.raw() as client:
            client.sendall(whole[: rng.choice([1, 30, 90, len(whole) - 5, len(whole)])])
            if rng.random() < 0.3:
                client.shutdown(socket.SHUT_WR)
            _pause(rng, 0.1)
            if rng.random() < 0.5:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@fault
def clients_with_noise(world: World, rng: random.Random) -> None:
    noise = [
        rng.randbytes(300),
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + rng.randbytes(99),
    ]
    noise += [b"A" * 100_000, _head(9) + rng.randbytes(9), _head(-1), b"\r\n" * 500]
    for data in noise:
        with contextlib.suppress(OSError), world.service.raw() as client:
            client.settimeout(0.2)
            client.sendall(data)
            client.recv(1000)


@fault
def flood_of_connections(world: World, rng: random.Random) -> None:
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        for _ in range(rng.randint(100, 400)):
            stack.enter_context(world.service.raw())
        _pause(rng, 1.0)


@fault
def slow_readers(world: World, rng: random.Random) -> None:
    body = b'{"model":"fake","messages":[],"fake":{"size":8000000}}'
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        for _ in range(4):
            client = stack.enter_context(world.service.raw())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(_head(len(body)) + body)
            client.settimeout(1.0)
            client.recv(1000)
        _pause(rng, 1.5)
