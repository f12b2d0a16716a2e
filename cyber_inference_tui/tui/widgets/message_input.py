"""The message field, where enter sends the message.

The terminal decides which keys can insert a new line. Everywhere enter is a carriage return and
ctrl+j a line feed. Shift, ctrl or alt with enter are keys of their own only if the terminal has
the extended keyboard protocol; elsewhere they are enter.
"""

from __future__ import annotations

import re
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

_PATH = re.compile(r"(?:~?/|file:///).+\.(?:png|jpe?g|gif|bmp|webp|avif|heic)", re.IGNORECASE)


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

    class PathPasted(Message):
        """Posted instead of inserting a pasted ``text`` that is the path of an image."""

        def __init__(self, path: str, text: str) -> None:
            super().__init__()
            self.path = path
            self.text = text

    class Emptied(Message):
        """Posted when backspace has nothing to delete."""

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

    def action_delete_left(self) -> None:
        """Delete the character before the cursor."""
        if self.text:
            super().action_delete_left()
        else:
            self.post_message(self.Emptied())

    async def _on_paste(self, event: events.Paste) -> None:
        if path := pasted_path(event.text):
            event.prevent_default()
            event.stop()
            self.post_message(self.PathPasted(path, event.text))


def pasted_path(text: str) -> str:
    """Return the path of an image that a pasted text is, or "".

    Terminals paste dropped files with quotes, with backslashes before spaces, or as ``file:`` URLs.
    """
    line = text.strip()
    if "\n" in line or len(line) > 4096:
        return ""
    if line[:1] in {"'", '"'} and line[-1:] == line[:1]:
        line = line[1:-1]
    elif not line.startswith("file:"):
        line = re.sub(r"\\(.)", r"\1", line)
    if not _PATH.fullmatch(line):
        return ""
    return unquote(urlsplit(line).path) if line.startswith("file:") else line
