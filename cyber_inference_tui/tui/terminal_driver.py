"""Textual's driver: no byte of a terminal and no stop breaks it, no character shifts a row."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Callable
from threading import Event
from typing import Any

from textual._parser import ParseError
from textual._xterm_parser import XTermParser
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver

from cyber_inference_tui.terminal.desktop import Desktop
from cyber_inference_tui.tui.frames import short_frame
from cyber_inference_tui.tui.terminal_input import InputFilter

_READ_BYTES = 4096
_PAUSE = 0.1
"""Seconds without a byte after which an unfinished sequence is a key of its own, as in Textual."""


class TerminalDriver(LinuxDriver):
    """Textual's driver for terminals: it filters input, uses the terminal's own size, and sets up
    the terminal and repaints after every stop of the process."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._desktop = Desktop.of(os.environ)
        self._state: tuple[str, int | None] | None = None
        """The title and the progress that the terminal shows; ``None`` if they are not ours."""

    def notify(self, title: str, text: str) -> None:
        """Show a notice on the desktop."""
        if self._is_set_up:
            super().write(self._desktop.notice(title, text))

    def show_state(self, title: str, percent: int | None) -> None:
        """Show a title and progress, until the terminal is given back."""
        before = self._state
        if not self._is_set_up or before == (title, percent):
            return
        self._state = title, percent
        text = "" if before is not None else self._desktop.keep_title
        if before is None or before[0] != title:
            text += self._desktop.title(title)
        if (before[1] if before is not None else None) != percent:
            text += self._desktop.progress_bar(percent)
        if text:
            super().write(text)

    def stop_application_mode(self) -> None:
        """Give the terminal back, with its own title."""
        before, self._state = self._state, None
        if before is not None and self._is_set_up:
            ends = self._desktop.progress_bar(None) if before[1] is not None else ""
            super().write(ends + self._desktop.restore_title)
        super().stop_application_mode()

    def _get_terminal_size(self) -> tuple[int, int]:
        # COLUMNS and LINES, which Textual prefers, stay as they are when the window changes.
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(self.fileno)
            if columns and lines:
                return columns, lines
        return super()._get_terminal_size()

    def write(self, data: str) -> None:
        """Write ``data`` in few bytes, and so that no character moves the texts behind it."""
        super().write(short_frame(data))

    def _sigtstp_application(self, *_: object) -> None:
        if self._has_terminal:
            # The signal may have interrupted a write, which has to end first.
            self._loop.call_soon_threadsafe(self._suspend)
        else:
            self._stop_process()

    def _sigcont_application(self, *_: object) -> None:
        if self._has_terminal:
            self._loop.call_soon_threadsafe(self._set_up_again)

    @property
    def _has_terminal(self) -> bool:
        """The app runs, and no editor has the terminal."""
        return self._auto_restart and self._loop.is_running()

    def _suspend(self) -> None:
        """Give the terminal back, and stop until a shell continues the process."""
        self.suspend_application_mode()
        self._stop_process()
        # SIGCONT does that too, but does not come if the process was not stopped.
        self._loop.call_soon(self._set_up_again, False)

    def _stop_process(self) -> None:
        # The default action does not stop a process that no shell could continue.
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._sigtstp_application)

    def _set_up_again(self, always: bool = True) -> None:
        """Set up the terminal after a stop, in which other programs have used it.

        Unless ``always``, do nothing if it is set up.
        """
        if self._is_set_up:
            if not always:
                return
            # Stopped by SIGSTOP, without the time to give the terminal back.
            self.suspend_application_mode()
        self._must_signal_resume = True
        self.resume_application_mode()

    @property
    def _is_set_up(self) -> bool:
        return self._writer_thread is not None and self._writer_thread.is_alive()

    def _read(self) -> bytes:
        """Read input. If the terminal is gone, end the process as SIGHUP does.

        The signal itself reaches only programs that have a controlling terminal and do not ignore
        it. Without a terminal, the app would draw forever for nobody.
        """
        with contextlib.suppress(OSError):
            if data := os.read(self.fileno, _READ_BYTES):
                return data
        os._exit(128 + signal.SIGHUP)

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except Exception as error:  # noqa: BLE001 - raised again by the app
            self._app.call_later(self._app._handle_exception, error)

    def run_input_thread(self) -> None:
        """Read, filter and hand on input until the driver stops."""
        follow_input(self, self.fileno, self.exit_event, lambda accepts: accepts.feed(self._read()))


def follow_input(
    driver: Driver, fileno: int, stopped: Event, typed: Callable[[InputFilter], str]
) -> None:
    """Hand on the input of ``driver`` until it is ``stopped``.

    Once ``fileno`` has bytes, ``typed`` reads them and returns their filtered text.
    """
    parser = XTermParser(driver._debug)
    input_filter = InputFilter()
    with selectors.SelectSelector() as selector:
        selector.register(fileno, selectors.EVENT_READ)
        while not stopped.is_set():
            paused = not selector.select(_PAUSE)
            text = input_filter.flush() if paused else typed(input_filter)
            for message in parser.feed(text) if text else ():
                driver.process_message(message)
            if paused and parser._timeout_time is not None:
                parser._timeout_time = 0.0
            for message in parser.tick():
                driver.process_message(message)
    with contextlib.suppress(EOFError, ParseError):
        for _ in parser.feed(""):
            pass
