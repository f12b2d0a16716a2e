"""A menu of the columns of a table, each with a mark if it is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row


class ColumnMenu(ModalScreen[None]):
    """Shows and hides the columns of ``table`` at once, and calls ``changed`` each time."""

    DEFAULT_CSS = """
    ColumnMenu { align: center middle; }
    ColumnMenu #box { width: 42; height: auto; padding: 1 2; background: $panel; }
    ColumnMenu LiveTable { margin: 1 0; background: $panel; }
    ColumnMenu #hints { height: auto; }
    """
    KEYS_TITLE = "Columns"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "show", "Show or hide", id="columns.toggle"),
        Binding("escape,q,v", "dismiss(None)", "Close", id="columns.close"),
    ]

    def __init__(
        self, table: LiveTable, changed: Callable[[], None], *, charset: Charset = UNICODE
    ) -> None:
        super().__init__()
        self._table = table
        self._changed = changed
        self._charset = charset

    def compose(self) -> ComposeResult:
        """Compose the list of columns."""
        with Vertical(id="box"):
            yield Static(Content.styled("Columns", "bold"))
            yield LiveTable(_COLUMNS, header=False, marks=True, charset=self._charset)
            yield Static(key_hints(("space", "shows or hides"), ("esc", "closes")), id="hints")

    def on_mount(self) -> None:
        """Show the columns."""
        menu = self.query_one(LiveTable)
        menu.styles.height = len(self._table.optional_columns)
        self._draw()
        menu.focus()

    def on_resize(self) -> None:
        """Scroll a list that is higher than the screen."""
        self.call_after_refresh(limit_height, self, "LiveTable", least=3)

    def _draw(self) -> None:
        table, rows = self._table, []
        for column in table.optional_columns:
            fits = column.key in table.hidden_columns or column in table.shown_columns
            name = (column.title or column.key).lower()
            rows.append(Row(column.key, (name, Cell("" if fits else "no room", "dim"))))
        menu = self.query_one(LiveTable)
        menu.show(rows)
        menu.show_marks(frozenset(row.key for row in rows) - table.hidden_columns)

    @on(LiveTable.RowChosen)
    def action_show(self) -> None:
        """Show the column under the cursor, or hide it."""
        key = self.query_one(LiveTable).cursor_key
        if key is not None:
            self._table.hide_columns(self._table.hidden_columns ^ {key})
            self._changed()
            self._draw()


def _cell(record: None, context: RenderContext) -> str:
    return ""


_COLUMNS: tuple[Column[None, RenderContext], ...] = (
    Column("name", "", least=8, cell=_cell),
    Column("room", "", 7, cell=_cell),
)
