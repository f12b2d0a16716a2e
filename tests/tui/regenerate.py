"""Writes the tables of keys from the bindings: ``python -m tests.tui.regenerate``."""

from __future__ import annotations

import re
from pathlib import Path

from textual.binding import Binding
from textual.keys import format_key

from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.chrome import PAGES
from cyber_inference_tui.tui.key_table import EVERYWHERE, every_binding

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "tui.md"
_BEGIN = "<!-- keys: made from the bindings by python -m tests.tui.regenerate -->\n"
_END = "<!-- end of keys -->\n"
_DIALOGS = {"Keys", "Password", "Prompt", "Question", "ModelForm", "List", "Sampling"}
_DIALOGS |= {"API keys", "New key"}
_PARTS = {"Logs": "Log"}
"""Further groups of keys that are essential for a page."""
_SHOWN = {"slash": "/", "left_square_bracket": "[", "right_square_bracket": "]"}


def shown_key(binding: Binding) -> str:
    """Return a key's name as on a keyboard."""
    name = binding.key
    if name in _SHOWN:
        return _SHOWN[name]
    return "?" if name == "question_mark" else name if "+" in name else format_key(name)


def groups() -> dict[str, dict[str, tuple[list[str], str]]]:
    """Return group → label → (keys, tooltip), without the dialogs."""
    found: dict[str, dict[str, tuple[list[str], str]]] = {}
    for title, binding in every_binding(CyberApp):
        if title in _DIALOGS or not binding.description:
            continue
        keys, why = found.setdefault(title, {}).get(binding.description, ([], ""))
        key = shown_key(binding)
        if key not in keys:
            keys.append(key)
        found[title][binding.description] = (keys, why or binding.tooltip)
    return found


def full_table() -> str:
    """Return the table of all keys for docs/tui.md."""
    lines = ["| where | keys | |", "|---|---|---|"]
    for title, actions in groups().items():
        for does, (keys, why) in actions.items():
            what = f"{does}: {why}" if why else does
            lines.append(f"| {title} | {_code(keys)} | {what} |")
            title = ""  # noqa: PLW2901 - a group is named once
    return "\n".join(lines) + "\n"


def short_table() -> str:
    """Return the table of the keys of each page on one line."""
    found = groups()
    lines = ["| page | keys |", "|---|---|"]
    for page in PAGES:
        actions = {**found.get(page.title, {}), **found.get(_PARTS.get(page.title, ""), {})}
        keys = ", ".join(f"{_code(keys)} {does.lower()}" for does, (keys, _) in actions.items())
        lines.append(f"| `{page.key}` {page.title} | {keys} |")
    everywhere = found[EVERYWHERE]
    pages = {page.title for page in PAGES}
    rest = ", ".join(
        f"{_code(keys)} {does.lower()}"
        for does, (keys, _) in everywhere.items()
        if does not in pages
    )
    lines.append(f"| everywhere | {rest} |")
    return "\n".join(lines) + "\n"


def _code(keys: list[str]) -> str:
    return " ".join(f"`{key}`" for key in keys)


def with_keys(text: str) -> str:
    """Return the page with both tables."""
    tables = iter([short_table(), full_table()])
    pattern = re.escape(_BEGIN) + ".*?" + re.escape(_END)
    return re.sub(pattern, lambda _: _BEGIN + next(tables) + _END, text, flags=re.DOTALL)


def main() -> None:
    PAGE.write_text(with_keys(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
