"""A menu of the columns that a table can be sorted by, each with a letter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from string import ascii_lowercase, digits
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.events import Click
from textual.screen import ModalScreen
from textual.widgets import Static

from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row

_KEYS = (set(ascii_lowercase) | set(digits)) - set("jkg")
"""All but those that move the cursor of a table."""


def letters(titles: Iterable[str]) -> list[str]:
    """Return a key for each title: the first of its letters and digits that is free, or another."""
    chosen: list[str] = []
    for title in titles:
        free = (
            letter
            for letter in title.casefold() + ascii_lowercase
            if letter in _KEYS and letter not in chosen
        )
        chosen.append(next(free, ""))
    return chosen


class SortMenu(ModalScreen[str | None]):
    """Returns the key of the chosen column, or ``None`` for escape.

    ``titles`` are the titles of the columns by key, and ``chosen`` is the present one.
    """

    DEFAULT_CSS = """
    SortMenu { align: center middle; }
    SortMenu #box { width: 36; height: auto; padding: 1 2; background: $panel; }
    SortMenu LiveTable { margin: 1 0; background: $panel; }
    SortMenu #hints { height: auto; }
    """
    KEYS_TITLE = "Sort"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", "Cancel", id="sort.cancel"),
    ]

    def __init__(
        self,
        titles: Mapping[str, str],
        chosen: str,
        *,
        descending: bool,
        charset: Charset = UNICODE,
    ) -> None:
        super().__init__()
        self._titles = titles
        self._chosen = chosen
        self._arrow = charset.descending if descending else charset.ascending
        self._charset = charset

    def compose(self) -> ComposeResult:
        """Compose the list of columns."""
        with Vertical(id="box"):
            yield Static(Content.styled("Sort by", "bold"))
            yield LiveTable(_COLUMNS, header=False, charset=self._charset)
            yield Static(key_hints(("esc", "cancels")), id="hints")

    def on_mount(self) -> None:
        """Show the columns and bind their letters."""
        rows = []
        for letter, (key, title) in zip(
            letters(self._titles.values()), self._titles.items(), strict=True
        ):
            if letter:
                self._bindings.bind(letter, f"dismiss('{key}')", title.capitalize(), show=False)
            arrow = self._arrow if key == self._chosen else ""
            rows.append(Row(key, (Cell(letter, "accent"), title.lower(), Cell(arrow, "dim"))))
        table = self.query_one(LiveTable)
        table.styles.height = len(rows)
        table.show(rows)
        table.move_to(self._chosen)
        table.focus()

    def on_resize(self) -> None:
        """Scroll a list that is higher than the screen."""
        self.call_after_refresh(limit_height, self, "LiveTable", least=3)

    @on(LiveTable.RowChosen)
    def _row_chosen(self, event: LiveTable.RowChosen) -> None:
        self.dismiss(event.key)

    def on_click(self, event: Click) -> None:
        """Choose the clicked column; the table has moved its cursor there."""
        table = self.query_one(LiveTable)
        if event.widget is table and table.cursor_key is not None:
            self.dismiss(table.cursor_key)


def _cell(record: None, context: RenderContext) -> str:
    return ""


_COLUMNS: tuple[Column[None, RenderContext], ...] = (
    Column("letter", "", 1, cell=_cell),
    Column("title", "", least=8, cell=_cell),
    Column("arrow", "", 1, cell=_cell),
)
