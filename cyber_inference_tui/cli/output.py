"""Printing: data to standard output, progress and notes to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from cyber_inference_tui.terminal.stream import DIM, Terminal

CLEAR_LINE = "\r\x1b[K"
"""Back to the first column, and away with what is there (ECMA-48: EL)."""
_BAR = 24


def print_json(value: Any, *, compact: bool = False) -> None:
    """Print records, or what they are made of, as JSON: indented, or as one line."""
    import msgspec

    text = msgspec.json.encode(value)
    click.echo((text if compact else msgspec.json.format(text, indent=2)).decode())


def print_lines(lines: Iterable[str]) -> None:
    """Print finished lines in one write; whether they hold colour was decided before."""
    text = "\n".join(lines)
    if text:
        click.echo(text, color=True)


def print_note(text: str, terminal: Terminal) -> None:
    """A dim remark on standard error, such as why a list is empty."""
    click.echo(terminal.paint(text, DIM), err=True, color=True)


def bar_text(share: float, terminal: Terminal) -> str:
    """A bar for ``share`` (0 to 1) of something, and the share in percent."""
    return f"{terminal.charset.bar_text(share, _BAR)} {int(100 * share):3d} %"


class ProgressLine:
    """One line on standard error, drawn over and over; nothing at all without a terminal.

    Use it as ``with``: the line is gone at the end, however that comes.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._shown = ""

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the line away, so that something else can be said."""
        if self._shown:
            self._shown = ""
            self._write(CLEAR_LINE)

    @property
    def visible(self) -> bool:
        """Whether anybody sees it."""
        return self._terminal.interactive

    def show(self, text: str) -> None:
        """Replace the line by ``text``, cut to the terminal."""
        if self._terminal.width is None or text == self._shown:
            return
        from cyber_inference_tui.terminal.text_width import cut, plain

        self._shown = text
        text = cut(plain(text), self._terminal.width - 1, self._terminal.ellipsis)
        self._write(CLEAR_LINE + self._terminal.paint(text, DIM))

    @staticmethod
    def _write(text: str) -> None:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()
