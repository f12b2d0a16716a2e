"""Names keys of the app where a message of the service names a shell command."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"`cyber-inference-tui ([a-z-]+)([^`]*)`")


def with_keys(text: str) -> str:
    """Return a message with the key that does the same in place of each command."""
    return _COMMAND.sub(_key, text)


def _key(found: re.Match[str]) -> str:
    command, options = found[1], found[2]
    if command == "install-llama":
        return "i, u or y on page 1" if "--from" in options else "i on page 1"
    places = {"config": "page 7", "init": "enter on a setting on page 7", "list-models": "page 2"}
    return places.get(command, found[0])
