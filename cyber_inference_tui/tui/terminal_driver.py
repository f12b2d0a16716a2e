"""The terminal's driver: no byte it sends ends the app, no character it draws shifts a row."""

from __future__ import annotations

import contextlib
import os
import re
import selectors

from rich.cells import cell_len
from textual._parser import ParseError
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

from cyber_inference_tui.terminal.text_width import is_doubtful, placed, to_column
from cyber_inference_tui.tui.terminal_input import InputFilter

_READ_BYTES = 4096
_PAUSE = 0.1
"""Seconds without a byte after which an unfinished sequence is a key of its own, as in Textual."""
_PIECE = re.compile(
    r"\x1b\[\d+;(\d+)H|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\n|\x1b|[^\x1b\n]+"
)
"""A move of the cursor with its column, another sequence, a line's end, or text."""
_PLAIN = "\x1b[0m"


class TerminalDriver(LinuxDriver):
    """Textual's driver for terminals, with filtered input and the terminal's own size."""

    def _get_terminal_size(self) -> tuple[int, int]:
        # COLUMNS and LINES, which Textual prefers, stay as they are when the window changes.
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(self.fileno)
            if columns and lines:
                return columns, lines
        return super()._get_terminal_size()

    def write(self, data: str) -> None:
        """Write ``data`` so that no character moves the texts behind it."""
        super().write(placed_frame(data) if is_doubtful(data) else data)

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except Exception as error:  # noqa: BLE001 - raised again by the app
            self._app.call_later(self._app._handle_exception, error)

    def run_input_thread(self) -> None:
        """Read, filter and hand on input until the driver stops."""
        parser = XTermParser(self._debug)
        input_filter = InputFilter()
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                paused = not selector.select(_PAUSE)
                text = (
                    input_filter.flush()
                    if paused
                    else input_filter.feed(os.read(self.fileno, _READ_BYTES))
                )
                for message in parser.feed(text) if text else ():
                    self.process_message(message)
                if paused and parser._timeout_time is not None:
                    parser._timeout_time = 0.0
                for message in parser.tick():
                    self.process_message(message)
        with contextlib.suppress(EOFError, ParseError):
            for _ in parser.feed(""):
                pass


def placed_frame(data: str) -> str:
    """Return a frame of Textual's with the columns of what follows doubtful characters."""
    pieces = [(found[0], found[1]) for found in _PIECE.finditer(data)]
    frame: list[str] = []
    column: int | None = None
    style = ""
    at = 0
    while at < len(pieces):
        piece, moved_to = pieces[at]
        at += 1
        if moved_to:
            column = int(moved_to) - 1
        elif piece == "\n":
            column = None
        elif piece[0] == "\x1b":
            style = piece
        elif column is not None:
            start, column = column, column + cell_len(piece)
            if is_doubtful(piece):
                styles, blank, at = _blank_from(pieces, at)
                text = placed(piece, start, blank=len(blank))
                if blank:
                    # The text may cover these spaces, so they come first.
                    first = [_PLAIN, to_column(column), styles, blank, _PLAIN, to_column(start)]
                    column += len(blank)
                    text = "".join([*first, style, text, _PLAIN, styles, to_column(column)])
                    style = styles
                piece = text
        frame.append(piece)
    return "".join(frame)


def _blank_from(pieces: list[tuple[str, str | None]], at: int) -> tuple[str, str, int]:
    """Return the styles and the spaces that come next, and the place behind them."""
    styles = ""
    for end in range(at, len(pieces)):
        piece = pieces[end][0]
        if not piece.strip(" "):
            return styles, piece, end + 1
        if not (piece.startswith("\x1b[") and piece.endswith("m")):
            break
        styles += piece
    return "", "", at
