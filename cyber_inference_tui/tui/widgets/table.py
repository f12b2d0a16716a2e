"""A table that repaints what changed and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from textual.content import Content
from textual.message import Message
from textual.scroll_view import ScrollView

from cyber_inference_tui.tui.charset import UNICODE, Charset
from cyber_inference_tui.tui.widgets.style import Tone


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a meaning."""

    text: str
    tone: Tone = "none"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column. One column of a table may have the ``width`` ``None``: it takes the rest.

    Where the table is too narrow, the columns with the highest ``priority`` number go first; those
    with 0 stay always.
    """

    key: str
    title: str
    width: int | None = None
    """In cells, without the gap to the next column."""
    align: Literal["left", "right"] = "left"
    priority: int = 0
    least: int = 12
    """The least width of the one that takes the rest."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row: ``key`` says which thing it is for as long as the thing lives."""

    key: str
    cells: tuple[Cell | str, ...]
    tone: Tone = "none"
    """For the cells that have none of their own."""


class LiveTable(ScrollView, can_focus=True):
    """Rows under a header, with a cursor that stays on its thing when the order changes.

    Keys: j k g G, arrows, Home End PgUp PgDn, Enter. ``empty`` is shown where there are no rows.
    """

    class RowHighlighted(Message):
        """The cursor went to another thing (``None``: there are no rows)."""

        def __init__(self, table: LiveTable, key: str | None) -> None:
            super().__init__()
            self.table = table
            self.key = key

    class RowChosen(Message):
        """Enter was pressed, or a row clicked twice."""

        def __init__(self, table: LiveTable, key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

    class HeaderSelected(Message):
        """The title of a column was clicked."""

        def __init__(self, table: LiveTable, column: str) -> None:
            super().__init__()
            self.table = table
            self.column = column

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        empty: Content | str = "",
        charset: Charset = UNICODE,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)

    def show(self, rows: Sequence[Row]) -> None:
        """Show ``rows`` in this order. What is as it was costs nothing."""
        raise NotImplementedError

    def show_sort(self, column: str | None, *, descending: bool = False) -> None:
        """Put the arrow at ``column``; sorting itself is the page's."""
        raise NotImplementedError

    def show_empty(self, empty: Content | str) -> None:
        """What is shown where there are no rows."""
        raise NotImplementedError

    @property
    def cursor_key(self) -> str | None:
        """The key of the row under the cursor."""
        raise NotImplementedError

    @property
    def rows(self) -> tuple[Row, ...]:
        """What is shown, in order."""
        raise NotImplementedError

    def move_to(self, key: str) -> bool:
        """Put the cursor on a row and show it; ``False`` where there is none of that key."""
        raise NotImplementedError
