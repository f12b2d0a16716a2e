"""One log on the Logs page: its end as it grows, or any other part of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

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
from cyber_inference_tui.records import (
    LogEvent,
    LogLevel,
    LogPage,
    LogRecord,
    NumberedLine,
    endpoints,
    queries,
)
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from cyber_inference_tui.tui.pages.logs.save import save_log
from cyber_inference_tui.tui.pages.logs.title import PaneState, empty_text, title_content
from cyber_inference_tui.tui.widgets.log_view import LogView
from cyber_inference_tui.units import counted

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

T = TypeVar("T")

FLUSH_SECONDS = 0.25
PAGE_LINES = 1000
REMARK_SECONDS = 5.0
_WAITING_LINES = 20_000
_LEVELS: tuple[LogLevel | None, ...] = (None, LogLevel.INFO, LogLevel.WARNING, LogLevel.ERROR)
_SERIOUSNESS = {level: place for place, level in enumerate(LogLevel)}


class LogPane(Vertical):
    """Shows one log: ``open`` another, ``rest`` while nobody looks, ``wake`` afterwards."""

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
            tooltip="least level shown: all, info, warning, error",
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

    def __init__(self, source: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.source = source
        self._record: LogRecord | None = None
        self._level: LogLevel | None = None
        self._waiting: list[NumberedLine] = []
        self._problem = ""
        self._title = Content("")
        self._awake = False
        self._remark = ""
        self._forget: Timer | None = None
        self._service_pid: int | None = None
        """Of the service that the lines are from."""
        self._former = False
        """That service is gone, and its lines are still read."""

    @property
    def _app(self) -> CyberApp:
        return cast("CyberApp", self.app)

    @property
    def _client(self) -> ServiceClient:
        return self._app.client

    @property
    def view(self) -> LogView:
        """The lines."""
        return self.query_one(LogView)

    def compose(self) -> ComposeResult:
        """A title over the lines."""
        yield Static(classes="pane-title")
        yield LogView(
            timezone=self._app.options.now().tzinfo,
            empty=f"reading {self._app.options.charset.ellipsis}",
            gap_hint="r reads them",
            charset=self._app.options.charset,
        )
        line = Input(placeholder="text to search for")
        line.cursor_blink = False
        yield line

    def on_mount(self) -> None:
        """Begin to read."""
        self.set_interval(FLUSH_SECONDS, self._flush)
        # By a message the title would come a frame later than the lines.
        self.watch(self.view, "following", self._following_changed, init=False)
        self.watch(self.view, "new_lines", self._show_title, init=False)
        self.wake()

    def open(self, source: str) -> None:
        """Show another log."""
        if source != self.source:
            self.source = source
            self._level = None
            self.view.search = ""
        self.action_reload()

    def wake(self) -> None:
        """Somebody looks: read what there is, and follow. Who stood still, still does."""
        if not self._awake:
            self._awake = True
            self._begin()

    def rest(self) -> None:
        """Nobody looks: follow no longer."""
        self._awake = False
        self._waiting.clear()
        self.workers.cancel_group(self, "follow")

    def action_reload(self) -> None:
        """Read the log's end anew, and follow it."""
        self.view.clear()
        self.view.show_empty(f"reading {self._app.options.charset.ellipsis}")
        self._waiting.clear()
        self._former = False
        self._begin()

    def _begin(self) -> None:
        self._show_title()
        self.run_worker(self._follow(), group="follow", exclusive=True, exit_on_error=False)

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                status = await self._client.call(endpoints.STATUS)
                if self._service_pid not in {None, status.pid}:
                    # Its numbers are others. What is being read stays until the reader lets go.
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
                pass  # the header tells it; the lines stay
            except (CyberError, msgspec.MsgspecError) as error:
                self._problem = clean_line(str(error))
                self._show_title()
            failures += 1
            await asyncio.sleep(backoff(0.5, 3.0, failures))

    async def _catch_up(self) -> None:
        """Read the end; who stands still is told how much came, and keeps the place."""
        view = self.view
        if view.following or not view.lines:
            await self._read_end()
            return
        page = await self._lines()
        self._problem = ""
        self._note(page)
        known = view.given_to
        new = [line for line in page.lines if line.number >= known]
        if len(new) == PAGE_LINES and new[0].number > known:
            view.fall_behind(page.log.end - known if self._level is None else len(new))
        else:
            view.extend(new)

    async def _read_end(self) -> None:
        page = await self._lines()
        self._problem = ""
        self._note(page)
        self.view.show_empty(empty_text(self._level, self._app.snapshot.model(self.source)))
        self.view.show(page.lines, gaps=self._level is None)

    def _take(self, event: LogEvent) -> None:
        if self._former:
            return
        least = _SERIOUSNESS[self._level] if self._level else 0
        self._waiting += [
            NumberedLine(number=number, at=line.at, text=line.text, level=line.level)
            for number, line in enumerate(event.lines, event.first)
            if _SERIOUSNESS[line.level] >= least
        ]
        del self._waiting[:-_WAITING_LINES]

    def _flush(self) -> None:
        if self._waiting and self._awake:
            lines, self._waiting = self._waiting, []
            self.view.extend(lines)

    def _note(self, page: LogPage) -> None:
        self._record = page.log
        self._show_title()

    async def _lines(self, **choice: Any) -> LogPage:
        return await self._client.call(
            endpoints.LOG_LINES,
            self.source,
            query=queries.LinesQuery(limit=PAGE_LINES, level=self._level, **choice),
        )

    @on(LogView.OlderWanted)
    def _older(self, event: LogView.OlderWanted) -> None:
        if not self._former:
            self._read(self._read_older(event.before))

    async def _read_older(self, before: int) -> None:
        page = await self._lines(before=before)
        self._note(page)
        self.view.prepend(page.lines)

    @on(LogView.NewerWanted)
    def _newer(self, event: LogView.NewerWanted) -> None:
        if not self._former:
            self._read(self._read_newer(event.start))

    async def _read_newer(self, start: int) -> None:
        page = await self._lines(after=start)
        self._note(page)
        self.view.append(page.lines, at_end=page.searched_to >= page.log.end or not page.lines)

    @on(LogView.EndWanted)
    def _end(self) -> None:
        if self._former:
            self.action_reload()
            return
        self._read(self._read_end())

    def _read(self, work: Awaitable[T]) -> None:
        """Read in the background; what goes wrong is told, and may be tried again."""

        async def read() -> None:
            try:
                await work
            except CyberError as error:
                self.view.ask_again()
                self._app.tell(str(error), "error")

        self.run_worker(read(), group="read", exclusive=True, exit_on_error=False)

    async def _show_around(self, number: int) -> None:
        """Show the line of that number, wherever in the log it is."""
        if self.view.goto(number):
            return
        page = await self._lines(before=number + PAGE_LINES // 2)
        self._note(page)
        self.view.show(page.lines, at_end=False, gaps=self._level is None)
        self.view.goto(number)

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What makes sense with what is shown."""
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
        """Type what to search for."""
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
            # From the end of what is held: the newest match is what one looks for.
            self._read(self._to_match(-1, self.view.end_number))

    def action_clear(self) -> None:
        """Search for nothing any more."""
        self.query_one(Input).display = False
        self.view.search = ""
        self.screen.set_focus(self.view)
        self._show_title()

    def action_match(self, step: int) -> None:
        """To the next line with the text (1), or the one before (-1)."""
        self._read(self._to_match(step, self.view.target))

    async def _to_match(self, step: int, here: int | None) -> None:
        view = self.view
        if step < 0:
            before = view.end_number if here is None else here
            found = next(view.matches(before=before), None)
        else:
            after = view.top_number - 1 if here is None else here
            found = next(view.matches(after=after), None)
        if found is None:
            found = await self._search_further(step)
        if found is None:
            direction = "before" if step < 0 else "after"
            self._say(f"not {direction} this line")
        else:
            await self._show_around(found)

    async def _search_further(self, step: int) -> int | None:
        """Beyond the window; the service looks for a second or so at a time."""
        if self._former:
            return None
        view = self.view
        at = view.first_number if step < 0 else view.end_number
        while True:
            bound = {"before": at} if step < 0 else {"after": at}
            page = await self._client.call(
                endpoints.LOG_LINES,
                self.source,
                query=queries.LinesQuery(limit=1, level=self._level, q=view.search, **bound),
            )
            if page.lines:
                return page.lines[0].number
            over = (
                page.searched_to <= page.log.first
                if step < 0
                else (page.searched_to >= page.log.end)
            )
            if over or page.searched_to == at:
                return None
            at = page.searched_to

    def action_level(self) -> None:
        """Show only lines that are serious enough: all, info, warning, error, and all again."""
        self._level = _LEVELS[(_LEVELS.index(self._level) + 1) % len(_LEVELS)]
        self.action_reload()

    def _let_go(self) -> None:
        """Of the lines of a service that is gone."""
        if self._former:
            self.action_reload()

    def action_error(self) -> None:
        """To the newest error."""
        self._let_go()
        self._read(self._to_error())

    async def _to_error(self) -> None:
        page = await self._client.call(
            endpoints.LOG_LINES,
            self.source,
            query=queries.LinesQuery(limit=1, level=LogLevel.ERROR),
        )
        if page.lines:
            await self._show_around(page.lines[0].number)
        else:
            self._say("there is no error in this log")

    def action_run(self, step: int) -> None:
        """To the start of a run of the process."""
        self._let_go()
        self._read(self._to_run(step))

    async def _to_run(self, step: int) -> None:
        page = await self._client.call(
            endpoints.LOG_LINES, self.source, query=queries.LinesQuery(limit=1)
        )
        starts = [run.first for run in page.log.runs if run.first >= page.log.first]
        here = self.view.top_number if self.view.target is None else self.view.target
        beyond = [start for start in starts if (start < here if step < 0 else start > here)]
        if beyond:
            await self._show_around(beyond[-1] if step < 0 else beyond[0])
        else:
            self._say(f"no run starts {'before' if step < 0 else 'after'} this line")

    def action_pause(self) -> None:
        """Stand still."""
        self.view.pause()

    def action_resume(self) -> None:
        """Follow again."""
        self.view.action_follow()

    def action_copy(self) -> None:
        """Copy the lines on the screen."""
        view = self.view
        rows = max(1, view.size.height)
        top = view.top_number
        lines = [line for line in view.lines if line.number >= top][:rows]
        self.app.copy_to_clipboard("\n".join(line.text for line in lines))
        self._say(f"{counted(len(lines), 'line')} copied")

    def action_save(self) -> None:
        """Write all that is kept of the log to a file, on this machine."""
        name = "".join(sign if sign.isalnum() or sign in "-._" else "-" for sign in self.source)

        def answered(path: str | None) -> None:
            if path is not None:
                self._read(self._save(Path(os.path.expanduser(path))))  # noqa: PTH111 - never raises

        self.app.push_screen(
            Prompt(
                f"Save the log of {clean_line(self.source, limit=60)}",
                "A file on this machine; one that is there already is not overwritten.",
                value=os.path.expanduser(f"~/{name}.log"),  # noqa: PTH111
            ),
            answered,
        )

    async def _save(self, path: Path) -> None:
        try:
            saved = await save_log(self._client, self.source, self._level, path)
        except FileExistsError:
            self._app.tell(f"{path} is there already; nothing was written.", "error")
        except OSError as error:
            self._app.tell(f"{path}: {error.strerror}.", "error")
        else:
            self._app.tell(f"{saved:,} lines are in {path}.")

    def _say(self, remark: str) -> None:
        """Tell in the title what came of a key: over the lines it would cover the newest."""
        self._remark = remark
        self._show_title()
        if self._forget is not None:
            self._forget.stop()
        self._forget = self.set_timer(REMARK_SECONDS, self._say_no_more)

    def _say_no_more(self) -> None:
        self._remark = ""
        self._show_title()

    def _following_changed(self) -> None:
        self._show_title()
        self.screen.refresh_bindings()

    def on_resize(self) -> None:
        """The title is cut elsewhere."""
        self._show_title()

    def _show_title(self) -> None:
        content = self._title_content()
        if not content.is_same(self._title):
            self._title = content
            with contextlib.suppress(LookupError):
                self.query_one(".pane-title", Static).update(content, layout=False)

    def _title_content(self) -> Content:
        view = self.view
        state = PaneState(
            source=self.source,
            level=self._level,
            search=view.search,
            following=view.following,
            new_lines=view.new_lines,
            former=self._former,
            remark=self._remark,
            problem=self._problem,
        )
        return title_content(state, self.size.width, self._app.options.charset.ellipsis)
