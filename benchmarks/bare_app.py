"""The least that Textual can be: what the terminal app is compared with."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.widgets import Static


class BareApp(App[None]):
    """One text."""

    def compose(self) -> ComposeResult:
        """The text."""
        yield Static("nothing but this")


if __name__ == "__main__":
    BareApp().run()
