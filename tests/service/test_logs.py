"""The logs as the service keeps them: events, pages, searches with a limit, and their files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cyber_inference_tui.library.ids import RESERVED
from cyber_inference_tui.llama.log_files import LogLimits
from cyber_inference_tui.llama.log_reading import Span, read_lines
from cyber_inference_tui.records import GapEvent, LogEvent, LogLevel, LogPage, LogRecord, LogRun
from cyber_inference_tui.records.queries import LinesQuery
from cyber_inference_tui.service.change_notifier import ChangeNotifier
from cyber_inference_tui.service.events import EventBus
from cyber_inference_tui.service.install import INSTALL_LOG
from cyber_inference_tui.service.logs import SERVICE_LOG, Logs, service_log
from tests.waiting import LIMIT, until

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LINES = 20_000


def test_no_model_can_have_the_id_of_another_log() -> None:
    assert {SERVICE_LOG, INSTALL_LOG} == RESERVED


def last_texts(spans: Sequence[Span], count: int) -> list[str]:
    return [line.text for line in read_lines(spans, limit=count)[0]]


class Clock:
    """Seconds that pass only when it is asked."""

    def __init__(self) -> None:
        self.step = 0.0
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += self.step
        return self.seconds


class PublishedLines(EventBus):
    """Keeps the events of logs."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[LogEvent] = []
        self.expect_reader("log")

    def publish(self, topic: str, data: object) -> None:
        if isinstance(data, LogEvent):
            self.published.append(data)


class Room:
    """Logs in a directory, and the events that their lines become."""

    def __init__(self, directory: Path, read_seconds: float = LIMIT) -> None:
        self.clock = Clock()
        self.events = PublishedLines()
        self.notifier = ChangeNotifier(self.events, record=lambda _: None)
        self.logs = Logs(
            directory,
            now=lambda: NOW,
            on_lines=self.notifier.log_lines,
            clock=self.clock,
            read_seconds=read_seconds,
        )

    def new_events(self) -> list[LogEvent]:
        """The events of the lines since the last call."""
        self.notifier.flush()
        published, self.events.published = self.events.published, []
        return published

    async def numbers(
        self,
        log_id: str,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 10,
        level: LogLevel | None = None,
        text: str = "",
    ) -> tuple[list[int], int]:
        page = await self.logs.page(
            log_id, LinesQuery(before=before, after=after, limit=limit, level=level, q=(text,))
        )
        return [line.number for line in page.lines], page.searched_to


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    made = Room(tmp_path / "logs")
    made.logs.start()
    yield made
    await made.logs.stop()


async def test_pages_of_a_log_by_number(room: Room) -> None:
    room.logs.log("sub/m").add(f"line {number}" for number in range(LINES))
    assert await room.numbers("sub/m", limit=3) == ([19_997, 19_998, 19_999], 19_997)
    assert await room.numbers("sub/m", before=19_997, limit=2) == ([19_995, 19_996], 19_995)
    assert await room.numbers("sub/m", after=5, limit=2) == ([5, 6], 7)
    assert await room.numbers("sub/m", after=5, before=7) == ([5, 6], 7)
    # Beyond both ends, and where nothing lies between.
    assert await room.numbers("sub/m", before=0) == ([], 0)
    assert await room.numbers("sub/m", before=2) == ([0, 1], 0)
    assert await room.numbers("sub/m", after=LINES) == ([], LINES)
    assert await room.numbers("sub/m", after=10**18) == ([], LINES)
    assert await room.numbers("sub/m", before=10**18, limit=1) == ([19_999], 19_999)
    assert await room.numbers("sub/m", after=9, before=4) == ([], 9)
    assert await room.numbers("sub/m", limit=0) == ([], LINES)


async def test_a_page_has_the_record_of_its_log(room: Room) -> None:
    log = room.logs.log("m")
    log.begin_run(7)
    log.add(["I fine", "E bad", "W odd"])
    record = LogRecord(
        id="m",
        first=0,
        end=3,
        running=True,
        last_at=NOW,
        last_error=1,
        runs=(LogRun(first=0, started_at=NOW, pid=7),),
    )
    page = await room.logs.page("m", LinesQuery(limit=1))
    assert page.log == record
    (line,) = page.lines
    assert (line.number, line.at, line.text, line.level) == (2, NOW, "W odd", LogLevel.WARNING)
    room.logs.log("a")
    assert room.logs.records() == [LogRecord(id="a", first=0, end=0), record]
    assert "none" not in room.logs
    assert await room.logs.page("none", LinesQuery(limit=5)) == LogPage(
        log=LogRecord(id="none", first=0, end=0), lines=(), searched_to=0
    )


async def test_searching_by_level_and_text(room: Room) -> None:
    signs = ("I", "W", "E", "D")
    room.logs.log("m").add(f"{signs[n % 4]} Number {n}" for n in range(LINES))
    assert await room.numbers("m", level=LogLevel.ERROR, limit=2) == ([19_994, 19_998], 19_994)
    found, reached = await room.numbers("m", text="nUMBER 1999", level=LogLevel.WARNING)
    assert found == [19_990, 19_993, 19_994, 19_997, 19_998]
    assert reached == 0
    assert await room.numbers("m", text="number 7", after=0, limit=1) == ([7], 8)
    assert await room.numbers("m", text="not there") == ([], 0)


async def test_a_search_for_several_texts_leaves_out_what_the_record_has(room: Room) -> None:
    room.logs.log("m").add(
        [
            "0.00.018.399 I srv    load_model: loading 42",
            "0.42.018.399 W slot update_slots: id  0 | task 7 | nearly full",
            '{"type":"log","time":42,"level":"error","msg":"srv  \\"quoted\\" 42\\n"}',
            '{"type":"log","time":42,"level":"info","msg":"cut',
            '{"type":"log","time":4,"level":"info","msg":' + "[" * 4000,
        ]
    )
    assert (await room.numbers("m", text="42"))[0] == [0, 2, 3]
    assert (await room.numbers("m", text='"quoted"'))[0] == [2]
    assert (await room.numbers("m", text="", level=LogLevel.WARNING))[0] == [1, 2]
    query = LinesQuery(q=("LOAD", "42"), limit=1)
    matches = await room.logs.matches("m", query)
    assert (matches.numbers, matches.searched_to) == ((0,), 0)
    assert matches.log == room.logs.record("m")


async def test_a_search_that_takes_too_long_can_be_resumed(room: Room) -> None:
    for start in range(0, LINES, 500):
        room.logs.log("m").add(f"line {number}" for number in range(start, start + 500))
    room.clock.step = 10.0
    found, reached = await room.numbers("m", text="line 3")
    assert 0 < reached < LINES
    steps = 1
    while reached:
        more, further = await room.numbers("m", text="line 3", before=reached)
        assert further < reached
        found, reached = (more + found)[-10:], further
        steps += 1
    assert steps > 3
    forwards, reached = await room.numbers("m", text="line 19999", after=0)
    assert forwards == []
    while not forwards:
        forwards, reached = await room.numbers("m", text="line 19999", after=reached)
    assert (forwards, reached) == ([19_999], LINES)


async def test_many_searches_at_once_and_one_that_is_given_up(room: Room) -> None:
    room.logs.log("m").add(f"line {number}" for number in range(LINES))
    given_up = asyncio.ensure_future(room.numbers("m", text="nothing"))
    await asyncio.sleep(0)
    given_up.cancel()
    answers = await asyncio.gather(*(room.numbers("m", text=f"line 1{n}") for n in range(20)))
    assert all(len(found) == 10 for found, _ in answers)
    with pytest.raises(asyncio.CancelledError):
        await given_up


async def test_events_have_the_newest_of_a_flood_and_their_numbers(room: Room) -> None:
    log = room.logs.log("m")
    log.add(["I a", "E b"])
    room.logs.log("n").add(["c"])
    first, second = room.new_events()
    assert (first.id, first.first, [line.text for line in first.lines]) == ("m", 0, ["I a", "E b"])
    assert [line.level for line in first.lines] == [LogLevel.INFO, LogLevel.ERROR]
    assert (second.id, second.first) == ("n", 0)
    assert room.new_events() == []
    for start in range(0, 3_000, 300):
        log.add(f"line {number}" for number in range(start, start + 300))
    (event,) = room.new_events()
    assert (event.first, len(event.lines)) == (2 + 2_500, 500)
    assert (event.lines[0].text, event.lines[-1].text) == ("line 2500", "line 2999")
    log.add(["next"])
    (event,) = room.new_events()
    assert event.first == 3_002


async def test_lines_that_nobody_reads_are_no_events(room: Room) -> None:
    bus = EventBus()
    notifier = ChangeNotifier(bus, record=lambda _: None)
    log = room.logs.log("m")
    log.listeners.append(lambda batch: notifier.log_lines("m", batch))
    before = bus.last_id
    log.add(["one"])
    notifier.flush()
    assert bus.rings["log"].end == 1
    # A client that resumes before them learns that it missed something, if it reads this log.
    for logs, expected in ((None, ["gap"]), (["m"], ["gap"]), (["n"], [])):
        resumed = bus.subscribe(["log"], after=before, logs=logs)
        assert [event.topic for event in resumed.take()] == expected
    bus.expect_reader("log")
    log.add(["two"])
    notifier.flush()
    for after, expected in ((before, ["gap", "log"]), (bus.last_id - 1, ["log"])):
        resumed = bus.subscribe(["log"], after=after)
        events = resumed.take()
        assert [event.topic for event in events] == expected
        assert events == sorted(events, key=lambda event: event.id)
    assert isinstance(events[-1].data, LogEvent)
    assert [line.text for line in events[-1].data.lines] == ["two"]
    # A subscription that was there all the time.
    late = bus.subscribe(["log"])
    bus.leave_out("m")
    (gap,) = late.take()
    assert (gap.topic, gap.data) == ("gap", GapEvent(missed=1, topic="log"))


@pytest.mark.parametrize("topic", ["model", "log"])
async def test_changes_that_nobody_reads_are_published_later(topic: str) -> None:
    asked: list[str] = []

    def changed(name: str, bus: EventBus) -> None:
        notifier = ChangeNotifier(bus, record=lambda _: asked.append(name))
        notifier.detail_changed("m")

    read = EventBus()
    read.expect_reader(topic)
    changed("unread", EventBus())
    changed("read", read)
    await until(lambda: asked)
    assert asked == ["read"]


async def test_the_end_of_a_log_as_text(room: Room) -> None:
    room.logs.log("m").add(f"line {number}" for number in range(LINES))
    assert await room.logs.tail("m", 2) == "line 19998\nline 19999\n"
    assert (await room.logs.tail("m", 10**9)).count("\n") == LINES
    assert await room.logs.tail("m", 0) == ""
    assert await room.logs.tail("none", 5) == ""


async def test_every_line_reaches_its_file(room: Room, tmp_path: Path) -> None:
    room.logs.log("sub/m").add(["one", "two"])
    room.logs.log("service").add(["own"])
    await room.logs.stop()
    files = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    stamp = "2026-01-31T12:00:00.000000Z"
    assert files == {
        "sub%2Fm.000000000.log": f"{stamp} one\n{stamp} two\n",
        "service.000000000.log": f"{stamp} own\n",
    }


async def test_logs_begin_with_the_last_lines_of_earlier_runs(tmp_path: Path) -> None:
    long_id = "ä" * 80
    first = Room(tmp_path / "logs")
    first.logs.start()
    for log_id in ("sub/m", long_id, INSTALL_LOG):
        first.logs.log(log_id).add(["--- starting: x", f"of {log_id}"])
    await first.logs.stop()

    second = Room(tmp_path / "logs")
    installation = second.logs.log(INSTALL_LOG)
    await second.logs.restore()
    second.logs.start()
    assert [record.id for record in second.logs.records()] == [INSTALL_LOG, "sub/m"]
    assert await second.logs.tail("sub/m", 9) == "--- starting: x\nof sub/m\n"
    assert installation.end == 2
    # The name of its file does not contain the id, but the log is found by the id.
    assert long_id in second.logs
    assert "other" not in second.logs
    assert await second.logs.tail(long_id, 1) == f"of {long_id}\n"
    second.logs.log("sub/m").add(["new"])
    page = await second.logs.page("sub/m", LinesQuery(limit=9))
    assert [(line.number, line.text) for line in page.lines] == [
        (0, "--- starting: x"),
        (1, "of sub/m"),
        (2, "new"),
    ]
    assert page.log.runs == (LogRun(first=0, started_at=NOW),)
    # Lines of an earlier run are neither published nor written again.
    assert [(event.id, event.first) for event in second.new_events()] == [("sub/m", 2)]
    await second.logs.stop()
    third = Room(tmp_path / "logs")
    await third.logs.restore()
    assert await third.logs.tail("sub/m", 9) == "--- starting: x\nof sub/m\nnew\n"
    await third.logs.stop()


async def test_the_services_own_log_keeps_earlier_runs_and_early_lines(tmp_path: Path) -> None:
    for number in (1, 2):
        own = service_log(tmp_path, lambda: NOW)
        own.add([f"early {number}"])
        logs = Logs(tmp_path, now=lambda: NOW, on_lines=lambda *_: None)
        await logs.restore()
        own.begin_run(number, first=own.restored)
        logs.adopt(SERVICE_LOG, own)
        logs.start()
        own.add([f"late {number}"])
        await logs.stop()
    texts = last_texts(own.snapshot(), 9)
    assert [text for text in texts if not text.startswith("--- starting: version")] == [
        "early 1",
        "late 1",
        "early 2",
        "late 2",
    ]
    assert [run.first for run in own.kept_runs()] == [0, 3]


@pytest.mark.parametrize("fault", ["hangs", "fails"])
async def test_a_disk_that_does_not_answer_leaves_the_newest_lines(
    tmp_path: Path, fault: str
) -> None:
    first = Room(tmp_path / "logs")
    first.logs.start()
    first.logs.log("m").add(f"line {number}" for number in range(LINES))
    await first.logs.stop()

    room = Room(tmp_path / "logs", read_seconds=0.2 if fault == "hangs" else LIMIT)
    await room.logs.restore()
    (path,) = (tmp_path / "logs").iterdir()
    path.unlink()
    if fault == "hangs":
        # Opening it waits until another process opens it, too.
        os.mkfifo(path)
        why = f"{tmp_path / 'logs'} does not answer."
    else:
        path.mkdir()
        why = "Is a directory"
    room.logs.log("m").add(["new", "E newer"])
    notice = f"--- earlier lines cannot be read now: {why}"
    for _ in range(2):
        page = await room.logs.page("m", LinesQuery(limit=9))
        assert [(line.number, line.text) for line in page.lines] == [
            (LINES - 1, notice),
            (LINES, "new"),
            (LINES + 1, "E newer"),
        ]
        assert (page.log.first, page.log.end, page.searched_to) == (LINES - 1, LINES + 2, LINES - 1)
        assert await room.numbers("m", before=LINES) == ([LINES - 1], LINES - 1)
        assert await room.numbers("m", level=LogLevel.ERROR) == ([LINES + 1], LINES - 1)
        assert await room.logs.tail("m", 9) == f"{notice}\nnew\nE newer\n"
    if fault == "hangs":
        # Let the threads go.
        os.close(os.open(path, os.O_RDWR))
    await room.logs.stop()


async def test_limits_of_the_files_apply_at_once(tmp_path: Path) -> None:
    sizes = [10**6]
    logs = Logs(
        tmp_path,
        now=lambda: NOW,
        on_lines=lambda *_: None,
        limits=lambda: LogLimits(sizes[-1], 2),
    )
    for size in (10**6, 1):
        sizes.append(size)
        for number in range(5):
            logs.log("m").add([f"line {number}"])
            logs.log("m").save()
    await logs.stop()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "m.000000008.log",
        "m.000000009.log",
    ]
