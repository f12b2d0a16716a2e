"""The history: records are kept across restarts and kills, within its bounds."""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.errors import ShuttingDownError
from cyber_inference_tui.llama.needs import Footprint
from cyber_inference_tui.records import ModelTotals, RequestRecord, SessionRecord
from cyber_inference_tui.records.bench import BenchFigure
from cyber_inference_tui.records.queries import ClientsQuery, HistoryQuery, RequestQuery
from cyber_inference_tui.service.history import MAX_PENDING, History
from cyber_inference_tui.service.history_file import read_benches
from cyber_inference_tui.service.history_rows import MAX_MEASUREMENTS, MAX_TEXT, STORED_BENCHES
from tests.waiting import eventually

from .history_records import (
    NOW,
    bench,
    measurement,
    now,
    numbers,
    open_history,
    request,
    session,
    stored,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


@pytest.mark.parametrize("count", [1, 49, 50, 51, 120])
async def test_any_number_of_records_is_written_in_order(path: Path, count: int) -> None:
    records = [request(number) for number in range(count)]
    async with open_history(path) as history:
        history.add_all(records)
        found = await history.requests(RequestQuery(limit=1000))
    assert [one.tokens_in for one in found] == list(reversed(range(count)))
    assert [one.id for one in found] == list(range(count, 0, -1))


async def test_a_record_is_read_at_once_with_every_field(path: Path) -> None:
    full_request = RequestRecord(
        id=1,
        at=NOW,
        model="sub/Name-Q4_K_M",
        path="/v1/chat/completions",
        status=503,
        stream=True,
        tokens_in=12,
        tokens_out=34,
        tokens_per_second=56.7,
        time_to_first_token_seconds=0.25,
        queue_seconds=1.25,
        duration_seconds=2.75,
        client="127.0.0.1",
        user_agent="OpenAI/Python 1.2.3",
        key_name="2",
        port=11434,
        request_id="a1b2",
        tokens_cached=7,
        tokens_drafted=20,
        tokens_accepted=15,
        tokens_counted=True,
        body_seconds=0.1,
        load_seconds=1.0,
        queue_ahead=3,
        prompt_seconds=0.4,
        answer_seconds=0.6,
        stall_seconds=0.2,
        prompt_differs_at=72,
        prompt_differs_in="the system prompt",
        box="jetson",
        energy_j=48.5,
        error="It failed.",
    )
    full_session = SessionRecord(
        id=1,
        model="sub/Name-Q4_K_M",
        load_reason="asked",
        unload_reason="idle",
        loaded_at=NOW,
        unloaded_at=NOW + timedelta(hours=1, microseconds=1),
        load_seconds=3.5,
        requests=5,
        tokens_in=60,
        tokens_out=70,
        context_size=8192,
        memory_estimate_bytes=1 << 33,
        memory_bytes=1 << 34,
    )
    sparse_request = RequestRecord(
        id=2, at=NOW, model="m", path="/", status=200, duration_seconds=0
    )
    sparse_session = SessionRecord(
        id=2, model="m", load_reason="preload", loaded_at=NOW, load_seconds=1
    )
    # A field that is left at its default here would not be tested.
    for full in (full_request, full_session):
        assert all(
            getattr(full, field.name) != field.default for field in msgspec.structs.fields(full)
        )
    async with open_history(path) as history:
        history.add(full_request)
        assert await history.requests() == [full_request]
        history.add(sparse_request)
        assert await history.requests() == [sparse_request, full_request]
        history.add(full_session)
        history.add(sparse_session)
        assert await history.sessions() == [sparse_session, full_session]
        history.add(measurement())
        assert await history.measurements() == [measurement()]


async def test_pages_and_filters_of_requests(path: Path) -> None:
    async with open_history(path) as history:
        for number in range(20):
            history.add(
                request(
                    number,
                    model="even" if number % 2 == 0 else "odd",
                    status=(200, 404, 499)[number % 3],
                    error="broke off" if number == 9 else None,
                )
            )
        newest = await history.requests(RequestQuery(limit=5))
        assert numbers(newest) == [19, 18, 17, 16, 15]
        page = await history.requests(RequestQuery(limit=5, before=newest[-1].id))
        assert numbers(page) == [14, 13, 12, 11, 10]
        assert await history.requests(RequestQuery(before=1)) == []
        assert await history.requests(RequestQuery(limit=0)) == []
        assert len(await history.requests(RequestQuery(limit=10**30, before=10**30))) == 20
        assert numbers(await history.requests(RequestQuery(model="odd", limit=3))) == [19, 17, 15]
        assert await history.requests(RequestQuery(model="ODD")) == []
        # 9 had an error after its stream had begun with 200.
        assert numbers(await history.requests(RequestQuery(failed=False))) == [18, 15, 12, 6, 3, 0]
        failed = numbers(await history.requests(RequestQuery(failed=True)))
        assert failed == [19, 17, 16, 14, 13, 11, 10, 9, 8, 7, 5, 4, 2, 1]
        since = NOW + timedelta(seconds=17)
        assert numbers(await history.requests(RequestQuery(since=since))) == [19, 18, 17]
        elsewhere = since.astimezone(timezone(timedelta(hours=-7)))
        assert numbers(await history.requests(RequestQuery(since=elsewhere))) == [19, 18, 17]
        both = await history.requests(
            RequestQuery(since=since, model="odd", failed=True, limit=1, before=20)
        )
        assert numbers(both) == [17]


async def test_pages_and_filters_of_sessions(path: Path) -> None:
    async with open_history(path) as history:
        for number in range(6):
            history.add(session(number, model="even" if number % 2 == 0 else "odd"))
        found = await history.sessions(HistoryQuery(limit=2))
        assert [record.requests for record in found] == [5, 4]
        found = await history.sessions(HistoryQuery(before=found[-1].id, model="odd"))
        assert [record.requests for record in found] == [3, 1]
        # Those that were loaded at the time, or later: each lasts 60 s.
        found = await history.sessions(HistoryQuery(since=NOW + timedelta(seconds=63)))
        assert [record.requests for record in found] == [5, 4, 3]
        assert await history.sessions(HistoryQuery(model="nothing")) == []


async def test_totals_by_key(path: Path) -> None:
    async with open_history(path) as history:
        history.add(request(9))
        assert await history.key_totals() == []
        history.add(request(5, key_name="zoë", tokens_in=10, tokens_out=100))
        history.add(request(1, key_name="zoë", tokens_in=None, model="", status=403))
        history.add(request(2, key_name="1", tokens_in=7, tokens_out=1))
        one, zoe = await history.key_totals()
        assert (one.key_name, one.requests, one.failures) == ("1", 1, 0)
        assert (zoe.requests, zoe.failures, zoe.tokens_in, zoe.tokens_out) == (2, 1, 10, 100)
        assert zoe.last_used_at == NOW + timedelta(seconds=5)
        (later,) = await history.key_totals(NOW + timedelta(seconds=3))
        assert (later.key_name, later.requests) == ("zoë", 1)


async def test_totals(path: Path) -> None:
    async with open_history(path) as history:
        # A refused request that named no model belongs to none.
        history.add(request(model="", status=400, error="no name"))
        assert await history.totals() == []
        history.add(request(5, model="b", tokens_in=10, tokens_out=100))
        history.add(request(1, model="b", tokens_in=None, tokens_out=None, status=499))
        history.add(request(2, model="a", tokens_in=7, tokens_out=1, error="broke off"))
        assert await history.totals() == [
            ModelTotals(
                model="a",
                requests=1,
                failures=1,
                tokens_in=7,
                tokens_out=1,
                last_used_at=NOW + timedelta(seconds=2),
            ),
            ModelTotals(
                model="b",
                requests=2,
                failures=1,
                tokens_in=10,
                tokens_out=100,
                last_used_at=NOW + timedelta(seconds=5),
            ),
        ]


async def test_the_latest_measurement_of_a_signature_counts(path: Path) -> None:
    newer = measurement(
        footprint=Footprint(host=9), load_seconds=1.0, at=NOW + timedelta(seconds=1)
    )
    async with open_history(path) as history:
        history.add(measurement("other", context_size=None, size_bytes=None))
        history.add(measurement())
        history.add(newer)
        expected = [newer, measurement("other", context_size=None, size_bytes=None)]
        assert await history.measurements() == expected
    async with open_history(path) as history:
        assert await history.measurements() == expected


async def test_a_restart_keeps_everything_and_ids_continue(path: Path) -> None:
    async with open_history(path) as history:
        history.add(request(1))
        history.add(session(1))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    async with open_history(path) as history:
        history.add(request(2))
        assert [record.id for record in await history.requests()] == [2, 1]
        assert len(await history.sessions()) == 1


async def test_the_files_are_the_owners_alone(path: Path) -> None:
    async with open_history(path) as history:
        history.add(request())
        await history.flush()
        files = list(path.parent.iterdir())
        assert {file.name for file in files} >= {path.name, f"{path.name}-wal"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    path.chmod(0o444)
    async with open_history(path) as history:
        history.add(request())
        assert len(await history.requests()) == 2
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "history.sqlite3"
    async with open_history(path):
        assert path.is_file()


async def test_what_waits_is_written_after_a_while(path: Path) -> None:
    async with open_history(path, batch_seconds=0.01) as history:
        history.add(request(7))
        await asyncio.to_thread(eventually, lambda: stored(path) == [7])


async def test_much_is_written_without_a_wait(path: Path) -> None:
    async with open_history(path) as history:
        for number in range(1000):
            history.add(request(number))
        await asyncio.to_thread(eventually, lambda: len(stored(path)) >= 500)


async def test_strange_values_break_nothing(path: Path) -> None:
    strange = request(
        1,
        model="bad \udcff name",
        error="e\x00\ud800" * 5000,
        client="\x1b[31m",
        tokens_in=10**30,
        tokens_out=-(10**30),
        tokens_per_second=float("nan"),
        time_to_first_token_seconds=float("inf"),
    )
    async with open_history(path) as history:
        history.add(strange)
        history.add(session(model="bad \udcff name"))
        history.add(measurement("\udcff" * 9))
        history.add(request(2))
        found = await history.requests(RequestQuery(model="bad \udcff name"))
        assert [record.model for record in found] == ["bad ? name"]
        assert found[0].error is not None
        assert len(found[0].error) == MAX_TEXT
        # A number that cannot be held is not known.
        assert found[0].tokens_in is found[0].tokens_out is None
        assert found[0].tokens_per_second is found[0].time_to_first_token_seconds is None
        assert numbers(await history.requests()) == [2, None]
        assert [record.model for record in await history.sessions()] == ["bad ? name"]
        assert [record.signature for record in await history.measurements()] == ["?" * 9]


async def test_a_time_without_a_zone_counts_as_utc(path: Path) -> None:
    async with open_history(path) as history:
        history.add(request(at=NOW.replace(tzinfo=None)))
        (record,) = await history.requests(RequestQuery(since=NOW.replace(tzinfo=None)))
        assert record.at == NOW
        assert await history.requests(RequestQuery(since=datetime.max.replace(tzinfo=UTC))) == []
        assert len(await history.requests(RequestQuery(since=datetime.min))) == 1
        # Beyond the calendar's ends, once they are in UTC.
        first = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
        last = datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))
        assert len(await history.requests(RequestQuery(since=first))) == 1
        assert await history.requests(RequestQuery(since=last)) == []


async def test_what_is_too_old_is_removed_at_the_start(path: Path) -> None:
    async with open_history(path) as history:
        for days in (-31, -29, 0):
            history.add(request(days, at=NOW + timedelta(days=days)))
            history.add(session(days, loaded_at=NOW, unloaded_at=NOW + timedelta(days=days)))
        history.add(measurement(at=NOW - timedelta(days=400)))
        await history.flush()
    async with open_history(path) as history:
        assert numbers(await history.requests()) == [0, -29]
        assert [record.requests for record in await history.sessions()] == [0, -29]
        # What a model takes does not change with time.
        assert len(await history.measurements()) == 1
    async with open_history(path, max_age_days=1) as history:
        assert numbers(await history.requests()) == [0]


async def test_records_of_a_clock_that_was_wrong_are_neither_lost_nor_kept_for_ever(
    path: Path,
) -> None:
    unset, ahead = datetime(1970, 1, 1, tzinfo=UTC), NOW + timedelta(days=5000)

    async def open_at(now: datetime, *written: int) -> list[int | None]:
        async with open_history(path, now=lambda: now) as history:
            for number in written:
                history.add(request(number, at=now))
                history.add(session(number, loaded_at=now, unloaded_at=now))
            kept = numbers(await history.requests())
            assert numbers(await history.requests()) == [
                record.requests for record in await history.sessions()
            ]
            return kept

    await open_at(NOW, 1)
    await open_at(unset, 2)
    await open_at(ahead, 3)
    assert await open_at(ahead, 4) == [4, 3, 2, 1]
    assert await open_at(NOW + timedelta(days=20), 5) == [5, 4, 3, 2, 1]
    # Records with a wrong time are removed with the next record that is too old.
    assert await open_at(NOW + timedelta(days=49)) == [5, 4, 3, 2]
    assert await open_at(NOW + timedelta(days=51)) == []


async def test_a_session_is_not_removed_for_a_request_of_the_future(path: Path) -> None:
    async with open_history(path) as history:
        history.add(request(1, at=NOW + timedelta(days=5000)))
        for number in range(2, 2000):
            history.add(request(number, at=NOW, error="x" * 100))
        history.add(session(7, loaded_at=NOW, unloaded_at=NOW))
    async with open_history(path, max_bytes=path.stat().st_size // 2) as history:
        assert 1 not in numbers(await history.requests(RequestQuery(limit=2000)))
        assert [record.requests for record in await history.sessions()] == [7]


async def test_ids_are_not_given_again_after_all_rows_are_gone(path: Path) -> None:
    async with open_history(path) as history:
        history.add(request(at=NOW - timedelta(days=99)))
    async with open_history(path) as history:
        assert await history.requests() == []
        history.add(request())
        assert [record.id for record in await history.requests()] == [2]


async def test_a_file_that_grows_too_large_loses_its_oldest_rows_and_space(path: Path) -> None:
    limit = 400_000
    async with open_history(path, max_bytes=limit) as history:
        history.add(session(-100))
        for number in range(6000):
            history.add(request(number, error="x" * 100))
            if number % 500 == 0:
                await history.flush()
        history.add(session(6000))
        found = numbers(await history.requests(RequestQuery(limit=6000)))
        assert found == list(range(5999, 5999 - len(found), -1))
        assert 500 < len(found) < 4000
        assert [record.requests for record in await history.sessions()] == [6000]
    assert path.stat().st_size <= limit


async def test_a_smaller_bound_shrinks_the_file_at_the_start(path: Path) -> None:
    async with open_history(path) as history:
        for number in range(3000):
            history.add(request(number, error="x" * 100))
        for number in range(300):
            history.add(session(number, unload_reason="y" * 500))
            history.add(measurement(f"{number}" * 300))
    before = path.stat().st_size
    async with open_history(path, max_bytes=before // 2) as history:
        kept = await history.requests(RequestQuery(limit=3000))
        assert numbers(kept)[0] == 2999
        assert len(await history.measurements()) == 300
    assert path.stat().st_size <= before // 2
    # Even where sessions and measurements have to make way.
    async with open_history(path, max_bytes=100_000) as history:
        assert await history.requests() == []
        history.add(request(1))
        assert numbers(await history.requests()) == [1]
    assert path.stat().st_size <= 100_000


async def test_the_newest_measurements_are_kept(path: Path) -> None:
    async with open_history(path) as history:
        for number in range(MAX_MEASUREMENTS + 5):
            history.add(measurement(str(number), at=NOW + timedelta(seconds=number)))
        found = await history.measurements()
        assert len(found) == MAX_MEASUREMENTS
        assert found[0].signature == str(MAX_MEASUREMENTS + 4)
    async with open_history(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM measurements").fetchone()
    assert count == MAX_MEASUREMENTS


async def test_the_newest_benches_are_kept_however_old(path: Path) -> None:
    async with open_history(path) as history:
        for number in range(STORED_BENCHES + 5):
            history.add_bench(bench(number, at=NOW - timedelta(days=400)))
        await history.flush()
    async with open_history(path) as history:
        found = await history.benches(HistoryQuery(limit=STORED_BENCHES + 5))
        assert [one.prompt for one in found] == list(range(STORED_BENCHES + 4, 4, -1))


async def test_benches_come_back_whole_newest_first_and_by_model(path: Path) -> None:
    speed = BenchFigure(median=2.0, spread=0.5, values=(1.5, 2.0, 3.0))
    full = bench(1, model="other", tokens_per_second=speed, throttled=("cpu: temperature",))
    async with open_history(path) as history:
        history.add_bench(bench(0))
        history.add_bench(full)
        found = await history.benches()
        assert [one.prompt for one in found] == [1, 0]
        assert found[0] == msgspec.structs.replace(full, id=2)
        assert await history.benches(HistoryQuery(model="m")) == found[1:]
        assert await history.benches(HistoryQuery(before=2)) == found[1:]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE benches SET result = '{' WHERE id = 1")
    async with open_history(path) as history:
        assert [one.id for one in await history.benches()] == [2]


async def test_a_command_reads_benches_beside_a_service_and_without_one(path: Path) -> None:
    assert read_benches(path) == []
    async with open_history(path) as history:
        history.add_bench(bench(0))
        await history.flush()
        assert [one.prompt for one in read_benches(path)] == [0]
    before = set(path.parent.iterdir())
    assert [one.prompt for one in read_benches(path)] == [0]
    assert set(path.parent.iterdir()) == before == {path}
    path.write_bytes(b"no database")
    assert read_benches(path) == []


async def test_the_queue_is_bounded_and_says_so_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(path, now=now)
    with caplog.at_level(logging.WARNING):
        for number in range(MAX_PENDING + 10):
            history.add(request(number))
    assert len(caplog.records) == 1
    await history.start()
    found = await history.requests(RequestQuery(limit=MAX_PENDING + 10))
    assert (len(found), found[0].tokens_in) == (MAX_PENDING, MAX_PENDING - 1)
    await history.stop()


async def test_many_readers_and_a_writer_at_once(path: Path) -> None:
    async with open_history(path, batch_seconds=0.001) as history:

        async def read(own: str) -> None:
            for number in range(20):
                history.add(request(number, model=own))
                found = await history.requests(RequestQuery(model=own))
                assert numbers(found) == list(range(number, -1, -1))
                await history.totals()

        async with asyncio.TaskGroup() as group:
            for name in range(10):
                group.create_task(read(f"model {name}"))
        assert [total.requests for total in await history.totals()] == [20] * 10


async def test_a_cancelled_reader_disturbs_nobody(path: Path) -> None:
    async with open_history(path) as history:
        readers = [asyncio.create_task(history.requests()) for _ in range(20)]
        await asyncio.sleep(0)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        history.add(request(1))
        assert numbers(await history.requests()) == [1]


async def test_a_locked_file_is_tried_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_history(path) as history:
        history.add(request(1))
        await history.flush()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            history.add(request(2))
            for _ in range(2):
                assert numbers(await history.requests()) == [1]
        assert len(caplog.records) == 1
        history.add(request(3))
        assert numbers(await history.requests()) == [3, 2, 1]


_FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from cyber_inference_tui.records.queries import RequestQuery
from cyber_inference_tui.service.history import History
from tests.service.history_records import now, numbers, request

async def main():
    history = History(Path(sys.argv[1]), now=now, batch_seconds=3600)
    await history.start()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    # The kernel refuses to let any file of this process grow beyond this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    for number in range(3000):
        history.add(request(number, error="x" * 200))
    assert await history.requests() == []
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    history.add(request(3000))
    assert numbers(await history.requests(RequestQuery(limit=5000))) == list(range(3000, -1, -1))
    await history.stop()

asyncio.run(main())
"""


def test_a_full_disk_is_tried_again(path: Path) -> None:
    subprocess.run([sys.executable, "-c", _FULL_DISK, path], check=True, timeout=60)
    assert len(stored(path)) == 3001


_WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from cyber_inference_tui.service.history import History
from tests.service.history_records import now, request

async def main():
    history = History(Path(sys.argv[1]), now=now, batch_seconds=0.002)
    await history.start()
    for number in itertools.count():
        history.add(request(number))
        if number % 40 == 39:
            await history.flush()
            print(number, flush=True)
        elif number % 7 == 0:
            await asyncio.sleep(0.001)

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 8, 30])
async def test_a_killed_service_loses_the_last_batch_at_most(path: Path, after: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for _ in range(after):
            written = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
    written = int(rest[-1]) if rest else written
    async with open_history(path) as history:
        assert [entry.name for entry in path.parent.iterdir() if "damaged" in entry.name] == []
        found = numbers(await history.requests(RequestQuery(limit=100_000)))
        assert found == list(range(len(found) - 1, -1, -1))
        assert len(found) > written
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_stopped_history_takes_and_returns_nothing(path: Path) -> None:
    async with open_history(path) as history:
        history.add(request(1))
    history.add(request(2))
    await history.flush()
    await history.stop()
    with pytest.raises(ShuttingDownError):
        await history.requests()
    assert stored(path) == [1]


async def test_a_history_that_never_began_stops(path: Path) -> None:
    await History(path, now=now).stop()
    assert not path.exists()


async def test_clients_are_found_by_port_program_key_and_address(path: Path) -> None:
    python = {"user_agent": "OpenAI/Python 1.2.3", "client": "127.0.0.1", "port": 8337}
    async with open_history(path) as history:
        history.add_all(
            [
                request(1, **python),
                request(2, **python, status=503, error="It failed."),
                request(3, **{**python, "port": 11434}),
                request(4, **python, key_name="1"),
                request(5, client="10.0.0.7", port=8337),
                # From before ports were kept.
                request(6, client="10.0.0.7"),
            ]
        )
        found = await history.clients(ClientsQuery())
        assert [(one.port, one.user_agent, one.key_name, one.requests) for one in found] == [
            (8337, None, None, 1),
            (8337, "OpenAI/Python 1.2.3", "1", 1),
            (11434, "OpenAI/Python 1.2.3", None, 1),
            (8337, "OpenAI/Python 1.2.3", None, 2),
        ]
        assert found[0].client == "10.0.0.7"
        assert found[-1].last_used_at == NOW + timedelta(seconds=2)
        since = ClientsQuery(since=NOW + timedelta(seconds=2), limit=5)
        assert [one.requests for one in await history.clients(since)] == [1, 1, 1, 1]
        assert await history.clients(ClientsQuery(limit=1)) == found[:1]


async def test_the_last_use_of_a_model_outlives_its_requests(path: Path) -> None:
    async with open_history(path) as history:
        history.add(request(0, model="old"))
        history.add(request(5, model="old"))
        history.add(request(6, model="old", status=404))
        history.add(request(7, model="elsewhere", box="jetson"))
        old = {"old": NOW}
        assert await history.last_uses() == old, "the later ones lie in the future"
    later = NOW + timedelta(days=40)
    async with open_history(path, now=lambda: later) as history:
        assert await history.requests() == []
        assert await history.last_uses() == {"old": NOW + timedelta(seconds=5)}
        history.add(request(model="old", at=later - timedelta(days=1)))
        history.add(request(model="new", at=later))
        assert await history.last_uses() == {"old": later - timedelta(days=1), "new": later}
