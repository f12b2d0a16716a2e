"""A window into a log that follows its end, or stays where the user reads."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import tzinfo
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import var

from cyber_inference_tui.records import NumberedLine
from cyber_inference_tui.terminal.charset import UNICODE, Charset
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.widgets.log_rows import RowFormat
from cyber_inference_tui.tui.widgets.log_sheet import LogSheet

WINDOW = 20_000
"""Maximum lines of a view."""


class LogView(LogSheet, can_focus=True):
    """Shows lines of a log. At the end it follows; scrolled up it pauses and counts new lines.

    The view has a window of at most ``window`` lines. It is *attached* while the window's end is
    the log's end. A page feeds it: ``show`` at the start and after ``FirstWanted`` or
    ``EndWanted``, ``extend`` with live lines (at most 4 times per second), ``prepend`` after
    ``OlderWanted``, ``append`` after ``NewerWanted``. Clear it before it shows another log, and
    ``forget_new`` before other lines of the same log. It ignores lines that it has already, so that
    lines that were read and live lines may overlap.

    ``gap_hint`` ends the row for missing lines, such as ``r reads them``.
    """

    KEYS_TITLE = "Log lines"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_rows(-1)", "Up", show=False, id="log.up"),
        Binding("down,j", "scroll_rows(1)", "Down", show=False, id="log.down"),
        Binding("pageup", "scroll_pages(-1)", "Page up", show=False, id="log.page-up"),
        Binding("pagedown", "scroll_pages(1)", "Page down", show=False, id="log.page-down"),
        Binding(
            "home,g",
            "first",
            "First",
            show=False,
            id="log.first",
            tooltip="go to the first line of the log",
        ),
        Binding(
            "end,G",
            "follow",
            "Follow",
            show=False,
            id="log.follow",
            tooltip="follow the end of the log",
        ),
        Binding(
            "left", "shift(-1)", "Left", show=False, id="log.left", tooltip="scroll cut lines left"
        ),
        Binding(
            "right", "shift(1)", "Right", show=False, id="log.right", tooltip="scroll cut lines"
        ),
        Binding("w", "toggle_wrap", "Wrap", id="log.wrap", tooltip="wrap or cut long lines"),
        Binding(
            "t",
            "toggle_time",
            "Time",
            show=False,
            id="log.time",
            tooltip="the time, no time, or lines as their program wrote them",
        ),
    ]
    ALLOW_SELECT = False

    following: var[bool] = var(True)
    """The view follows the end of the log."""
    new_lines: var[int] = var(0)
    """Lines that came since the pause, for a badge such as ``+12 new``."""
    wrap: var[bool] = var(False)
    show_time: var[bool] = var(True)
    as_written: var[bool] = var(False)
    """Show lines with the time and level that their program wrote, instead of our time."""
    search: var[str] = var("")
    """Text to highlight; case is ignored."""

    class _Message(Message):
        def __init__(self, view: LogView) -> None:
            super().__init__()
            self.view = view

        @property
        def control(self) -> LogView:
            """The view, for ``@on`` with a selector."""
            return self.view

    class OlderWanted(_Message):
        """Posted at the window's first line: the page reads lines before the number ``before``.

        It is posted once for each first line. ``prepend`` with no lines means that there are none.
        """

        def __init__(self, view: LogView, before: int) -> None:
            super().__init__(view)
            self.before = before

    class NewerWanted(_Message):
        """Posted at the end of a detached window: the page reads lines from ``start`` on."""

        def __init__(self, view: LogView, start: int) -> None:
            super().__init__(view)
            self.start = start

    class FirstWanted(_Message):
        """Posted when the view should show the first line of the log."""

    class EndWanted(_Message):
        """Posted when a detached window should show the end of the log."""

    def __init__(
        self,
        *,
        window: int = WINDOW,
        timezone: tzinfo | None = None,
        empty: str = "",
        gap_hint: str = "",
        charset: Charset = UNICODE,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        form = RowFormat(timezone=timezone, gap_hint=plain(gap_hint), charset=charset)
        super().__init__(form, window, empty, id=id, classes=classes)
        self._gaps = True
        self._attached = True
        # Lines that came during a pause; only the newest ones if there are too many.
        self._pending: deque[NumberedLine] = deque(maxlen=self._window.limit)
        self._asked_older: int | None = None
        self._asked_newer: int | None = None
        self._moving = False
        self._bar_rows = 0

    # Feeding

    def show(
        self,
        lines: Sequence[NumberedLine],
        *,
        at_end: bool = True,
        gaps: bool = True,
        top: int | None = None,
    ) -> None:
        """Replace the window. ``at_end``: its end is the log's end, and the view follows it.

        With ``top`` it does not follow, and begins at the line with this number or the next one.
        ``gaps`` shows a row for missing numbers; off for lines of a filtered log.
        """
        self._window.clear()
        self._gaps = gaps
        self._attached = at_end
        self._asked_older = self._asked_newer = None
        self.following = at_end and top is None
        self._window.add_newer(lines, gaps=gaps)
        self._grown()
        if self.following:
            self._resume()
        else:
            self._go(0 if top is None else self._window.row_from(top))
        self.refresh()

    def clear(self) -> None:
        """Remove all lines, to show another log."""
        self._pending.clear()
        self._target = None
        self.show(())

    def forget_new(self) -> None:
        """Drop the new lines of a pause."""
        self._pending.clear()
        self.new_lines = 0

    def extend(self, lines: Sequence[NumberedLine]) -> None:
        """Add live lines in order."""
        if not lines:
            return
        if self.following:
            self._append(lines)
            return
        limit = self._window.limit
        if len(self._pending) + len(lines) > limit:
            # Detach, so that the user pages through them and no line is missing.
            self._attached = False
        self._pending.extend(lines)
        self.new_lines += len(lines)

    def prepend(self, lines: Sequence[NumberedLine]) -> None:
        """Add older lines before the window; no lines means that there are none."""
        top = self.scroll_offset.y
        if self.following:
            lines = lines[max(0, len(lines) - (self._window.limit - len(self._window))) :]
        added = self._window.add_older(lines, gaps=self._gaps)
        if not added:
            return
        if not self.following and self._window.trim_end():
            self._attached = False
        self._grown()
        self._go(self.max_scroll_y if self.following else top + added)
        self.refresh()

    def append(self, lines: Sequence[NumberedLine], *, at_end: bool) -> None:
        """Add newer lines after a detached window; ``at_end`` attaches it again."""
        top = self.scroll_offset.y
        dropped = self._window.add_newer(lines, gaps=self._gaps)
        self._attached = at_end
        self._asked_newer = None
        self._grown()
        self._go(top - dropped)
        self.refresh()

    def fall_behind(self, count: int) -> None:
        """Count ``count`` new lines of a pause that the page has to read after ``NewerWanted``."""
        self._attached = False
        self.new_lines += count

    @property
    def next_number(self) -> int:
        """The number after the last line that was added, visible or not."""
        return self._pending[-1].number + 1 if self._pending else self.end_number

    def allow_requests(self) -> None:
        """Allow the requests for older and newer lines to be posted again after a failure."""
        self._asked_older = self._asked_newer = None

    def _append(self, lines: Sequence[NumberedLine]) -> None:
        self._window.add_newer(lines, gaps=self._gaps)
        rows = self._window.rows
        if self.show_vertical_scrollbar and self._bar_rows and 0.9 <= rows / self._bar_rows <= 1.1:
            # The layout and the visible scrollbar stay the same. Skip them, because painting
            # them four times per second costs a fifth of all bytes.
            self.set_reactive(LogView.virtual_size, Size(1, rows))
            self.set_reactive(LogView.scroll_y, float(self.max_scroll_y))
            self.set_reactive(LogView.scroll_target_y, float(self.max_scroll_y))
            self.refresh(Region(0, 0, self.scrollable_content_region.width, self.size.height))
            return
        self._grown()
        self._go(self.max_scroll_y)
        self.refresh()

    def _grown(self) -> None:
        self._bar_rows = self._window.rows
        self.virtual_size = Size(1, self._window.rows)

    def _show_bar(self) -> None:
        """Update the scrollbar, which ``_append`` may have skipped."""
        self._bar_rows = self._window.rows
        if self.show_vertical_scrollbar:
            self.vertical_scrollbar.window_virtual_size = self._bar_rows
            self.vertical_scrollbar.position = self.scroll_y

    # Following

    def _resume(self) -> None:
        pending = tuple(self._pending)
        self._pending.clear()
        self.following = True
        self.new_lines = 0
        self._append(pending)

    def pause(self) -> None:
        """Stop following, at the present line."""
        if self.following:
            self.following = False
            self._show_bar()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Pause when the user leaves the end, and follow again when they return."""
        super().watch_scroll_y(old_value, new_value)
        if self._moving or round(old_value) == round(new_value):
            return
        if new_value > old_value:
            self._reached_bottom()
        else:
            self._pause_if_away()
            self._reached_top()

    def _pause_if_away(self) -> None:
        if self.scroll_offset.y < self.max_scroll_y:
            self.pause()

    def _reached_top(self) -> None:
        first = self.first_number
        if self.scroll_offset.y == 0 and first and self._asked_older != first:
            self._asked_older = first
            self.post_message(self.OlderWanted(self, first))

    def _reached_bottom(self) -> None:
        if self.following or self.scroll_offset.y < self.max_scroll_y:
            return
        if self._attached:
            self._resume()
        elif self._asked_newer != self.end_number:
            self._asked_newer = self.end_number
            self.post_message(self.NewerWanted(self, self.end_number))

    # Moving

    def _go(self, y: int) -> None:
        """Scroll without pausing or resuming."""
        if not self.is_attached:
            return
        self._moving = True
        try:
            self.scroll_to(y=y, animate=False, force=True)
        finally:
            self._moving = False

    def action_scroll_rows(self, rows: int) -> None:
        """Scroll by rows; at an end of the window, ask for more lines."""
        self.scroll_to(y=self.scroll_offset.y + rows, animate=False, force=True)
        self._at_the_ends(rows)

    def _at_the_ends(self, direction: int) -> None:
        if direction < 0:
            self._reached_top()
        else:
            self._reached_bottom()

    def action_scroll_pages(self, pages: int) -> None:
        """Scroll by screens less one line."""
        self.action_scroll_rows(pages * max(1, self.size.height - 1))

    def action_first(self) -> None:
        """Go to the first line of the log."""
        if self.first_number:
            self._asked_older = self.first_number  # the first lines may be far before these
            self.post_message(self.FirstWanted(self))
        self.action_scroll_rows(-self._window.rows)

    def action_follow(self) -> None:
        """Go to the end of the log and follow it."""
        if self._attached:
            self._resume()
        else:
            self.post_message(self.EndWanted(self))

    def action_toggle_wrap(self) -> None:
        """Wrap long lines, or cut them."""
        self.wrap = not self.wrap

    def action_toggle_time(self) -> None:
        """Show the times, no times, or the lines as their program wrote them."""
        self.show_time, self.as_written = (
            not self.show_time and self.as_written,
            not self.show_time and not self.as_written,
        )

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Ask for older lines at the top, where nothing scrolls."""
        self._reached_top()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Follow or ask for newer lines at the end, where nothing scrolls."""
        self._reached_bottom()

    def goto(self, number: int) -> bool:
        """Show and mark the line with this number; ``False`` if the window does not have it."""
        row = self._window.row_of(number)
        if row is None:
            return False
        self._target = number
        self.pause()
        self._go(row - self.size.height // 3)
        self.scroll_to_match(row)
        self.refresh()
        return True

    def matches(self) -> Iterator[int]:
        """Yield the numbers of the lines with a match."""
        for line in self._window.lines:
            if next(self._format.matches(line), None) is not None:
                yield line.number

    # Contents

    @property
    def lines(self) -> tuple[NumberedLine, ...]:
        """The window's lines."""
        return tuple(self._window.lines)

    @property
    def first_number(self) -> int:
        """The number of the window's first line; 0 if it is empty."""
        return self._window.first_number

    @property
    def end_number(self) -> int:
        """The number after the window's last line; 0 if it is empty."""
        return self._window.end_number

    @property
    def top_number(self) -> int:
        """The number of the first visible line; 0 if there is none."""
        found = self._window.at(self.scroll_offset.y)
        return found[0].number if found else 0

    @property
    def target(self) -> int | None:
        """The number of the line that ``goto`` marked, while it is in sight."""
        row = None if self._target is None else self._window.row_of(self._target)
        top = self.scroll_offset.y
        return self._target if row is not None and top <= row < top + self.size.height else None

    # Painting

    def watch_search(self, search: str) -> None:
        """Highlight another text."""
        pattern = re.compile(re.escape(search), re.IGNORECASE) if search else None
        self._format = replace(self._format, pattern=pattern)
        self.refresh()

    def watch_wrap(self) -> None:
        """Measure the lines again."""
        self._measure()

    def watch_show_time(self) -> None:
        """Measure the lines again, as the width of the text changes."""
        self._measure()

    def watch_as_written(self) -> None:
        """Measure the lines again, as their text changes."""
        self._measure()

    def on_resize(self, event: events.Resize) -> None:
        """Measure the lines again for the new size."""
        self._measure()

    def _measure(self) -> None:
        """Measure all lines, and keep the same line at the top."""
        top = self.top_number
        # Textual's size includes the scrollbar.
        width = self.scrollable_content_region.width
        self._format = replace(
            self._format,
            width=width,
            wrap=self.wrap,
            show_time=self.show_time,
            as_written=self.as_written,
            shift=0 if self.wrap else self._format.shift,
        )
        self._window.measure()
        self._grown()
        row = self._window.row_of(top)
        if self.following:
            self._go(self.max_scroll_y)
        elif row is not None:
            self._go(row)
        self.refresh()
