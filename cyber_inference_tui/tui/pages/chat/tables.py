"""Draws the tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import GAP
from cyber_inference_tui.tui.pages.chat.styled import width_of, wrap_pieces
from cyber_inference_tui.tui.widgets.text_view import Role, TextRow

_LEAST = 4


def most_columns(width: int) -> int:
    """Return the number of columns that a table of ``width`` cells has room for."""
    return max(1, width // (_LEAST + GAP))


def widths_for(cells: Sequence[Sequence[TextRow]], width: int) -> list[int]:
    """Return the width of each column in a table of ``width`` cells; the widest ones give way.

    ``cells`` are those of the heading and of each row.
    """
    widths = [max(_LEAST, *map(width_of, column)) for column in zip(*cells, strict=True)]
    room = width - GAP * (len(widths) - 1)
    while (over := sum(widths) - room) > 0:
        most = max(widths)
        less = max((width for width in widths if width < most), default=_LEAST)
        widest = [at for at, width in enumerate(widths) if width == most]
        step = max(1, min(most - less, -(-over // len(widest))))
        for at in widest:
            widths[at] = max(_LEAST, most - step)
        if most <= _LEAST:
            break
    return widths


def table_rows(
    cells: Sequence[Sequence[TextRow]],
    widths: Sequence[int],
    rights: Sequence[bool],
    charset: Charset,
) -> Iterator[TextRow]:
    """Yield the rows of a table; ``rights`` are the columns that end at the right."""
    for number, row in enumerate(cells):
        wrapped = [wrap_pieces(cell, width) for cell, width in zip(row, widths, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=()):
            yield _row(parts, widths, rights)
        if not number:
            line = "─" if charset.unicode else "-"
            yield (((" " * GAP).join(line * width for width in widths), "dim"),)


def _row(parts: Sequence[TextRow], widths: Sequence[int], rights: Sequence[bool]) -> TextRow:
    pieces: list[tuple[str, Role]] = []
    for shown, width, right in zip(parts, widths, rights, strict=True):
        blank = " " * (width - width_of(shown))
        pieces += [(blank, "text"), *shown] if right else [*shown, (blank, "text")]
        pieces.append((" " * GAP, "text"))
    return tuple(piece for piece in pieces[:-1] if piece[0])
