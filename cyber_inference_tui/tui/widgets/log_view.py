"""A window into a log, which follows its end or stays where the reader is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo

from textual.message import Message
from textual.reactive import var
from textual.scroll_view import ScrollView

from cyber_inference_tui.records import NumberedLine
from cyber_inference_tui.tui.charset import UNICODE, Charset

WINDOW = 20_000
"""Lines kept by a view."""


class LogView(ScrollView, can_focus=True):
    """Lines of a log. At the end it follows; scrolled up it stands still and counts what comes.

    Keys: j k arrows PgUp PgDn g Home scroll, G End follow again, w wraps, t shows the time.

    The view holds a window of at most ``window`` lines. It is *attached* while the window's end is
    the log's end. A page feeds it: ``show`` at the start and after ``EndWanted``, ``extend`` with
    live lines (at most 4 times a second), ``prepend`` after ``OlderWanted``, ``append`` after
    ``NewerWanted``.
    """

    following: var[bool] = var(True)
    """The view sticks to the log's end."""
    new_lines: var[int] = var(0)
    """Lines that came since it stopped following: for a badge such as ``+12 new``."""
    wrap: var[bool] = var(False)
    show_time: var[bool] = var(True)
    search: var[str] = var("")
    """Marked wherever it occurs; upper and lower case are the same."""

    class FollowChanged(Message):
        """``following`` or ``new_lines`` is another than before."""

        def __init__(self, view: LogView, following: bool, new_lines: int) -> None:
            super().__init__()
            self.view = view
            self.following = following
            self.new_lines = new_lines

    class OlderWanted(Message):
        """The reader is at the window's first line: lines before the number ``before`` please."""

        def __init__(self, view: LogView, before: int) -> None:
            super().__init__()
            self.view = view
            self.before = before

    class NewerWanted(Message):
        """The reader is at the end of a detached window: lines from the number ``start`` on."""

        def __init__(self, view: LogView, start: int) -> None:
            super().__init__()
            self.view = view
            self.start = start

    class EndWanted(Message):
        """The reader wants the log's end, which a detached window has not: ``show`` it please."""

        def __init__(self, view: LogView) -> None:
            super().__init__()
            self.view = view

    def __init__(
        self,
        *,
        window: int = WINDOW,
        timezone: tzinfo | None = None,
        empty: str = "",
        charset: Charset = UNICODE,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)

    def show(
        self, lines: Sequence[NumberedLine], *, at_end: bool = True, gaps: bool = True
    ) -> None:
        """Replace the window. ``at_end``: its end is the log's end, which is followed.

        ``gaps``: missing numbers are told by a line; off for lines that a search picked.
        """
        raise NotImplementedError

    def extend(self, lines: Sequence[NumberedLine]) -> None:
        """New lines of the log itself, in order."""
        raise NotImplementedError

    def prepend(self, lines: Sequence[NumberedLine]) -> None:
        """Older lines, before the window; an empty sequence says that there are none."""
        raise NotImplementedError

    def append(self, lines: Sequence[NumberedLine], *, at_end: bool) -> None:
        """Newer lines, after a detached window; ``at_end`` attaches it again."""
        raise NotImplementedError

    def goto(self, number: int) -> bool:
        """Show the line of that number and mark it; ``False`` where the window has it not."""
        raise NotImplementedError

    def matches(self, *, after: int | None = None, before: int | None = None) -> Iterator[int]:
        """Numbers of lines with ``search`` in them, away from ``after`` (up) or ``before`` (down).

        For ``n`` and ``N``: ``next(view.matches(after=number), None)``.
        """
        raise NotImplementedError

    @property
    def lines(self) -> tuple[NumberedLine, ...]:
        """The window's lines."""
        raise NotImplementedError

    @property
    def first_number(self) -> int:
        """The number of the window's first line; 0 where it is empty."""
        raise NotImplementedError

    @property
    def end_number(self) -> int:
        """The number after the window's last line; 0 where it is empty."""
        raise NotImplementedError

    @property
    def top_number(self) -> int:
        """The number of the first line on the screen; 0 where there is none."""
        raise NotImplementedError
