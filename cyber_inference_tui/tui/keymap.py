"""The user's key map: ``keys.toml`` in the configuration directory, ``"action.id" = "key"``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from textual.binding import Binding

from cyber_inference_tui.files import read_file
from cyber_inference_tui.text import clean_line

MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Keymap:
    """Keys by the id of their binding, and the problems of the file, one sentence each."""

    keys: dict[str, str]
    problems: tuple[str, ...] = ()


def read_keymap(path: Path, known: Iterable[str] | None = None) -> Keymap:
    """Read the key map in ``path``; without the file it is empty.

    ``known`` are the valid ids; ``None`` skips that check.
    """
    try:
        data = read_file(path, MAX_BYTES + 1)
    except FileNotFoundError:
        return Keymap({})
    except OSError as error:
        return Keymap({}, (f"{path}: {error.strerror}.",))
    if len(data) > MAX_BYTES:
        return Keymap({}, (f"{path} is larger than {MAX_BYTES} bytes.",))
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return Keymap({}, (f"{path}: {error}.",))
    keys: dict[str, str] = {}
    problems = []
    ids = None if known is None else set(known)
    for name, value in table.items():
        if ids is not None and name not in ids:
            problems.append(f"{path}: there is no action '{clean_line(name, limit=80)}'.")
        elif not isinstance(value, str) or not value.strip():
            problems.append(f'{path}: {clean_line(name, limit=80)} needs a key, such as "f5".')
        else:
            keys[name] = value.strip()
    return Keymap(keys, tuple(problems))


def example_text(bindings: Iterable[tuple[str, Binding]]) -> str:
    """Return a key map with every action in a comment, by group."""
    lines = [
        "# Your own keys. Remove the # and change the key; separate several keys by commas.",
        "# Names of keys: letters, digits, f1 to f12, enter, escape, tab, space, up, down, pageup,",
        "# and ctrl+, alt+ or shift+ before them.",
    ]
    keys: dict[str, list[str]] = {}
    found: dict[str, tuple[str, Binding]] = {}
    for title, binding in bindings:
        if binding.id is not None:
            keys.setdefault(binding.id, []).append(binding.key)
            found.setdefault(binding.id, (title, binding))
    group = ""
    for name, (title, binding) in found.items():
        if title != group:
            group = title
            lines += ["", f"# {title}"]
        says = binding.tooltip or binding.description
        lines.append(f'# "{name}" = "{",".join(dict.fromkeys(keys[name]))}"  # {says}')
    return "\n".join(lines) + "\n"
