"""The service's own log: to stderr, into its ring and its file, from the standard logging."""

from __future__ import annotations

import logging
import sys

from cyber_inference_tui.llama.log import LogRing

_FORMAT = "%(levelname).1s %(name)s: %(message)s"


class RingHandler(logging.Handler):
    """Puts log records into a ring. Records come from the event loop's thread and from workers;
    the ring's listeners belong to the loop, so worker records are handed over to it.
    """

    def __init__(self, ring: LogRing) -> None:
        super().__init__()
        self._ring = ring
        self.setFormatter(logging.Formatter(_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record; a traceback becomes one line each."""
        try:
            self._ring.add(self.format(record).splitlines())
        except Exception:  # noqa: BLE001 - a log call must never raise; logging reports it
            self.handleError(record)


def configure_logging(level: str, ring: LogRing) -> logging.Handler:
    """Send the program's log records to stderr and the ring; the handler to remove at the end."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    logging.getLogger("cyber_inference_tui").setLevel(level.upper())
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter(f"%(asctime)s {_FORMAT}", "%H:%M:%S"))
    handler = RingHandler(ring)
    root.handlers[:] = [terminal, handler]
    return handler
