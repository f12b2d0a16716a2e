"""The message field, where enter sends the message.

The terminal decides which keys can insert a new line. Everywhere enter is a carriage return and
ctrl+j a line feed. Shift, ctrl or alt with enter are keys of their own only if the terminal has
the extended keyboard protocol; elsewhere they are enter.
"""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class MessageInput(TextArea):
    """A text area of a few lines that posts ``Sent`` on enter."""

    KEYS_TITLE = "Message"
    BINDINGS: ClassVar[list[BindingType]] = [
        # Has priority over the text area's own enter key.
        Binding("enter", "send", "Send", priority=True, id="message.send"),
        Binding(
            "ctrl+j,shift+enter,ctrl+enter,alt+enter",
            "new_line",
            "New line",
            id="message.new-line",
            tooltip="begin a new line",
        ),
    ]
    DEFAULT_CSS = """
    MessageInput {
        height: auto;
        max-height: 8;
        border: none;
        padding: 0 1;
        background: $panel;
        &:focus { border: none; background-tint: $accent 12%; }
    }
    """

    class Sent(Message):
        """Posted when the message should be sent."""

        def __init__(self, view: MessageInput) -> None:
            super().__init__()
            self.view = view

        @property
        def control(self) -> MessageInput:
            """The input, for ``@on`` with a selector."""
            return self.view

    def __init__(
        self,
        *,
        placeholder: str = "",
        id: str | None = None,  # noqa: A002 - Textual's name
    ) -> None:
        super().__init__(placeholder=placeholder, id=id, compact=True, highlight_cursor_line=False)
        # A blinking cursor would be sent to the terminal twice a second.
        self.cursor_blink = False

    def action_send(self) -> None:
        """Post ``Sent``."""
        self.post_message(self.Sent(self))

    def action_new_line(self) -> None:
        """Insert a new line at the cursor."""
        self.insert("\n")
