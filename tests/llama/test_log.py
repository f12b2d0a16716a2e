"""A log keeps numbered lines of clean text, the newest in memory and all kept ones in files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.llama.log_files import LogFiles, LogLimits, open_log
from cyber_inference_tui.llama.log_level import LEVELS, line_ranks
from cyber_inference_tui.llama.log_lines import LineSplitter, clean_output
from cyber_inference_tui.llama.log_reading import LineFilter, Span, read_lines
from cyber_inference_tui.records import LogLevel, LogRun, NumberedLine
from cyber_inference_tui.records.logs import message_of
from cyber_inference_tui.text import clean_line

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def new_log() -> Log:
    return Log(now=lambda: NOW)


def texts(lines: list[NumberedLine]) -> list[str]:
    return [line.text for line in lines]


def last_texts(spans: Sequence[Span], count: int) -> list[str]:
    return [line.text for line in read_lines(spans, limit=count)[0]]


class Clock:
    """Return a clock that advances a second with each call, and sometimes goes back."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> datetime:
        self.asked += 1
        return NOW + timedelta(seconds=self.asked - 5 * (self.asked % 3), microseconds=self.asked)


some_text = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["E failed", "W careful", "D detail", "I fine", "error: no", "Straße ΣΑΣ", ""]),
    st.sampled_from(["0.00.123.456 I srv x", "0.00.123.456 E srv no", "0.00.123.456 W srv"]),
    st.integers(0, 3).map(lambda n: "long " * 30 * n),
)
batches = st.lists(
    st.tuples(st.lists(some_text, max_size=40), st.sampled_from([None, *LEVELS]), st.booleans()),
    max_size=12,
)


@given(
    batches,
    st.integers(1, 6_000),
    st.data(),
    st.sampled_from(["", "e", "STRASSE", "ς", "failed", "no such thing", "long long", "2026"]),
    st.sampled_from(LEVELS),
)
def test_a_log_equals_a_list_whatever_is_appended_and_dropped(
    appended: list[tuple[list[str], LogLevel | None, bool]],
    max_size: int,
    data: st.DataObject,
    needle: str,
    level: LogLevel,
) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        files = LogFiles(Path(folder), "m")
        files.limits = lambda: LogLimits(max_size, 3)
        log = Log(now=clock, files=files, kept_bytes=data.draw(st.integers(1, 2_000)))
        model: list[NumberedLine] = []
        for batch, known, saved in appended:
            log.add(batch, known)
            if saved:
                log.save()
            if batch:
                at = Clock()
                at.asked = clock.asked - 1
                moment = at()
                model += [
                    NumberedLine(
                        number=number,
                        at=moment,
                        text=text,
                        level=known or LEVELS[line_ranks([text])[0]],
                    )
                    for number, text in enumerate(map(clean_line, batch), len(model))
                ]
        assert log.end == len(model)
        assert log.last_at == (model[-1].at if model else None)
        check(log, model, data, needle, level)
        log.save()
        check(log, model, data, needle, level)
        # The next run of the service.
        again = Log(now=clock, files=open_log(Path(folder), "m"))
        assert (again.end, again.last_at) == (log.end, log.last_at)
        check(again, model, data, needle, level)
        again.add(["more"])
        again.save()
        assert last_texts(again.snapshot(), 2)[-1] == "more"


def check(
    log: Log, model: list[NumberedLine], data: st.DataObject, needle: str, level: LogLevel
) -> None:
    """Compare the lines of a log with those of a list."""
    kept = model[log.first :]
    spans = log.snapshot()
    errors = [line.number for line in kept if line.level is LogLevel.ERROR]
    # Of earlier runs only the last lines are searched.
    newest = errors[-1] if errors else None
    assert log.last_error == newest or (log.last_error is None and log.restored == log.end)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, 500), st.integers(0, 500))))
    limit = data.draw(st.integers(1, 50))
    rank = LEVELS.index(level)
    wanted = [
        line
        for line in kept
        if start <= line.number < stop
        and LEVELS.index(line.level) >= rank
        and needle.casefold() in message_of(line.text).casefold()
    ]
    question = LineFilter(rank=rank, texts=(needle,))
    for backwards in (True, False):
        # In one call, and in as many calls as possible when each gives up at once.
        lines, reached = read_lines(
            spans, start=start, stop=stop, backwards=backwards, limit=limit, wanted=question
        )
        assert lines == (wanted[-limit:] if backwards else wanted[:limit])
        if len(wanted) > limit:
            assert reached == (lines[0].number if backwards else lines[-1].number + 1)
        found: list[NumberedLine] = []
        low, high = max(start, log.first), min(stop, log.end)
        while low < high:
            some, reached = read_lines(
                spans,
                start=low,
                stop=high,
                backwards=backwards,
                limit=limit,
                wanted=question,
                give_up=lambda: True,
            )
            found = some + found if backwards else found + some
            low, high = (low, reached) if backwards else (reached, high)
        assert found == wanted
    count = data.draw(st.integers(-1, 300))
    last = [line.text for line in kept[max(0, len(kept) - count) :]] if count > 0 else []
    assert last_texts(spans, count) == last
    memory = [line for line in kept if line.number >= log.memory_first]
    tail = [(line.at, line.text, line.level) for line in log.tail(count)]
    assert (
        tail
        == [(line.at, line.text, line.level) for line in memory][-max(0, count) :][: max(0, count)]
    )


def test_many_lines_take_little_memory(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, "m")
    files.limits = lambda: LogLimits(16 << 20, 4)
    log = Log(now=lambda: NOW, files=files)
    line = "0.00.123.456 I srv  update_slots: all slots are idle, number "
    for start in range(0, 300_000, 10_000):
        log.add([f"{line}{number}" for number in range(start, start + 10_000)])
        log.save()
    spans = log.snapshot()
    assert (log.first, log.end) == (0, 300_000)
    # An entry for each quarter of a megabyte, and the newest lines.
    assert len(spans) < 300
    assert sum(len(span.data) for span in spans) < 2 << 20
    (found,), _ = read_lines(
        spans,
        start=0,
        stop=log.end,
        backwards=True,
        limit=1,
        wanted=LineFilter(texts=("NUMBER 200000",)),
    )
    assert found.number == 200_000
    # The next run of the service counts the lines of the last file alone.
    again = open_log(tmp_path, "m")
    assert again.end == 300_000
    lines, _ = read_lines(again.spans, start=123_456, backwards=False, limit=2)
    assert [(one.number, one.text) for one in lines] == [
        (123_456, f"{line}123456"),
        (123_457, f"{line}123457"),
    ]


def test_a_log_without_files_keeps_its_newest_lines() -> None:
    log = Log(now=lambda: NOW, kept_bytes=10_000)
    for number in range(5_000):
        log.add([str(number)])
    assert log.end == 5_000
    assert 100 < log.end - log.first < 500
    assert texts(log.tail(1)) == ["4999"]
    assert texts(log.tail(10**6)) == [str(number) for number in range(log.first, 5_000)]
    log.save()
    assert log.snapshot() == log.memory()


def test_lines_that_no_disk_takes_are_lost_at_last_and_the_log_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = Log(now=lambda: NOW, files=LogFiles(folder, "m"), kept_bytes=1_000, most_bytes=10_000)
    log.add(["first"])
    log.save()
    folder.rename(tmp_path / "elsewhere")
    for number in range(5_000):
        log.add([f"line {number}"])
        if not number % 100:
            with pytest.raises(FileNotFoundError):
                log.save()
    assert 8_000 < sum(len(span.data) for span in log.memory()) < 20_000
    (tmp_path / "elsewhere").rename(folder)
    lost = log.memory_first - 1
    log.save()
    lines, reached = read_lines(log.snapshot(), start=0, stop=log.end, backwards=True, limit=10**6)
    assert reached == 0
    assert [(line.number, line.text) for line in lines[:3]] == [
        (0, "first"),
        (lost, f"--- {lost} lines are missing: the disk was full or too slow"),
        (lost + 1, f"line {lost}"),
    ]
    assert (lines[-1].number, lines[-1].text) == (5_000, "line 4999")
    assert lines[1].level is LogLevel.WARNING


def test_a_log_cleans_its_lines() -> None:
    log = new_log()
    log.add(
        ["\x1b[31mred\x1b[0m \x9b1mbold\x07", "a\tb\x00", "right\u202eleft", "\x1b]0;title\x07ok"]
    )
    assert texts(log.tail(9)) == ["red bold", "a    b", "rightleft", "ok"]


@given(st.binary(max_size=200))
def test_no_control_sequence_survives_any_bytes(stream: bytes) -> None:
    log, splitter = new_log(), LineSplitter()
    log.write(clean_output(splitter.feed(stream) + splitter.flush()))
    for text in texts(log.tail(10**6)):
        assert not set(text) & {*map(chr, range(32)), *map(chr, range(127, 160))}


def test_the_tail_of_nothing_is_nothing() -> None:
    log = new_log()
    assert log.tail(5) == []
    assert log.snapshot() == []
    log.add([])
    assert log.write(b"") == 0
    assert (log.end, log.last_at, log.last_error) == (0, None, None)
    log.add(["one", "two"])
    assert log.tail(0) == log.tail(-1) == []
    assert texts(log.tail(1)) == ["two"]


def test_a_known_level_is_that_of_every_line() -> None:
    log = new_log()
    log.add(["Traceback:", "  File x", "I said"], LogLevel.ERROR)
    assert {line.level for line in log.tail(3)} == {LogLevel.ERROR}
    assert log.last_error == 2


SAMPLING = "\trepeat_last_n = 64, repeat_penalty = 1.000"
"""llama-server prints such lines, without a level, for each request at ``--verbosity 4``."""


@given(
    st.lists(
        st.sampled_from(
            [
                "0.05.070.507 I slot launch_slot_: id  0 | task 2 | processing task",
                "0.05.070.769 W slot operator(): id  0 | task 2 | n_past was set to 3",
                "0.05.070.770 E srv  send_error: task id = 1",
                "0.05.070.771 D srv  update_slots: W",
                SAMPLING,
                f"{SAMPLING}: failed to read",
                "    top_k = 40",
                "error: it broke",
                "",
            ]
        ),
        min_size=1,
    )
)
def test_the_worst_level_of_lines_is_that_of_the_log(lines: list[str]) -> None:
    log = new_log()
    log.write(clean_output("".join(f"{line}\n" for line in lines).encode()))
    (span,) = log.snapshot()
    ranks = line_ranks([clean_line(line) for line in lines])
    worst = span.worst
    assert worst is not None
    assert worst >= max(ranks)
    assert (worst == LEVELS.index(LogLevel.ERROR)) == (log.last_error is not None)


def test_a_log_of_several_runs() -> None:
    log = Log(now=lambda: NOW, kept_bytes=100)
    running = [log.running]
    log.begin_run(11)
    log.add(["one"])
    running.append(log.running)
    log.end_run(11)
    running.append(log.running)
    first = log.end
    log.add(["--- starting"])
    log.begin_run(12, first=first)
    # The end of a run that another run has followed.
    log.end_run(11)
    assert [*running, log.running] == [False, True, False, True]
    assert log.kept_runs() == (
        LogRun(first=0, started_at=NOW, pid=11),
        LogRun(first=1, started_at=NOW, pid=12),
    )
    # A run without lines is forgotten, but never the last run.
    for number in range(1_000):
        log.add([str(number)])
    assert [run.pid for run in log.kept_runs()] == [12]
    for pid in range(1_000):
        log.begin_run(pid)
    assert len(log.kept_runs()) <= 100
    assert log.kept_runs()[-1].pid == 999


def collecting(log: Log) -> list[Span]:
    seen: list[Span] = []
    append: Callable[[Span], None] = seen.append
    log.listeners.append(append)
    return seen


def test_listeners_get_every_line_once_with_its_number() -> None:
    log = new_log()
    seen = collecting(log)
    log.add(["I a", "E b"])
    log.add(str(number) for number in range(5_000))
    assert [(batch.first, batch.count) for batch in seen] == [(0, 2), (2, 5_000)]
    assert [line.level.value for line in read_lines(seen[:1], limit=5)[0]] == ["info", "error"]
    assert last_texts(seen, 2) == ["4998", "4999"]


def test_a_mark_collects_lines_until_it_is_closed() -> None:
    log = new_log()
    log.add(["before"])
    mark = log.mark()
    log.add(["one"])
    log.add(["two", "three"])
    mark.close()
    mark.close()
    log.add(["after"])
    assert mark.lines() == ("one", "two", "three")
    assert log.listeners == []


def test_a_mark_is_bounded_too() -> None:
    log = new_log()
    mark = log.mark()
    log.add(str(number) for number in range(10_000))
    assert len(mark.lines()) == 400
    assert mark.lines()[-1] == "9999"


def test_lines_of_earlier_runs_come_first_and_go_to_nobody(tmp_path: Path) -> None:
    early = NOW - timedelta(days=1)
    former = Log(now=lambda: early, files=LogFiles(tmp_path, "m"))
    former.add(["the end of a run", "E failed"])
    former.add(["--- starting: a\x1b[31m b error: no"], LogLevel.INFO)
    former.add(["I fine"])
    former.save()
    log = new_log()
    seen = collecting(log)
    log.restore(open_log(tmp_path, "m"))
    assert seen == []
    assert (log.first, log.end, log.restored, log.last_error) == (0, 4, 4, 1)
    assert log.last_at == early
    assert log.kept_runs() == (LogRun(first=2, started_at=early),)
    assert not log.running
    log.begin_run(7, first=log.end)
    log.add(["--- starting: c"])
    lines, _ = read_lines(log.snapshot(), backwards=False, limit=9)
    assert [(line.at, line.text, line.level) for line in lines] == [
        (early, "the end of a run", LogLevel.INFO),
        (early, "E failed", LogLevel.ERROR),
        (early, "--- starting: a b error: no", LogLevel.INFO),
        (early, "I fine", LogLevel.INFO),
        (NOW, "--- starting: c", LogLevel.INFO),
    ]
    assert [batch.first for batch in seen] == [4]
    # The log has lines now.
    log.restore(LogFiles(tmp_path, "other"))
    assert log.end == 5
