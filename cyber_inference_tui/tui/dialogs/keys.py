"""The help: a table of the keys, made from the bindings."""

from __future__ import annotations

import textwrap
from typing import Any, ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from cyber_inference_tui.records import StatusRecord
from cyber_inference_tui.terminal.text_width import fit
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.key_table import KeyLine, key_lines

_AROUND = 6
"""Cells at the sides of the text, with the scroll bar."""


class Keys(ModalScreen[None]):
    """Shows the keys of ``screen`` by group, and ``about``, the versions of the programs."""

    DEFAULT_CSS = """
    Keys { align: center middle; }
    Keys #box { width: 84; max-width: 96%; height: auto; max-height: 92%; padding: 1 2;
        background: $panel; }
    Keys VerticalScroll { height: auto; max-height: 100%; scrollbar-size-vertical: 1; }
    Keys #lines { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,f1,q", "dismiss", "Close", id="keys.close"),
        Binding("j", "down", "Down", show=False),
        Binding("k", "up", "Up", show=False),
    ]

    def __init__(self, screen: Screen[Any], about: str = "") -> None:
        super().__init__()
        self._lines = key_lines(screen)
        self._about = about

    def compose(self) -> ComposeResult:
        """Compose the table."""
        width = min(84, int(self.app.size.width * 0.96)) - _AROUND
        with Vertical(id="box"), VerticalScroll():
            yield Static(keys_content(self._lines, width, self._about), id="lines")

    def action_down(self) -> None:
        """Scroll down."""
        self.query_one(VerticalScroll).scroll_down(animate=False)

    def action_up(self) -> None:
        """Scroll up."""
        self.query_one(VerticalScroll).scroll_up(animate=False)


def versions_text(status: StatusRecord | None) -> str:
    """Return the versions of the service and of llama-server, as far as they are known."""
    if status is None:
        return ""
    server = status.llama_server.version
    versions = [f"cyber-inference-tui {status.version}"]
    versions += [f"llama-server {server}"] if server else []
    return clean_line(", ".join(versions), limit=200)


def keys_content(lines: list[KeyLine], width: int, about: str = "") -> Content:
    """Return the lines in three columns, each group under its title, below ``about``.

    ``width`` is in cells.
    """
    keys_width = max((cell_len(line.keys) for line in lines), default=0)
    does_width = max((cell_len(line.does) for line in lines if line.why), default=0)
    indent = keys_width + does_width + 6
    parts: list[Content | tuple[str, str]] = [
        key_hints(("j k", "scroll"), ("esc", "closes")),
        (f"\n\n{about}\n" if about else "\n", "$text-muted"),
    ]
    group = ""
    for line in lines:
        if line.group != group:
            group = line.group
            parts.append((f"\n{group}\n", "bold $accent"))
        parts.append((f"  {fit(line.keys, keys_width, 'left', '')}  ", "bold"))
        why = f"\n{' ' * indent}".join(textwrap.wrap(line.why, max(16, width - indent)))
        parts += [
            (fit(line.does, does_width, "left", "") if why else line.does, ""),
            (f"  {why}\n" if why else "\n", "$text-muted"),
        ]
    return Content.assemble(*parts)
