"""Tables for a terminal: aligned by what the eye sees, cut to the width, plain in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from cyber_inference_tui.terminal.stream import DIM, Terminal
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.text import clean_line

GAP = "  "


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. ``least`` is how narrow it may be cut (0: never cut).

    Columns with a high ``rank`` go first when even cutting is not enough; rank 0 never goes.
    """

    title: str
    right: bool = False
    least: int = 0
    rank: int = 0


@dataclass(frozen=True)
class Cell:
    """A cell's text and the SGR codes it is painted with."""

    text: str
    codes: tuple[str, ...] = ()


def render_table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], terminal: Terminal
) -> list[str]:
    """The lines of a table: a dim heading, then the rows.

    On a terminal columns are cut and, at last, left out so that a row fits one line. A pipe
    gets everything. Cells are cleaned of control sequences.
    """
    clean = clean_line if terminal.width is None else plain
    table = [[Cell(clean(cell.text), cell.codes) for cell in row] for row in rows]
    table.insert(0, [Cell(column.title, (DIM,)) for column in columns])
    widths = [max(cell_len(row[at].text) for row in table) for at in range(len(columns))]
    shown = list(range(len(columns)))
    if terminal.width is not None:
        shown = _fit(columns, widths, terminal.width)
    lines = []
    for row in table:
        parts = [
            _aligned(row[at], columns[at], widths[at], terminal, last=at == shown[-1])
            for at in shown
        ]
        lines.append(GAP.join(parts).rstrip())
    return lines


def _fit(columns: Sequence[Column], widths: list[int], room: int) -> list[int]:
    """The columns to show; narrows ``widths`` of those that may be cut, the widest first."""
    shown = list(range(len(columns)))

    def excess() -> int:
        return sum(widths[at] for at in shown) + len(GAP) * (len(shown) - 1) - room

    def slack(at: int) -> int:
        return max(0, widths[at] - columns[at].least) if columns[at].least else 0

    while excess() > sum(slack(at) for at in shown):
        last = max(shown, key=lambda at: (columns[at].rank, at))
        if columns[last].rank == 0:
            break
        shown.remove(last)
    while excess() > 0:
        cuttable = [at for at in shown if slack(at)]
        if not cuttable:
            break
        widest = max(cuttable, key=lambda at: widths[at])
        widths[widest] -= 1
    return shown


def _aligned(cell: Cell, column: Column, width: int, terminal: Terminal, *, last: bool) -> str:
    text = cut(cell.text, width, terminal.ellipsis)
    fill = " " * (width - cell_len(text))
    painted = terminal.paint(text, *cell.codes)
    if column.right:
        return fill + painted
    return painted if last else painted + fill
