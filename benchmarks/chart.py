"""Bars of what was measured, as an SVG picture that can be read on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.table import OURS, Row, shown

_WIDTH = 720
_LABELS = 170
_VALUES = 90
_BAR = 16
_GAP = 14
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.bar { fill: #8c959f }
.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .bar { fill: #6e7681 }
  .ours { fill: #58a6ff }
}
"""


def svg(rows: Sequence[Row]) -> str:
    """Return a picture of the charted rows: for each a title, and a bar for each target.

    The longest bar of each row has the full width, whatever its unit is.
    """
    parts: list[str] = []
    y = _GAP
    for row in rows:
        values = {name: max(0.0, value) for name, value in row.values.items()}
        if not row.charted or not values:
            continue
        better = "less" if row.less_is_better else "more"
        parts.append(_text(0, y, f"{row.group}: {row.title} ({better} is better)", "title"))
        y += _BAR
        largest = max(values.values()) or 1.0
        for name, value in values.items():
            length = value / largest * (_WIDTH - _LABELS - _VALUES)
            kind = "bar ours" if name == OURS else "bar"
            parts.append(_text(8, y, name))
            parts.append(
                f'<rect class="{kind}" x="{_LABELS}" y="{y + 2}"'
                f' width="{max(1.0, length):.1f}" height="{_BAR - 4}"/>'
            )
            parts.append(_text(_LABELS + length + 6, y, shown(value)))
            y += _BAR
        y += _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}"'
        f' width="{_WIDTH}" height="{y}" role="img">\n<style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: int, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y + _BAR - 4}">{escape(text)}</text>'
