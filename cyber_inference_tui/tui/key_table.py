"""A table of the keys, made from the bindings, for the help, the docs and key maps."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from textual.app import App
from textual.binding import Binding
from textual.keys import format_key
from textual.screen import Screen
from textual.widget import Widget

from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.chrome import PAGES

EVERYWHERE = "Everywhere"
THIS_PAGE = "This page"
_OURS = {
    "app.focus_next": ("Next field", "go to the next part of the page"),
    "app.focus_previous": ("Previous field", ""),
    "screen.copy_text": ("Copy", "the text selected with the mouse"),
}
"""Label and tooltip of Textual's own actions."""
_PLAIN_KEYS = {"⏎": "enter", "↑": "up", "↓": "down", "←": "left", "→": "right"}
# Textual binds these wherever something scrolls; nothing here scrolls sideways.
_SIDEWAYS = ("scroll_left", "scroll_right", "page_left", "page_right")


@dataclass(frozen=True, slots=True)
class KeyLine:
    """An action: its group, its keys, its label and its tooltip."""

    group: str
    keys: str
    does: str
    why: str = ""


def key_lines(screen: Screen[Any]) -> list[KeyLine]:
    """Return the actions of ``screen`` now: the page's, the focused widget's, then the app's."""
    found: dict[tuple[str, str], tuple[list[str], str]] = {}
    for node, binding, enabled, tooltip in screen.active_bindings.values():
        if not enabled or not binding.description or binding.system:
            continue
        if binding.action.startswith(_SIDEWAYS):
            continue
        group = _group(node, screen, binding)
        does, means = _OURS.get(binding.action, (binding.description, ""))
        place = (group, clean_line(does))
        keys, why = found.get(place, ([], means))
        if not means:
            why = why or tooltip or binding.tooltip
        found[place] = (keys, why)
        shown = shown_key(screen, binding)
        if shown and shown not in keys:
            keys.append(shown)
    groups = dict.fromkeys([THIS_PAGE, *(group for group, _ in found)])
    order = {name: place for place, name in enumerate(groups)}
    order[EVERYWHERE] = len(order)
    lines = [
        KeyLine(group, " ".join(keys), does, why)
        for (group, does), (keys, why) in found.items()
        if keys
    ]
    return sorted(lines, key=lambda line: order[line.group])


def shown_key(screen: Screen[Any], binding: Binding) -> str:
    """Return a key's name, or "" if the focused widget would take the key as text."""
    shown = screen.app.get_key_display(binding)
    options = getattr(screen.app, "options", None)
    if not shown.isascii() and options is not None and not options.charset.unicode:
        shown = _PLAIN_KEYS.get(shown, binding.key)
    focused = screen.focused
    if focused is None or not _is_typed(focused, binding.key, shown):
        return shown
    # The binding may have another key that is no text: f1 is shown as ? elsewhere.
    other = format_key(binding.key)
    return "" if _is_typed(focused, binding.key, other) else other


def _is_typed(focused: Widget, key: str, shown: str) -> bool:
    return len(shown) == 1 and shown.isascii() and focused.check_consume_key(key, shown)


def _group(node: object, screen: Screen[Any], binding: Binding) -> str:
    # Textual's own bindings have no id.
    if isinstance(node, App) or (node is screen and binding.id is None):
        return EVERYWHERE
    if node is screen:
        return THIS_PAGE
    return str(getattr(node, "KEYS_TITLE", "")) or type(node).__name__


def declared_bindings(owner: type[Any]) -> list[Binding]:
    """Return the bindings that a class itself declares, one per key."""
    return list(Binding.make_bindings(owner.__dict__.get("BINDINGS", ())))


def every_binding(app: type[App[Any]]) -> list[tuple[str, Binding]]:
    """Return all bindings of the program with the title of their group; import every page."""
    from cyber_inference_tui.tui import dialogs, pages, widgets  # noqa: PLC0415 - all of it

    found = [(EVERYWHERE, binding) for binding in declared_bindings(app)]
    order = {page.mode: place for place, page in enumerate(PAGES)}
    titles = {page.mode: page.title for page in PAGES}
    owners: list[tuple[int, str, type[Any]]] = []
    for place, package in ((0, pages), (100, widgets), (200, dialogs)):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            for owner in vars(module).values():
                if isinstance(owner, type) and owner.__module__ == module.__name__:
                    mode = str(getattr(owner, "MODE", ""))
                    title = titles.get(mode) or str(getattr(owner, "KEYS_TITLE", owner.__name__))
                    rank = place + (order.get(mode, 50) if mode else 60)
                    owners.append((rank, title, owner))
    owners.sort(key=lambda one: one[:2])
    for _, title, owner in owners:
        found += [(title, binding) for binding in declared_bindings(owner)]
    return found
