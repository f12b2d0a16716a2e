"""What the keys do here: made from the bindings themselves."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from cyber_inference_tui.tui.key_table import KeyLine, key_lines


class Keys(ModalScreen[None]):
    """The keys of ``screen``, grouped by where they hold."""

    DEFAULT_CSS = """
    Keys { align: center middle; background: $background 60%; }
    Keys #box { width: 84; max-width: 96%; height: auto; max-height: 92%; padding: 1 2;
        background: $panel; }
    Keys VerticalScroll { height: auto; max-height: 100%; }
    Keys #lines { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,f1,q", "dismiss", "Close", id="keys.close"),
        Binding("j", "down", "Down", show=False),
        Binding("k", "up", "Up", show=False),
    ]

    def __init__(self, screen: Screen[Any]) -> None:
        super().__init__()
        self._lines = key_lines(screen)

    def compose(self) -> ComposeResult:
        """The table."""
        with Vertical(id="box"), VerticalScroll():
            yield Static(keys_content(self._lines), id="lines")

    def action_down(self) -> None:
        """Scroll down."""
        self.query_one(VerticalScroll).scroll_down(animate=False)

    def action_up(self) -> None:
        """Scroll up."""
        self.query_one(VerticalScroll).scroll_up(animate=False)


def keys_content(lines: list[KeyLine]) -> Content:
    """The lines, each group under its title."""
    width = max((len(line.keys) for line in lines), default=0)
    parts: list[tuple[str, str]] = []
    group = ""
    for line in lines:
        if line.group != group:
            group = line.group
            parts.append((f"{'' if not parts else chr(10)}{group}\n", "bold $accent"))
        parts.append((f"  {line.keys.ljust(width)}  ", "bold"))
        parts.append((line.does, ""))
        if line.why:
            parts.append((f"  {line.why}", "$text-muted"))
        parts.append(("\n", ""))
    return Content.assemble(*parts)
