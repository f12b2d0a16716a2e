"""A model's state for the eye: a sign, a word and a colour, never the colour alone."""

from __future__ import annotations

from cyber_inference_tui.cli.terminal import DIM, GREEN, RED, YELLOW, Terminal
from cyber_inference_tui.records import ModelStatus

_SIGNS: dict[ModelStatus, tuple[str, str, str]] = {
    # status: the sign, its stand-in where only ASCII can be shown, the colour
    ModelStatus.LOADED: ("●", "*", GREEN),
    ModelStatus.LOADING: ("◐", "~", YELLOW),
    ModelStatus.QUEUED: ("◌", ".", YELLOW),
    ModelStatus.UNLOADING: ("◍", "-", YELLOW),
    ModelStatus.UNLOADED: ("○", "o", DIM),
    ModelStatus.FAILED: ("✖", "x", RED),
}


def state_text(status: ModelStatus, terminal: Terminal) -> tuple[str, str]:
    """A status as sign and word (the word alone in a pipe), and the SGR code of its colour."""
    sign, plain, color = _SIGNS[status]
    if not terminal.interactive:
        return status.value, color
    return f"{sign if terminal.unicode else plain} {status.value}", color
