"""A history file that cannot be used is set aside, and a new history begun."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import RequestRecord
from cyber_inference_tui.records.queries import ClientsQuery, HistoryQuery, RequestQuery
from cyber_inference_tui.service import history as history_module
from cyber_inference_tui.service import history_file
from cyber_inference_tui.service.history_file import KEEP_DAMAGED
from cyber_inference_tui.service.history_rows import STEPS
from tests.waiting import LIMIT

from .history_records import (
    NOW,
    measurement,
    numbers,
    open_history,
    request,
    session,
    stored,
)

ASIDE = "history.sqlite3.damaged-20260304-050607"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


async def fill(path: Path, count: int = 300) -> None:
    async with open_history(path) as history:
        for number in range(count):
            history.add(request(number, model=f"model {number % 7}", error="e" * 50))
            history.add(session(number))
            history.add(measurement(f"signature {number % 50}"))
    # On a busy disk the history gives up its stop before its thread has closed the file.
    await asyncio.to_thread(history._thread.join, LIMIT)
    assert not history._thread.is_alive()


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 100)


def garbled_header(path: Path) -> None:
    path.write_bytes(b"X" + path.read_bytes()[1:])


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_short(path: Path) -> None:
    os.truncate(path, 20)


def a_page_of_zeros(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3 * 4096 : 4 * 4096] = bytes(4096)
    path.write_bytes(data)


def another_database(path: Path) -> None:
    path.unlink()
    execute(path, "CREATE TABLE bookmarks (url)", "INSERT INTO bookmarks VALUES ('u')")


def a_missing_table(path: Path) -> None:
    execute(path, "DROP TABLE sessions")


def a_missing_column(path: Path) -> None:
    execute(
        path,
        "DROP TABLE sessions",
        "CREATE TABLE sessions (id INTEGER PRIMARY KEY, model, loaded_at, unloaded_at)",
    )


def a_view_in_place_of_a_table(path: Path) -> None:
    execute(
        path,
        "ALTER TABLE requests RENAME TO other",
        "CREATE VIEW requests AS SELECT * FROM other",
    )


def no_numbers_left(path: Path) -> None:
    execute(path, f"UPDATE sqlite_sequence SET seq = {2**63 - 1}")


def numbers_that_are_none(path: Path) -> None:
    execute(path, "UPDATE sqlite_sequence SET seq = 'x'")


def a_negative_version(path: Path) -> None:
    execute(path, "PRAGMA user_version = -5")


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_text("content")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        garbage,
        garbled_header,
        cut_in_half,
        cut_short,
        a_page_of_zeros,
        another_database,
        a_missing_table,
        a_missing_column,
        a_view_in_place_of_a_table,
        no_numbers_left,
        numbers_that_are_none,
        a_negative_version,
        a_directory,
        a_pipe,
    ],
)
async def test_a_damaged_file_is_kept_aside(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    await fill(path)
    damage(path)
    before = path.read_bytes() if path.is_file() else None
    async with open_history(path) as history:
        assert await history.requests() == []
        assert await history.sessions() == []
        assert await history.measurements() == []
        assert await history.totals() == []
        history.add(request(1))
        assert numbers(await history.requests()) == [1]
    assert stored(path) == [1]
    aside = path.with_name(ASIDE)
    if before is None:
        assert not aside.is_file()
        assert aside.exists()
    else:
        assert aside.read_bytes() == before
    (said,) = caplog.records
    assert str(path) in said.getMessage()
    assert ASIDE in said.getMessage()


async def test_an_empty_file_is_a_new_history(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.touch()
    async with open_history(path) as history:
        history.add(request(1))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert stored(path) == [1]
    assert not caplog.records


async def test_what_lies_beside_a_damaged_file_goes_with_it(path: Path) -> None:
    garbage(path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).write_bytes(b"other garbage" + suffix.encode())
    async with open_history(path) as history:
        history.add(request(1))
    assert path.with_name(f"{ASIDE}-wal").read_bytes() == b"other garbage-wal"
    # SQLite may have begun to use its index before it saw what the file is.
    assert path.with_name(f"{ASIDE}-shm").exists()
    assert stored(path) == [1]


async def test_damage_within_one_second_gets_names_of_its_own(path: Path) -> None:
    for number in range(3):
        path.write_text(f"garbage {number}" * 1000)
        async with open_history(path):
            pass
    found = [path.with_name(ASIDE + end).read_text()[:9] for end in ("", "-2", "-3")]
    assert found == ["garbage 0", "garbage 1", "garbage 2"]


async def test_only_the_latest_damaged_files_are_kept(path: Path) -> None:
    directory = path.with_name("history.sqlite3.damaged-20000101-000000")
    directory.mkdir()
    mine = path.with_name("history.sqlite3.damaged-copy")
    mine.touch()
    for number in range(KEEP_DAMAGED + 2):
        path.write_text(f"garbage {number}" * 1000)
        path.with_name(f"{path.name}-wal").write_text("wal")
        at = NOW + timedelta(minutes=number)
        async with open_history(path, now=lambda at=at: at):
            pass
    kept = sorted(entry.name for entry in path.parent.glob("*damaged-2026*") if entry.is_file())
    stems = {name.removesuffix("-wal").removesuffix("-shm") for name in kept}
    assert stems == {f"history.sqlite3.damaged-20260304-05{minute:02}07" for minute in range(8, 11)}
    assert directory.is_dir()
    assert mine.exists()


async def test_a_newer_versions_file_is_kept_aside_unchanged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(path)
    execute(path, f"PRAGMA user_version = {len(STEPS) + 1}")
    before = path.read_bytes()
    async with open_history(path) as history:
        history.add(request(1))
        assert numbers(await history.requests()) == [1]
    assert path.with_name("history.sqlite3.newer-20260304-050607").read_bytes() == before
    assert "newer version" in caplog.text


async def test_an_older_versions_file_is_brought_up_to_date(path: Path) -> None:
    await fill(path, 10)
    steps = (*STEPS, ("ALTER TABLE requests ADD COLUMN priority INTEGER DEFAULT 7",))
    for _ in range(2):
        with closing(history_file.open_history(path, now=NOW, steps=steps)) as connection:
            rows = connection.execute("SELECT priority FROM requests").fetchall()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        assert [row["priority"] for row in rows] == [7] * 10
        assert version == len(STEPS) + 1


async def test_requests_of_the_first_version_are_kept(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (*STEPS[0], "PRAGMA user_version=1"):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO requests (at, model, path, status, duration_seconds, queue_seconds,"
            " tokens_in, stream) VALUES (1772600000000000, 'm', '/', 200, 1.0, 0.0, 5, 0)"
        )
    async with open_history(path) as history:
        history.add(request(6, user_agent="curl/8.5.0", key_name="1", port=8080))
        new, old = await history.requests()
        assert (new.user_agent, new.key_name, new.port) == ("curl/8.5.0", "1", 8080)
        assert (old.tokens_in, old.user_agent, old.key_name, old.port) == (5, None, None, None)
        assert [one.port for one in await history.clients(ClientsQuery())] == [8080]
    assert not list(path.parent.glob(f"{path.name}.*-20*"))


async def test_a_file_that_cannot_be_brought_up_to_date_is_kept_as_it_was(path: Path) -> None:
    await fill(path, 10)
    execute(path, "CREATE TABLE extra (a)")
    before = stored(path)
    steps = (*STEPS, ("CREATE TABLE more (a)", "CREATE TABLE extra (a)"))
    history_file.open_history(path, now=NOW, steps=steps).close()
    aside = path.with_name(ASIDE)
    assert stored(aside) == before
    with closing(sqlite3.connect(aside)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(STEPS),)


async def test_rows_that_are_no_records_are_left_out(path: Path) -> None:
    await fill(path, 10)
    execute(
        path,
        "UPDATE requests SET at = 'yesterday' WHERE id = 1",
        f"UPDATE requests SET at = {2**62} WHERE id = 2",
        "UPDATE requests SET model = x'ff00' WHERE id = 3",
        "UPDATE requests SET duration_seconds = 9e999 WHERE id = 4",
        "UPDATE requests SET stream = 7 WHERE id = 5",
        "UPDATE requests SET error = CAST(x'ff41' AS TEXT) WHERE id = 6",
        f"UPDATE requests SET tokens_in = {2**63 - 1} WHERE id IN (7, 8)",
        "UPDATE sessions SET load_seconds = NULL WHERE id < 10",
        "UPDATE measurements SET host = 'much' WHERE signature <> 'signature 9'",
    )
    async with open_history(path) as history:
        found = await history.requests()
        assert [record.id for record in found] == [10, 9, 8, 7, 6]
        assert found[-1].error == "\ufffdA"
        assert [record.id for record in await history.sessions()] == [10]
        assert [record.signature for record in await history.measurements()] == ["signature 9"]
        assert "model 2" in {total.model for total in await history.totals()}


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "writing"])
async def test_a_file_that_is_damaged_while_it_is_open_is_set_aside(
    path: Path, reads: bool
) -> None:
    await fill(path, 3000)
    async with open_history(path) as history:
        with path.open("r+b") as file:
            file.write(os.urandom(path.stat().st_size))
        if reads:
            assert await history.requests() == []
        for number in range(5):
            history.add(request(number))
            await history.flush()
        assert numbers(await history.requests()) == [4, 3, 2, 1, 0]
        assert path.with_name(ASIDE).exists()


async def test_a_file_in_which_no_damage_is_found_is_not_checked_again_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path)
    checks: list[sqlite3.Connection] = []

    def nothing_wrong(connection: sqlite3.Connection, *_: object) -> None:
        checks.append(connection)

    monkeypatch.setattr(history_file, "_check", nothing_wrong)

    def damaged(connection: sqlite3.Connection, query: RequestQuery) -> list[RequestRecord]:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    monkeypatch.setattr(history_module, "select_requests", damaged)
    async with open_history(path) as history:
        for _ in range(3):
            with pytest.raises(CyberError, match="history cannot be read"):
                await history.requests()
    assert len(checks) == 2
    assert not path.with_name(ASIDE).exists()


async def test_a_file_that_is_removed_while_it_is_open_disturbs_nobody(path: Path) -> None:
    async with open_history(path) as history:
        history.add(request(1))
        await history.flush()
        for entry in path.parent.iterdir():
            entry.unlink()
        history.add(request(2))
        assert numbers(await history.requests()) == [2, 1]
    async with open_history(path) as history:
        assert await history.requests() == []


@pytest.mark.parametrize("place", ["/proc/self/history.sqlite3", "/proc/self/no/history.sqlite3"])
async def test_where_nothing_can_be_written_nothing_is_kept(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_history(Path(place)) as history:
        for number in range(3):
            history.add(request(number))
            history.add(session(number))
            history.add(measurement())
            assert await history.requests() == []
    (said,) = caplog.records
    assert "no history is kept" in said.getMessage()


async def test_a_directory_in_place_of_sqlites_log(path: Path) -> None:
    await fill(path, 10)
    before = path.read_bytes()
    path.with_name(f"{path.name}-wal").mkdir()
    async with open_history(path) as history:
        history.add(request(1))
        assert numbers(await history.requests()) == [1]
    assert path.with_name(ASIDE).read_bytes() == before
    assert path.with_name(f"{ASIDE}-wal").is_dir()


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history to make garbled copies of."""
    path = tmp_path_factory.mktemp("sound") / "history.sqlite3"
    asyncio.run(fill(path))
    return path


places = st.one_of(st.integers(0, 99), st.integers(0, 8191), st.integers(0, 1 << 20))


# The column "id" is no longer the key of the table.
@example([(3791, b"00  _")], None)
@given(
    st.lists(st.tuples(places, st.binary(min_size=1, max_size=16)), min_size=1, max_size=6),
    st.none() | st.integers(0, 1 << 20),
)
def test_no_garbled_file_stops_the_history(
    sound_file: Path, changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    sound = sound_file.read_bytes()
    garbled = bytearray(sound)
    for place, piece in changes:
        start = place % len(sound)
        garbled[start : start + len(piece)] = piece
    if cut is not None:
        del garbled[cut % len(sound) :]
    folder = Path(tempfile.mkdtemp(dir=sound_file.parent))
    path = folder / "history.sqlite3"
    path.write_bytes(garbled)

    async def use() -> None:
        async with open_history(path) as history:
            for aside in folder.glob("history.sqlite3.*-050607"):
                assert aside.read_bytes() == garbled
            await history.requests(RequestQuery(limit=10_000))
            await history.sessions(HistoryQuery(limit=10_000))
            await history.measurements()
            await history.totals()
            for number in range(3):
                history.add(request(number, model="new"))
                history.add(session(number, model="new"))
                history.add(measurement("new", load_seconds=number))
                assert numbers(await history.requests(RequestQuery(model="new")))[0] == number
                assert (await history.sessions(HistoryQuery(model="new")))[0].requests == number
            assert "new" in {total.model for total in await history.totals()}

    try:
        asyncio.run(use())
    finally:
        shutil.rmtree(folder)
