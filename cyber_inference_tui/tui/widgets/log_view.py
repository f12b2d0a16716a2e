"""A window into a log, which follows its end or stays where the reader is."""

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
from cyber_inference_tui.tui.widgets.log_rows import RowFormat, line_text
from cyber_inference_tui.tui.widgets.log_sheet import LogSheet

WINDOW = 20_000
"""Lines kept by a view."""


class LogView(LogSheet, can_focus=True):
    """Lines of a log. At the end it follows; scrolled up it stands still and counts what comes.

    The view holds a window of at most ``window`` lines. It is *attached* while the window's end
    is the log's end. A page feeds it: ``show`` at the start and after ``EndWanted``, ``extend``
    with live lines (at most 4 times a second), ``prepend`` after ``OlderWanted``, ``append``
    after ``NewerWanted``. Before it shows another log, or the same one filtered, it is cleared.
    Lines that it has already are passed over, so that what was fetched and what came live may
    overlap.

    ``gap_hint`` ends the line that stands for missing lines, such as ``r reads them``.
    """

    KEYS_TITLE = "Log lines"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_rows(-1)", "Up", show=False, id="log.up"),
        Binding("down,j", "scroll_rows(1)", "Down", show=False, id="log.down"),
        Binding("pageup", "scroll_pages(-1)", "Page up", show=False, id="log.page-up"),
        Binding("pagedown", "scroll_pages(1)", "Page down", show=False, id="log.page-down"),
        Binding("home,g", "first", "First", show=False, id="log.first"),
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
            "t", "toggle_time", "Time", show=False, id="log.time", tooltip="show or hide the times"
        ),
    ]
    ALLOW_SELECT = False

    following: var[bool] = var(True)
    """The view sticks to the log's end."""
    new_lines: var[int] = var(0)
    """Lines that came since it stopped following: for a badge such as ``+12 new``."""
    wrap: var[bool] = var(False)
    show_time: var[bool] = var(True)
    search: var[str] = var("")
    """Marked wherever it occurs; upper and lower case are the same."""

    class _Message(Message):
        def __init__(self, view: LogView) -> None:
            super().__init__()
            self.view = view

        @property
        def control(self) -> LogView:
            """The view, for ``@on`` with a selector."""
            return self.view

    class OlderWanted(_Message):
        """The reader is at the window's first line: lines before the number ``before`` please.

        Sent once for each first line; ``prepend`` with nothing says that there are none.
        """

        def __init__(self, view: LogView, before: int) -> None:
            super().__init__(view)
            self.before = before

    class NewerWanted(_Message):
        """The reader is at the end of a detached window: lines from the number ``start`` on."""

        def __init__(self, view: LogView, start: int) -> None:
            super().__init__(view)
            self.start = start

    class EndWanted(_Message):
        """The reader wants the log's end, which a detached window has not: ``show`` it please."""

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
        # What came while the reader was elsewhere; the newest of it if it is too much.
        self._pending: deque[NumberedLine] = deque(maxlen=self._window.limit)
        self._asked_older: int | None = None
        self._asked_newer: int | None = None
        self._moving = False
        self._bar_rows = 0

    # Feeding

    def show(
        self, lines: Sequence[NumberedLine], *, at_end: bool = True, gaps: bool = True
    ) -> None:
        """Replace the window. ``at_end``: its end is the log's end, which is followed.

        ``gaps``: missing numbers are told by a line; off for lines that a search picked.
        """
        self._window.clear()
        self._gaps = gaps
        self._attached = at_end
        self._asked_older = self._asked_newer = None
        self.following = at_end
        self._window.add_newer(lines, gaps=gaps)
        self._grown()
        if at_end:
            self._resume()
        else:
            self._go(0)
        self.refresh()

    def clear(self) -> None:
        """Forget everything: another log is to be shown."""
        self._pending.clear()
        self._target = None
        self.show(())

    def extend(self, lines: Sequence[NumberedLine]) -> None:
        """New lines of the log itself, in order."""
        if not lines:
            return
        if self.following:
            self._append(lines)
            return
        limit = self._window.limit
        if len(self._pending) + len(lines) > limit:
            # Rather let the reader page through them than leave a hole.
            self._attached = False
        self._pending.extend(lines)
        self.new_lines += len(lines)

    def prepend(self, lines: Sequence[NumberedLine]) -> None:
        """Older lines, before the window; an empty sequence says that there are none."""
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
        """Newer lines, after a detached window; ``at_end`` attaches it again."""
        top = self.scroll_offset.y
        dropped = self._window.add_newer(lines, gaps=self._gaps)
        self._attached = at_end
        self._asked_newer = None
        self._grown()
        self._go(top - dropped)
        self.refresh()

    def fall_behind(self, count: int) -> None:
        """``count`` lines came that a reader who stands still was not given: they are to be had
        by ``NewerWanted``."""
        self._attached = False
        self.new_lines += count

    @property
    def given_to(self) -> int:
        """The number after the last line that was given, shown already or not."""
        return self._pending[-1].number + 1 if self._pending else self.end_number

    def ask_again(self) -> None:
        """What was asked for could not be had: the next try to scroll there may ask again."""
        self._asked_older = self._asked_newer = None

    def _append(self, lines: Sequence[NumberedLine]) -> None:
        self._window.add_newer(lines, gaps=self._gaps)
        rows = self._window.rows
        if self.show_vertical_scrollbar and self._bar_rows and 0.9 <= rows / self._bar_rows <= 1.1:
            # Neither the layout nor, to the eye, the scrollbar changes: they are passed by, as
            # painting them four times a second takes a fifth of all the bytes.
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
        """Bring the scrollbar up to date: what ``_append`` passed by."""
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
        """Stand still, where the reader is."""
        if self.following:
            self.following = False
            self._show_bar()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Leaving the end stops following it, coming back resumes."""
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
        """Scroll without taking it for the reader's wish."""
        if not self.is_attached:
            return
        self._moving = True
        try:
            self.scroll_to(y=y, animate=False, force=True)
        finally:
            self._moving = False

    def action_scroll_rows(self, rows: int) -> None:
        """Scroll by rows; at the window's ends more is asked for."""
        self.scroll_to(y=self.scroll_offset.y + rows, animate=False, force=True)
        self._at_the_ends(rows)

    def _at_the_ends(self, direction: int) -> None:
        if direction < 0:
            self._reached_top()
        else:
            self._reached_bottom()

    def action_scroll_pages(self, pages: int) -> None:
        """Scroll by screens, leaving a line for the eye."""
        self.action_scroll_rows(pages * max(1, self.size.height - 1))

    def action_first(self) -> None:
        """To the window's first line."""
        self.action_scroll_rows(-self._window.rows)

    def action_follow(self) -> None:
        """To the log's end, and stay there."""
        if self._attached:
            self._resume()
        else:
            self.post_message(self.EndWanted(self))

    def action_toggle_wrap(self) -> None:
        """Wrap long lines, or cut them."""
        self.wrap = not self.wrap

    def action_toggle_time(self) -> None:
        """Show the time of each line, or not."""
        self.show_time = not self.show_time

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """At the top there is nothing to scroll, but more may be asked for."""
        self._reached_top()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """At the end there is nothing to scroll, but it may be followed."""
        self._reached_bottom()

    def goto(self, number: int) -> bool:
        """Show the line of that number and mark it; ``False`` where the window has it not."""
        row = self._window.row_of(number)
        if row is None:
            return False
        self._target = number
        self.pause()
        self._go(row - self.size.height // 3)
        self.uncover_match(row)
        self.refresh()
        return True

    def matches(self, *, after: int | None = None, before: int | None = None) -> Iterator[int]:
        """Numbers of lines with ``search`` in them: up from ``after``, down from ``before`` or all.

        For ``n`` and ``N``: ``next(view.matches(after=number), None)``.
        """
        pattern = self._format.pattern
        if pattern is None:
            return
        lines = self._window.lines if before is None else self._window.newest_first
        for line in lines:
            if before is not None and line.number >= before:
                continue
            if after is not None and line.number <= after:
                continue
            if pattern.search(line_text(line)):
                yield line.number

    # What is held

    @property
    def lines(self) -> tuple[NumberedLine, ...]:
        """The window's lines."""
        return tuple(self._window.lines)

    @property
    def first_number(self) -> int:
        """The number of the window's first line; 0 where it is empty."""
        return self._window.first_number

    @property
    def end_number(self) -> int:
        """The number after the window's last line; 0 where it is empty."""
        return self._window.end_number

    @property
    def top_number(self) -> int:
        """The number of the first line on the screen; 0 where there is none."""
        found = self._window.at(self.scroll_offset.y)
        return found[0].number if found else 0

    @property
    def target(self) -> int | None:
        """The number of the line that ``goto`` marked."""
        return self._target

    # Painting

    def watch_search(self, search: str) -> None:
        """Mark another text."""
        pattern = re.compile(re.escape(search), re.IGNORECASE) if search else None
        self._format = replace(self._format, pattern=pattern)
        self.refresh()

    def watch_wrap(self) -> None:
        """Lines take other numbers of rows."""
        self._measure()

    def watch_show_time(self) -> None:
        """The text is as much wider or narrower."""
        self._measure()

    def on_resize(self, event: events.Resize) -> None:
        """Lines may take other numbers of rows."""
        self._measure()

    def _measure(self) -> None:
        """Measure again, with the same line at the top."""
        top = self.top_number
        # The scrollbar covers the right edge of what Textual calls the size.
        width = self.scrollable_content_region.width
        self._format = replace(
            self._format,
            width=width,
            wrap=self.wrap,
            show_time=self.show_time,
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
