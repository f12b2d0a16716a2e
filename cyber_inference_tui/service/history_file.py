"""The history's SQLite file: open it, write to it, prune it.

An unusable file is never destroyed: it is renamed, and a new one takes its place.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cyber_inference_tui.records.bench import BenchResult
from cyber_inference_tui.records.queries import HistoryQuery
from cyber_inference_tui.service.history_rows import (
    MAX_ID,
    STEPS,
    STORED_BENCHES,
    Record,
    delete_older,
    delete_oldest,
    insert,
    last_id,
    samples,
    select_benches,
    select_last_uses,
)
from cyber_inference_tui.text import clean_line

T = TypeVar("T")

FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""Errors of SQLite; the second if the text of an error quotes a damaged name."""
KEEP_DAMAGED = 3
"""Damaged files that are kept, so that a dying disk does not fill up with them."""

_BUSY_TIMEOUT = 1.0
_WAL_PAGES = 256
_SUFFIXES = ("", "-wal", "-shm")
# The file may be sound: the disk or another program is in the way.
_HINDRANCES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_logger = logging.getLogger(__name__)


class UnusableFileError(Exception):
    """The file has to be set aside; ``word`` becomes part of its new name."""

    def __init__(self, reason: str, word: str = "damaged") -> None:
        super().__init__(reason)
        self.word = word


def open_history(
    path: Path, *, now: datetime, steps: Sequence[Sequence[str]] = STEPS
) -> sqlite3.Connection:
    """Open the history at ``path``; an unusable file is set aside, and a new one begun.

    ``steps`` are the statements that bring a file of version N to N + 1. Raises ``OSError``,
    ``UnusableFileError`` or one of ``FAULTS`` if no file can be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.ExitStack() as failed:
        try:
            connection = _open_file(path, now, steps, failed)
        except UnusableFileError as error:
            aside = _set_aside(path, now, error.word)
            _logger.warning(
                "the history %s cannot be used (%s): it is kept as %s, and a new one is begun",
                path,
                error,
                aside.name,
            )
            # Not before: SQLite would remove what lies beside the file under its old name.
            failed.close()
            connection = _open_file(path, now, steps, failed)
        failed.pop_all()
    return connection


def read_last_uses(path: Path, now: datetime) -> dict[str, datetime]:
    """Return the last use of every model by its id, without writing; nothing if that fails."""
    uses = _read(path, lambda connection: select_last_uses(connection, now))
    return {use.model: use.at for use in uses}


def read_benches(path: Path) -> list[BenchResult]:
    """Return all results of benches, newest first, without writing; none if that fails."""
    query = HistoryQuery(limit=STORED_BENCHES)
    return _read(path, lambda connection: select_benches(connection, query))


def _read(path: Path, ask: Callable[[sqlite3.Connection], list[T]]) -> list[T]:
    """Ask the file of a history that this process does not keep: that would repair it first."""
    try:
        # Without a log beside it nobody writes the file, but SQLite would make one to read it.
        still = "" if _beside(path, "-wal").exists() else "&immutable=1"
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{still}", uri=True)
        ) as connection:
            connection.row_factory = sqlite3.Row
            return ask(connection)
    except (OSError, *FAULTS):
        return []


def write(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    """Add records, all or none."""
    with _transaction(connection):
        insert(connection, records)


def prune(
    connection: sqlite3.Connection, *, older_than: datetime, now: datetime, max_bytes: int
) -> None:
    """Remove old rows, then the oldest until the file fits; give the space back."""
    with _transaction(connection):
        delete_older(connection, older_than, now)
    if used_bytes(connection) > max_bytes:
        # Leave some room, or the next batch would begin it all over.
        while used_bytes(connection) > max_bytes * 0.9:
            with _transaction(connection):
                if not delete_oldest(connection, now):
                    break
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    if free:
        # Each step of the statement frees one page, and execute() takes only the first.
        connection.executescript("PRAGMA incremental_vacuum")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def close(connection: sqlite3.Connection) -> None:
    """Merge SQLite's log into the file and close it."""
    with contextlib.suppress(*FAULTS):
        connection.close()


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of the file without its free pages."""
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * size)


def reason_of(error: Exception) -> str:
    """Return the text of an error as one clean line."""
    return clean_line(getattr(error, "strerror", None) or str(error), limit=200)


def is_damage(error: Exception) -> bool:
    """Check whether an error says that the file is damaged."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _open_file(
    path: Path, now: datetime, steps: Sequence[Sequence[str]], failed: contextlib.ExitStack
) -> sqlite3.Connection:
    """Return a connection to a sound, up-to-date history; ``failed`` closes it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        # SQLite gives its other files the mode of this one.
        path.touch(mode=0o600)
    else:
        if not stat.S_ISREG(found.st_mode):
            raise UnusableFileError("it is not a file")
        if stat.S_IMODE(found.st_mode) != 0o600:
            # Another owner's file may still be readable and writable.
            with contextlib.suppress(OSError):
                path.chmod(0o600)
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None)
        failed.callback(close, connection)
        connection.row_factory = sqlite3.Row
        # Damaged text is no reason to fail.
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        _check(connection, len(steps))
        if _version(connection) == 0:
            # It has no effect once there is a table.
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}").fetchall()
        connection.execute("PRAGMA journal_size_limit=1048576").fetchall()
        _bring_up_to_date(connection, steps)
        _compare_tables(connection, steps)
        _try_out(connection, now)
    except FAULTS as error:
        # The primary result code; none where SQLite itself did not refuse anything.
        if getattr(error, "sqlite_errorcode", -1) & 0xFF in _HINDRANCES:
            raise
        raise UnusableFileError(reason_of(error)) from error
    return connection


def _check(connection: sqlite3.Connection, newest: int) -> None:
    """Raise ``UnusableFileError`` unless the file is sound and of a version up to ``newest``."""
    (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if answer != "ok":
        raise UnusableFileError(clean_line(str(answer), limit=200))
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    version = _version(connection)
    if version > newest:
        raise UnusableFileError("a newer version of this program wrote it", "newer")
    if version < 0 or (version == 0 and tables):
        raise UnusableFileError("it is no history of this program")


def _bring_up_to_date(connection: sqlite3.Connection, steps: Sequence[Sequence[str]]) -> None:
    version = _version(connection)
    if version == len(steps):
        return
    with _transaction(connection):
        for statement in itertools.chain.from_iterable(steps[version:]):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(steps)}")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _compare_tables(connection: sqlite3.Connection, steps: Sequence[Sequence[str]]) -> None:
    """Raise ``UnusableFileError`` unless the tables have the columns of a new file.

    Damage to the text of a table can change what a column means and still be valid.
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as new:
        for statement in itertools.chain.from_iterable(steps):
            new.execute(statement)
        if _columns(connection) != _columns(new):
            raise UnusableFileError("its tables have other columns")


def _columns(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    rows = connection.execute(
        "SELECT tables.name, columns.* FROM sqlite_master AS tables"
        " JOIN pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'"
        " ORDER BY tables.name, columns.cid"
    )
    return [tuple(row) for row in rows]


def _try_out(connection: sqlite3.Connection, now: datetime) -> None:
    """Add records and roll back, to check that the tables are ours and writable."""
    found = last_id(connection)
    if not isinstance(found, int) or not 0 <= found < MAX_ID:
        raise UnusableFileError("its numbers are out of bounds")
    connection.execute("BEGIN IMMEDIATE")
    try:
        insert(connection, samples(now))
    finally:
        _roll_back(connection)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _roll_back(connection: sqlite3.Connection) -> None:
    # After some errors SQLite has done it already.
    if connection.in_transaction:
        with contextlib.suppress(*FAULTS):
            connection.execute("ROLLBACK")


def _set_aside(path: Path, now: datetime, word: str) -> Path:
    """Rename a file and SQLite's files beside it; returns the new path."""
    stem = f"{path.name}.{word}-{now.astimezone(UTC):%Y%m%d-%H%M%S}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    aside = next(
        place
        for place in map(path.with_name, names)
        if not any(os.path.lexists(_beside(place, suffix)) for suffix in _SUFFIXES)
    )
    path.rename(aside)
    for suffix in _SUFFIXES[1:]:
        with contextlib.suppress(FileNotFoundError):
            _beside(path, suffix).rename(_beside(aside, suffix))
    _remove_oldest_damaged(path)
    return aside


def _remove_oldest_damaged(path: Path) -> None:
    pattern = re.compile(
        re.escape(f"{path.name}.damaged-") + r"(\d{8}-\d{6}(?:-\d+)?)(?:-wal|-shm)?"
    )
    found: dict[str, list[Path]] = {}
    for entry in path.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        # A directory in the history's place is not ours to remove.
        if match and entry.is_file():
            found.setdefault(match[1], []).append(entry)
    for stamp in sorted(found)[:-KEEP_DAMAGED]:
        for entry in found[stamp]:
            # Perhaps it can be removed the next time.
            with contextlib.suppress(OSError):
                entry.unlink()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
