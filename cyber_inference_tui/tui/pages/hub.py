"""To come."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.snapshot import Snapshot


class HubPage(Page):
    """To come."""

    MODE: ClassVar[str] = "hub"

    def body(self) -> ComposeResult:
        """To come."""
        yield Static(id="placeholder", classes="body")

    def show(self, snapshot: Snapshot) -> None:
        """To come."""
        self.query_one("#placeholder", Static).update(Content(str(len(snapshot.models))))
