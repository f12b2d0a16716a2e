"""A log keeps the newest lines of clean text, numbered, within bounds shared with other logs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama import log_block
from cyber_inference_tui.llama.log_block import LineFilter, last_texts, read_lines
from cyber_inference_tui.llama.log_level import LEVELS, line_ranks
from cyber_inference_tui.llama.log_lines import LineSplitter, as_texts
from cyber_inference_tui.llama.log_ring import LogBatch, LogRing, LogSpace
from cyber_inference_tui.records import LogLevel, LogLine, LogRun, NumberedLine
from cyber_inference_tui.text import clean_line

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ring(space: LogSpace | None = None) -> LogRing:
    return LogRing(now=lambda: NOW, space=space)


def texts(lines: tuple[LogLine, ...]) -> list[str]:
    return [line.text for line in lines]


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
    st.integers(0, 3).map(lambda n: "long " * 30 * n),
)
batches = st.lists(st.lists(some_text, max_size=40), max_size=12)


@given(
    batches,
    st.integers(1, 120),
    st.data(),
    st.sampled_from(["", "e", "STRASSE", "ς", "failed", "no such thing", "long long"]),
    st.sampled_from(LEVELS),
)
def test_a_log_equals_a_list_whatever_is_appended_and_dropped(
    appended: list[list[str]],
    max_lines: int,
    data: st.DataObject,
    needle: str,
    level: LogLevel,
) -> None:
    clock = Clock()
    block_lines = data.draw(st.integers(1, 30))
    log = LogRing(now=clock, space=LogSpace(max_lines=max_lines), block_lines=block_lines)
    model: list[NumberedLine] = []
    for batch in appended:
        log.add(batch)
        if batch:
            at = Clock()
            at.asked = clock.asked - 1
            moment = at()
            for text in map(clean_line, batch):
                model.append(
                    NumberedLine(
                        number=len(model),
                        at=moment,
                        text=text,
                        level=LEVELS[line_ranks([text])[0]],
                    )
                )
    assert log.end == len(model)
    assert len(log) >= min(max_lines, len(model))
    kept = model[log.first :]
    blocks = log.snapshot()
    errors = [line.number for line in kept if line.level is LogLevel.ERROR]
    assert log.last_error == (errors[-1] if errors else None)
    assert log.last_at == (model[-1].at if model else None)

    start, stop = sorted(data.draw(st.tuples(st.integers(0, 500), st.integers(0, 500))))
    limit = data.draw(st.integers(1, 50))
    rank = LEVELS.index(level)
    wanted = [
        line
        for line in kept
        if start <= line.number < stop
        and LEVELS.index(line.level) >= rank
        and needle.casefold() in line.text.casefold()
    ]
    question = LineFilter(rank=rank, text=needle)
    for backwards in (True, False):
        # In one call, and in as many calls as possible when each gives up at once.
        lines, reached = read_lines(
            blocks, start=start, stop=stop, backwards=backwards, limit=limit, wanted=question
        )
        assert lines == (wanted[-limit:] if backwards else wanted[:limit])
        if len(wanted) > limit:
            assert reached == (lines[0].number if backwards else lines[-1].number + 1)
        found: list[NumberedLine] = []
        low, high = max(start, log.first), min(stop, log.end)
        while low < high:
            some, reached = read_lines(
                blocks,
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
    assert last_texts(blocks, count) == last
    assert texts(log.tail(count)) == last


def test_a_whole_million_of_lines_is_kept_and_no_more_than_a_block_beyond() -> None:
    log = ring()
    line = "0.00.123.456 I srv  update_slots: all slots are idle, number "
    for start in range(0, 1_100_000, 10_000):
        log.add([f"{line}{number}" for number in range(start, start + 10_000)])
    assert 1_000_000 <= len(log) < 1_000_000 + 2 * log_block.BLOCK_LINES
    assert log.packed_bytes < 40 << 20
    blocks = log.snapshot()
    (found,), _ = read_lines(
        blocks,
        start=0,
        stop=log.end,
        backwards=True,
        limit=1,
        wanted=LineFilter(text="NUMBER 200000"),
    )
    assert found.number == 200_000


def test_the_log_that_holds_most_makes_room() -> None:
    space = LogSpace(max_lines=10_000)
    quiet, noisy = ring(space), ring(space)
    quiet.add(f"quiet {number}" for number in range(4_000))
    for _ in range(30):
        noisy.add(f"noisy {number}" for number in range(1_000))
    assert len(quiet) == 4_000
    assert 10_000 <= len(quiet) + len(noisy) <= 10_000 + 3 * log_block.BLOCK_LINES
    # Once the other log floods as well, each has half of the space.
    for _ in range(30):
        quiet.add(f"quiet {number}" for number in range(1_000))
    assert abs(len(quiet) - len(noisy)) <= 2 * log_block.BLOCK_LINES


def test_bytes_are_bounded_even_where_nothing_can_be_packed() -> None:
    random = Random(1)
    space = LogSpace(max_bytes=300_000)
    log = ring(space)
    for _ in range(200):
        log.add([random.randbytes(2_000).hex()])
        assert log.packed_bytes <= 300_000
    assert 0 < log.first < log.end == 200
    assert texts(log.tail(1))


def test_a_log_without_any_place_still_has_its_newest_lines() -> None:
    log = ring(LogSpace(max_lines=1, max_bytes=1))
    log.add(str(number) for number in range(5_000))
    assert log.end == 5_000
    assert len(log) < log_block.BLOCK_LINES
    log.add(["last"])
    assert texts(log.tail(1)) == ["last"]
    assert (log.first, log.packed_lines, log.packed_bytes) == (log.end - len(log), 0, 0)


def test_a_log_cleans_its_lines() -> None:
    log = ring()
    log.add(
        ["\x1b[31mred\x1b[0m \x9b1mbold\x07", "a\tb\x00", "right\u202eleft", "\x1b]0;title\x07ok"]
    )
    assert texts(log.tail(9)) == ["red bold", "a    b", "rightleft", "ok"]


@given(st.binary(max_size=200))
def test_no_control_sequence_survives_any_bytes(stream: bytes) -> None:
    log, splitter = ring(), LineSplitter()
    log.add(as_texts(splitter.feed(stream) + splitter.flush()))
    for text in texts(log.tail(10**6)):
        assert not set(text) & {*map(chr, range(32)), *map(chr, range(127, 160))}


def test_the_tail_of_nothing_is_nothing() -> None:
    log = ring()
    assert log.tail(5) == ()
    assert log.snapshot() == ()
    log.add([])
    assert (log.end, log.last_at, log.last_error) == (0, None, None)
    log.add(["one", "two"])
    assert log.tail(0) == log.tail(-1) == ()
    assert texts(log.tail(1)) == ["two"]


def test_a_known_level_is_that_of_every_line() -> None:
    log = ring()
    log.add(["Traceback:", "  File x", "I said"], LogLevel.ERROR)
    assert {line.level for line in log.tail(3)} == {LogLevel.ERROR}
    assert log.last_error == 2


def test_a_log_of_several_runs() -> None:
    log = ring(LogSpace(max_lines=100))
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
    log.add(str(number) for number in range(10_000))
    assert [run.pid for run in log.kept_runs()] == [12]
    for pid in range(1_000):
        log.begin_run(pid)
    assert len(log.kept_runs()) <= 100
    assert log.kept_runs()[-1].pid == 999


def collecting(log: LogRing) -> list[LogBatch]:
    seen: list[LogBatch] = []
    append: Callable[[LogBatch], None] = seen.append
    log.listeners.append(append)
    return seen


def test_listeners_get_every_line_once_with_its_number() -> None:
    log = ring()
    seen = collecting(log)
    log.add(["I a", "E b"])
    log.add(str(number) for number in range(5_000))
    assert [batch.first for batch in seen] == [0, 2]
    assert [line.level.value for line in seen[0].lines(5)] == ["info", "error"]
    assert [line.text for line in seen[1].lines(2)] == ["4998", "4999"]


def test_a_mark_collects_lines_until_it_is_closed() -> None:
    log = ring()
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
    log = ring()
    mark = log.mark()
    log.add(str(number) for number in range(10_000))
    assert len(mark.lines()) == 400
    assert mark.lines()[-1] == "9999"


def test_lines_of_earlier_runs_come_first_and_go_to_nobody() -> None:
    log = ring()
    batches: list[LogBatch] = []
    log.listeners.append(batches.append)
    early = NOW - timedelta(days=1)
    later = early + timedelta(hours=1)
    former = [
        (early, "the end of a run"),
        (early, "E failed"),
        (later, "--- starting: a\x1b[31m b"),
    ]
    log.restore([*former, (later, "I fine")])
    assert batches == []
    assert (log.first, log.end, log.restored, log.last_error) == (0, 4, 4, 1)
    assert log.last_at == later
    assert log.kept_runs() == (LogRun(first=2, started_at=later),)
    assert not log.running
    log.begin_run(7, first=log.end)
    log.add(["--- starting: c"])
    assert [(line.at, line.text, line.level) for line in log.tail(9)] == [
        (early, "the end of a run", LogLevel.INFO),
        (early, "E failed", LogLevel.ERROR),
        (later, "--- starting: a b", LogLevel.INFO),
        (later, "I fine", LogLevel.INFO),
        (NOW, "--- starting: c", LogLevel.INFO),
    ]
    assert [batch.first for batch in batches] == [4]
    # The log has lines now.
    log.restore(former)
    assert log.end == 5


def test_many_lines_of_one_moment_are_restored_in_blocks() -> None:
    log = LogRing(now=lambda: NOW, block_lines=100)
    log.restore([(NOW, f"line {number}") for number in range(1_000)])
    assert len(log.blocks) == 10
    assert texts(log.tail(2)) == ["line 998", "line 999"]
