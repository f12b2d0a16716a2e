"""Comments above keys in a TOML text. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Sequence

from cyber_inference_tui.settings.positions import KeyPath, key_lines


def with_comment(text: str, keys: Sequence[KeyPath], comment: str) -> str:
    """Return the text with a comment line above the first of these keys, if it has any."""
    numbers = key_lines(text)
    places = [numbers[key] for key in keys if key in numbers]
    if not places:
        return text
    lines = _lines(text)
    at = min(places) - 1
    end = "\r\n" if lines[at].endswith("\r\n") else "\n"
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip(" \t"))]
    return "".join([*lines[:at], f"{indent}# {comment}{end}", *lines[at:]])


def without_comments(text: str, tables: Collection[KeyPath], mark: str) -> str:
    """Return the text without the comment lines that begin with ``mark`` and are directly above
    keys of these tables."""
    above = {line - 2 for path, line in key_lines(text).items() if path[:-1] in tables}
    lines = _lines(text)
    marked = re.compile(rf"[ \t]*# {re.escape(mark)}")
    kept = [line for at, line in enumerate(lines) if at not in above or not marked.match(line)]
    new = "".join(kept)
    # Such a line may be the end of a text of several lines.
    try:
        return new if tomllib.loads(new) == tomllib.loads(text) else text
    except tomllib.TOMLDecodeError:
        return text


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)  # TOML's lines; splitlines() knows more ends
