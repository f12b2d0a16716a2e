"""The standard streams of a command, which may be full, closed or of a narrow encoding."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


STANDARD_OUTPUT = "Standard output"
"""The filename in errors of standard output."""


class _Output(io.FileIO):
    """Standard output: its errors say that it failed, as errors of files name theirs."""

    def write(self, data: ReadableBuffer) -> int:
        """Write bytes. Raises ``OSError`` with a filename."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = STANDARD_OUTPUT
            raise


class _Notes(io.FileIO):
    """Standard error: what cannot be written is lost, because there is no place to say so."""

    def write(self, data: ReadableBuffer) -> int:
        """Write bytes, or do nothing."""
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def prepare_streams() -> None:
    """Replace the standard streams by ours; "?" takes the place of characters they cannot write."""
    sys.stdout = _prepared(sys.stdout, _Output)
    sys.stderr = _prepared(sys.stderr, _Notes)


def _prepared(stream: TextIO, kind: type[io.FileIO]) -> TextIO:
    # A closed stream is None, and a test's is not a file.
    if type(stream) is not io.TextIOWrapper:
        return stream
    raw = kind(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def discard_stdout() -> None:
    """Point standard output to ``/dev/null``, so that Python's flush at exit does not fail."""
    with contextlib.suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
