"""What the terminal app is started with, and how it ends."""

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
    from cyber_inference_tui.terminal.columns import RenderContext


class AfterExit(StrEnum):
    """How the app was left: what its caller has to do with the service."""

    KEEP = "keep"
    """Leave the service as it is."""
    STOP = "stop"
    """Stop the service, which was started for this app."""


def local_now() -> datetime:
    """The present with its zone, as clocks on the wall have it."""
    return datetime.now().astimezone()


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """How the app is to run."""

    attached: bool = False
    """The service runs elsewhere."""
    owned: bool = False
    """The service was started for this app."""
    readonly: bool = False
    """Every action is hidden."""
    first_page: str = "dashboard"
    theme: str = DEFAULT
    charset: Charset = UNICODE
    rate: float = 4.0
    """Updates a second, at most."""
    keymap: dict[str, str] = field(default_factory=dict)
    """Keys by the id of their binding, instead of the built-in ones."""
    keymap_path: Path | None = None
    """Where the person's own keys are kept."""
    crash_path: Path | None = None
    """Where a fault of the app itself is written down."""
    notices: tuple[str, ...] = ()
    """What went wrong before the app could tell it, one sentence each."""
    save_password: Callable[[str], None] | None = None
    """Keeps a password that worked, if the person wants that."""
    now: Callable[[], datetime] = local_now
    signals: bool = False
    """SIGTERM ends the app in good order. (A hang-up ends it at once: its terminal is gone.)"""
    ticking: bool = True
    """The clock and the countdowns run (they stand still in pictures)."""

    def render_context(self) -> RenderContext:
        """What the tables are drawn with, as of now."""
        # The first frame has no table.
        from cyber_inference_tui.terminal.columns import RenderContext  # noqa: PLC0415

        return RenderContext(self.charset, self.now())
