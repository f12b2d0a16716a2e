"""Replaces a page until the service has answered: what was tried, why it failed, what to do."""

from __future__ import annotations

from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.client.service_url import is_loopback_url, serve_command
from cyber_inference_tui.client.tunnel import SshAddress
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.snapshot import Link, Snapshot

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp


class NoService(VerticalScroll, can_focus=True):
    """Fills the page; it has the focus, so that the keys of the hidden page do nothing."""

    KEYS_TITLE = "No service"
    DEFAULT_CSS = """
    NoService { display: none; height: 1fr; padding: 1 2 0 2; scrollbar-size-vertical: 1; }
    NoService Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "copy", "Copy", id="connection.copy", tooltip="copy the command"),
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
        Binding("r", "retry", "Try now", id="connection.retry", tooltip="connect at once"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._text = Static()

    def compose(self) -> ComposeResult:
        """Compose the text."""
        yield self._text

    @property
    def _app(self) -> CyberApp:
        return cast("CyberApp", self.app)

    def show(self, snapshot: Snapshot, now: datetime) -> None:
        """Draw the state of the connection."""
        options = self._app.options
        content = no_service_content(
            snapshot, self._app.client.place, now, options.charset, attached=options.attached
        )
        if self._text.content != content:
            self._text.update(content)

    def action_copy(self) -> None:
        """Copy the command that helps."""
        self.app.copy_to_clipboard(
            command(self._app.client.place, attached=self._app.options.attached)
        )
        self._app.show_message("Copied the command.")

    def action_retry(self) -> None:
        """Connect at once."""
        self._app.feed.retry()


def command(url: str, *, attached: bool) -> str:
    """Return the command that helps with the service at ``url``: a tunnel, a start, or a test."""
    if (ssh := SshAddress.parse(url)) is not None:
        return f"{ssh.command} cyber-inference-tui service status"
    return (
        f"cyber-inference-tui --attach {SshAddress.of_url(url).quoted}"
        if attached
        else serve_command(url)
    )


def no_service_content(
    snapshot: Snapshot, url: str, now: datetime, charset: Charset, *, attached: bool
) -> Content:
    """Return the text for a service at ``url`` that has not answered yet."""
    if snapshot.link is Link.CONNECTING:
        return Content.styled(f"Connecting to {clean_line(url)} {charset.dots}", "$text-muted")
    sign = charset.signs[ModelStatus.FAILED]
    seconds = ceil((snapshot.retry_at - now).total_seconds()) if snapshot.retry_at else 0
    again = f"Trying again in {seconds} s." if seconds > 0 else "Trying again now."
    helps = (f"\n\n  {clean_line(command(url, attached=attached))}", "bold")
    # On a line of its own: beside the command it would break apart in a narrow terminal.
    copies = [("\n  c", "bold $accent"), (" copies it", "$text-muted")]
    parts = [
        (f"{sign} {clean_line(snapshot.problem, limit=400)}\n\n", "bold $text-error"),
        (f"{again:<20}   ", ""),
        ("r", "bold $accent"),
        (" tries now\n\n", "$text-muted"),
    ]
    if not attached:
        parts += [
            ("Start the service in another terminal, or quit: the next start of this app", ""),
            (" starts one.", ""),
            helps,
            *copies,
        ]
    elif url.startswith("ssh:"):
        parts += [
            ("The tunnel opens by itself. Does ssh reach the machine, and does the service", ""),
            (" run there?", ""),
            helps,
            *copies,
        ]
    elif is_loopback_url(url):
        parts += [
            ("Is the service on another machine? Start this app with a tunnel.", ""),
            helps,
            *copies,
            ("\n\nIs it on this machine? Start it.", ""),
            (f"\n\n  {clean_line(serve_command(url))}", "bold"),
        ]
    else:
        parts += [
            ("A service answers only its own machine, unless its setting host says otherwise.", ""),
            (" Start this app with a tunnel.", ""),
            helps,
            *copies,
        ]
    return Content.assemble(*parts)
