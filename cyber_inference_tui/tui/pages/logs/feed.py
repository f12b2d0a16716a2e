"""The lines of a log on the Logs page, read from the service."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, cast

import msgspec
from textual import events, on
from textual.scrollbar import ScrollTo
from textual.timer import Timer

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError, NoServiceError
from cyber_inference_tui.records import LogEvent, LogLevel, NumberedLine, endpoints
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.pages.logs.matches import Matches
from cyber_inference_tui.tui.pages.logs.reader import MATCHES, PAGE_LINES, LogReader
from cyber_inference_tui.tui.pages.logs.title import PaneState, empty_text
from cyber_inference_tui.tui.widgets.log_view import LogView

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

At = Callable[[str], tuple[ServiceClient, str]]

FLUSH_SECONDS = 0.25
REMARK_SECONDS = 5.0
_WAITING_LINES = 20_000


class LogFeed(LogView):
    """A view that reads its log between ``start_reading`` and ``stop_reading``.

    ``at`` returns the client of a log's box, and its id there.

    It follows, searches and filters the log, and calls ``on_change`` when its ``state`` changes.
    """

    def __init__(self, at: At, source: str, on_change: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._at = at
        self._source = source
        self._client, there = at(source)
        self._on_change = on_change
        self._reader = LogReader(self._client, there)
        self._waiting: list[NumberedLine] = []
        self._expected: int | None = None
        """The number of the next live line."""
        self._matches: Matches | None = None
        self._found: deque[int] = deque(maxlen=MATCHES)
        """Numbers of live lines that match; some may have come while the service counted."""
        self._visited: int | None = None
        """The match that the search went to."""
        self._anchor: int | None = None
        """The line that was at the top before the selection changed, until the user moves."""
        self._problem = ""
        self._remark = ""
        self._forget: Timer | None = None
        self._reading = False
        self._shown = asyncio.Event()
        """The first lines are shown, or why there are none."""
        self._service_pid: int | None = None
        """Process id of the service that sent the lines."""
        self._former = False
        """The lines are from a service process that has ended."""

    @property
    def _cyber(self) -> CyberApp:
        return cast("CyberApp", self.app)

    @property
    def source(self) -> str:
        """The id of the log."""
        return self._source

    @property
    def reader(self) -> LogReader:
        """The reader of the log."""
        return self._reader

    @property
    def state(self) -> PaneState:
        """The state for the title."""
        return PaneState(
            source=self.source,
            level=self._reader.level,
            only=self._reader.only,
            search=self.search,
            place=self._matches.place(self._visited) if self._matches is not None else "",
            following=self.following,
            new_lines=self.new_lines,
            former=self._former,
            remark=self._remark,
            problem=self._problem,
        )

    def on_mount(self) -> None:
        """Start reading."""
        self.set_interval(FLUSH_SECONDS, self._flush)
        self.start_reading()

    # Following

    def open(self, source: str) -> None:
        """Show another log."""
        if source != self.source:
            self._source, self._service_pid = source, None
            self._client, there = self._at(source)
            self._reader = LogReader(self._client, there)
            self._anchor = None
            self.show_search("")
        self.reload()

    def start_reading(self) -> None:
        """Read the log and follow it; a paused view stays where it is."""
        if not self._reading:
            self._reading = True
            self._begin()

    def stop_reading(self) -> None:
        """Stop following the log."""
        self._reading = False
        self._shown.set()
        self._waiting.clear()
        self.workers.cancel_group(self, "follow")

    def reload(self) -> None:
        """Read the end of the log again and follow it."""
        self.clear()
        self.remark("")
        self.show_empty(f"reading {self._cyber.options.charset.ellipsis}")
        self._waiting.clear()
        self._former = False
        self._begin()

    def _begin(self) -> None:
        self._on_change()
        self._shown.clear()
        self.run_worker(self._follow(), group="follow", exclusive=True, exit_on_error=False)
        self.run(self._shown.wait())  # the next keys are for these lines

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                status = await self._client.call(endpoints.STATUS)
                if self._service_pid not in {None, status.pid}:
                    # A new process numbers its lines from 0. Keep the old lines while the user
                    # reads them.
                    self._former = bool(self.lines) and not self.following
                    self._visited = self._anchor = None
                    self._found.clear()
                    self._waiting.clear()
                    if self._former:
                        self.fall_behind(0)
                    else:
                        self.clear()
                    self._on_change()
                self._service_pid = status.pid
                if not self._former:
                    await self._catch_up()
                self._shown.set()
                failures = 0
                events = self._client.events(
                    ("log",), after=status.last_event_id, logs=(self._reader.source,), patience=0.0
                )
                async with aclosing(events):
                    async for event in events:
                        if event.topic == "gap":
                            break
                        self._take(msgspec.json.decode(event.data, type=thread_safe(LogEvent)))
            except NoServiceError:
                # The status line shows it; the lines stay.
                self.show_empty("Waiting for the service.")
            except (CyberError, msgspec.MsgspecError) as error:
                self._problem = clean_line(str(error))
                self._on_change()
            self._shown.set()
            failures += 1
            await asyncio.sleep(backoff(0.5, 3.0, failures))

    async def _catch_up(self) -> None:
        """Read the end of the log; a paused view keeps its place and counts the new lines."""
        self._expected = None
        if self.search:
            with suppress(CyberError):  # the next search counts again
                await self._count()
        if self.following or not self.lines:
            await self._read_end()
            return
        page = await self._reader.page()
        self._clear_problem()
        known = self.next_number
        new = [line for line in page.lines if line.number >= known]
        if len(new) == PAGE_LINES and new[0].number > known:
            self.fall_behind(len(new) if self._reader.selects else page.log.end - known)
        else:
            self.extend(new)

    async def _read_end(self) -> None:
        page = await self._reader.page()
        self._clear_problem()
        self._say_why_empty()
        self.show(page.lines, gaps=not self._reader.selects)

    def _say_why_empty(self) -> None:
        reader = self._reader
        model = self._cyber.snapshot.model(self.source)
        self.show_empty(empty_text(reader.level, reader.only, model))

    def _take(self, event: LogEvent) -> None:
        if self._former:
            return
        if self._expected not in {None, event.first}:
            self._matches = None  # some lines of a flood never come as events
        self._expected = event.first + len(event.lines)
        lines = (
            NumberedLine(number=number, at=line.at, text=line.text, level=line.level)
            for number, line in enumerate(event.lines, event.first)
        )
        self._waiting += filter(self._reader.wants, lines)
        del self._waiting[:-_WAITING_LINES]

    def _flush(self) -> None:
        if not self._waiting or not self._reading:
            return
        lines, self._waiting = self._waiting, []
        self.extend(lines)
        if self.search:
            found = [line.number for line in lines if self._reader.wants(line, self.search)]
            self._found.extend(found)
            if self._matches is not None and found:
                self._matches.add(found)
                self._on_change()

    def _clear_problem(self) -> None:
        self._problem = ""
        self._on_change()

    # Reading other parts

    def run(self, work: Awaitable[object]) -> None:
        """Run a request in the background; its result, if it is a text, becomes the remark.

        An error is shown, and another attempt is allowed.
        """

        async def read() -> None:
            try:
                remark = await work
            except CyberError as error:
                self.allow_requests()
                self._cyber.show_message(str(error), "error")
            else:
                if isinstance(remark, str):
                    self.remark(remark)

        self.run_worker(read(), group=OPENING, exclusive=True, exit_on_error=False)

    def remark(self, remark: str) -> None:
        """Put a remark into the title for a few seconds; it ends with the next one."""
        if self._forget is not None:
            self._forget.stop()
            self._forget = None
        if remark:
            self._forget = self.set_timer(REMARK_SECONDS, lambda: self.remark(""))
        self._remark = remark
        self._on_change()

    @on(LogView.OlderWanted)
    def _older(self, event: LogView.OlderWanted) -> None:
        if not self._former:
            self.run(self._read_older(event.before))

    async def _read_older(self, before: int) -> None:
        page = await self._reader.page(before=before)
        self.prepend(page.lines)

    @on(LogView.NewerWanted)
    def _newer(self, event: LogView.NewerWanted) -> None:
        if not self._former:
            self.run(self._read_newer(event.start))

    async def _read_newer(self, start: int) -> None:
        page = await self._reader.page(after=start)
        self.append(page.lines, at_end=page.searched_to >= page.log.end or not page.lines)

    @on(LogView.FirstWanted)
    def _first(self) -> None:
        if not self._former:
            self.run(self._read_first())

    async def _read_first(self) -> None:
        page = await self._reader.page(after=0)
        if page.lines and page.lines[0].number < self.first_number:
            self.show(page.lines, at_end=False, gaps=not self._reader.selects)

    @on(LogView.EndWanted)
    def _end(self) -> None:
        if self._former:
            self.reload()
            return
        self.run(self._read_end())

    async def _show_around(self, number: int) -> None:
        """Show the line with this number, or the next selected one, wherever it is in the log."""
        if self.goto(number):
            return
        page = await self._reader.page(before=number + PAGE_LINES // 2)
        self.show(page.lines, at_end=False, gaps=not self._reader.selects)
        nearest = next((line for line in page.lines if line.number >= number), None)
        if nearest is not None:
            self.goto(nearest.number)

    # Selecting

    def select(self, *, level: LogLevel | None, only: str) -> None:
        """Show only lines of ``level`` or worse that contain ``only``, at the same place."""
        reader = self._reader
        if (reader.level, reader.only) == (level, only):
            return
        reader.level, reader.only = level, only
        self._matches = None
        self._found.clear()
        self.remark("")
        if self._former:
            self.reload()
            return
        self._waiting.clear()
        self.forget_new()
        self.run(self._select())

    async def _select(self) -> None:
        if self.search:
            await self._count()
        if self.following:
            self._anchor = None
            await self._read_end()
            return
        if self._anchor is None:
            self._anchor = self.top_number
        top = self._anchor
        before = await self._reader.page(before=top, limit=PAGE_LINES // 2)
        after = await self._reader.page(after=top, limit=PAGE_LINES // 2)
        self._say_why_empty()
        self.show(
            (*before.lines, *after.lines),
            at_end=after.searched_to >= after.log.end,
            gaps=not self._reader.selects,
            top=top,
        )
        self._on_change()

    def action_scroll_rows(self, rows: int) -> None:
        """Scroll by rows."""
        self._anchor = None
        super().action_scroll_rows(rows)

    def goto(self, number: int) -> bool:
        """Show and mark the line with this number."""
        self._anchor = None
        return super().goto(number)

    @on(events.MouseScrollUp)
    @on(events.MouseScrollDown)
    @on(ScrollTo)
    def _moved(self) -> None:
        self._anchor = None

    # Searching

    def show_search(self, text: str) -> None:
        """Mark a text in the lines in sight."""
        self.search = text
        self._matches = self._visited = None
        self._found.clear()
        self.remark("")

    async def search_end(self) -> str:
        """Go to the last match of a new search: the newest matters most."""
        return await self._to_match(-1, self.end_number)

    async def search_on(self, step: int) -> str:
        """Go to the next (1) or previous (-1) match; return a remark."""
        here = self.target
        if here is None:
            here = self._newest if step < 0 else self.top_number - 1
        return await self._to_match(step, here)

    async def _to_match(self, step: int, here: int) -> str:
        if self._matches is None or self._former:
            await self._count()
        if not self._matches:
            self._on_change()
            return ""  # the title says it
        self._visited, around = await self._matches.beyond(here, step)
        await self._show_around(self._visited)
        self._on_change()
        return f"again from the {'end' if step < 0 else 'top'}" if around else ""

    async def _count(self) -> None:
        reader, text = self._reader, self.search
        numbers, complete = (
            ([*self.matches()], True) if self._former else await reader.matches(text)
        )
        self._matches = Matches(reader, text, numbers, complete=complete)
        self._matches.add(self._found)

    @property
    def _newest(self) -> int:
        """Number before which to look for what is older than the visible lines."""
        return self.end_number if self.following else self.top_number

    async def to_error(self) -> str:
        """Go to the newest error; return a remark."""
        number = await self._reader.last_error()
        if number is None:
            return f"no error in {'these lines' if self._reader.only else 'this log'}"
        self._visited = None
        await self._show_around(number)
        return ""

    async def to_run(self, step: int) -> str:
        """Go to the start of the next (1) or previous (-1) run; return a remark."""
        starts = await self._reader.run_starts()
        here = self.target
        if here is None:
            here = self._newest if step < 0 else self.top_number
        beyond = [start for start in starts if (start < here if step < 0 else start > here)]
        if not beyond:
            return f"no run starts {'before' if step < 0 else 'after'} this line"
        self._visited = None
        await self._show_around(beyond[-1] if step < 0 else beyond[0])
        return ""

    def drop_former_lines(self) -> None:
        """Read the log again if its lines are from a former service process."""
        if self._former:
            self.reload()
