"""The cost of the terminal app during eight streams: bytes, processor time, memory, keys.

The streams are of different speeds (25 to 50 tokens/s) and lengths (10 to 60 s), on three models.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

from benchmarks import app_keys, app_rest, programs
from benchmarks.app_ground import APP_MARK, LOADED_MARK, STREAMERS, Ground, Row
from benchmarks.exchange import request_bytes
from benchmarks.terminal import COLUMNS, LINES, Terminal

STREAMS = 8
SENT = 12_000
"""Bytes a second that a page may send; the target is for the dashboard at 120 x 40."""
SIZES = ((80, 24), (COLUMNS, LINES), (200, 60))
PAGES = {"dashboard": "1", "requests": "5", "chat, with an answer": "6ihello\r"}
"""The keys that open what is measured."""
_TYPED = 0.3
"""Seconds between two keys, as a person types."""


@contextlib.contextmanager
def streams(port: int) -> Iterator[None]:
    """Eight clients of the service, each of which reads one stream after the other."""
    ended = threading.Event()
    with ThreadPoolExecutor(STREAMS) as clients:
        reading = [clients.submit(_read_streams, port, number, ended) for number in range(STREAMS)]
        try:
            yield
        finally:
            ended.set()
        for one in reading:
            one.result()


def _read_streams(port: int, number: int, ended: threading.Event) -> None:
    chance = random.Random(number)
    body = {"model": STREAMERS[number % len(STREAMERS)], "messages": [], "stream": True}
    while not ended.is_set():
        chunks, interval = chance.randint(400, 1500), chance.uniform(20, 40)
        path = f"/v1/chat/completions?chunks={chunks}&interval={interval}"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request_bytes(path, body))
            end = b""
            while not end.endswith(b"\n0\r\n\r\n") and not ended.is_set():
                data = connection.recv(65536)
                if not data:
                    raise ConnectionError("the stream broke off")
                end = (end + data)[-8:]


def measure(ground: Ground, seconds: float, fill: float) -> list[Row]:
    """All pages at all sizes, once the graphs have the values of ``fill`` seconds."""
    rows: list[Row] = []
    with streams(ground.service.port):
        time.sleep(fill)
        before, began = programs.cpu_seconds([ground.service.pid]), time.monotonic()
        time.sleep(seconds)
        alone = _service_share(ground, before, began)
        rows.append(("8 streams: processor time of the service", f"{alone:.1%} of a core", "", "1"))
        for size in SIZES:
            with ground.app(size) as terminal:
                terminal.read_until(APP_MARK, LOADED_MARK)
                for page, keys in PAGES.items():
                    for key in keys:
                        terminal.press(key)
                        terminal.read(_TYPED)
                    terminal.read(app_rest.SETTLE)
                    before, began = programs.cpu_seconds([ground.service.pid]), time.monotonic()
                    found = app_rest.cost(terminal, seconds)
                    share = _service_share(ground, before, began)
                    said = f"8 streams, {page}, {size[0]} x {size[1]}"
                    rows += [
                        app_rest.bytes_row(f"{said}: sent", found.sent, SENT),
                        (f"{said}: processor time", f"{found.cpu:.1%} of a core", "", ""),
                        (
                            f"{said}: processor time of the service",
                            f"{share:.1%} of a core",
                            "no app",
                            f"{share / alone:.2f}",
                        ),
                        (f"{said}: resident", f"{found.resident / 1e6:.0f} MB", "", ""),
                    ]
        with ground.app() as terminal:
            terminal.read_until(APP_MARK, LOADED_MARK)
            terminal.read(app_rest.SETTLE)
            rows += _key_rows(terminal)
    return rows


def _service_share(ground: Ground, before: float, began: float) -> float:
    """The share of a core that the service has used since ``began``."""
    spent = programs.cpu_seconds([ground.service.pid]) - before
    return spent / (time.monotonic() - began)


def _key_rows(terminal: Terminal) -> list[Row]:
    """The cursor of the models, and another page and back."""
    pages = cycle([("2", b"FITS"), ("1", b"TOKENS/S")])
    keys = {"cursor": app_keys.model_keys(), "page": pages}
    return [
        row
        for name, one in keys.items()
        for row in app_keys.key_rows(
            f"8 streams, {name}", app_keys.key_times(terminal, one, 100), percents=(50, 95)
        )
    ]
