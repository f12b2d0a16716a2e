"""Options of the terminal app, and what its caller does with the service afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.tui.theme import DEFAULT

if TYPE_CHECKING:
    from textual.driver import Driver

    from cyber_inference_tui.client.hosts import Hosts
    from cyber_inference_tui.terminal.columns import RenderContext


class AfterExit(StrEnum):
    """The caller's action on the service after the app has ended."""

    KEEP = "keep"
    """Leave the service running."""
    STOP = "stop"
    """Stop the service, which the caller started for the app."""


def local_now() -> datetime:
    """Return the local time with its time zone."""
    return datetime.now().astimezone()


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """Options of the terminal app."""

    attached: bool = False
    """The service runs on another machine."""
    machine: str = "user@host"
    """This machine, as ``ssh`` on another machine names it."""
    owned: bool = False
    """The caller started the service for this app."""
    readonly: bool = False
    """Hide every action that changes something."""
    first_page: str = "dashboard"
    theme: str = DEFAULT
    charset: Charset = UNICODE
    rate: float = 4.0
    """Maximum screen updates per second."""
    keymap: dict[str, str] = field(default_factory=dict)
    """The user's keys, by the id of their binding."""
    keymap_path: Path | None = None
    """File of the user's keys."""
    view_path: Path | None = None
    """File of the view that the user chose: orders, filters and layouts."""
    crash_path: Path | None = None
    """File for the traceback of a crash."""
    chats_path: Path | None = None
    """Folder for saved conversations."""
    notices: tuple[str, ...] = ()
    """Problems found before the app started, one sentence each."""
    save_password: Callable[[str], None] | None = None
    """Stores a password that worked, if the user agrees."""
    driver: type[Driver] | None = None
    """Textual's driver, if no terminal shows the app."""
    hosts: Hosts | None = None
    """The services that the app can switch to."""
    desktop: bool = False
    """Show notices on the desktop, and the state in the terminal's title and progress."""
    save_theme: Callable[[str], None] | None = None
    """Stores a chosen theme on this machine, also if the service is on another."""
    now: Callable[[], datetime] = local_now
    signals: bool = False
    """Handle SIGTERM: exit cleanly. (SIGHUP ends the app at once: its terminal is gone.)"""
    ticking: bool = True
    """Update the clock and the countdowns every second; off in tests and pictures."""

    def render_context(self) -> RenderContext:
        """Return the context that table cells are drawn with now."""
        # The first frame has no table.
        from cyber_inference_tui.terminal.columns import RenderContext  # noqa: PLC0415

        return RenderContext(self.charset, self.now())
