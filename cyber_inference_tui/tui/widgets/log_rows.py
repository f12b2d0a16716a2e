"""Turns lines of a log into rows of the screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import tzinfo
from functools import lru_cache
from typing import Literal

from cyber_inference_tui.records import LogLevel, NumberedLine
from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.text_width import cut, fold, folded_count, plain, tail
from cyber_inference_tui.tui.widgets.log_window import Entry, Gap
from cyber_inference_tui.units import counted

LONGEST_LINE = 2_000
"""Maximum characters of a line that are shown, even if lines wrap."""

Role = Literal["text", "time", "debug", "warning", "error", "gap", "match"]

_LEVELS: dict[LogLevel, tuple[str, Role]] = {
    LogLevel.DEBUG: (" ", "debug"),
    LogLevel.INFO: (" ", "text"),
    LogLevel.WARNING: ("W", "warning"),
    LogLevel.ERROR: ("E", "error"),
}
_SIGN_CELLS = 2
_TIME_CELLS = 9


def line_text(line: NumberedLine) -> str:
    """Return the part of a line that is shown."""
    return plain(line.text, limit=LONGEST_LINE)


@lru_cache(maxsize=8)
def _folded(text: str, width: int) -> list[str]:
    """Cache ``fold``, which is called for each row of a line in turn."""
    return fold(text, width)


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """The format of rows.

    Times are in ``timezone``, by default the machine's. ``pattern`` is highlighted. ``gap_hint``
    ends the row for missing lines. Lines that do not wrap are scrolled by ``shift`` cells.
    """

    width: int = 80
    wrap: bool = False
    shift: int = 0
    show_time: bool = True
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

    def rows_of(self, entry: Entry) -> int:
        """Return the number of rows of an entry."""
        if not self.wrap or isinstance(entry, Gap):
            return 1
        return folded_count(line_text(entry), self.text_width)

    def pieces(self, entry: Entry, part: int, *, target: bool) -> list[tuple[str, Role]]:
        """Return row ``part`` of an entry; ``target`` puts the cursor's sign on its first row."""
        if isinstance(entry, Gap):
            hint = f": {self.gap_hint}" if self.gap_hint else ""
            text = f"{self.charset.dots} {counted(entry.count, 'line')} not shown{hint}"
            return [(" " * self.text_start + text, "gap")]
        sign, level = _LEVELS[entry.level]
        text = line_text(entry)
        if self.wrap:
            folded = _folded(text, self.text_width)
            text = folded[min(part, len(folded) - 1)]
        else:
            if self.shift and (rest := tail(text, self.shift + 1)):
                text = self.charset.ellipsis + rest
            elif self.shift:
                text = ""
            text = cut(text, self.text_width, self.charset.ellipsis)
        texts = list(self._marked(text, level))
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

    def _marked(self, text: str, level: Role) -> Iterator[tuple[str, Role]]:
        at = 0
        for match in self.pattern.finditer(text) if self.pattern else ():
            yield text[at : match.start()], level
            yield match[0], "match"
            at = match.end()
        yield text[at:], level
