"""The app: one service, seven pages, and what holds on all of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, ClassVar

from rich.markup import escape
from rich.text import Text
from textual import events
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import DownloadStatus, endpoints
from cyber_inference_tui.terminal.text_width import pasted_text
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.chrome import NAME, PAGES, PageTabs
from cyber_inference_tui.tui.feed import Feed
from cyber_inference_tui.tui.key_queue import OPENING, KeyQueue
from cyber_inference_tui.tui.launch import Launch, Leave
from cyber_inference_tui.tui.pages.page import HEIGHTS, WIDTHS, Page
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.terminal_driver import TerminalDriver
from cyber_inference_tui.tui.theme import DEFAULT, THEMES
from cyber_inference_tui.tui.widgets.scroll_bar import choose_scroll_bars

_GARBAGE_THRESHOLDS = (10_000, 20, 20)
_PAGE_CHANGE_SECONDS = 0.005
MESSAGE_CHARACTERS = 400
"""How much of a message a notification shows; the page it belongs to shows the whole."""


def _page(mode: str) -> Screen[None]:
    """The page of this mode; its module is imported when it is opened for the first time."""
    module = importlib.import_module(f"cyber_inference_tui.tui.pages.{mode}.page")
    page: Screen[None] = getattr(module, f"{mode.capitalize()}Page")()
    return page


class CyberApp(App[Leave]):
    """The terminal app on the service of ``client``. Returns how it was left."""

    TITLE = NAME
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        page.mode: partial(_page, page.mode) for page in PAGES
    }
    # Not by way of Textual's own empty screen: a change of modes holds back what is painted.
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
            tooltip="What the keys do here",
        ),
        Binding("q", "leave", "Quit", id="app.quit", tooltip="Leave the app"),
        Binding("ctrl+q", "leave", "Quit", show=False, id="app.quit-anywhere"),
        Binding("ctrl+l", "redraw", "Redraw", show=False, id="app.redraw", tooltip="Draw all anew"),
    ]

    def __init__(
        self, client: ServiceClient, launch: Launch | None = None, *, add_demo: bool = False
    ) -> None:
        super().__init__(driver_class=TerminalDriver)
        self.client = client
        self.launch = launch or Launch()
        self.painted = False
        """Whether a first frame is on the screen: what it need not wait for is made after it."""
        self._keys = KeyQueue(self)
        self._add_demo = add_demo
        choose_scroll_bars(self.launch.charset)
        self.feed = Feed(
            client,
            on_change=self._show,
            on_login=self._login,
            now=self.launch.now,
            rate=self.launch.rate,
        )
        for theme in THEMES:
            self.register_theme(theme)
        known = self.launch.theme in self.available_themes
        self.theme = self.launch.theme if known else DEFAULT
        self._unknown_theme = "" if known else self.launch.theme
        self.set_keymap(self.launch.keymap)

    @property
    def snapshot(self) -> Snapshot:
        """What is known of the service now."""
        return self.feed.snapshot

    def delay_update(self, delay: float = 0.05) -> None:
        """Textual holds back all painting while pages change; ours are whole much sooner."""
        super().delay_update(min(delay, _PAGE_CHANGE_SECONDS))

    async def on_mount(self) -> None:
        """Open the first page."""
        await self.switch_mode(self.launch.first_page)
        if self.launch.signals:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, self.exit, Leave.KEEP)
        if self.launch.ticking:
            self.set_interval(1.0, self._tick)
        for notice in self.launch.notices:
            self.tell(notice, "warning")
        if self._unknown_theme:
            self.tell(f"There is no theme '{self._unknown_theme}'.", "warning")

    def on_ready(self) -> None:
        """Once the first page is on the screen, begin to follow the service."""
        self.screen.call_after_refresh(self._begin)

    def _begin(self) -> None:
        self.painted = True
        self._show(self.snapshot)
        if not gc.isenabled():
            # What is there by now will stay: it is not looked through again and again. The rest is
            # looked through seldom, as a key would have to wait for it.
            gc.freeze()
            gc.set_threshold(*_GARBAGE_THRESHOLDS)
            gc.enable()
        self.run_worker(self.feed.run(), name="feed", group="feed", exit_on_error=True)
        if self._add_demo:
            self.do(self.client.call(endpoints.ADD_DEMO), group="demo")

    def _fatal_error(self) -> None:
        """A fault of our own: a sentence for the person, the rest into a file.

        Textual's own would print all local variables, passwords among them.
        """
        error = sys.exc_info()[1] or self._exception
        kind = f"{type(error).__name__}: {error}" if error else "unknown"
        message = f"The terminal app ended by a fault of its own ({clean_line(kind)})."
        path = self.launch.crash_path
        if path is not None and error is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
                message += f" {path} says where; please report it."
        self._exit_renderables.append(Text(f"{message} The service still runs."))
        self._close_messages_no_wait()

    # Drawing

    def _show(self, snapshot: Snapshot) -> None:
        if not self.is_running:
            return  # it is being left: pages have lost their widgets already
        for screen in self.screen_stack:
            if isinstance(screen, Page):
                screen.draw(snapshot)

    def _tick(self) -> None:
        self._show(self.snapshot)

    def on_page_tabs_chosen(self, message: PageTabs.Chosen) -> None:
        """A page was clicked."""
        self.switch_mode(message.mode)

    async def open_hub(self, query: str) -> None:
        """Open the hub and search it for ``query``."""
        await self._open_at("hub", "search", query)

    async def on_event(self, event: events.Event) -> None:
        """Hand out keys in their turn, and make pasted text harmless."""
        typed = isinstance(event, events.Key | events.Paste) and not event.is_forwarded
        if typed and not self._keys.admits(event):
            return
        if isinstance(event, events.Paste):
            event.text = pasted_text(event.text, one_line=isinstance(self.focused, Input))
        await super().on_event(event)

    # Telling and asking

    def tell(self, message: str, severity: str = "information") -> None:
        """A notification; never markup, never a control character."""
        text = "\n".join(clean_line(line) for line in message.splitlines()[:6])
        if len(text) > MESSAGE_CHARACTERS:
            text = f"{text[:MESSAGE_CHARACTERS]}…"
        kind = {"warning": "warning", "error": "error"}.get(severity, "information")
        self.notify(text, severity=kind, markup=False)  # type: ignore[arg-type]

    def do(self, work: Coroutine[Any, Any, Any], *, done: str = "", group: str = "actions") -> None:
        """Carry out what was asked for; says ``done`` when it is, or what went wrong."""

        async def carry_out() -> None:
            try:
                await work
            except CyberError as error:
                self.tell(str(error), "error")
            else:
                if done:
                    self.tell(done)

        self.run_worker(carry_out(), group=group, exit_on_error=True)

    async def _login(self) -> None:
        from cyber_inference_tui.tui.dialogs.password import Password  # noqa: PLC0415 - seldom

        answer = await self.push_screen_wait(
            Password(
                self.client.url,
                self.client.login,
                can_keep=self.launch.save_password is not None,
            )
        )
        if answer is None:
            self.exit(Leave.KEEP)
            return
        password, keep = answer
        if keep and self.launch.save_password is not None:
            try:
                self.launch.save_password(password)
            except CyberError as error:
                self.tell(str(error), "error")

    # Actions

    async def action_open(self, mode: str) -> None:
        """Open a page. Awaited: the next key may be meant for it already."""
        await self.switch_mode(mode)

    async def open_model(self, model_id: str) -> None:
        """Open the models page at a model."""
        await self._open_at("models", "select", model_id)

    async def open_log(self, log_id: str) -> None:
        """Open the logs page at a log."""
        await self._open_at("logs", "open", log_id)

    async def open_chat(self, model_id: str) -> None:
        """Open the chat page with a model."""
        await self._open_at("chat", "choose", model_id)

    async def _open_at(self, mode: str, method: str, name: str) -> None:
        """Open a page and call its ``method`` with ``name``, once it is there."""
        await self.switch_mode(mode)
        call = getattr(self.screen, method, None)
        if call is None:
            return
        opened = asyncio.Event()
        self.call_after_refresh(call, name)
        self.call_after_refresh(opened.set)
        self.run_worker(opened.wait(), group=OPENING)

    def action_redraw(self) -> None:
        """Draw everything anew, after something else wrote to the terminal."""
        self.refresh(repaint=True, layout=True)

    def action_keys(self) -> None:
        """Show what the keys do here."""
        from cyber_inference_tui.tui.dialogs.keys import Keys  # noqa: PLC0415 - seldom

        if not isinstance(self.screen, Keys):
            self.push_screen(Keys(self.screen))

    async def action_leave(self) -> None:
        """Leave; asks what to do with a service that was started for this app, if it works."""
        if not self.launch.owned:
            self.exit(Leave.KEEP)
        elif not (lost := would_be_lost(self.snapshot)):
            self.exit(Leave.STOP)
        else:
            self._ask_leave(lost)

    def _ask_leave(self, lost: str) -> None:
        from cyber_inference_tui.tui.dialogs.question import Answer, Question  # noqa: PLC0415

        if isinstance(self.screen, Question):
            return

        def answered(value: str | None) -> None:
            if value in {Leave.KEEP, Leave.STOP}:
                self.exit(Leave(value))

        self.push_screen(
            Question(
                "Stop the service as well?",
                f"It was started for this app. {lost}",
                (
                    Answer(Leave.KEEP, "l", "Leave it running"),
                    Answer(Leave.STOP, "s", "Stop it", grave=True),
                    Answer("cancel", "c", "Cancel"),
                ),
            ),
            answered,
        )

    def get_key_display(self, binding: Binding) -> str:
        """The key in signs that the terminal has."""
        return self.launch.charset.key(super().get_key_display(binding))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every action that can be had now, for the palette."""
        told = {"command_palette"}
        for node, binding, enabled, tooltip in screen.active_bindings.values():
            if not enabled or binding.system or not binding.description:
                continue
            if binding.action not in told:
                told.add(binding.action)
                key = self.get_key_display(binding)
                yield SystemCommand(
                    binding.description,
                    # The palette reads markup, and keys are named [ and ], too.
                    escape(f"{key}   {tooltip or binding.tooltip or ''}".strip()),
                    # Where it is bound: a pane has actions that its page does not know.
                    partial(self.run_action, binding.action, node),
                )
        if "theme" not in told:  # the settings page has a key for it
            yield SystemCommand("Theme", "Choose the colours", self.action_change_theme)
        yield SystemCommand(
            "Screenshot", "Save what is shown as an SVG file", self.deliver_screenshot
        )


def would_be_lost(snapshot: Snapshot) -> str:
    """What stopping the service would end, in a sentence; empty if nothing."""
    parts = []
    if snapshot.active:
        parts.append(_count(len(snapshot.active), "request"))
    moving = {DownloadStatus.QUEUED, DownloadStatus.RUNNING, DownloadStatus.VERIFYING}
    if running := sum(one.status in moving for one in snapshot.downloads):
        parts.append(_count(running, "download"))
    if awake := len(snapshot.awake):
        parts.append(_count(awake, "loaded model"))
    if not parts:
        return ""
    return f"Stopping ends {' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
