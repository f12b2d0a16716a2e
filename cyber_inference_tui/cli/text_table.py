"""Render tables for a terminal: aligned, cut to its width; plain and complete in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cyber_inference_tui.terminal.columns import GAP, Cell, Column, Record, fitting
from cyber_inference_tui.terminal.stream import TONE_CODES, Terminal
from cyber_inference_tui.terminal.text_width import cells, cut, is_doubtful, placed, plain
from cyber_inference_tui.text import clean_line


def render_table(
    columns: Sequence[Column[Record, Terminal]], records: Iterable[Record], terminal: Terminal
) -> list[str]:
    """Return the lines of a table: a dim heading, then a row for each record.

    On a terminal columns are cut, and the least important left out, so that a row fits one line. A
    pipe gets all columns. Control sequences are removed from cells.
    """
    rows = [[Cell(column.title, "dim") for column in columns]]
    rows += [[_cell(column, record, terminal) for column in columns] for record in records]
    widths = [max(cells(row[at].text) for row in rows) for at in range(len(columns))]
    shown = list(range(len(columns)))
    if terminal.width is not None:
        shown = _fit(columns, widths, terminal.width)
    lines = []
    for row in rows:
        parts = []
        start = 0
        for at in shown:
            last = at == shown[-1]
            parts.append(_aligned(row[at], columns[at], start, widths[at], terminal, last=last))
            start += widths[at] + GAP
        lines.append("".join(parts).rstrip())
    return lines


def _cell(column: Column[Record, Terminal], record: Record, terminal: Terminal) -> Cell:
    cell = column.draw(record, terminal)
    if isinstance(cell, str):
        cell = Cell(cell)
    return Cell(clean_line(cell.text) if terminal.width is None else plain(cell.text), cell.tone)


def _fit(columns: Sequence[Column[Any, Any]], widths: list[int], room: int) -> list[int]:
    """Return the columns that fit; narrow ``widths`` of those that may be cut, the widest first."""
    least = [
        min(width, column.least or width) for column, width in zip(columns, widths, strict=True)
    ]
    shown = fitting(columns, least, room)
    excess = sum(widths[at] for at in shown) + GAP * (len(shown) - 1) - room
    for _ in range(excess):
        cuttable = [at for at in shown if widths[at] > least[at]]
        if not cuttable:
            break
        widths[max(cuttable, key=lambda at: widths[at])] -= 1
    return shown


def _aligned(
    cell: Cell,
    column: Column[Any, Any],
    start: int,
    width: int,
    terminal: Terminal,
    *,
    last: bool,
) -> str:
    text = cut(cell.text, width, terminal.ellipsis)
    codes = TONE_CODES[cell.tone]
    space = " " * (width - cells(text))
    before, after = (space, "") if column.right else ("", space)
    after = "" if last else after + " " * GAP
    if terminal.interactive and terminal.charset.unicode and is_doubtful(text):
        return terminal.paint(placed(before + text + after, start), *codes)
    return before + terminal.paint(text, *codes) + after
