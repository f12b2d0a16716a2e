"""The keys as a table, read from the bindings: for the help, the documentation and key maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textual.app import App
from textual.binding import Binding
from textual.screen import Screen

from cyber_inference_tui.text import clean_line

EVERYWHERE = "Everywhere"


@dataclass(frozen=True, slots=True)
class KeyLine:
    """One action: where it holds, its keys, what it does, and a few words more."""

    group: str
    keys: str
    does: str
    why: str = ""


def key_lines(screen: Screen[Any]) -> list[KeyLine]:
    """What the keys do on ``screen`` as it is now: the focused widget's first, then the page's,
    then those of the app."""
    found: dict[tuple[str, str], tuple[list[str], str]] = {}
    for node, binding, enabled, tooltip in screen.active_bindings.values():
        if not enabled or not binding.description or binding.system:
            continue
        group = _group(node, screen)
        place = (group, clean_line(binding.description))
        keys, why = found.get(place, ([], ""))
        found[place] = (keys, why or tooltip or binding.tooltip)
        shown = screen.app.get_key_display(binding)
        if shown not in keys:
            keys.append(shown)
    order = {name: place for place, name in enumerate(dict.fromkeys(g for g, _ in found))}
    order[EVERYWHERE] = len(order)
    lines = [
        KeyLine(group, " ".join(keys), does, why) for (group, does), (keys, why) in found.items()
    ]
    return sorted(lines, key=lambda line: order[line.group])


def _group(node: object, screen: Screen[Any]) -> str:
    if isinstance(node, App):
        return EVERYWHERE
    if node is screen:
        return "This page"
    return str(getattr(node, "KEYS_TITLE", "")) or type(node).__name__


def declared_bindings(owner: type[Any]) -> list[Binding]:
    """The bindings that a class declares itself, one for each key it gives."""
    return list(Binding.make_bindings(owner.__dict__.get("BINDINGS", ())))
