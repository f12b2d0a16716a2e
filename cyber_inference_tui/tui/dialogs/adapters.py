"""A dialog that changes the strengths of a loaded model's LoRA adapters at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import AdapterRecord
from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.pages.models.companions import scale_text
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row
from cyber_inference_tui.units import size_text

STEP = 0.1
_MOST = 2.0
"""A stronger adapter makes nonsense; a request and the settings may ask for more."""


class AdaptersDialog(ModalScreen[None]):
    """Lists adapters; ``change`` sets the strength of one by its number and returns all."""

    DEFAULT_CSS = """
    AdaptersDialog { align: center middle; }
    AdaptersDialog #box { width: 64; max-width: 96%; height: auto; padding: 1 2;
        background: $panel; }
    AdaptersDialog LiveTable { margin: 1 0; background: $panel; }
    AdaptersDialog #problem { height: auto; color: $error; }
    AdaptersDialog #hints { height: auto; }
    """
    KEYS_TITLE = "Adapters"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,plus,l", "scale(1)", "Stronger", id="adapters.stronger"),
        Binding("left,minus,h", "scale(-1)", "Weaker", id="adapters.weaker"),
        Binding("space,enter", "switch", "On or off", id="adapters.switch"),
        Binding("escape,q,a", "dismiss(None)", "Close", id="adapters.close"),
    ]

    def __init__(
        self,
        adapters: Sequence[AdapterRecord],
        change: Callable[[int, float], Awaitable[Sequence[AdapterRecord]]],
        *,
        charset: Charset = UNICODE,
    ) -> None:
        super().__init__()
        self._adapters = {one.id: one for one in adapters}
        self._change = change
        self._charset = charset
        self._wanted: dict[int, float] = {}
        """Strengths that the service has not been asked for yet, by number."""
        self._is_asking = False

    def compose(self) -> ComposeResult:
        """Compose the list of adapters."""
        keys = (("\u2190 \u2192", "weaker, stronger"), ("space", "on or off"), ("esc", "closes"))
        if not self._charset.unicode:
            keys = (("- +", "weaker, stronger"), *keys[1:])
        with Vertical(id="box"):
            yield Static(Content.styled("LoRA adapters until the next load", "bold"))
            yield LiveTable(_COLUMNS, charset=self._charset)
            yield Static("", id="problem")
            yield Static(key_hints(*keys), id="hints")

    def on_mount(self) -> None:
        """Show the adapters."""
        table = self.query_one(LiveTable)
        table.styles.height = len(self._adapters) + 1
        self.query_one("#problem").display = False
        self._draw()
        table.focus()

    def on_resize(self) -> None:
        """Scroll a list that is higher than the screen."""
        self.call_after_refresh(limit_height, self, "LiveTable", least=3)

    def _draw(self) -> None:
        rows = []
        for one in self._adapters.values():
            size = self._charset.known(one.size_bytes, size_text)
            scale = Cell(scale_text(one, self._charset), "accent" if one.scale else "dim")
            rows.append(Row(str(one.id), (plain(one.name), Cell(size, "dim"), scale)))
        self.query_one(LiveTable).show(rows)

    def action_scale(self, steps: int) -> None:
        """Make the adapter under the cursor stronger or weaker."""
        if (one := self._chosen()) is not None:
            self._set(one, min(_MOST, max(0.0, round((one.scale or 0.0) + steps * STEP, 3))))

    def action_switch(self) -> None:
        """Switch the adapter off, or on with the strength of its start, else 1."""
        if (one := self._chosen()) is not None:
            self._set(one, 0.0 if one.scale else one.initial_scale or 1.0)

    def _chosen(self) -> AdapterRecord | None:
        key = self.query_one(LiveTable).cursor_key
        return self._adapters.get(int(key)) if key is not None else None

    def _set(self, one: AdapterRecord, scale: float) -> None:
        """Show the new strength at once, and ask the service for the last one that is wanted."""
        if scale == one.scale:
            return
        self._adapters[one.id] = msgspec.structs.replace(one, scale=scale)
        self._wanted[one.id] = scale
        self._draw()
        if not self._is_asking:
            self._is_asking = True
            self.run_worker(self._ask(), exit_on_error=False)

    async def _ask(self) -> None:
        problem = self.query_one("#problem", Static)
        try:
            while self._wanted:
                number, scale = self._wanted.popitem()
                adapters = await self._change(number, scale)
                self._adapters |= {one.id: one for one in adapters if one.id not in self._wanted}
            problem.display = False
        except CyberError as error:
            self._wanted.clear()
            problem.update(Content(str(error)))
            problem.display = True
        finally:
            self._is_asking = False
        self._draw()


def _cell(record: None, context: RenderContext) -> str:
    return ""


_COLUMNS: tuple[Column[None, RenderContext], ...] = (
    Column("name", "ADAPTER", least=16, cell=_cell),
    Column("size", "SIZE", 9, cell=_cell, right=True),
    Column("scale", "STRENGTH", 8, cell=_cell, right=True),
)
