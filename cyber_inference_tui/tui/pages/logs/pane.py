"""A log on the Logs page: its growing end, or any other part."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING, ClassVar, cast

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Input, Static

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError, NoServiceError
from cyber_inference_tui.files import typed_path
from cyber_inference_tui.records import LogEvent, LogLevel, NumberedLine, endpoints
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.pages.logs.reader import PAGE_LINES, LogReader
from cyber_inference_tui.tui.pages.logs.title import PaneState, empty_text, title_content
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.widgets.log_view import LogView
from cyber_inference_tui.tui.widgets.text_line import TextLine
from cyber_inference_tui.units import counted

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

FLUSH_SECONDS = 0.25
REMARK_SECONDS = 5.0
_NAME_CHARACTERS = 60
"""Of a log's id in the name of its file: 240 bytes at most."""
_WAITING_LINES = 20_000
_LEVELS: tuple[LogLevel | None, ...] = (None, LogLevel.INFO, LogLevel.WARNING, LogLevel.ERROR)
_SEVERITY = {level: place for place, level in enumerate(LogLevel)}


class LogPane(Vertical):
    """Shows one log. It reads between ``start_reading`` and ``stop_reading``."""

    KEYS_TITLE = "Log"
    DEFAULT_CSS = """
    LogPane { width: 1fr; height: 1fr; padding: 0 1; }
    LogPane > .pane-title { height: 1; color: $text-muted; }
    LogPane:focus-within > .pane-title { color: $foreground; text-style: bold; }
    LogPane > Input { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/", id="pane.search"),
        Binding("n", "match(1)", "Next", id="pane.next", tooltip="go to the next match"),
        Binding("N", "match(-1)", "Previous", show=False, tooltip="go to the previous match"),
        Binding(
            "l",
            "level",
            "Level",
            id="pane.level",
            tooltip="minimum level: all, info, warning or error",
        ),
        Binding("e", "error", "Last error", id="pane.error", tooltip="go to the last error"),
        Binding(
            "left_square_bracket",
            "run(-1)",
            "Previous run",
            show=False,
            key_display="[",
            id="pane.run-before",
            tooltip="go to the start of this run or of the previous run",
        ),
        Binding(
            "right_square_bracket",
            "run(1)",
            "Next run",
            show=False,
            key_display="]",
            id="pane.run-after",
            tooltip="go to the start of the next run",
        ),
        Binding("space", "pause", "Pause", id="pane.pause", tooltip="stop following"),
        Binding("space", "resume", "Follow", id="pane.resume", tooltip="follow the end of the log"),
        Binding("c", "copy", "Copy", id="pane.copy", tooltip="copy the visible lines"),
        Binding("ctrl+s", "save", "Save", id="pane.save", tooltip="write the log to a file"),
        Binding(
            "r", "reload", "Reload", show=False, id="pane.reload", tooltip="read the log again"
        ),
        Binding("escape", "clear", "Clear search", show=False, id="pane.clear"),
    ]

    def __init__(self, client: ServiceClient, source: str) -> None:
        super().__init__()
        self._client = client
        self._reader = LogReader(client, source)
        self._waiting: list[NumberedLine] = []
        self._problem = ""
        self._reading = False
        self._shown = asyncio.Event()
        """The first lines are shown, or why there are none."""
        self._remark = ""
        self._forget: Timer | None = None
        self._service_pid: int | None = None
        """Process id of the service that sent the lines."""
        self._former = False
        """The lines are from a service process that has ended."""

    @property
    def _app(self) -> CyberApp:
        return cast("CyberApp", self.app)

    @property
    def source(self) -> str:
        """The id of the log."""
        return self._reader.source

    @property
    def view(self) -> LogView:
        """The view of the lines."""
        return self.query_one(LogView)

    def compose(self) -> ComposeResult:
        """Compose the title, the lines and the search field."""
        yield Static(classes="pane-title")
        yield LogView(
            timezone=self._app.options.now().tzinfo,
            empty=f"reading {self._app.options.charset.ellipsis}",
            gap_hint="r reads them",
            charset=self._app.options.charset,
        )
        yield TextLine(placeholder="search text")

    def on_mount(self) -> None:
        """Start reading."""
        self.set_interval(FLUSH_SECONDS, self._flush)
        # Watch instead of handling messages, which would draw the title a frame late.
        self.watch(self.view, "following", self._following_changed, init=False)
        self.watch(self.view, "new_lines", self._show_title, init=False)
        self.start_reading()

    def open(self, source: str) -> None:
        """Show another log."""
        if source != self.source:
            self._reader = LogReader(self._client, source)
            self.view.search = ""
        self.action_reload()

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

    def action_reload(self) -> None:
        """Read the end of the log again and follow it."""
        self.view.clear()
        self.view.show_empty(f"reading {self._app.options.charset.ellipsis}")
        self._waiting.clear()
        self._former = False
        self._begin()

    def _begin(self) -> None:
        self._show_title()
        self._shown.clear()
        self.run_worker(self._follow(), group="follow", exclusive=True, exit_on_error=False)
        self._read(self._shown.wait())  # the next keys are for these lines

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                status = await self._client.call(endpoints.STATUS)
                if self._service_pid not in {None, status.pid}:
                    # A new process numbers its lines from 0. Keep the old lines while the user
                    # reads them.
                    self._former = bool(self.view.lines) and not self.view.following
                    self._waiting.clear()
                    if self._former:
                        self.view.fall_behind(0)
                    else:
                        self.view.clear()
                    self._show_title()
                self._service_pid = status.pid
                if not self._former:
                    await self._catch_up()
                self._shown.set()
                failures = 0
                events = self._client.events(
                    ("log",), after=status.last_event_id, logs=(self.source,), patience=0.0
                )
                async with aclosing(events):
                    async for event in events:
                        if event.topic == "gap":
                            break
                        self._take(msgspec.json.decode(event.data, type=thread_safe(LogEvent)))
            except NoServiceError:
                # The status line shows it; the lines stay.
                self.view.show_empty("Waiting for the service.")
            except (CyberError, msgspec.MsgspecError) as error:
                self._problem = clean_line(str(error))
                self._show_title()
            self._shown.set()
            failures += 1
            await asyncio.sleep(backoff(0.5, 3.0, failures))

    async def _catch_up(self) -> None:
        """Read the end of the log; a paused view keeps its place and counts the new lines."""
        view = self.view
        if view.following or not view.lines:
            await self._read_end()
            return
        page = await self._reader.page()
        self._clear_problem()
        known = view.next_number
        new = [line for line in page.lines if line.number >= known]
        if len(new) == PAGE_LINES and new[0].number > known:
            view.fall_behind(page.log.end - known if self._reader.level is None else len(new))
        else:
            view.extend(new)

    async def _read_end(self) -> None:
        page = await self._reader.page()
        self._clear_problem()
        self.view.show_empty(empty_text(self._reader.level, self._app.snapshot.model(self.source)))
        self.view.show(page.lines, gaps=self._reader.level is None)

    def _take(self, event: LogEvent) -> None:
        if self._former:
            return
        least = _SEVERITY[self._reader.level] if self._reader.level else 0
        self._waiting += [
            NumberedLine(number=number, at=line.at, text=line.text, level=line.level)
            for number, line in enumerate(event.lines, event.first)
            if _SEVERITY[line.level] >= least
        ]
        del self._waiting[:-_WAITING_LINES]

    def _flush(self) -> None:
        if self._waiting and self._reading:
            lines, self._waiting = self._waiting, []
            self.view.extend(lines)

    def _clear_problem(self) -> None:
        self._problem = ""
        self._show_title()

    @on(LogView.OlderWanted)
    def _older(self, event: LogView.OlderWanted) -> None:
        if not self._former:
            self._read(self._read_older(event.before))

    async def _read_older(self, before: int) -> None:
        page = await self._reader.page(before=before)
        self.view.prepend(page.lines)

    @on(LogView.NewerWanted)
    def _newer(self, event: LogView.NewerWanted) -> None:
        if not self._former:
            self._read(self._read_newer(event.start))

    async def _read_newer(self, start: int) -> None:
        page = await self._reader.page(after=start)
        self.view.append(page.lines, at_end=page.searched_to >= page.log.end or not page.lines)

    @on(LogView.FirstWanted)
    def _first(self) -> None:
        if not self._former:
            self._read(self._read_first())

    async def _read_first(self) -> None:
        page = await self._reader.page(after=0)
        if page.lines and page.lines[0].number < self.view.first_number:
            self.view.show(page.lines, at_end=False, gaps=self._reader.level is None)

    @on(LogView.EndWanted)
    def _end(self) -> None:
        if self._former:
            self.action_reload()
            return
        self._read(self._read_end())

    def _read(self, work: Awaitable[object]) -> None:
        """Run a request in the background; show its error and allow another attempt."""

        async def read() -> None:
            try:
                await work
            except CyberError as error:
                self.view.allow_requests()
                self._app.show_message(str(error), "error")

        self.run_worker(read(), group=OPENING, exclusive=True, exit_on_error=False)

    async def _show_around(self, number: int) -> None:
        """Show the line with this number, wherever it is in the log."""
        if self.view.goto(number):
            return
        page = await self._reader.page(before=number + PAGE_LINES // 2)
        self.view.show(page.lines, at_end=False, gaps=self._reader.level is None)
        self.view.goto(number)

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now."""
        if not self.is_mounted:
            return True
        view = self.view
        possible = {
            "pause": view.following,
            "resume": not view.following,
            "match": bool(view.search),
            "clear": bool(view.search) or self.query_one(Input).display,
        }
        return possible.get(action, True)

    def action_search(self) -> None:
        """Open the search field."""
        line = self.query_one(Input)
        line.value = self.view.search
        line.display = True
        self.screen.set_focus(line)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self.view.search = event.value
        self._show_title()

    @on(Input.Submitted)
    def _searched(self) -> None:
        self.query_one(Input).display = False
        self.screen.set_focus(self.view)
        if self.view.search:
            # Search from the end, because the newest match matters most.
            self._read(self._to_match(-1, self.view.end_number))

    def action_clear(self) -> None:
        """Clear the search."""
        self.query_one(Input).display = False
        self.view.search = ""
        self.screen.set_focus(self.view)
        self._show_title()

    def action_match(self, step: int) -> None:
        """Go to the next (1) or previous (-1) match."""
        self._read(self._to_match(step, self.view.target))

    async def _to_match(self, step: int, here: int | None) -> None:
        view = self.view
        if step < 0:
            before = self._newest if here is None else here
            found = next(view.matches(before=before), None)
        else:
            after = view.top_number - 1 if here is None else here
            found = next(view.matches(after=after), None)
        if found is None:
            found = await self._search_further(step)
        if found is None:
            direction = "before" if step < 0 else "after"
            self._show_remark(f"no match {direction} this line")
        else:
            await self._show_around(found)

    @property
    def _newest(self) -> int:
        """Number before which to look for what is older than the visible lines."""
        return self.view.end_number if self.view.following else self.view.top_number

    async def _search_further(self, step: int) -> int | None:
        """Search beyond the loaded lines."""
        if self._former:
            return None
        start = self.view.first_number if step < 0 else self.view.end_number
        return await self._reader.find(self.view.search, step, start)

    def action_level(self) -> None:
        """Show the next level: all, info, warning, error."""
        place = _LEVELS.index(self._reader.level) + 1
        self._reader.level = _LEVELS[place % len(_LEVELS)]
        self.action_reload()

    def _drop_former_lines(self) -> None:
        """Read the log again if its lines are from a former service process."""
        if self._former:
            self.action_reload()

    def action_error(self) -> None:
        """Go to the newest error."""
        self._drop_former_lines()
        self._read(self._to_error())

    async def _to_error(self) -> None:
        number = await self._reader.last_error()
        if number is None:
            self._show_remark("this log has no error")
        else:
            await self._show_around(number)

    def action_run(self, step: int) -> None:
        """Go to the start of the next (1) or previous (-1) run of the process."""
        self._drop_former_lines()
        self._read(self._to_run(step))

    async def _to_run(self, step: int) -> None:
        starts = await self._reader.run_starts()
        here = self.view.target
        if here is None:
            here = self._newest if step < 0 else self.view.top_number
        beyond = [start for start in starts if (start < here if step < 0 else start > here)]
        if beyond:
            await self._show_around(beyond[-1] if step < 0 else beyond[0])
        else:
            self._show_remark(f"no run starts {'before' if step < 0 else 'after'} this line")

    def action_pause(self) -> None:
        """Stop following."""
        self.view.pause()

    def action_resume(self) -> None:
        """Follow the end again."""
        self.view.action_follow()

    def action_copy(self) -> None:
        """Copy the visible lines."""
        view = self.view
        rows = max(1, view.size.height)
        top = view.top_number
        lines = [line for line in view.lines if line.number >= top][:rows]
        self.app.copy_to_clipboard("\n".join(line.text for line in lines))
        self._show_remark(f"{counted(len(lines), 'line')} copied")

    def action_save(self) -> None:
        """Save the log to a file on this machine, after asking for its path."""
        letters = (sign if sign.isalnum() or sign in "-._" else "-" for sign in self.source)
        name = "".join(letters)[:_NAME_CHARACTERS]
        self.app.push_screen(
            Prompt(
                f"Save the log of {clean_line(self.source, limit=60)}",
                "A new file on the machine of this app.",
                self._save,
                value=os.path.expanduser(f"~/{name}.log"),  # noqa: PTH111 - without a home: as it is
            )
        )

    async def _save(self, text: str) -> None:
        try:
            path = typed_path(text)
            saved = await self._reader.save(path)
        except FileExistsError:
            raise CyberError(f"{text} exists already. Choose another name.") from None
        except OSError as error:
            reason = (error.strerror or "the file cannot be written").lower()
            raise CyberError(f"Not saved: {reason}. Choose another path.") from error
        self._app.show_message(f"Saved {counted(saved, 'line')} to {path}.")

    def _show_remark(self, remark: str) -> None:
        """Show a remark in the title for a few seconds."""
        self._remark = remark
        self._show_title()
        if self._forget is not None:
            self._forget.stop()
        self._forget = self.set_timer(REMARK_SECONDS, self._clear_remark)

    def _clear_remark(self) -> None:
        self._remark = ""
        self._show_title()

    def _following_changed(self) -> None:
        self._show_title()
        self.screen.refresh_bindings()

    def on_resize(self) -> None:
        """Fit the title to the new width."""
        self._show_title()

    def _show_title(self) -> None:
        with contextlib.suppress(LookupError):  # the pane may be closing
            update_static(self.query_one(".pane-title", Static), self._title_content())

    def _title_content(self) -> Content:
        view = self.view
        state = PaneState(
            source=self.source,
            level=self._reader.level,
            search=view.search,
            following=view.following,
            new_lines=view.new_lines,
            former=self._former,
            remark=self._remark,
            problem=self._problem,
        )
        return title_content(state, self.size.width, self._app.options.charset.ellipsis)
