"""A dialog to choose one row of a table, with a filter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.columns import Column, RenderContext
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row, row_of
from cyber_inference_tui.tui.widgets.text_line import TextLine


class ChoiceDialog(ModalScreen[str | None]):
    """Returns the key of the chosen row, or ``None`` for escape.

    The typed text filters by the first cell and the key of a row. ``preview`` is called with the
    key of each row that the cursor comes to.
    """

    DEFAULT_CSS = """
    ChoiceDialog { align: center middle; }
    ChoiceDialog #box { width: 84; max-width: 96%; height: auto; padding: 1 2;
        background: $panel; }
    ChoiceDialog Input { margin: 1 0; background: $surface; }
    ChoiceDialog LiveTable { height: auto; min-height: 5; background: $panel; }
    ChoiceDialog #hints { margin-top: 1; }
    """
    KEYS_TITLE = "List"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="choice.cancel"),
        Binding("up", "move(-1)", "Up", show=False, id="choice.up"),
        Binding("down", "move(1)", "Down", show=False, id="choice.down"),
    ]

    def __init__(
        self,
        title: str,
        columns: Sequence[Column[Any, RenderContext]],
        rows: Sequence[Row],
        *,
        chosen: str | None = None,
        charset: Charset = UNICODE,
        preview: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__()
        self._preview = preview
        self._title = title
        self._columns = columns
        self._all = tuple(rows)
        self._chosen = chosen
        self._charset = charset

    def compose(self) -> ComposeResult:
        """Compose the filter and the table."""
        with Vertical(id="box"):
            yield Static(Content.styled(self._title, "bold"))
            yield TextLine(placeholder="part of a name")
            yield LiveTable(
                self._columns, empty="No name contains this text.", charset=self._charset
            )
            yield Static(key_hints(("enter", "chooses"), ("esc", "cancels")), id="hints")

    def on_mount(self) -> None:
        """Show all rows."""
        self.query_one(TextLine).focus()
        self._show("")
        if self._chosen is not None:
            self.query_one(LiveTable).move_to(self._chosen)

    def on_resize(self) -> None:
        """Scroll a list that is higher than the screen."""
        self.call_after_refresh(limit_height, self, "LiveTable", least=3)

    def _show(self, typed: str) -> None:
        wanted = typed.strip().lower()
        rows = [
            row
            for row in self._all
            if wanted in row.key.lower() or wanted in row.cell(0)[0].lower()
        ]
        table = self.query_one(LiveTable)
        # The height is that of all rows, so that it does not change while the user types.
        table.styles.height = len(self._all) + 1
        table.filtered = True
        table.show(rows)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._show(event.value)

    @on(Input.Submitted)
    def _entered(self) -> None:
        if (key := self.query_one(LiveTable).cursor_key) is not None:
            self.dismiss(key)

    @on(LiveTable.RowHighlighted)
    def _highlighted(self, event: LiveTable.RowHighlighted) -> None:
        if self._preview is not None and event.key is not None:
            self._preview(event.key)

    @on(LiveTable.RowChosen)
    def _row_chosen(self, event: LiveTable.RowChosen) -> None:
        self.dismiss(event.key)

    def action_move(self, rows: int) -> None:
        """Move the cursor while the filter keeps the focus."""
        self.query_one(LiveTable).action_move(rows)


def choose_theme(
    names: Iterable[str], current: str, context: RenderContext, preview: Callable[[str], object]
) -> ChoiceDialog:
    """Return a dialog to choose a theme, our own first; ``preview`` shows that at the cursor."""
    column: Column[str, RenderContext] = Column("theme", "THEME", least=12, value=str)
    ordered = sorted(names, key=lambda name: (not name.startswith("cyber-"), name))
    rows = [row_of(name, name, (column,), context) for name in ordered]
    return ChoiceDialog(
        "Theme", (column,), rows, chosen=current, charset=context.charset, preview=preview
    )
