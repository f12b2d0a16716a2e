"""Read a terminal's keys so that no byte it sends can end the app."""

from __future__ import annotations

import contextlib
import os
import selectors

from textual._parser import ParseError
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

from cyber_inference_tui.tui.terminal_input import InputFilter

_READ_BYTES = 4096
_PAUSE = 0.1
"""Seconds without a byte after which an unfinished sequence is a key of its own, as in Textual."""


class TerminalDriver(LinuxDriver):
    """Textual's driver for terminals, with filtered input and the terminal's own size."""

    def _get_terminal_size(self) -> tuple[int, int]:
        # COLUMNS and LINES, which Textual prefers, stay as they are when the window changes.
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(self.fileno)
            if columns and lines:
                return columns, lines
        return super()._get_terminal_size()

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
