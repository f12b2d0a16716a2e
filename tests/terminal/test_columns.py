from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.terminal.columns import (
    FLEXIBLE_CELLS,
    GAP,
    Column,
    RenderContext,
    place_columns,
)


def _column(
    key: str = "", width: int | None = None, priority: int = 0
) -> Column[str, RenderContext]:
    return Column(
        key=key, title=key, width=width, least=12, priority=priority, cell=lambda text, _: text
    )


_COLUMNS = (
    _column("model"),
    _column("state", 16),
    _column("context", 8, 2),
    _column("rate", 9, 1),
)


def _shown(width: int) -> list[str]:
    return [_COLUMNS[place.index].key for place in place_columns(_COLUMNS, width, 2)]


def test_less_important_columns_go_first() -> None:
    assert _shown(120) == ["model", "state", "context", "rate"]
    assert _shown(2 + 12 + 16 + 8 + 9 + 3 * GAP) == ["model", "state", "context", "rate"]
    assert _shown(2 + 12 + 16 + 8 + 9 + 3 * GAP - 1) == ["model", "state", "rate"]
    assert _shown(40) == ["model", "state"]


def _widths(width: int, *widest: int) -> list[int]:
    return [place.width for place in place_columns(_COLUMNS, width, 2, widest)]


def test_the_flexible_column_takes_the_rest_and_no_more_than_its_texts_need() -> None:
    assert _widths(50, 5, 16, 8, 9) == [50 - 2 - 16 - 9 - 2 * GAP, 16, 9]
    assert _widths(200, 5, 16, 8, 9) == [FLEXIBLE_CELLS, 16, 8, 9]
    assert _widths(200, 70, 16, 8, 9) == [70, 16, 8, 9]


def test_no_text_is_cut_while_cells_are_free() -> None:
    # Another column takes what the flexible one leaves.
    assert _widths(200, 5, 16, 30, 9) == [FLEXIBLE_CELLS, 16, 30, 9]
    # The flexible one gets what others do not need.
    assert _widths(80, 44, 10, 8, 5) == [44, 15, 8, 5]


def test_a_whole_column_is_not_cut_while_optional_ones_are_shown() -> None:
    columns = (
        Column[str, RenderContext]("model", "", least=12, whole=True),
        _column("state", 16),
        _column("context", 8, 4),
        _column("rate", 9, 3),
    )

    def placed(width: int, longest: int) -> list[tuple[str, int]]:
        places = place_columns(columns, width, 0, (longest, 5, 8, 9))
        return [(columns[place.index].key, place.width) for place in places]

    everything = 24 + 5 + 8 + 9 + 3 * GAP
    assert ("context", 8) in placed(everything, 24)
    assert ("context", 8) not in placed(everything - 1, 24)
    assert dict(placed(everything - 1, 24))["model"] == 24
    # The others stay, and no name takes more than its share.
    assert [key for key, _ in placed(30, 24)] == ["model", "state"]
    assert ("rate", 9) in placed(41, 24)
    assert ("context", 8) in placed(FLEXIBLE_CELLS + 5 + 8 + 9 + 3 * GAP, 300)


@given(
    st.lists(
        st.builds(
            lambda width, priority: _column(width=width, priority=priority),
            st.none() | st.integers(1, 30),
            st.integers(0, 3),
        ),
        max_size=8,
    ).filter(lambda columns: sum(column.width is None for column in columns) <= 1),
    st.integers(0, 150),
    st.sampled_from([0, 2]),
)
def test_columns_never_overlap_nor_leave_the_table(
    columns: list[Column[str, RenderContext]], width: int, start: int
) -> None:
    placed = place_columns(columns, width, start)
    ends = [start, *(place.end + GAP for place in placed)]
    assert all(place.start == end for place, end in zip(placed, ends, strict=False))
    assert all(place.width > 0 and place.end <= width for place in placed)
