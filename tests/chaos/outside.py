"""The faults of files and clients, added to ``FAULTS``."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import sqlite3
import struct

from tests.chaos.clients import REAL
from tests.chaos.faults import FAULTS, fault, pause
from tests.chaos.world import World

__all__ = ["FAULTS"]


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
        pause(rng, 3.0)
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
        pause(rng, 3.0)
    finally:
        world.service.configure(world.config)


@fault
def model_file(world: World, rng: random.Random) -> None:
    """A file vanishes, is damaged or replaced, also under a server that has loaded it."""
    path = world.models_dir / "spare.gguf"
    beside = path.with_suffix(".aside")
    if rng.random() < 0.7:
        world.load("spare")
        pause(rng, 1.0)
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
    pause(rng, 2.5)
    shutil.copyfile(world.gguf, beside)
    beside.replace(path)


@fault
def history_locked(world: World, rng: random.Random) -> None:
    with contextlib.suppress(sqlite3.Error), contextlib.closing(world.history()) as database:
        database.execute("BEGIN EXCLUSIVE")
        pause(rng, 3.0)
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
            pause(rng, 0.1)
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
        pause(rng, 1.0)


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
        pause(rng, 1.5)
