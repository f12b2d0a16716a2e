"""Textual's driver for a tab of a browser, with the input and the rows of the terminal's."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from textual.drivers._byte_stream import ByteStream
from textual.drivers.web_driver import WebDriver

from cyber_inference_tui.tui.frames import short_frame
from cyber_inference_tui.tui.terminal_driver import follow_input
from cyber_inference_tui.tui.terminal_input import InputFilter

_READ_BYTES = 65536


class BrowserDriver(WebDriver):
    """A driver that exchanges packets with the server of the page on stdin and stdout."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._packets = ByteStream()

    def write(self, data: str) -> None:
        """Write ``data`` in few bytes, and so that no character moves the texts behind it."""
        super().write(short_frame(data))

    def stop_application_mode(self) -> None:
        """Say that the app has ended, if somebody still listens."""
        with contextlib.suppress(OSError):
            super().stop_application_mode()

    def run_input_thread(self) -> None:
        """Read packets and hand on their input until the driver stops."""
        try:
            follow_input(self, 0, self.exit_event, self._typed)
        except Exception as error:  # noqa: BLE001 - raised again by the app
            self._app.call_later(self._app._handle_exception, error)

    def _typed(self, input_filter: InputFilter) -> str:
        """Return the text of the next packets. If their sender is gone, end the process."""
        data = os.read(0, _READ_BYTES)
        if not data:
            os._exit(128 + signal.SIGHUP)
        text = ""
        for kind, payload in self._packets.feed(data):
            if kind == "D":
                text += input_filter.feed(payload)
            else:
                self._on_meta(kind, payload)
        return text
