"""Print data to standard output, progress and notes to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from cyber_inference_tui.terminal.stream import DIM, Terminal
from cyber_inference_tui.text import clean_line, escaped_json

CLEAR_LINE = "\r\x1b[K"
"""Move to the first column and erase the line (ECMA-48: EL)."""
_BAR = 24


def print_json(value: Any, *, compact: bool = False) -> None:
    """Print records or plain values as JSON: indented, or on one line if ``compact``."""
    import msgspec

    text = msgspec.json.encode(value)
    click.echo(escaped_json((text if compact else msgspec.json.format(text, indent=2)).decode()))


def print_line(text: str) -> None:
    """Print a line that contains names from outside."""
    click.echo(clean_line(text))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines in one write; they contain their colour codes already."""
    text = "\n".join(lines)
    if text:
        click.echo(text, color=True)


def print_note(text: str, terminal: Terminal) -> None:
    """Print a dim note to standard error, such as why a list is empty."""
    click.echo(terminal.paint(text, DIM), err=True, color=True)


def confirm(question: str, terminal: Terminal, *, yes: bool = False) -> None:
    """Ask a question on standard error unless ``yes``.

    Raises ``click.Abort`` if the answer is not yes, ``UsageError`` if there is no terminal.
    """
    if yes:
        return
    if not terminal.interactive:
        raise click.UsageError("There is no terminal to ask on: give --yes.")
    answer = click.prompt(f"{question} [y/N]", default="", show_default=False, err=True)
    if answer.strip().casefold() not in {"y", "yes"}:
        raise click.Abort


def bar_text(share: float, terminal: Terminal) -> str:
    """Return a bar for ``share`` (0 to 1), and the share in percent."""
    return f"{terminal.charset.bar_text(share, _BAR)} {int(100 * share):3d} %"


class ProgressLine:
    """One line on standard error that is redrawn in place; without a terminal it is never shown.

    Use it as ``with``: the line is erased at the end.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._shown = ""

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Erase the line before other output."""
        if self._shown:
            self._shown = ""
            self._write(CLEAR_LINE)

    @property
    def visible(self) -> bool:
        """True on a terminal."""
        return self._terminal.interactive

    def show(self, text: str) -> None:
        """Replace the line by ``text``, cut to the terminal's width."""
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
