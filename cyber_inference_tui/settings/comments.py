"""Comments above keys in a TOML text. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Sequence

from cyber_inference_tui.settings.positions import KeyPath, key_lines


def with_comment(text: str, keys: Sequence[KeyPath], comment: str) -> str:
    """Return the text with a comment line above the first of these keys.

    It is left out where it would change the meaning, such as inside a text of several lines.
    """
    numbers = key_lines(text)
    places = [numbers[key] for key in keys if key in numbers]
    if not places:
        return text
    lines = _lines(text)
    at = min(places) - 1
    end = "\r\n" if lines[at].endswith("\r\n") else "\n"
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip(" \t"))]
    new = "".join([*lines[:at], f"{indent}# {comment}{end}", *lines[at:]])
    return new if _means_the_same(new, text) else text


def without_comments(text: str, tables: Collection[KeyPath], mark: str) -> str:
    """Return the text without the comment lines that begin with ``mark`` and are directly above
    keys of these tables."""
    above = {line - 2 for path, line in key_lines(text).items() if path[:-1] in tables}
    lines = _lines(text)
    marked = re.compile(rf"[ \t]*# {re.escape(mark)}")
    kept = [line for at, line in enumerate(lines) if at not in above or not marked.match(line)]
    new = "".join(kept)
    return new if _means_the_same(new, text) else text


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)  # TOML's lines; splitlines() knows more ends


def _means_the_same(new: str, text: str) -> bool:
    try:
        return tomllib.loads(new) == tomllib.loads(text)
    except ValueError:
        return False
