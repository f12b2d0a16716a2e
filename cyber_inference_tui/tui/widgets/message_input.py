"""Where a message is written: enter sends it.

Which keys can make a new line is up to the terminal. Enter sends a carriage return and ctrl+j a
line feed, everywhere. With shift, ctrl or alt, enter is another key only where the terminal knows
the extended keyboard protocol; elsewhere it is enter.
"""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class MessageInput(TextArea):
    """A few lines of text; ``Sent`` tells that enter was pressed."""

    KEYS_TITLE = "Message"
    BINDINGS: ClassVar[list[BindingType]] = [
        # Before the keys of the text itself, where enter makes a new line.
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
        """The message is to be sent."""

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
        # A blinking cursor is sent to the terminal twice a second, for ever.
        self.cursor_blink = False

    def action_send(self) -> None:
        """Tell that the message is to be sent."""
        self.post_message(self.Sent(self))

    def action_new_line(self) -> None:
        """A new line at the cursor."""
        self.insert("\n")
