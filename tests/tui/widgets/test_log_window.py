from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.records import NumberedLine
from cyber_inference_tui.tui.widgets.log_window import Entry, Gap, LogWindow

_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _lines(*numbers: int) -> list[NumberedLine]:
    return [NumberedLine(number=number, at=_AT, text="x" * (number % 4)) for number in numbers]


def _rows_of(entry: Entry) -> int:
    return 1 if isinstance(entry, Gap) else 1 + len(entry.text)


def _entries(window: LogWindow) -> list[Entry]:
    found = [window.at(row) for row in range(window.rows)]
    return [entry for entry, part in (each for each in found if each) if part == 0]


def test_missing_numbers_are_gaps() -> None:
    window = LogWindow(10, _rows_of)
    window.add_newer(_lines(4, 5, 8), gaps=True)
    window.add_newer(_lines(8, 9, 12), gaps=True)
    window.add_older(_lines(1, 4), gaps=True)
    assert [entry.number for entry in _entries(window)] == [1, 2, 4, 5, 6, 8, 9, 10, 12]
    assert [entry for entry in _entries(window) if isinstance(entry, Gap)] == [
        Gap(2, 2),
        Gap(6, 2),
        Gap(10, 2),
    ]
    assert (window.first_number, window.end_number) == (1, 13)


def test_a_search_has_no_gaps() -> None:
    window = LogWindow(10, _rows_of)
    window.add_newer(_lines(4, 9), gaps=False)
    window.add_older(_lines(1), gaps=False)
    assert [entry.number for entry in _entries(window)] == [1, 4, 9]


def test_a_line_is_found_by_its_number() -> None:
    window = LogWindow(10, _rows_of)
    window.add_newer(_lines(1, 2, 5), gaps=True)
    assert window.row_of(1) == 0
    assert window.row_of(2) == 2
    assert window.row_of(3) is None
    assert window.row_of(5) == 6
    assert window.row_of(6) is None


@given(
    st.integers(1, 12),
    st.lists(
        st.tuples(st.sampled_from(["newer", "older", "measure"]), st.lists(st.integers(1, 60))),
        max_size=12,
    ),
    st.booleans(),
)
def test_it_stays_in_order_and_within_its_limit(
    limit: int, steps: list[tuple[str, list[int]]], gaps: bool
) -> None:
    window = LogWindow(limit, _rows_of)
    for step, numbers in steps:
        before = window.rows
        if step == "newer":
            window.add_newer(_lines(*sorted(numbers)), gaps=gaps)
        elif step == "older":
            assert window.add_older(_lines(*sorted(numbers)), gaps=gaps) == window.rows - before
            window.trim_end()
        else:
            window.measure()
            assert window.rows == before
        entries = _entries(window)
        assert len(entries) == len(window) <= limit
        assert window.rows == sum(_rows_of(entry) for entry in entries)
        assert not entries or not isinstance(entries[0], Gap)
        assert not entries or not isinstance(entries[-1], Gap)
        for one, other in pairwise(entries):
            following = one.number + (one.count if isinstance(one, Gap) else 1)
            assert other.number == following if gaps else other.number >= following
        for entry in entries:
            row = window.row_of(entry.number)
            assert (row is None) == isinstance(entry, Gap)
            assert row is None or window.at(row) == (entry, 0)
