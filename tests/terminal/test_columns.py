from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.terminal.columns import GAP, Column, RenderContext, place_columns


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


def test_one_column_takes_the_rest() -> None:
    wide = place_columns(_COLUMNS, 120, 2)
    assert wide[-1].end == 120
    assert wide[0].width == 120 - 2 - 16 - 8 - 9 - 3 * GAP


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
