"""The files of a log: segments that only grow. The number of the first line is in the name.

``ID.000000000.log`` is followed by ``ID.000131072.log``, and so on; the oldest is deleted. What a
file looks like inside: see ``log_reading``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from cyber_inference_tui.files import read_file
from cyber_inference_tui.llama.log_reading import (
    SPAN_BYTES,
    STAMP_LENGTH,
    LineFilter,
    Span,
    count_lines,
    read_lines,
    time_of,
)
from cyber_inference_tui.records import LogLevel

COUNTED_BYTES = 32 << 20
"""Bytes of files of earlier runs whose lines are counted when the service starts. The count of a
log beyond that is assumed, and its next line has a number that is too high."""

_MAX_NAME = 200
"""Bytes of a log's name. File systems allow 255, and the number and the ending need some."""
_SEGMENT = re.compile(r"(.+)\.(\d{9,18})\.log")
_FORMER = re.compile(r"(.+)\.log(\.\d)?")
_RUN = "--- starting: "
"""The start of the first line of a run."""
MAX_RUNS = 100
"""Runs of a log that are known."""
_LAST_LINES = 1_000
"""Lines of earlier runs that are searched for an error when the service starts."""


def file_stem(model_id: str) -> str:
    """Return the name of a log's files, without number: the percent-encoded id.

    So no id can name another path. The service's own log is ``service``; a model with that id gets
    another name.
    """
    name = quote(model_id, safe=" +@=,()[]", errors="surrogatepass")
    if name.startswith(".") or name == "service":
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > _MAX_NAME:
        # Percent-encoding never produces "%~", so no other id has this name.
        digest = hashlib.sha256(name.encode("ascii")).hexdigest()[:24]
        name = f"{name[: _MAX_NAME - 26]}%~{digest}"
    return name


def id_of_stem(stem: str) -> str | None:
    """Return the id whose files have this name; ``None`` = the name has only a part of it."""
    log_id = unquote(stem)
    return log_id if file_stem(log_id) == stem else None


class LogLimits(NamedTuple):
    """The size of a file in bytes, and the number of files, for each log."""

    max_size: int = 16 << 20
    keep: int = 3


class FoundFile(NamedTuple):
    """A file of an earlier run of the service; ``first`` is the number of its first line."""

    first: int
    path: Path
    size: int
    changed_at: float


class LogFiles:
    """The files of one log. One thread may append, and any may read ``spans``.

    ``found`` are its files from earlier runs. The last one is read to count its lines if it has at
    most ``counted`` bytes.
    """

    def __init__(
        self,
        directory: Path,
        stem: str,
        *,
        found: Iterable[FoundFile] = (),
        counted: int = COUNTED_BYTES,
    ) -> None:
        self._directory = directory
        self._stem = stem
        self.limits: Callable[[], LogLimits] = LogLimits
        """Returns the limits in force."""
        files = sorted(found)
        self._paths = [file.path for file in files]
        self._size: int | None = None
        """The bytes of the last file; ``None`` = the next line begins a new file."""
        self.end = 0
        """The number after the last line."""
        self.spans: tuple[Span, ...] = ()
        """The lines, oldest first; another tuple after each change."""
        self.runs: list[tuple[int, datetime]] = []
        """The first lines of earlier runs in the last file, and their times."""
        self.last_at: datetime | None = None
        self.last_error: int | None = None
        """The number of the newest error, if it is among the last lines."""
        for file in reversed(files):
            # A line has a time and a newline at least.
            after = self.spans[0].first if self.spans else file.first + file.size // STAMP_LENGTH
            self.spans = (Span(file.first, after, file.path, 0, file.size), *self.spans)
        if files:
            self.end = self.spans[-1].end
            if files[-1].size <= counted:
                with contextlib.suppress(OSError):
                    self._count_last(files[-1])

    def _count_last(self, file: FoundFile) -> None:
        # Damaged lines may be shorter than a time.
        most = file.first + file.size + 1
        parts = count_lines(Span(file.first, most, file.path, 0, file.size))
        starts = [part for part in parts if _RUN.encode() in part.read()]
        found, _ = read_lines(starts, limit=MAX_RUNS, wanted=LineFilter(texts=(_RUN,)))
        self.runs = [(line.number, line.at) for line in found if line.text.startswith(_RUN)]
        for line in read_lines(parts, limit=_LAST_LINES)[0]:
            self.last_at = line.at
            if line.level is LogLevel.ERROR:
                self.last_error = line.number
        self.spans = (*self.spans[:-1], *parts)
        self.end, self._size = parts[-1].end if parts else file.first, file.size

    @property
    def path(self) -> Path:
        """The file of the newest lines."""
        return self._paths[-1] if self._paths else self._path_of(self.end)

    def _path_of(self, first: int) -> Path:
        return self._directory / f"{self._stem}.{first:09d}.log"

    def append(self, lines: Span) -> None:
        """Write lines in memory, all or none. Blocks; raises ``OSError``."""
        limits, size = self.limits(), len(lines.data)
        is_new = self._size is None or (self._size and self._size + size > limits.max_size)
        path = self._path_of(lines.first) if is_new else self.path
        self._size = append(path, lines.data)
        if path not in self._paths:
            self._paths.append(path)
        self.end = lines.end
        self._add_span(
            Span(lines.first, lines.end, path, self._size - size, size, worst=lines.worst)
        )
        while len(self._paths) > max(1, limits.keep):
            oldest = self._paths.pop(0)
            self.spans = tuple(span for span in self.spans if span.path != oldest)
            # The lines are written, whatever happens to the oldest file.
            with contextlib.suppress(OSError):
                oldest.unlink()

    def _add_span(self, new: Span) -> None:
        """Add written lines, to the last span if it remains short."""
        spans = self.spans
        if (
            (last := spans[-1] if spans else None) is not None
            and (last.path, last.end, last.offset + last.size) == (new.path, new.first, new.offset)
            and last.size + new.size <= SPAN_BYTES
        ):
            size = last.size + new.size
            worst = None if last.worst is None else max(last.worst, new.worst or 0)
            new = Span(last.first, new.end, new.path, last.offset, size, worst=worst)
            spans = spans[:-1]
        self.spans = (*spans, new)


def append(path: Path, data: bytes) -> int:
    """Append to a file, and return its size. Raises ``OSError``; then nothing is written.

    A last line without an end gets one: the service or the machine died while it was written.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(file).st_size
        if before and os.pread(file, 1, before - 1) != b"\n":
            data = b"\n" + data
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(file, left) :]
        except OSError:
            os.ftruncate(file, before)
            if not before:
                path.unlink()
            raise
        return before + len(data)
    finally:
        os.close(file)


def find_files(directory: Path) -> dict[str, list[FoundFile]]:
    """Return the files of each log in ``directory``, by their name without number. Blocks.

    Unreadable files are left out.
    """
    found: dict[str, list[FoundFile]] = {}
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            with contextlib.suppress(OSError):
                if (match := _SEGMENT.fullmatch(path.name)) and path.is_file():
                    status = path.stat()
                    one = FoundFile(int(match[2]), path, status.st_size, status.st_mtime)
                    found.setdefault(match[1], []).append(one)
    return found


def open_logs(directory: Path, counted: int = COUNTED_BYTES) -> dict[str, LogFiles]:
    """Return the files of each log in ``directory`` by name. Blocks.

    The lines of at most ``counted`` bytes are counted, of the newest files first.
    """
    logs = {}
    lasts = sorted(
        (max(found).changed_at, stem, found) for stem, found in find_files(directory).items()
    )
    for _, stem, found in reversed(lasts):
        logs[stem] = LogFiles(directory, stem, found=found, counted=counted)
        counted -= min(counted, max(found).size)
    return logs


def open_log(directory: Path, stem: str) -> LogFiles:
    """Return the files of one log. Blocks."""
    return LogFiles(directory, stem, found=find_files(directory).get(stem, []))


def rename_former_files(directory: Path) -> None:
    """Take over the files of earlier versions, ``ID.log``, and delete their rotated ones."""
    kept = find_files(directory)
    with contextlib.suppress(OSError):
        for path in list(directory.iterdir()):
            match = _FORMER.fullmatch(path.name)
            if match is None or _SEGMENT.fullmatch(path.name):
                continue
            with contextlib.suppress(OSError):
                if time_of(read_file(path, STAMP_LENGTH).decode("ascii", "replace")) is None:
                    # Another program's file, or ours with another content.
                    continue
                if match[2] or match[1] in kept:
                    path.unlink()
                else:
                    path.rename(directory / f"{match[1]}.{0:09d}.log")
