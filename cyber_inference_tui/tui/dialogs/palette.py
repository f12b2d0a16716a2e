"""The palette: every command by its name."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.tui.commands import (
    Command,
    host_commands,
    matching,
    model_commands,
    other_page_commands,
    page_commands,
    setting_commands,
    theme_commands,
)
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.widgets.live_table import LiveTable, row_of
from cyber_inference_tui.tui.widgets.text_line import TextLine

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

MOST_ROWS = 200
"""The most commands that the list shows; nobody reads further."""
_RECENT = 20


def open_palette(app: CyberApp) -> None:
    """Open the palette, and run the command that is chosen."""

    def chosen(command: Command | None) -> None:
        if command is not None:
            before = app.kept.get("palette", "recent", [])
            names = [command.name, *(name for name in before if name != command.name)]
            app.keep("palette", recent=names[:_RECENT])
            app.run_worker(_result(command.run()), group=OPENING, exit_on_error=True)

    app.push_screen(Palette(app), chosen)


async def _result(value: object) -> None:
    """Await the result of a command, if it has to be awaited."""
    if inspect.isawaitable(value):
        await value


class Palette(ModalScreen[Command | None]):
    """Returns the chosen command, or ``None`` for escape.

    Each typed word has to be in a command's name, in this order of letters, or in its remark.
    """

    DEFAULT_CSS = """
    Palette { align: center top; }
    Palette #box { width: 100; max-width: 96%; height: auto; max-height: 90%; padding: 1 2;
        margin-top: 2;
        background: $panel; }
    Palette Input { margin-bottom: 1; background: $surface; }
    Palette LiveTable { height: 18; max-height: 70vh; background: $panel; }
    """
    KEYS_TITLE = "Palette"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="palette.cancel"),
        Binding("up", "move(-1)", "Up", show=False, id="palette.up"),
        Binding("down", "move(1)", "Down", show=False, id="palette.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="palette.page-up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="palette.page-down"),
    ]

    def __init__(self, app: CyberApp) -> None:
        super().__init__()
        # Now, because the commands are those of the page below.
        self._commands = [*page_commands(app), *model_commands(app), *theme_commands(app)]
        self._recent = app.kept.get("palette", "recent", [])
        self._theme = app.theme
        self._drawn_in = app.options.render_context()

    @property
    def _cyber(self) -> CyberApp:
        return cast("CyberApp", self.app)

    def compose(self) -> ComposeResult:
        """Compose the line and the list."""
        with Vertical(id="box"):
            yield TextLine(placeholder="part of a command, a model, a host, a setting or a theme")
            yield LiveTable(
                _COLUMNS,
                header=False,
                empty="No command has these words.",
                charset=self._drawn_in.charset,
            )

    def on_mount(self) -> None:
        """Show the commands, and add those that take a moment to find."""
        self.query_one(TextLine).focus()
        # Enter runs the best command, also if that one is found after others.
        self.query_one(LiveTable).keeps_top = True
        self._show()
        self.run_worker(self._add_others(), exit_on_error=True)

    async def _add_others(self) -> None:
        app, mode = self._cyber, self._cyber.current_mode
        self._commands += await asyncio.to_thread(
            lambda: [*other_page_commands(app, mode), *host_commands(app)]
        )
        # The page Settings says why there are none.
        with contextlib.suppress(CyberError):
            self._commands += await setting_commands(app)
        self._show()

    def _show(self) -> None:
        found = matching(self._commands, self.query_one(TextLine).value, self._recent)
        # A page and its pane may have an action of the same name: that of the focus comes first.
        found = list({one.name: one for one in reversed(found)}.values())[::-1]
        table = self.query_one(LiveTable)
        table.filtered = True
        table.show([row_of(one.name, one, _COLUMNS, self._drawn_in) for one in found[:MOST_ROWS]])

    def _command(self, name: str | None) -> Command | None:
        return next((one for one in self._commands if one.name == name), None)

    @on(Input.Changed)
    def _typed(self) -> None:
        self._show()
        self.query_one(LiveTable).action_first()

    @on(LiveTable.RowHighlighted)
    def _highlighted(self, event: LiveTable.RowHighlighted) -> None:
        command = self._command(event.key)
        self._cyber.theme = (command.preview if command else "") or self._theme

    @on(Input.Submitted)
    def _entered(self) -> None:
        self._leave(self._command(self.query_one(LiveTable).cursor_key))

    @on(LiveTable.RowChosen)
    def _row_chosen(self, event: LiveTable.RowChosen) -> None:
        self._leave(self._command(event.key))

    def _leave(self, command: Command | None) -> None:
        if command is not None:
            self._close(command)

    def action_cancel(self) -> None:
        """Leave without a command."""
        self._close(None)

    def _close(self, command: Command | None) -> None:
        # Nobody has chosen the theme that is shown.
        self._cyber.theme = self._theme
        self.dismiss(command)

    def action_move(self, rows: int) -> None:
        """Move the cursor while the line keeps the focus."""
        self.query_one(LiveTable).action_move(rows)

    def action_page(self, pages: int) -> None:
        """Move the cursor by a page."""
        self.query_one(LiveTable).action_page(pages)


_COLUMNS: tuple[Column[Command, RenderContext], ...] = (
    Column("name", "", 44, value=lambda one: one.name),
    Column("about", "", least=8, priority=2, cell=lambda one, _: Cell(one.about, "dim")),
    Column("key", "", 8, right=True, priority=1, cell=lambda one, _: Cell(one.key, "accent")),
)
