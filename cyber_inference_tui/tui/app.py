"""The terminal app: one service, seven pages, and the actions that every page has."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.app import App
from textual.binding import Binding, BindingType
from textual.geometry import Offset
from textual.screen import Screen
from textual.widgets import Input, TextArea

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import DownloadStatus, ModelRecord, endpoints
from cyber_inference_tui.terminal.text_width import pasted_text
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.app_options import AfterExit, AppOptions
from cyber_inference_tui.tui.chrome import NAME, PAGES, PageTabs
from cyber_inference_tui.tui.feed import Feed
from cyber_inference_tui.tui.key_queue import OPENING, KeyQueue
from cyber_inference_tui.tui.pages.page import HEIGHTS, WIDTHS, Page
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.terminal_driver import TerminalDriver
from cyber_inference_tui.tui.theme import DEFAULT, THEMES
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.tui.widgets.scroll_bar import set_scroll_bars
from cyber_inference_tui.tui.widgets.text_line import (
    NAME_CHARACTERS,
    TEXT_CHARACTERS,
    limit_sentence,
)
from cyber_inference_tui.units import counted

if TYPE_CHECKING:
    from cyber_inference_tui.tui.commands import Command

_RECENT_COMMANDS = 20
_GARBAGE_THRESHOLDS = (10_000, 20, 20)
_PAGE_CHANGE_SECONDS = 0.005
_OPENING_LIMIT = 1.0
_ANNOUNCED = {
    ("download", "good"): "2 shows it.",
    ("download", "bad"): "3 and ] show it, r tries again.",
    ("install", "good"): "",
    ("install", "bad"): "4 shows its log.",
}
"""Kind and tone of the events that get a notification on every page, with what to do next."""
MESSAGE_CHARACTERS = 400
"""Characters of a message that a notification shows; the page itself shows all of it."""


def _page(mode: str) -> Screen[None]:
    """Return a new page; its module is imported when the page opens for the first time."""
    module = importlib.import_module(f"cyber_inference_tui.tui.pages.{mode}.page")
    page: Screen[None] = getattr(module, f"{mode.capitalize()}Page")()
    return page


class CyberApp(App[AfterExit]):
    """The terminal app for the service behind ``client``. Its exit value is an ``AfterExit``."""

    TITLE = NAME
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        page.mode: partial(_page, page.mode) for page in PAGES
    }
    # Textual would start with an empty screen, and changing the mode delays painting.
    DEFAULT_MODE = PAGES[0].mode
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(
                page.key, f"open('{page.mode}')", page.title, show=False, id=f"page.{page.mode}"
            )
            for page in PAGES
        ),
        Binding(
            "question_mark,f1",
            "keys",
            "Help",
            key_display="?",
            id="app.help",
            tooltip="The keys of this page",
        ),
        Binding(
            "C,f2",
            "connect",
            "Connect",
            id="app.connect",
            tooltip="Address, key and ready lines for clients",
        ),
        Binding("q", "leave", "Quit", id="app.quit", tooltip="Leave the app"),
        Binding("ctrl+q", "leave", "Quit", show=False, id="app.quit-anywhere"),
        Binding(
            "ctrl+l", "redraw", "Redraw", show=False, id="app.redraw", tooltip="Repaint the screen"
        ),
        Binding(
            "colon",
            "command_palette",
            "Palette",
            show=False,
            id="app.palette",
            tooltip="Any action, model, setting or theme by its name",
        ),
        # Also while a text is typed.
        Binding(
            "ctrl+p",
            "command_palette",
            "Palette",
            show=False,
            priority=True,
            id="app.palette-anywhere",
            tooltip="Any action, model, setting or theme by its name",
        ),
        Binding(
            "ctrl+z",
            "suspend_process",
            "Suspend",
            show=False,
            priority=True,
            id="app.suspend",
            tooltip="Return to the shell; fg continues",
        ),
    ]

    def __init__(
        self, client: ServiceClient, options: AppOptions | None = None, *, add_demo: bool = False
    ) -> None:
        super().__init__(driver_class=TerminalDriver)
        self.client = client
        self.options = options or AppOptions()
        self.painted = False
        """The first frame is on the screen. Work that it does not need starts afterwards."""
        self._keys = KeyQueue(self, self._say_dropped)
        self._cursor_position = Offset(0, 0)
        self._add_demo = add_demo
        self.recent_commands: list[str] = []
        """The names of the commands of the palette that were used, the latest first."""
        self._announced: int | None = None
        """The id of the newest event when the app last looked for something to announce."""
        set_scroll_bars(self.options.charset)
        self.feed = Feed(
            client,
            on_change=self._show,
            on_login=self._login,
            now=self.options.now,
            rate=self.options.rate,
        )
        for theme in THEMES:
            self.register_theme(theme)
        known = self.options.theme in self.available_themes
        self.theme = self.options.theme if known else DEFAULT
        self._unknown_theme = "" if known else self.options.theme
        self.set_keymap(self.options.keymap)

    @property
    def snapshot(self) -> Snapshot:
        """The newest state of the service."""
        return self.feed.snapshot

    def delay_update(self, delay: float = 0.05) -> None:
        """Shorten the time for which Textual stops painting when the page changes."""
        super().delay_update(min(delay, _PAGE_CHANGE_SECONDS))

    async def on_mount(self) -> None:
        """Open the first page."""
        # Other programs have used the terminal.
        self.app_resume_signal.subscribe(self, lambda _: self.action_redraw())
        await self.switch_mode(self.options.first_page)
        if self.options.signals:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, self.exit, AfterExit.KEEP)
        if self.options.ticking:
            self.set_interval(1.0, self._tick)
        for notice in self.options.notices:
            self.show_message(notice, "warning")
        if self._unknown_theme:
            self.show_message(f"There is no theme '{self._unknown_theme}'.", "warning")

    def on_ready(self) -> None:
        """Follow the service once the first page is on the screen."""
        self.screen.call_after_refresh(self._begin)

    def _begin(self) -> None:
        self.painted = True
        self._show(self.snapshot)
        if not gc.isenabled():
            # Objects made so far live as long as the app: exclude them from collection. Collect
            # the rest rarely, because a key press has to wait for a collection.
            gc.freeze()
            gc.set_threshold(*_GARBAGE_THRESHOLDS)
            gc.enable()
        self.run_worker(self.feed.run(), name="feed", group="feed", exit_on_error=True)
        if self._add_demo:
            self.do(self.client.call(endpoints.ADD_DEMO), group="demo")

    def _fatal_error(self) -> None:
        """Print one sentence about a fault of the app, and write the traceback to a file.

        Textual's own handler would print all local variables, passwords among them.
        """
        error = sys.exc_info()[1] or self._exception
        kind = f"{type(error).__name__}: {error}" if error else "unknown"
        message = f"The terminal app crashed ({clean_line(kind)})."
        path = self.options.crash_path
        if path is not None and error is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
                message += f" The traceback is in {path}; please report it."
        self._exit_renderables.append(Text(f"{message} The service is still running."))
        self._close_messages_no_wait()

    # Drawing

    def _show(self, snapshot: Snapshot) -> None:
        if not self.is_running:
            return  # the app is closing, and pages have lost their widgets already
        self._announce(snapshot)
        for screen in self.screen_stack:
            # Pages, and dialogs that show the service.
            if (draw := getattr(screen, "draw", None)) is not None:
                draw(snapshot)

    def _announce(self, snapshot: Snapshot) -> None:
        """Show a notification of each download and installation that ended since the last look."""
        if not snapshot.live:
            return
        known, events = self._announced, snapshot.recent_events
        self._announced = events[0].id if events else 0
        for event in reversed(events):
            hint = _ANNOUNCED.get((event.kind, event.tone))
            if known is not None and event.id > known and hint is not None:
                sentence = f"{event.subject} {event.text.rstrip('.')}. {hint}".rstrip()
                self.show_message(sentence, "error" if event.tone == "bad" else "information")

    def _tick(self) -> None:
        self._show(self.snapshot)

    def on_page_tabs_chosen(self, message: PageTabs.Chosen) -> None:
        """Open the page that was clicked."""
        self.switch_mode(message.mode)

    async def on_event(self, event: events.Event) -> None:
        """Hand out keys in their turn, and remove control characters from pasted text."""
        if isinstance(event, events.AppBlur):
            return  # Textual would take the focus away, also from dialogs that open meanwhile.
        typed = isinstance(event, events.Key | events.Paste) and not event.is_forwarded
        if typed and not self._keys.admits(event):
            return
        if isinstance(event, events.Paste):
            event.text = pasted_text(event.text, one_line=isinstance(self.focused, Input))
            if not self._has_room(event.text):
                return
        await super().on_event(event)

    def _has_room(self, text: str) -> bool:
        """Return whether the focused field takes all of a pasted text; if not, say so."""
        field = self.focused
        if isinstance(field, Input):
            before, limit = field.value, field.max_length or NAME_CHARACTERS
        elif isinstance(field, TextArea):
            before, limit = field.text, TEXT_CHARACTERS
        else:
            return True
        if len(before) - len(field.selected_text) + len(text) <= limit:
            return True
        self.show_message(limit_sentence(limit), "warning")
        return False

    def _say_dropped(self) -> None:
        self.show_message("Too many keys came at once. The last ones were dropped.", "warning")

    @property
    def cursor_position(self) -> Offset:
        """The cell of the caret, where the terminal's cursor is put for input methods."""
        field = self.focused
        if isinstance(field, Input):
            # Textual's own offset is a cell further at the end of the text.
            before = cell_len(field.value[: field.cursor_position])
            inside = field.content_region
            x = inside.x + before - field.scroll_offset.x
            return Offset(min(x, inside.right - 1), inside.y)
        if isinstance(field, TextArea):
            return field.cursor_screen_offset
        return self._cursor_position

    @cursor_position.setter
    def cursor_position(self, position: Offset) -> None:
        self._cursor_position = position

    # Messages and questions

    def show_message(self, message: str, severity: str = "information") -> None:
        """Show a notification without markup and control characters."""
        text = "\n".join(clean_line(line) for line in with_keys(message).splitlines()[:6])
        if len(text) > MESSAGE_CHARACTERS:
            text = f"{text[:MESSAGE_CHARACTERS]}…"
        kind = {"warning": "warning", "error": "error"}.get(severity, "information")
        if kind != "information" and any(one.message == text for one in self._notifications):
            return  # it is on the screen already
        self.notify(text, severity=kind, markup=False)  # type: ignore[arg-type]

    def do(self, work: Coroutine[Any, Any, Any], *, done: str = "", group: str = "actions") -> None:
        """Run ``work`` in the background; show ``done`` when it succeeds, else its error."""

        async def carry_out() -> None:
            try:
                await work
            except CyberError as error:
                self.show_message(str(error), "error")
            else:
                if done:
                    self.show_message(done)

        self.run_worker(carry_out(), group=group, exit_on_error=True)

    async def _login(self) -> None:
        from cyber_inference_tui.tui.dialogs.password import Password  # noqa: PLC0415 - seldom

        answer = await self.push_screen_wait(
            Password(
                self.client.url,
                self.client.login,
                can_keep=self.options.save_password is not None,
            )
        )
        if answer is None:
            self.exit(AfterExit.KEEP)
            return
        password, keep = answer
        if keep and self.options.save_password is not None:
            try:
                self.options.save_password(password)
            except CyberError as error:
                self.show_message(str(error), "error")

    # Actions

    async def action_open(self, mode: str) -> None:
        """Open a page. It is awaited because the next key may be for the new page."""
        await self.switch_mode(mode)

    async def open_model(self, model_id: str) -> None:
        """Open the Models page with the cursor on a model."""
        await self._open_at("models", "select", model_id)

    async def open_log(self, log_id: str) -> None:
        """Open a log on the Logs page."""
        await self._open_at("logs", "open", log_id)

    async def open_chat(self, model_id: str) -> None:
        """Open the Chat page with a model."""
        await self._open_at("chat", "choose", model_id)

    async def _open_at(self, mode: str, method: str, name: str) -> None:
        """Open a page and call its ``method`` with ``name`` after the first layout."""
        await self.switch_mode(mode)
        call = getattr(self.screen, method, None)
        if call is None:
            return
        opened = asyncio.Event()
        self.call_after_refresh(call, name)
        self.call_after_refresh(opened.set)
        # The page may be left before its layout; keys must not wait for it then.
        waiting = asyncio.wait_for(opened.wait(), _OPENING_LIMIT)
        self.run_worker(waiting, group=OPENING, exit_on_error=False)

    def action_redraw(self) -> None:
        """Repaint the screen, for example after another program wrote to the terminal."""
        self.refresh(repaint=True, layout=True)

    def action_suspend_process(self) -> None:
        """Stop the app and the program that started it, as a terminal does at ctrl+z."""
        if self._driver is not None and self._driver.can_suspend:
            os.killpg(0, signal.SIGTSTP)

    def action_keys(self) -> None:
        """Show the keys of this page."""
        from cyber_inference_tui.tui.dialogs.keys import Keys  # noqa: PLC0415 - seldom

        if not isinstance(self.screen, Keys):
            self.push_screen(Keys(self.screen))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available: clients connect to a service that has answered."""
        if action == "connect":
            return self.snapshot.reached
        return super().check_action(action, parameters)

    def action_connect(self) -> None:
        """Show how clients connect, with lines for the model of the page."""
        if isinstance(self.screen, Page):
            self.connect_clients(self.screen.chosen())

    def connect_clients(self, model: ModelRecord | None) -> None:
        """Show how clients connect to a model."""
        from cyber_inference_tui.tui.dialogs.connect import ConnectDialog  # noqa: PLC0415 - seldom

        self.push_screen(ConnectDialog(model))

    async def action_leave(self) -> None:
        """Leave the app; if it started the service and that one is busy, ask what to do with it."""
        if not self.options.owned:
            self.exit(AfterExit.KEEP)
        elif not (lost := would_be_lost(self.snapshot)):
            self.exit(AfterExit.STOP)
        else:
            self._ask_leave(lost)

    def _ask_leave(self, lost: str) -> None:
        from cyber_inference_tui.tui.dialogs.question import Answer, Question  # noqa: PLC0415

        if isinstance(self.screen, Question):
            return

        def answered(value: str | None) -> None:
            if value in {AfterExit.KEEP, AfterExit.STOP}:
                self.exit(AfterExit(value))

        self.push_screen(
            Question(
                "Stop the service as well?",
                f"This app started it. {lost}",
                (
                    Answer(AfterExit.KEEP, "l", "Leave it running"),
                    Answer(AfterExit.STOP, "s", "Stop it", destructive=True),
                    Answer("cancel", "c", "Cancel"),
                ),
            ),
            answered,
        )

    def action_change_theme(self) -> None:
        """Choose a theme and save it."""
        from cyber_inference_tui.tui.dialogs.choice import choose_theme  # noqa: PLC0415 - seldom

        before = self.theme

        def chosen(name: str | None) -> None:
            self.theme = before
            if name is not None:
                self.use_theme(name)

        def preview(name: str) -> None:
            self.theme = name

        context = self.options.render_context()
        self.push_screen(choose_theme(self.available_themes, before, context, preview), chosen)

    def use_theme(self, name: str) -> None:
        """Change the theme, and save it."""
        self.theme = name
        if (save := self.options.save_theme) is not None:
            self.do(asyncio.to_thread(save, name))

    def get_key_display(self, binding: Binding) -> str:
        """Return a key's name in characters that the terminal can show."""
        return self.options.charset.key(super().get_key_display(binding))

    # The palette

    def action_command_palette(self) -> None:
        """Open the palette."""
        from cyber_inference_tui.tui.dialogs.palette import Palette  # noqa: PLC0415 - seldom

        def chosen(command: Command | None) -> None:
            if command is not None:
                names = [command.name, *(n for n in self.recent_commands if n != command.name)]
                self.recent_commands = names[:_RECENT_COMMANDS]
                self.run_worker(_result(command.run()), group=OPENING, exit_on_error=True)

        if isinstance(self.screen, Page):
            self.push_screen(Palette(self), chosen)

    async def run_on_page(self, mode: str, action: str) -> None:
        """Open a page, and run one of its actions."""
        await self._open_at(mode, "run_when_shown", action)

    async def run_on_model(self, model_id: str, action: str) -> None:
        """Open the Models page at a model, and run an action on it."""
        await self.open_model(model_id)
        self.call_after_refresh(self.screen.run_action, action)

    async def open_setting(self, key: str) -> None:
        """Open the Settings page at a setting."""
        await self._open_at("settings", "select", key)


async def _result(value: Any) -> None:
    """Await the result of a command, if it has to be awaited."""
    if inspect.isawaitable(value):
        await value


def would_be_lost(snapshot: Snapshot) -> str:
    """Return a sentence about what stopping the service would end; empty if nothing."""
    parts = []
    if snapshot.active:
        parts.append(counted(len(snapshot.active), "request"))
    moving = {DownloadStatus.QUEUED, DownloadStatus.RUNNING, DownloadStatus.VERIFYING}
    if running := sum(one.status in moving for one in snapshot.downloads):
        parts.append(counted(running, "download"))
    if active_models := len(snapshot.active_models):
        parts.append(counted(active_models, "loaded model"))
    if not parts:
        return ""
    return f"Stopping ends {' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))}."
