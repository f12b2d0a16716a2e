"""The terminal app: one service, eight pages, and the actions that every page has."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Offset
from textual.screen import Screen
from textual.widgets import Input, TextArea

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ModelRecord, endpoints
from cyber_inference_tui.terminal.text_width import pasted_text
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.announcements import announcements, state_of
from cyber_inference_tui.tui.app_options import AfterExit, AppOptions
from cyber_inference_tui.tui.chrome import NAME, PAGES, PageTabs
from cyber_inference_tui.tui.feed import Feed
from cyber_inference_tui.tui.frames import Painting
from cyber_inference_tui.tui.kept_view import KeptView
from cyber_inference_tui.tui.key_queue import KeyQueue
from cyber_inference_tui.tui.navigation import Navigation
from cyber_inference_tui.tui.pages.page import HEIGHTS, WIDTHS, Page
from cyber_inference_tui.tui.snapshot import EVERYWHERE, Snapshot, would_be_lost
from cyber_inference_tui.tui.terminal_driver import TerminalDriver
from cyber_inference_tui.tui.theme import DEFAULT, THEMES
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.tui.widgets.scroll_bar import set_scroll_bars
from cyber_inference_tui.tui.widgets.text_line import (
    NAME_CHARACTERS,
    TEXT_CHARACTERS,
    limit_sentence,
)

_GARBAGE_THRESHOLDS = (10_000, 20, 20)
_PAGE_CHANGE_SECONDS = 0.005
_KEEP_SECONDS = 1.0
"""Seconds until a changed view is written, with all that changes meanwhile."""
MESSAGE_CHARACTERS = 400
"""Characters of a message that a notification shows; the page itself shows all of it."""


def _page(mode: str) -> Screen[None]:
    """Return a new page; its module is imported when the page opens for the first time."""
    module = importlib.import_module(f"cyber_inference_tui.tui.pages.{mode}.page")
    page: Screen[None] = getattr(module, f"{mode.capitalize()}Page")()
    return page


class CyberApp(Painting, Navigation):
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
            "colon",
            "command_palette",
            "Palette",
            key_display=":",
            id="app.palette",
            tooltip="any action, model, setting or theme by its name",
        ),
        Binding(
            "question_mark,f1",
            "keys",
            "Help",
            key_display="?",
            id="app.help",
            tooltip="the keys of this page",
        ),
        Binding(
            "C,f2",
            "connect",
            "Connect",
            id="app.connect",
            tooltip="address, key and ready lines for clients",
        ),
        Binding("H", "hosts", "Hosts", show=False, id="app.hosts", tooltip="other machines"),
        Binding("B", "boxes", "Boxes", show=False, id="app.boxes", tooltip="pair with other boxes"),
        Binding(
            "v", "screen.columns", "Columns", show=False, id="app.columns", tooltip="of the table"
        ),
        Binding("q", "leave", "Quit", id="app.quit", tooltip="leave the app"),
        Binding("ctrl+q", "leave", "Quit", show=False, id="app.quit-anywhere"),
        Binding(
            "ctrl+l", "redraw", "Redraw", show=False, id="app.redraw", tooltip="repaint the screen"
        ),
        # Also while a text is typed.
        Binding(
            "ctrl+p",
            "command_palette",
            "Palette",
            show=False,
            priority=True,
            id="app.palette-anywhere",
            tooltip="any action, model, setting or theme by its name",
        ),
        Binding(
            "ctrl+z",
            "suspend_process",
            "Suspend",
            show=False,
            priority=True,
            id="app.suspend",
            tooltip="return to the shell; fg continues",
        ),
    ]

    def __init__(
        self, client: ServiceClient, options: AppOptions | None = None, *, add_demo: bool = False
    ) -> None:
        self.options = options or AppOptions()
        super().__init__(driver_class=self.options.driver or TerminalDriver)
        self.client = client
        self.kept = KeptView(self.options.view_path)
        """The view that the user chose, by page."""
        self.painted = False
        """The first frame is on the screen. Work that it does not need starts afterwards."""
        self.next_host: str | None = None
        """The host that the caller opens the app on next."""
        self._keys = KeyQueue(self, self._say_dropped)
        self._cursor_position = Offset(0, 0)
        self._add_demo = add_demo
        self._has_focus = False
        """The terminal has said that it has the focus."""
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

    def at(self, model_id: str) -> tuple[ServiceClient, str]:
        """Return the client for the box of a model or of its log, and its id there."""
        box, there = self.snapshot.home(model_id)
        return (self.client.at(box) if box else self.client), there

    @property
    def box_shown(self) -> str:
        """The box whose models are shown; see ``Snapshot.models_of``."""
        chosen = self.kept.get("app", "box", EVERYWHERE)
        known = {"", EVERYWHERE, *(box.name for box in self.snapshot.boxes)}
        return chosen if self.snapshot.boxes and chosen in known else EVERYWHERE

    def show_next_box(self) -> None:
        """Show the models of the next box: all, this one, then each other one."""
        order = [EVERYWHERE, "", *(box.name for box in self.snapshot.boxes)]
        self.keep("app", box=order[(order.index(self.box_shown) + 1) % len(order)])

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
        for notice in (*self.options.notices, self.kept.problem):
            if notice:
                self.show_message(notice, "warning")
        if self._unknown_theme:
            self.show_message(f"There is no theme '{self._unknown_theme}'.", "warning")

    async def on_unmount(self) -> None:
        """Write what has to be kept for the next start."""
        with contextlib.suppress(CyberError):
            await self.kept.save()

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
        if (terminal := self._desktop) is not None:
            terminal.show_state(*state_of(snapshot, self.client.place, self.options))
        for screen in self.screen_stack:
            # Pages, and dialogs that show the service.
            if (draw := getattr(screen, "draw", None)) is not None:
                draw(snapshot)

    @property
    def _desktop(self) -> TerminalDriver | None:
        """The terminal, if it may be used for the desktop behind it."""
        found = self._driver if self.options.desktop else None
        return found if isinstance(found, TerminalDriver) else None

    def _announce(self, snapshot: Snapshot) -> None:
        """Show notifications of what happened since the last look, here and on the desktop."""
        if not snapshot.live:
            return
        known, events = self._announced, snapshot.recent_events
        if known is None and (hosts := self.options.hosts) is not None and hosts.current:
            self.do(asyncio.to_thread(hosts.keep, hosts.current))
        self._announced = events[0].id if events else 0
        for news in announcements(events, known) if known is not None else ():
            severity = "error" if news.is_bad else "information"
            self.show_message(f"{news.text} {news.hint}".rstrip(), severity)
            if (terminal := self._desktop) is not None and not self._has_focus:
                terminal.notify(NAME, news.text)

    def _tick(self) -> None:
        self._show(self.snapshot)

    def on_page_tabs_chosen(self, message: PageTabs.Chosen) -> None:
        """Open the page that was clicked."""
        self.switch_mode(message.mode)

    async def on_event(self, event: events.Event) -> None:
        """Hand out keys in their turn, and remove control characters from pasted text."""
        if isinstance(event, events.AppFocus | events.AppBlur):
            self._has_focus = isinstance(event, events.AppFocus)
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

    def keep(self, page: str, **values: str | bool | int | list[str]) -> None:
        """Keep values of a page for the next start of the app."""
        if self.kept.put(page, **values):
            self.do(self.kept.save(after=_KEEP_SECONDS), group="kept")

    async def _login(self) -> None:
        from cyber_inference_tui.tui.dialogs.password import Password  # noqa: PLC0415 - seldom

        answer = await self.push_screen_wait(
            Password(
                self.client.place,
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

    def action_redraw(self) -> None:
        """Repaint the screen, for example after another program wrote to the terminal."""
        self.refresh(repaint=True, layout=True)

    def action_help_quit(self) -> None:
        """Say which key quits: ctrl+c copies a selection, and people press it to leave."""
        wanted = "app.quit-anywhere" if isinstance(self.focused, Input | TextArea) else "app.quit"
        for _, binding, _, _ in self.screen.active_bindings.values():
            if binding.id == wanted:
                self.show_message(f"{self.get_key_display(binding)} quits.")
                return

    def action_suspend_process(self) -> None:
        """Stop the app and the program that started it, as a terminal does at ctrl+z."""
        if self._driver is not None and self._driver.can_suspend:
            os.killpg(0, signal.SIGTSTP)

    def action_keys(self) -> None:
        """Show the keys of this page."""
        from cyber_inference_tui.tui.dialogs.keys import (  # noqa: PLC0415 - seldom
            Keys,
            versions_text,
        )

        if not isinstance(self.screen, Keys):
            self.push_screen(Keys(self.screen, versions_text(self.snapshot.status)))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available: clients connect to a service that has answered."""
        if action in {"connect", "boxes"}:
            return self.snapshot.reached
        if action == "hosts":
            return self.options.hosts is not None
        return super().check_action(action, parameters)

    def action_connect(self) -> None:
        """Show how clients connect, with lines for the model of the page."""
        if isinstance(self.screen, Page):
            self.connect_clients(self.screen.chosen())

    def connect_clients(self, model: ModelRecord | None) -> None:
        """Show how clients connect to a model."""
        from cyber_inference_tui.tui.dialogs.connect import ConnectDialog  # noqa: PLC0415 - seldom

        self.push_screen(ConnectDialog(model))

    def action_hosts(self) -> None:
        """Show the other machines, and switch to the chosen one."""
        from cyber_inference_tui.tui.dialogs.hosts import HostsDialog  # noqa: PLC0415 - seldom

        def chosen(address: str | None) -> None:
            if address is not None:
                self.switch_host(address)

        if self.options.hosts is not None and isinstance(self.screen, Page):
            self.push_screen(HostsDialog(self.options.hosts), chosen)

    def switch_host(self, address: str) -> None:
        """Leave the app, which opens again on the host at ``address``."""
        self.next_host = address
        self.exit(AfterExit.KEEP)

    def action_boxes(self) -> None:
        """Show the other boxes, pair with them and remove them."""
        from cyber_inference_tui.tui.dialogs.boxes import BoxesDialog  # noqa: PLC0415 - seldom

        if isinstance(self.screen, Page):
            self.push_screen(BoxesDialog())

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

    def action_command_palette(self) -> None:
        """Open the palette."""
        from cyber_inference_tui.tui.dialogs.palette import open_palette  # noqa: PLC0415 - seldom

        if isinstance(self.screen, Page):
            open_palette(self)
