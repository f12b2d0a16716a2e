"""The tables of the history: write records as rows, and read rows as records.

Times are stored as microseconds since 1970 (UTC). The file is not trusted: a row that is not a
valid record is left out.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.llama.needs import Footprint, Measurement
from cyber_inference_tui.records import (
    RequestRecord,
    SessionRecord,
    TrendMark,
)
from cyber_inference_tui.records.bench import BenchResult
from cyber_inference_tui.records.queries import ClientsQuery, HistoryQuery, RequestQuery
from cyber_inference_tui.service.trend_points import Minute

T = TypeVar("T")

MAX_TEXT = 2_000
"""Characters that are kept of a text."""
_MAX_ROWS = 50
"""Rows of one statement. Older versions of SQLite take 999 values."""
MAX_MEASUREMENTS = 2_000
MAX_MARKS = 1_000
"""Marks of one answer."""
_STORED_MARKS = 10_000
"""A model that crashes again and again makes many."""
STORED_BENCHES = 1_000
"""The newest are kept, however old: a build is compared with that of last year."""
_MAX_USES = 10_000
"""Models whose last use is kept."""
MAX_MINUTES = 7 * 24 * 60 + 1
MAX_ID = 1 << 53
"""The largest whole number that every JSON reader can hold."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime(2024, 1, 1, tzinfo=UTC)
"""The program is younger: an earlier time comes from a clock that was not set."""
_JUMP = timedelta(days=365)
"""A longer time without a record means that the clock jumped, and removes nothing."""
_MICROSECOND = timedelta(microseconds=1)
_MAX_INTEGER = (1 << 63) - 1
_TIMES = ("at", "loaded_at", "unloaded_at", "last_used_at")

STEPS: tuple[tuple[str, ...], ...] = (
    (
        # AUTOINCREMENT: an id is not given again when the newest rows are gone.
        """CREATE TABLE requests (
            id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, model TEXT NOT NULL,
            path TEXT, status INTEGER, stream INTEGER, tokens_in INTEGER, tokens_out INTEGER,
            tokens_per_second REAL, time_to_first_token_seconds REAL, queue_seconds REAL,
            duration_seconds REAL, client TEXT, error TEXT)""",
        "CREATE INDEX requests_at ON requests (at)",
        """CREATE TABLE sessions (
            id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, load_reason TEXT,
            unload_reason TEXT, loaded_at INTEGER NOT NULL, unloaded_at INTEGER,
            load_seconds REAL, requests INTEGER, tokens_in INTEGER, tokens_out INTEGER,
            context_size INTEGER, memory_estimate_bytes INTEGER, memory_bytes INTEGER)""",
        """CREATE TABLE measurements (
            signature TEXT PRIMARY KEY NOT NULL, model TEXT NOT NULL, mapped INTEGER, host INTEGER,
            device INTEGER, context_size INTEGER, load_seconds REAL, size_bytes INTEGER,
            at INTEGER NOT NULL) WITHOUT ROWID""",
    ),
    tuple(
        f"ALTER TABLE requests ADD COLUMN {column}"
        for column in ("user_agent TEXT", "key_name TEXT", "port INTEGER")
    ),
    tuple(
        f"ALTER TABLE requests ADD COLUMN {column}"
        for column in (
            "request_id TEXT",
            "tokens_cached INTEGER",
            "tokens_drafted INTEGER",
            "tokens_accepted INTEGER",
            "body_seconds REAL",
            "load_seconds REAL",
            "queue_ahead INTEGER",
            "prompt_seconds REAL",
            "answer_seconds REAL",
            "stall_seconds REAL",
            "prompt_differs_at INTEGER",
            "prompt_differs_in TEXT",
        )
    ),
    (
        # A minute that comes again, because the clock was set back, takes the place of the first.
        "CREATE TABLE minutes (id INTEGER PRIMARY KEY, at INTEGER NOT NULL UNIQUE, point BLOB)",
        """CREATE TABLE marks (
            id INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT, subject TEXT, text TEXT)""",
    ),
    ("ALTER TABLE requests ADD COLUMN box TEXT",),
    ("ALTER TABLE requests ADD COLUMN tokens_counted INTEGER",),
    (
        """CREATE TABLE benches (
            id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, model TEXT NOT NULL,
            result BLOB NOT NULL)""",
    ),
    ("ALTER TABLE requests ADD COLUMN energy_j REAL",),
    ("CREATE TABLE uses (model TEXT PRIMARY KEY NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID",),
)
"""Statements that bring a file from version N to N + 1; a file's version is ``user_version``.
A released step is never changed: a new version is a new step."""


class BenchRow(msgspec.Struct, frozen=True, kw_only=True):
    """A ``BenchResult`` as the history stores it."""

    id: int = 0
    at: datetime
    model: str
    result: bytes
    """As JSON. Its fields have no columns of their own, because nothing searches by them."""


Record = RequestRecord | SessionRecord | Measurement | Minute | TrendMark | BenchRow

_TABLES = {
    RequestRecord: "requests",
    SessionRecord: "sessions",
    Measurement: "measurements",
    Minute: "minutes",
    TrendMark: "marks",
    BenchRow: "benches",
}
"""A new field of one of these records needs a new step."""
_AGES = {
    "requests": "at",
    "sessions": "coalesce(unloaded_at, loaded_at)",
    "minutes": "at",
    "marks": "at",
}
_TREND_AGE = timedelta(days=7)
# By table: the newest row that is too old, the oldest one that is not, and the removal.
_PRUNE = {
    table: (
        f"SELECT max({time}), max(id) FROM {table}"  # noqa: S608 - names from above
        f" WHERE {time} >= :first AND {time} < :cutoff",
        f"SELECT min({time}) FROM {table} WHERE {time} BETWEEN :cutoff AND :now",  # noqa: S608
        f"DELETE FROM {table}"  # noqa: S608
        f" WHERE id <= :last AND {time} NOT BETWEEN :cutoff AND :now",
    )
    for table, time in _AGES.items()
}


def insert(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    """Add records in order, within the present transaction."""
    for kind, group in groupby(records, type):
        some = list(group)
        # Around each step of a statement, sqlite3 gives the interpreter to other threads and waits
        # until it comes back. So many rows go with one statement.
        for start in range(0, len(some), _MAX_ROWS):
            _insert_some(connection, kind, some[start : start + _MAX_ROWS])


def _insert_some(connection: sqlite3.Connection, kind: type[Record], some: list[Record]) -> None:
    if kind is RequestRecord:
        try:
            _insert_rows(connection, kind, map(_request_row, some))
        except OverflowError:
            # One has a number that SQLite cannot hold.
            pass
        else:
            return
    _insert_rows(connection, kind, map(_row, some))


def _insert_rows(
    connection: sqlite3.Connection, kind: type[Record], rows: Iterable[Sequence[Any]]
) -> None:
    # Columns without a value are left out: sqlite3 takes a microsecond for each ``None``.
    named = [
        (name, column)
        for name, column in zip(_columns(kind), zip(*rows, strict=True), strict=True)
        if column.count(None) < len(column)
    ]
    names, columns = zip(*named, strict=True)
    values = list(chain.from_iterable(zip(*columns, strict=True)))
    connection.execute(_insertion(kind, names, len(columns[0])), values)


@cache
def _columns(kind: type[Record]) -> tuple[str, ...]:
    columns: list[str] = []
    for name in _stored(kind):
        columns += Footprint.__struct_fields__ if name == "footprint" else (name,)
    return tuple(columns)


@lru_cache(maxsize=64)
def _insertion(kind: type[Record], columns: tuple[str, ...], rows: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    into = f"{_TABLES[kind]} ({', '.join(columns)})"
    return f"INSERT OR REPLACE INTO {into} VALUES {', '.join([row] * rows)}"  # noqa: S608


def samples(at: datetime) -> tuple[Record, ...]:
    """Return a record of each kind, to test a file with."""
    return (
        RequestRecord(at=at, model="", path="", status=200, duration_seconds=0.0),
        SessionRecord(model="", load_reason="", loaded_at=at, load_seconds=0.0),
        Measurement(
            signature="",
            model="",
            footprint=Footprint(),
            context_size=None,
            load_seconds=0.0,
            size_bytes=None,
            at=at,
        ),
        Minute(at=at, point=b""),
        TrendMark(at=at, kind="loaded", subject="", text=""),
        BenchRow(at=at, model="", result=b"{}"),
    )


def last_id(connection: sqlite3.Connection) -> object:
    """Return the highest id so far; a damaged file may hold anything."""
    (found,) = connection.execute(
        "SELECT max(coalesce((SELECT max(id) FROM requests), 0),"
        " coalesce((SELECT max(id) FROM sessions), 0),"
        " coalesce((SELECT max(seq) FROM sqlite_sequence), 0))"
    ).fetchone()
    return found


def select_requests(connection: sqlite3.Connection, query: RequestQuery) -> list[RequestRecord]:
    """Return finished requests, newest first."""
    rows = connection.execute(
        # "+at": the rows are walked by id, not gathered by time and then sorted.
        "SELECT * FROM requests WHERE id < :before AND (:model IS NULL OR model = :model)"
        " AND (:failed IS NULL OR (status >= 400 OR error IS NOT NULL) = :failed)"
        " AND (:request_id IS NULL OR request_id = :request_id)"
        " AND +at >= :since ORDER BY id DESC LIMIT :limit",
        {
            **_filters(query),
            "failed": query.failed,
            "request_id": _storable(query.request_id),
        },
    )
    return records_of(rows, RequestRecord)


def select_sessions(connection: sqlite3.Connection, query: HistoryQuery) -> list[SessionRecord]:
    """Return ended sessions, newest first; ``since``: loaded at that time or later."""
    rows = connection.execute(
        "SELECT * FROM sessions WHERE id < :before AND (:model IS NULL OR model = :model)"
        " AND coalesce(unloaded_at, loaded_at) >= :since ORDER BY id DESC LIMIT :limit",
        _filters(query),
    )
    return records_of(rows, SessionRecord)


def select_measurements(connection: sqlite3.Connection) -> list[Measurement]:
    """Return the ``MAX_MEASUREMENTS`` newest measurements, newest first."""
    rows = connection.execute(
        "SELECT * FROM measurements ORDER BY at DESC LIMIT ?", (MAX_MEASUREMENTS,)
    )
    return records_of(rows, Measurement)


class ModelUse(msgspec.Struct, frozen=True):
    """The last request that a model answered on this machine."""

    model: str
    at: datetime


_USES = (
    "SELECT model, max(at) AS at FROM requests WHERE box IS NULL AND status < 400"
    " AND at BETWEEN :first AND :now GROUP BY model"
)


def select_last_uses(connection: sqlite3.Connection, now: datetime) -> list[ModelUse]:
    """Return the last use of every model, also those whose requests are gone by now."""
    rows = connection.execute(
        f"SELECT model, max(at) AS at FROM (SELECT * FROM uses UNION ALL {_USES})"  # noqa: S608
        " GROUP BY model",
        {"first": _storable(_FIRST), "now": _storable(now)},
    )
    return records_of(rows, ModelUse)


def _keep_uses(connection: sqlite3.Connection, now: datetime) -> None:
    """Note the last use of every model before requests are removed."""
    connection.execute(
        f"INSERT INTO uses SELECT * FROM ({_USES}) WHERE true"  # noqa: S608
        " ON CONFLICT (model) DO UPDATE SET at = max(at, excluded.at)",
        {"first": _storable(_FIRST), "now": _storable(now)},
    )
    connection.execute(
        "DELETE FROM uses WHERE model NOT IN (SELECT model FROM uses ORDER BY at DESC LIMIT ?)",
        (_MAX_USES,),
    )


def select_minutes(
    connection: sqlite3.Connection, since: datetime, until: datetime
) -> list[Minute]:
    """Return the minutes between two times, oldest first."""
    rows = connection.execute(
        "SELECT at, point FROM minutes WHERE at BETWEEN ? AND ? ORDER BY at LIMIT ?",
        (_storable(since), _storable(until), MAX_MINUTES),
    )
    return records_of(rows, Minute)


def select_marks(
    connection: sqlite3.Connection, since: datetime, until: datetime
) -> list[TrendMark]:
    """Return the ``MAX_MARKS`` newest marks between two times, oldest first."""
    rows = connection.execute(
        "SELECT at, kind, subject, text FROM marks WHERE at BETWEEN ? AND ?"
        " ORDER BY id DESC LIMIT ?",
        (_storable(since), _storable(until), MAX_MARKS),
    )
    return sorted(records_of(rows, TrendMark), key=lambda mark: mark.at)


def select_benches(connection: sqlite3.Connection, query: HistoryQuery) -> list[BenchResult]:
    """Return results of benches, newest first."""
    rows = connection.execute(
        "SELECT * FROM benches WHERE id < :before AND (:model IS NULL OR model = :model)"
        " AND at >= :since ORDER BY id DESC LIMIT :limit",
        _filters(query),
    )
    found = []
    for row in records_of(rows, BenchRow):
        with contextlib.suppress(msgspec.MsgspecError):
            result = msgspec.json.decode(row.result, type=thread_safe(BenchResult))
            found.append(msgspec.structs.replace(result, id=row.id))
    return found


def delete_older(connection: sqlite3.Connection, than: datetime, now: datetime) -> None:
    """Remove records from before ``than``, and all but the newest measurements and benches.

    Minutes and marks are kept for ``_TREND_AGE`` at most, and of marks the newest.

    The clock of a machine without a battery may start in 1970 or in the future. A record with an
    impossible time is removed with the first old record that was written after it, and a clock that
    jumped far ahead removes nothing. Measurements do not age: a model that is used once a year
    still takes as much memory.
    """
    times = {"first": _storable(_FIRST), "now": _storable(now)}
    for table, (find_old, find_kept, delete) in _PRUNE.items():
        of_trend = table in {"minutes", "marks"}
        times["cutoff"] = _storable(max(than, now - _TREND_AGE) if of_trend else than)
        old, last = connection.execute(find_old, times).fetchone()
        if last is None:
            continue
        (kept,) = connection.execute(find_kept, times).fetchone()
        if (times["now"] if kept is None else kept) - old <= _JUMP // _MICROSECOND:
            if table == "requests":
                _keep_uses(connection, now)
            connection.execute(delete, {**times, "last": last})
    connection.execute(
        "DELETE FROM measurements WHERE signature NOT IN"
        " (SELECT signature FROM measurements ORDER BY at DESC LIMIT ?)",
        (MAX_MEASUREMENTS,),
    )
    connection.execute(
        "DELETE FROM marks WHERE id NOT IN (SELECT id FROM marks ORDER BY id DESC LIMIT ?)",
        (_STORED_MARKS,),
    )
    connection.execute(
        "DELETE FROM benches WHERE id NOT IN (SELECT id FROM benches ORDER BY id DESC LIMIT ?)",
        (STORED_BENCHES,),
    )


def delete_oldest(connection: sqlite3.Connection, now: datetime) -> bool:
    """Remove the oldest eighth of the requests, and the sessions that ended before the rest.

    Without requests it removes an eighth of the sessions, then of the marks, the minutes, the
    benches and the measurements. Returns false if nothing is left to remove.
    """
    (count,) = connection.execute("SELECT count(*) FROM requests").fetchone()
    (last, until) = connection.execute(
        "SELECT max(id), max(at) FROM (SELECT id, at FROM requests ORDER BY id LIMIT ?)",
        (max(1, count // 8),),
    ).fetchone()
    if last is not None:
        # The latest time alone may come from a clock that was ahead.
        (first_kept,) = connection.execute(
            "SELECT min(at) FROM requests WHERE id > ? AND at >= ?", (last, _storable(_FIRST))
        ).fetchone()
        until = until if first_kept is None else min(until, first_kept)
        connection.execute(
            "DELETE FROM sessions WHERE coalesce(unloaded_at, loaded_at) < ?", (until,)
        )
        _keep_uses(connection, now)
        deleted = connection.execute("DELETE FROM requests WHERE id <= ?", (last,))
        return deleted.rowcount > 0
    for statement in (
        "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions ORDER BY id"
        " LIMIT (SELECT max(1, count(*) / 8) FROM sessions))",
        *(
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} ORDER BY id"  # noqa: S608
            f" LIMIT (SELECT max(1, count(*) / 8) FROM {table}))"
            for table in ("marks", "minutes", "benches")
        ),
        "DELETE FROM measurements WHERE signature IN (SELECT signature FROM measurements"
        " ORDER BY at LIMIT (SELECT max(1, count(*) / 8) FROM measurements))",
    ):
        if connection.execute(statement).rowcount > 0:
            return True
    return False


def _filters(query: HistoryQuery) -> dict[str, Any]:
    before = query.before
    return {
        **bounds(query),
        "before": _MAX_INTEGER if before is None else min(before, _MAX_INTEGER),
        "model": _storable(query.model),
    }


def earliest(since: datetime | None) -> int:
    """Return a time as it is stored; ``None`` is before all others."""
    return -_MAX_INTEGER if since is None else _storable_time(since)


def bounds(query: HistoryQuery | ClientsQuery) -> dict[str, Any]:
    """Return the parameters of a statement for ``limit`` and ``since``."""
    return {
        "limit": max(0, min(query.limit, _MAX_INTEGER)),
        "since": earliest(query.since),
    }


@cache
def _stored(kind: type[Record]) -> tuple[str, ...]:
    """Return the fields that are stored; SQLite gives the id."""
    return tuple(name for name in kind.__struct_fields__ if name != "id")


@cache
def _getter(kind: type[Record]) -> Callable[[Record], tuple[Any, ...]]:
    return attrgetter(*_stored(kind))


def _request_row(record: Any) -> tuple[Any, ...]:
    """Return the values of a row quickly, because there are many of these.

    Their texts are the same again and again. Numbers are not looked at: SQLite stores one that is
    not finite as unknown, or it is unknown when it is read.
    """
    (
        _,
        at,
        model,
        path,
        status,
        stream,
        read,
        written,
        speed,
        first,
        queue,
        seconds,
        client,
        user_agent,
        key_name,
        port,
        request_id,
        *figures,
        error,
    ) = msgspec.structs.astuple(record)
    return (
        _storable_time(at),
        _text(model),
        _text(path),
        status,
        int(stream),
        read,
        written,
        speed,
        first,
        queue,
        seconds,
        _text(client),
        _text(user_agent),
        _text(key_name),
        port,
        request_id,
        *figures,
        _text(error),
    )


def _row(record: Record) -> list[Any]:
    """Return the values of a row."""
    values = _getter(type(record))(record)
    if isinstance(record, Measurement):
        at = values.index(record.footprint)
        values = (*values[:at], *msgspec.structs.astuple(record.footprint), *values[at + 1 :])
    return [_storable(value) for value in values]


def _storable_time(at: datetime) -> int:
    zoned = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return (zoned - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=256)
def _text(text: str | None) -> Any:
    return _storable(text)


def _storable(value: Any) -> Any:
    """Return the value as SQLite can hold it; a number that it cannot hold becomes unknown."""
    if isinstance(value, str):
        if value.isascii():
            return value[:MAX_TEXT]
        # A name that is not UTF-8 holds lone surrogates.
        return value[:MAX_TEXT].encode("utf-8", "replace").decode()
    if isinstance(value, datetime):
        return _storable_time(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return int(value) if abs(value) <= _MAX_INTEGER else None
    return value


def records_of(rows: Iterable[sqlite3.Row], kind: type[T]) -> list[T]:
    """Return the rows that are valid records."""
    found = (_record(dict(row), kind) for row in rows)
    return [record for record in found if record is not None]


def _record(values: dict[str, Any], kind: type[T]) -> T | None:
    try:
        for name in _TIMES:
            if isinstance(values.get(name), int):
                values[name] = _EPOCH + values[name] * _MICROSECOND
        if "mapped" in values:
            values["footprint"] = {name: values.pop(name) for name in ("mapped", "host", "device")}
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        return msgspec.convert(values, thread_safe(kind), strict=False)
    except (msgspec.ValidationError, OverflowError):
        return None
