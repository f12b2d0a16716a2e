"""Turns lines of a log into rows of the screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import tzinfo
from functools import lru_cache
from typing import Literal
from zlib import crc32

from rich.cells import cell_len

from cyber_inference_tui.records import LogLevel, NumberedLine
from cyber_inference_tui.records.logs import message_of
from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.text_width import head, plain, wrap
from cyber_inference_tui.tui.widgets.log_window import Entry, Gap
from cyber_inference_tui.units import counted

LONGEST_LINE = 2_000
"""Maximum characters of a line that are shown, even if lines wrap."""

Role = Literal[
    "text",
    "time",
    "debug",
    "warning",
    "error",
    "gap",
    "match",
    "found",
    "task0",
    "task1",
    "task2",
]
_TASKS: tuple[Role, ...] = ("task0", "task1", "task2")
_TASK = re.compile(r"\btask (\d{1,18})\b")
"""The request of a line of llama-server. Requests that run together have different shades."""

_LEVELS: dict[LogLevel, tuple[str, Role]] = {
    LogLevel.DEBUG: (" ", "debug"),
    LogLevel.INFO: (" ", "text"),
    LogLevel.WARNING: ("W", "warning"),
    LogLevel.ERROR: ("E", "error"),
}
_SIGN_CELLS = 2
_TIME_CELLS = 9


@lru_cache(maxsize=64)
def _rows(text: str, width: int) -> list[tuple[int, int]]:
    """Cache ``wrap``, which is called for each row of a line in turn."""
    return wrap(text, width)


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """The format of rows.

    Times are in ``timezone``, by default the machine's. ``as_written`` shows lines with the time
    and level that their program wrote. ``pattern`` is highlighted. ``gap_hint`` ends the row for
    missing lines. Lines that do not wrap are scrolled by ``shift`` cells.
    """

    width: int = 80
    wrap: bool = False
    shift: int = 0
    show_time: bool = True
    as_written: bool = False
    timezone: tzinfo | None = None
    pattern: re.Pattern[str] | None = None
    gap_hint: str = ""
    charset: Charset = UNICODE

    @property
    def text_start(self) -> int:
        """The cell where the text of a line begins."""
        return _SIGN_CELLS + (_TIME_CELLS if self.show_time else 0)

    @property
    def text_width(self) -> int:
        """Cells for the text, at least one wide character."""
        return max(2, self.width - self.text_start)

    def text_of(self, line: NumberedLine) -> str:
        """Return the part of a line that is shown."""
        text = line.text if self.as_written else message_of(line.text)
        return plain(text, limit=LONGEST_LINE)

    def matches(self, line: NumberedLine) -> Iterator[tuple[int, int]]:
        """Yield start and end of each match in ``text_of``; none in what the program put before."""
        if self.pattern is None:
            return
        text = self.text_of(line)
        message = message_of(line.text)
        before = len(line.text) - len(message) if self.as_written else 0
        start = before if line.text.endswith(message) else 0
        yield from (found.span() for found in self.pattern.finditer(text, start))

    def rows_of(self, entry: Entry) -> int:
        """Return the number of rows of an entry."""
        if not self.wrap or isinstance(entry, Gap):
            return 1
        text = self.text_of(entry)
        if text.isascii() and len(text) <= self.text_width:
            return 1
        return len(_rows(text, self.text_width))

    def pieces(self, entry: Entry, part: int, *, target: bool) -> list[tuple[str, Role]]:
        """Return row ``part`` of an entry; ``target`` puts the cursor's sign on its first row."""
        if isinstance(entry, Gap):
            hint = f": {self.gap_hint}" if self.gap_hint else ""
            text = f"{self.charset.dots} {counted(entry.count, 'line')} not shown{hint}"
            return [(" " * self.text_start + text, "gap")]
        sign, level = _LEVELS[entry.level]
        text = self.text_of(entry)
        before = after = ""
        if self.wrap:
            rows = _rows(text, self.text_width)
            start, end = rows[min(part, len(rows) - 1)]
        else:
            before, start, end, after = self._shown(text)
        texts = [(before, level), *self._coloured(entry, start, end, level, target), (after, level)]
        if part:
            return [(" " * self.text_start, "text"), *texts]
        sign += self.charset.cursor if target else " "
        if not self.show_time:
            return [(sign, level), *texts]
        time = entry.at.astimezone(self.timezone).strftime("%H:%M:%S ")
        if sign.isspace():
            # Joined, because each piece costs about forty bytes on the terminal.
            return [(sign + time, "time"), *texts]
        return [(sign, level), (time, "time"), *texts]

    def _shown(self, text: str) -> tuple[str, int, int, str]:
        """Return start and end of the part in sight, with what marks the cuts before and after."""
        before, start, width = "", 0, self.text_width
        if self.shift:
            hidden = head(text, self.shift + 1)
            start = len(hidden)
            if start < len(text):
                before = self.charset.ellipsis
                if cell_len(hidden) <= self.shift:  # half of a wide character
                    before, start = before + " ", start + 1
        room = width - len(before)
        rest = text[start:]
        if cell_len(rest) <= room:
            return before, start, len(text), ""
        mark = self.charset.ellipsis
        return before, start, start + len(head(rest, room - len(mark))), mark

    def _coloured(
        self, line: NumberedLine, start: int, end: int, level: Role, target: bool
    ) -> Iterator[tuple[str, Role]]:
        """Yield the text from ``start`` to ``end`` in pieces: matches, or else the tasks."""
        text = self.text_of(line)
        marks: list[tuple[int, int, Role]]
        if self.pattern is not None:
            marks = [(*span, "found" if target else "match") for span in self.matches(line)]
        elif level == "text":
            found = _TASK.finditer(text)
            marks = [(*one.span(), _task_role(one[1])) for one in found]
        else:
            marks = []
        at = start
        for first, after, role in marks:
            if after > at and first < end:
                yield text[at : max(at, first)], level
                yield text[max(at, first) : min(after, end)], role
                at = min(after, end)
        yield text[at:end], level


def _task_role(number: str) -> Role:
    """Return the shade of a task. The numbers of requests may differ by any step."""
    return _TASKS[(crc32(number.encode()) >> 16) % len(_TASKS)]
