"""Makes dialogs fit into low screens."""

from __future__ import annotations

from textual.css.scalar import Scalar
from textual.widget import Widget

_SHARE = 0.96
"""A dialog's part of the screen's height."""


def limit_height(box: Widget, part: Widget, *, least: int) -> None:
    """Limit the height of ``part``, so that all other parts of a dialog's ``box`` stay visible.

    ``part`` keeps at least ``least`` lines.
    """
    others = sum(
        other.outer_size.height + other.styles.margin.height
        for other in box.children
        if other is not part
    )
    lines = int(box.screen.size.height * _SHARE) - 1 - box.styles.padding.height - others
    limit = max(least, lines)
    if part.styles.max_height != Scalar.from_number(limit):
        part.styles.max_height = limit
        # The other parts may not have had their sizes yet.
        box.call_after_refresh(limit_height, box, part, least=least)
