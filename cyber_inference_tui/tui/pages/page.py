"""The base class of the pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.events import DescendantFocus
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, Static
from textual.worker import Worker

from cyber_inference_tui.records import ModelRecord
from cyber_inference_tui.tui.chrome import PageTabs, StatusBar, TooSmall, is_old
from cyber_inference_tui.tui.kept_view import Value
from cyber_inference_tui.tui.key_bar import KeyBar
from cyber_inference_tui.tui.key_queue import OPENING, ended
from cyber_inference_tui.tui.pages.no_service import NoService
from cyber_inference_tui.tui.snapshot import Snapshot

if TYPE_CHECKING:
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.tui.app import CyberApp
    from cyber_inference_tui.tui.widgets.live_table import LiveTable

WIDTHS: list[tuple[int, str]] = [(0, "-tiny"), (60, "-narrow"), (100, "-wide")]
"""CSS classes of a screen by the terminal's columns; ``-tiny`` has no room for a page."""
SIDE_BY_SIDE = 120
"""Least columns for a table with the details of the selected row beside it."""
HEIGHTS: list[tuple[int, str]] = [(0, "-flat"), (18, "-short"), (32, "-tall")]


class Page(Screen[None]):
    """A page, which draws itself from snapshots.

    ``body`` composes it. ``show`` is called with each new snapshot while the page is in front,
    when it comes to the front, and every second for countdowns, once the service has answered. It
    has to be cheap when nothing changed. A read-only app hides the actions in ``STEERING``, which
    change something.
    """

    MODE: ClassVar[str]
    STEERING: ClassVar[frozenset[str]] = frozenset()
    BINDINGS: ClassVar[list[BindingType]] = []
    _focused_before: Widget | None = None
    """The widget that gets the focus when the service answers."""
    _has_boxes = False

    def compose(self) -> ComposeResult:
        """Compose the parts that every page has, and the page's body."""
        # Set these classes first: later Textual would style all widgets a second time.
        size = self.app.size
        self.add_class(_step(size.width, WIDTHS), _step(size.height, HEIGHTS))
        self.set_class(not self.cyber.snapshot.reached, "-absent")
        yield StatusBar(self.cyber.options)
        yield PageTabs(self.MODE)
        yield from self.body()
        yield NoService()
        yield TooSmall()
        yield KeyBar(self.cyber.options.charset)

    def body(self) -> ComposeResult:
        """Compose the page itself."""
        raise NotImplementedError

    def show(self, snapshot: Snapshot) -> None:
        """Draw ``snapshot``."""
        raise NotImplementedError

    def chosen(self) -> ModelRecord | None:
        """Return the selected model, on a page that has one."""
        return None

    @property
    def cyber(self) -> CyberApp:
        """The app with its own type."""
        return cast("CyberApp", self.app)

    @property
    def client(self) -> ServiceClient:
        """The client of the service."""
        return self.cyber.client

    def kept(self, name: str, default: Value) -> Value:
        """Return a value that ``keep`` has kept for this page, or ``default``."""
        return self.cyber.kept.get(self.MODE, name, default)

    def keep(self, **values: str | bool | int | list[str]) -> None:
        """Keep values for the next start of the app."""
        self.cyber.keep(self.MODE, **values)

    def on_mount(self) -> None:
        """Filter, and show the columns, as before the last end of the app."""
        for line in self.query("FilterLine").results(Input):
            line.value = self.kept("filter", "")
        self.hide_columns()

    def hide_columns(self) -> None:
        """Hide the columns that a person does not want to see."""
        for table in self._column_tables:
            table.hide_columns(self.kept(f"{table.id}_hidden", list[str]()))

    @property
    def _column_tables(self) -> list[LiveTable]:
        """The tables whose columns can be chosen."""
        tables = cast("Iterable[LiveTable]", self.query("LiveTable"))
        return [one for one in tables if one.has_header and len(one.optional_columns) > 1]

    @property
    def _table_in_use(self) -> LiveTable | None:
        """The table with the focus, or else the first one, if its columns can be chosen."""
        seen = sorted(
            (one for one in self._column_tables if one.display), key=lambda one: not one.has_focus
        )
        return seen[0] if seen else None

    def action_columns(self) -> None:
        """Choose the columns of the table."""
        from cyber_inference_tui.tui.pages.table_order import ask_columns  # noqa: PLC0415 - on demand

        if (table := self._table_in_use) is not None:
            ask_columns(self, table)

    def action_box(self) -> None:
        """Show the models or requests of the next box, or of all."""
        self.cyber.show_next_box()
        self.redraw()

    def on_filter_line_filtered(self, event: Message) -> None:
        """Keep the filter of the page."""
        for line in self.query("FilterLine").results(Input):
            self.keep(filter=line.value.strip())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available; none of a page that is hidden."""
        if self.has_class("-absent"):
            return False
        if action in self.STEERING and self.cyber.options.readonly:
            return False
        if action == "columns" and self._table_in_use is None:
            return False
        if action == "box" and not self.cyber.snapshot.boxes:
            return False
        if self.has_class("-tiny") or self.has_class("-flat"):
            return False  # it would act on a row that nobody sees
        return super().check_action(action, parameters)

    def draw(self, snapshot: Snapshot) -> None:
        """Draw the whole page; the app calls it."""
        if not self.is_mounted:
            return
        now = self.cyber.options.now()
        self.set_class(is_old(snapshot, now), "-stale")
        self.query_one(StatusBar).show(snapshot, now, self.client.place)
        if snapshot.reached:
            self._show_body()
            self.show(snapshot)
            if self._has_boxes is not bool(snapshot.boxes):
                self._has_boxes = bool(snapshot.boxes)
                self.refresh_bindings()
        else:
            self.query_one(NoService).show(snapshot, now)
            self._keep_focus()

    def _show_body(self) -> None:
        if self.has_class("-absent"):
            self.remove_class("-absent")
            if isinstance(self.focused, NoService):
                self.set_focus(self._focused_before)

    @on(DescendantFocus)
    def _keep_focus(self) -> None:
        """Move the focus to the notice while it hides the page."""
        if self.has_class("-absent") and not isinstance(self.focused, NoService):
            self._focused_before = self.focused
            self.set_focus(self.query_one(NoService))

    async def run_when_shown(self, action: str) -> None:
        """Run an action of this page or its panes, if it is available."""
        for node, binding, enabled, _ in self.active_bindings.values():
            if enabled and binding.action == action:
                await self.app.run_action(action, node)
                return
        self.cyber.show_message("That is not available here now.", "warning")

    def keep_keys(self, worker: Worker[Any] | None) -> None:
        """Keep the next keys until ``worker`` has ended: they are for what it shows."""
        if worker is not None:
            self.run_worker(ended(worker), group=OPENING, exit_on_error=False)

    def on_screen_resume(self) -> None:
        """Draw the newest snapshot when the page comes to the front."""
        self.call_after_refresh(self.redraw)

    def on_resize(self) -> None:
        """Redraw for the new size."""
        self.call_after_refresh(self.redraw)

    def redraw(self) -> None:
        """Draw the newest snapshot again."""
        self.draw(self.cyber.snapshot)


def _step(size: int, steps: list[tuple[int, str]]) -> str:
    """Return the class of the last step that is not above ``size``."""
    return [name for least, name in steps if least <= size][-1]


def update_static(widget: Static, content: Content, layout: bool = False) -> None:
    """Update ``widget`` if ``content`` is new; with ``layout`` its size may change."""
    before = widget.content
    if not (isinstance(before, Content) and before.is_same(content)):
        widget.update(content, layout=layout)
