"""The input for one line of text, on every page and in every dialog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from textual.widgets import Input

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

NAME_CHARACTERS = 256
"""Limit of a line for names and words to search."""
PATH_CHARACTERS = 4096
"""Limit of a line for a path, as on Linux."""
TEXT_CHARACTERS = 100_000
"""Limit of a message, and of the value of a setting, which may be a list or a table."""


def limit_sentence(limit: int) -> str:
    """Return why a field refuses more text."""
    return f"This field takes at most {limit:,} characters. Nothing was added."


class TextLine(Input):
    """An input of at most ``limit`` characters; it refuses more with a sentence."""

    def __init__(self, value: str = "", *, limit: int = NAME_CHARACTERS, **options: Any) -> None:
        super().__init__(value, max_length=limit, **options)
        # A blinking cursor would be sent to the terminal twice a second.
        self.cursor_blink = False

    def restricted(self) -> None:
        """Say why the text does not change."""
        cast("CyberApp", self.app).show_message(limit_sentence(self.max_length or 0), "warning")
