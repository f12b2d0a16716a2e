"""Records and histories for the tests of the history."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cyber_inference_tui.llama.needs import Footprint, Measurement
from cyber_inference_tui.records import RequestRecord, SessionRecord
from cyber_inference_tui.records.bench import BenchResult
from cyber_inference_tui.service.history import History

NOW = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)


def now() -> datetime:
    return NOW


def request(number: int = 0, **fields: Any) -> RequestRecord:
    base: dict[str, Any] = {
        "at": NOW + timedelta(seconds=number),
        "model": "m",
        "path": "/v1/chat/completions",
        "status": 200,
        "tokens_in": number,
        "duration_seconds": 1.5,
    }
    return RequestRecord(**{**base, **fields})


def bench(number: int = 0, **fields: Any) -> BenchResult:
    at = NOW + timedelta(seconds=number)
    base: dict[str, Any] = {"run": NOW, "at": at, "model": "m", "prompt": number, "tokens": 8}
    return BenchResult(**{**base, **fields})


def session(number: int = 0, **fields: Any) -> SessionRecord:
    base: dict[str, Any] = {
        "model": "m",
        "load_reason": "request",
        "unload_reason": "idle",
        "loaded_at": NOW + timedelta(seconds=number),
        "unloaded_at": NOW + timedelta(seconds=number + 60),
        "load_seconds": 2.5,
        "requests": number,
    }
    return SessionRecord(**{**base, **fields})


def measurement(signature: str = "s", **fields: Any) -> Measurement:
    base: dict[str, Any] = {
        "signature": signature,
        "model": "m",
        "footprint": Footprint(mapped=1, host=2, device=3),
        "context_size": 8192,
        "load_seconds": 2.5,
        "size_bytes": 1 << 40,
        "at": NOW,
    }
    return Measurement(**{**base, **fields})


@asynccontextmanager
async def open_history(path: Path, **options: Any) -> AsyncIterator[History]:
    """A started history that writes only when it is asked to, or when much waits."""
    history = History(path, **{"now": now, "batch_seconds": 3600.0, **options})
    await history.start()
    try:
        yield history
    finally:
        await history.stop()


def numbers(records: list[RequestRecord]) -> list[int | None]:
    """The numbers that ``request`` was called with."""
    return [record.tokens_in for record in records]


def stored(path: Path) -> list[int]:
    """The numbers of the requests in a file, oldest first, read without the history."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT tokens_in FROM requests ORDER BY id")]


def stored_minutes(path: Path) -> list[int]:
    """The times of the minutes in a file, in order, read without the history."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT at FROM minutes ORDER BY at")]
