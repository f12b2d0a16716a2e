"""The last line of a page, which shows its keys.

It is one widget with one text. Textual's own footer makes a widget for each key whenever one
changes, and cuts what does not fit, Help and Quit first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget

from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.key_table import shown_key

GAP = 2
"""Cells between two keys."""
_MARK = 2
"""Cells of the ellipsis for keys without room."""
_ALWAYS = ("app.palette", "app.help", "app.quit")
"""Ids of the bindings that are always shown, at the right end."""


@dataclass(frozen=True, slots=True)
class BarKey:
    """A key in the line; a click on it presses ``press``."""

    press: str
    shown: str
    does: str

    @property
    def width(self) -> int:
        """Its width in cells."""
        return cell_len(self.shown) + 1 + cell_len(self.does)


@dataclass(frozen=True, slots=True)
class PlacedKey:
    """A key and the cell where it begins."""

    start: int
    key: BarKey


def bar_keys(screen: Screen[Any]) -> tuple[list[BarKey], list[BarKey]]:
    """Return the keys that work on ``screen`` now, one per action, and those always shown."""
    here: dict[str, BarKey] = {}
    always: dict[str, BarKey] = {}
    for _, binding, enabled, _ in screen.active_bindings.values():
        if not (binding.show and enabled and binding.description):
            continue
        shown = shown_key(screen, binding)
        if shown:
            key = BarKey(binding.key, shown, clean_line(binding.description))
            (always if binding.id in _ALWAYS else here).setdefault(binding.action, key)
    return list(here.values()), list(always.values())


def place_keys(here: Sequence[BarKey], always: Sequence[BarKey], width: int) -> list[PlacedKey]:
    """Place the keys in ``width`` cells: ``always`` at the right, then as many others as fit.

    If not all fit, the gaps are narrower.
    """
    keys = [*here, *always]
    gap = GAP if sum(key.width + GAP for key in keys) - GAP <= width else 1
    placed = []
    end = width
    for key in reversed(always):
        end -= key.width
        placed.append(PlacedKey(end, key))
        end -= gap
    placed.reverse()
    at = 0
    shown = []
    for number, key in enumerate(here):
        # Leave room for the ellipsis if other keys follow.
        mark = 0 if number == len(here) - 1 else _MARK
        if at + key.width + mark > end:
            break
        shown.append(PlacedKey(at, key))
        at += key.width + gap
    return [*shown, *placed]


def key_hints(*hints: tuple[str, str]) -> Content:
    """Return pairs of a key and its effect on one line, as for a dialog."""
    parts: list[tuple[str, str]] = []
    for key, does in hints:
        space = "    " if parts else ""
        parts += [(space, ""), (key, "bold $accent"), (f" {does}", "$text-muted")]
    return Content.assemble(*parts)


class KeyBar(Widget):
    """The line of keys."""

    DEFAULT_CSS = """
    KeyBar { dock: bottom; height: 1; padding: 0 1; background: $surface; }
    """
    ALLOW_SELECT: ClassVar[bool] = False

    def __init__(self, charset: Charset) -> None:
        super().__init__()
        self._charset = charset
        self._keys: tuple[list[BarKey], list[BarKey]] = ([], [])

    def on_mount(self) -> None:
        """Redraw when the keys change."""
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def _changed(self, screen: Screen[Any]) -> None:
        if self.is_attached and screen is self.screen:
            keys = bar_keys(screen)
            if keys != self._keys:
                self._keys = keys
                self.refresh()

    def render(self) -> Content:
        """Return the keys that fit."""
        placed = place_keys(*self._keys, self.size.width)
        parts: list[tuple[str, str]] = []
        at = 0
        left_out = len(placed) < sum(map(len, self._keys))
        first_always = len(placed) - len(self._keys[1])
        for number, one in enumerate(placed):
            space = one.start - at
            if number == first_always and left_out and space > _MARK:
                parts.append((f" {self._charset.ellipsis}", "$text-muted"))
                space -= _MARK
            parts += [
                (" " * max(0, space), ""),
                (one.key.shown, "bold $text-accent"),
                (f" {one.key.does}", ""),
            ]
            at = one.start + one.key.width
        return Content.assemble(*parts)

    def on_click(self, event: events.Click) -> None:
        """Press the key under the pointer."""
        x = event.get_content_offset_capture(self).x
        for one in place_keys(*self._keys, self.size.width):
            if one.start <= x < one.start + one.key.width:
                self.app.simulate_key(one.key.press)
                return
