"""Checks the setting ``split`` of a model."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection

from cyber_inference_tui.records.peers import NAME_PATTERN
from cyber_inference_tui.settings.schema import ModelSettings

MOST_BOXES = 1
"""Other boxes that a model may be split over."""


def split_problem(model: ModelSettings, peers: Collection[str]) -> str | None:
    """Return why a model cannot be split so; ``None`` if it can, or is not split."""
    if len(model.split) > MOST_BOXES:
        return f"a model can be split over {MOST_BOXES} other box, not {len(model.split)}"
    for name in model.split:
        if not re.fullmatch(NAME_PATTERN, name):
            return "expected the name of a box (small letters, digits and -)"
        if name not in peers and name == socket.gethostname().partition(".")[0].lower():
            return f'"{name}" is this box, which always has a part: name only the other one'
    return None


def unknown_boxes(model: ModelSettings, peers: Collection[str]) -> tuple[str, ...]:
    """Return the boxes in ``split`` that are not paired."""
    return tuple(name for name in model.split if name not in peers)
