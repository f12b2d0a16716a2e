"""Makes dialogs fit into low screens."""

from __future__ import annotations

from typing import Any

from textual.css.scalar import Scalar
from textual.screen import Screen

_SHARE = 0.96
"""A dialog's part of the screen's height."""


def limit_height(dialog: Screen[Any], name: str, *, least: int) -> None:
    """Limit the height of a part of a dialog's ``#box``, so that all other parts stay visible.

    ``name`` is the part's selector; it keeps at least ``least`` lines. Nothing happens without
    them: a dialog that is being closed has lost its widgets.
    """
    boxes, parts = dialog.query("#box"), dialog.query(name)
    if not (boxes and parts):
        return
    box, part = boxes.first(), parts.first()
    others = sum(
        other.outer_size.height + other.styles.margin.height
        for other in box.children
        if other is not part
    )
    lines = int(dialog.size.height * _SHARE) - 1 - box.styles.padding.height - others
    limit = max(least, lines)
    if part.styles.max_height != Scalar.from_number(limit):
        part.styles.max_height = limit
        # The other parts may not have had their sizes yet.
        dialog.call_after_refresh(limit_height, dialog, name, least=least)
