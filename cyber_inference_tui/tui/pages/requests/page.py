"""The Requests page: running requests, the history, details and totals."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ActiveRequestRecord, RequestRecord, endpoints, queries
from cyber_inference_tui.terminal.columns import Order, RenderContext
from cyber_inference_tui.terminal.text_width import cut, plain
from cyber_inference_tui.tui.feed import FINISHED_KEPT
from cyber_inference_tui.tui.pages.dashboard.speeds import rate_sparks
from cyber_inference_tui.tui.pages.models.model_actions import box_binding
from cyber_inference_tui.tui.pages.models.table import box_text
from cyber_inference_tui.tui.pages.page import SIDE_BY_SIDE, Page, update_static
from cyber_inference_tui.tui.pages.requests.details_pane import RequestDetails
from cyber_inference_tui.tui.pages.requests.known_requests import KnownRequests, RequestFilter
from cyber_inference_tui.tui.pages.requests.table import (
    COLUMNS,
    NEWEST_FIRST,
    SPARK,
    FinishedRows,
    live_row,
    row_key,
    searchable_text,
)
from cyber_inference_tui.tui.pages.requests.totals import TotalsTable
from cyber_inference_tui.tui.pages.table_order import ask_order, keep_order, kept_order
from cyber_inference_tui.tui.snapshot import EVERYWHERE, Link, Snapshot, model_of, on_box
from cyber_inference_tui.tui.widgets.filter_line import FilterLine
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row

PAGE = 200
"""Requests per page of the history."""
_NEAR_END = 5
"""Rows before the last one at which older requests are read."""


class RequestList(LiveTable):
    """The table of requests, with enter in the line of keys."""

    KEYS_TITLE = "Requests"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Details", id="requests.details", tooltip="open all details"),
    ]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available: an empty table has no row to open."""
        if action == "choose" and not self.rows:
            return False
        return super().check_action(action, parameters)


class RequestsPage(Page):
    """Shows a table of requests, the details of the selected one, and totals."""

    MODE: ClassVar[str] = "requests"
    CSS_PATH = "page.tcss"
    AUTO_FOCUS = "#requests"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "f",
            "failures",
            "Failed",
            id="requests.failures",
            tooltip="show only failed requests, or all",
        ),
        Binding(
            "m",
            "model",
            "Model",
            id="requests.model",
            tooltip="show only requests to this model, or all",
        ),
        Binding("slash", "filter", "Filter", key_display="/", id="requests.filter"),
        Binding("s", "sort", "Sort", id="requests.sort", tooltip="choose the column"),
        Binding("S", "reverse", "Reverse order", show=False, id="requests.reverse"),
        Binding("t", "totals", "Totals", id="requests.totals", tooltip="sums and speeds"),
        Binding(
            "d",
            "beside",
            "Beside",
            show=False,
            id="requests.beside",
            tooltip="details beside or below the list",
        ),
        box_binding("requests"),
        Binding("o", "log", "Log", id="requests.log", tooltip="open the log of its model"),
        Binding("c", "copy", "Copy", id="requests.copy", tooltip="copy the details"),
        Binding(
            "space",
            "freeze",
            "Freeze",
            id="requests.freeze",
            tooltip="hold the display still, or continue",
        ),
        Binding(
            "escape",
            "back",
            "Back",
            id="requests.back",
            tooltip="close the details, or show all again",
        ),
        Binding("j", "step(1)", "Next", id="requests.next", tooltip="go to the next request"),
        Binding(
            "k",
            "step(-1)",
            "Previous",
            id="requests.previous",
            tooltip="go to the previous request",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._history = KnownRequests(RequestFilter())
        self._order = NEWEST_FIRST
        self._made: tuple[Any, ...] = ()
        self._finished: list[Row] = []
        self._rows: FinishedRows | None = None
        self._by_key: dict[str, RequestRecord] = {}
        self._unknown = {"energy"}
        """Columns without a figure, as no request's energy is known."""
        self._live: dict[str, ActiveRequestRecord] = {}
        self._fetching = False
        self._problem = ""
        self._was_live = False
        self._frozen: tuple[Snapshot, datetime] | None = None
        """The snapshot of a frozen display and its time."""
        self._beside_wanted = True
        """A person wants the details beside the list, if there is room."""
        self._is_empty = True  # until the service has a request

    def body(self) -> ComposeResult:
        """Compose the table with its details, and the totals."""
        self._order = kept_order(self, COLUMNS, NEWEST_FIRST)
        self._beside_wanted = self.kept("beside", default=True)
        charset = self.cyber.options.charset
        with Vertical(id="page", classes="body"):
            yield Static(id="title", classes="heading")
            yield FilterLine("part of a model, path, client or error", id="filter")
            yield TotalsTable(charset)
            with Container(id="middle"):
                yield RequestList(COLUMNS, charset=charset, id="requests")
                yield RequestDetails()

    def on_mount(self) -> None:
        """Arrange the list and the details."""
        self._arrange()

    def on_resize(self) -> None:
        """Arrange the list and the details for the new size."""
        self._arrange()

    def on_screen_suspend(self) -> None:
        """Read nothing more while another page is in front."""
        self.query_one(TotalsTable).leave()
        self.query_one(RequestDetails).leave()

    def _arrange(self) -> None:
        has_room = self.size.width >= SIDE_BY_SIDE and not self._is_empty
        self.set_class(self._beside_wanted and has_room, "-beside")

    # Drawing

    def show(self, snapshot: Snapshot) -> None:
        """Draw ``snapshot``, or the frozen one."""
        if self._frozen is not None:
            snapshot = self._frozen[0]
        if snapshot.link is Link.LIVE and not self._was_live:
            # Requests of the meantime are missing: read the history again.
            self._start(self._history.choice)
        self._was_live = snapshot.link is Link.LIVE
        self._history.follow(snapshot.finished)
        if len(snapshot.finished) < FINISHED_KEPT:
            self._history.complete = True  # the service has no others
        is_empty = not (snapshot.active or self._history.records or self._can_go_back)
        if is_empty != self._is_empty:
            self._is_empty = is_empty
            self._arrange()
            self.call_after_refresh(self.refresh_bindings)
        self._draw_requests(snapshot)
        if self.has_class("-totals"):
            self.query_one(TotalsTable).draw(snapshot.finished, live=snapshot.live)
        self._draw_details()
        self._draw_title(snapshot)
        self._want_older()

    def _start(self, choice: RequestFilter) -> None:
        """Start with the requests of another selection."""
        self._history = KnownRequests(choice)
        self._problem = ""
        self._fetching = False
        self._made = ()

    def _draw_requests(self, snapshot: Snapshot) -> None:
        options = self.cyber.options
        now, charset = self._now(), options.charset
        needle = self.query_one(FilterLine).needle
        table = self.query_one("#requests", LiveTable)
        choice, box = self._history.choice, self.cyber.box_shown
        live = [
            one
            for one in on_box(snapshot.active, box)
            if choice.model in {None, one.model}
            and not choice.only_failures
            and (not needle or needle in searchable_text(one, charset))
        ]
        made = (self._history.records, needle, box, self._order, now.date())
        if made != self._made:
            self._made = made
            records = self._order.sort(
                one
                for one in on_box(self._history.records, box)
                if not needle or needle in searchable_text(one, charset)
            )
            self._rows = self._rows or FinishedRows(charset)
            self._finished = self._rows.rows(records, now)
            self._by_key = {row_key(one): one for one in records}
            self._unknown = {"energy"} if all(one.energy_j is None for one in records) else set()
        live = [one for one in live if row_key(one) not in self._by_key]
        self._live = {row_key(one): one for one in live}
        # The cursor follows the newest request unless the details are open.
        table.keeps_top = not self.has_class("-details")
        context = RenderContext(charset, now)
        sparks = rate_sparks(snapshot.rates, SPARK, charset)
        rows = [live_row(one, context, sparks.get(one.number, "")) for one in live]
        table.leave_out(self._unknown if snapshot.boxes else self._unknown | {"box"})
        table.show([*rows, *self._finished])
        table.show_sort(self._order.column.key, descending=self._order.descending)
        table.show_empty(self._empty(needle))

    def _now(self) -> datetime:
        return self._frozen[1] if self._frozen is not None else self.cyber.options.now()

    def _empty(self, needle: str) -> Content:
        if self._fetching:
            return Content.styled(f"Reading {self.cyber.options.charset.dots}", "$text-muted")
        if self._history.choice != RequestFilter() or needle:
            return Content.styled("No request matches. esc shows all requests.", "$text-muted")
        return Content.assemble(
            ("No requests yet.\n\n", "bold"),
            ("Point any OpenAI client at ", "$text-muted"),
            f"{self.client.url}/v1",
            (
                " with the lines that C shows, or press 6 to chat.\nEach request appears here "
                "with its tokens, its speed and its error, if it failed.",
                "$text-muted",
            ),
        )

    def _draw_title(self, snapshot: Snapshot) -> None:
        choice, needle = self._history.choice, self.query_one(FilterLine).needle
        dot = f" {self.cyber.options.charset.dot} "
        if self.has_class("-totals"):
            room = self.query_one("#title").content_size.width
            title = self.query_one(TotalsTable).title(self.cyber.options.charset.dot, room)
            update_static(self.query_one("#title", Static), title)
            return
        counts = f"  {len(self._live)} live{dot}{len(self._finished):,} done"
        if not self._history.complete:
            counts += " and more"
        filters = []
        if choice.only_failures:
            filters.append("only failures")
        if choice.model is not None:
            filters.append(
                f"only {cut(plain(choice.model), 40, self.cyber.options.charset.ellipsis)}"
            )
        if (box := self.cyber.box_shown) != EVERYWHERE:
            filters.append(f"only {box_text(box)}")
        if needle:
            filters.append(f"with '{plain(needle, limit=40)}'")
        parts = [("REQUESTS", ""), (counts, "not bold")]
        if self._frozen is not None:
            parts.append(("   frozen: space continues", "$warning"))
        if filters:
            parts.append((f"   {', '.join(filters)}", "$accent"))
        if self._order != NEWEST_FIRST:
            parts.append((f"   by {self._order.column.title.lower()}", "not bold"))
        if self._problem:
            parts.append((f"   {plain(self._problem, limit=200)}", "$error"))
        update_static(self.query_one("#title", Static), Content.assemble(*parts))

    def _draw_details(self) -> None:
        self.query_one(RequestDetails).draw(
            None if self.has_class("-totals") else self._selected(),
            explain=self.has_class("-beside") or self.has_class("-details"),
            live=self._was_live,
        )

    def _selected(self) -> ActiveRequestRecord | RequestRecord | None:
        key = self.query_one("#requests", LiveTable).cursor_key
        if key is None:
            return None
        return self._live.get(key) or self._by_key.get(key)

    # Older requests

    def _want_older(self) -> None:
        """Read older requests when the cursor is near the last row."""
        table = self.query_one("#requests", LiveTable)
        history = self._history
        if self._fetching or history.complete or self._problem or not self._was_live:
            return
        rows = table.rows
        near = len(rows) <= table.size.height or table.cursor_key in {
            row.key for row in rows[-_NEAR_END:]
        }
        if near:
            self._fetching = True
            self.run_worker(
                self._fetch(history), exclusive=True, group="older", exit_on_error=False
            )

    async def _fetch(self, history: KnownRequests) -> None:
        choice = history.choice
        try:
            page = await self.client.call(
                endpoints.REQUESTS,
                query=queries.RequestQuery(
                    limit=PAGE,
                    before=history.oldest_id,
                    model=choice.model,
                    failed=True if choice.only_failures else None,
                ),
            )
        except CyberError as error:
            if history is self._history:
                self._problem = f"Older requests could not be read: {error}"
        else:
            history.add_older(page, PAGE)
        if history is self._history:
            self._fetching = False
            self.redraw()

    @on(LiveTable.RowHighlighted, "#requests")
    def _moved(self) -> None:
        self._draw_details()
        self._want_older()

    @on(LiveTable.RowChosen, "#requests")
    def _chosen(self) -> None:
        self.add_class("-details")
        pane = self.query_one("#pane")
        pane.can_focus = True
        self.screen.set_focus(pane)
        self.redraw()

    @on(LiveTable.RowChosen, "#totals")
    def _chosen_total(self, message: LiveTable.RowChosen) -> None:
        by = self.query_one(TotalsTable).by
        if by == "day":
            return
        self._close_totals()
        line = self.query_one(FilterLine)
        if by == "model":
            line.clear_filter()
            self._choose(RequestFilter(model=message.key))
        else:
            line.value = plain(message.key)
            self._choose(RequestFilter())

    @on(LiveTable.HeaderSelected, "#requests")
    def _header(self, message: LiveTable.HeaderSelected) -> None:
        self._sort(self._order.by(message.column))

    @on(FilterLine.Filtered)
    def _filtered(self) -> None:
        self.redraw()

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now."""
        if not self.is_mounted:
            return super().check_action(action, parameters)
        if (self._is_empty or self.has_class("-totals")) and action in _LIST_ACTIONS:
            return False
        if action == "beside" and self.size.width < SIDE_BY_SIDE:
            return False
        if action == "back" and not self._can_go_back:
            return False
        if action == "step" and not self.has_class("-details"):
            return False
        if self.has_class("-details") and action in _LIST_ACTIONS - {"log", "copy"} | {"totals"}:
            return False
        return super().check_action(action, parameters)

    @property
    def _can_go_back(self) -> bool:
        inside = self.has_class("-details") or self.has_class("-totals")
        chosen = self._history.choice != RequestFilter() or self._frozen is not None
        return inside or chosen or bool(self.query_one(FilterLine).value)

    def _choose(self, choice: RequestFilter) -> None:
        self._start(choice)
        self.query_one("#requests", LiveTable).filtered = True
        self.redraw()
        self.refresh_bindings()

    def action_failures(self) -> None:
        """Show only failed requests, or all."""
        choice = self._history.choice
        self._choose(RequestFilter(choice.model, not choice.only_failures))

    def action_model(self) -> None:
        """Show only requests to the selected request's model, or all."""
        choice = self._history.choice
        record = self._selected()
        model = record.model if record is not None and choice.model is None else None
        self._choose(RequestFilter(model or None, choice.only_failures))

    def action_filter(self) -> None:
        """Open the filter."""
        self.query_one(FilterLine).open(self.query_one("#requests"))

    def action_sort(self) -> None:
        """Choose the column to sort by."""
        known = [column for column in COLUMNS if column.key not in self._unknown]
        ask_order(self, known, self._order, self._sort)

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._sort(self._order.reversed())

    def _sort(self, order: Order[RequestRecord]) -> None:
        self._order = order
        keep_order(self, order)
        self.redraw()

    def action_totals(self) -> None:
        """Switch between totals and requests."""
        if self.has_class("-totals"):
            self._close_totals()
            return
        self._problem = ""
        self._frozen = None
        totals = self.query_one(TotalsTable)
        totals.read_again()
        self.add_class("-totals")
        self.screen.set_focus(totals)
        self.redraw()

    def _close_totals(self) -> None:
        self.query_one(TotalsTable).leave()
        self.remove_class("-totals")
        self.screen.set_focus(self.query_one("#requests"))
        self._problem = ""
        self.redraw()

    def action_beside(self) -> None:
        """Put the details beside the list, or below it."""
        self._beside_wanted = not self._beside_wanted
        self.keep(beside=self._beside_wanted)
        self._arrange()
        self.redraw()

    async def action_log(self) -> None:
        """Open the log of the selected request's model, or the service's log."""
        if (record := self._selected()) is not None:
            await self.cyber.open_log(model_of(record) or "service")

    def action_copy(self) -> None:
        """Copy the details of the selected request."""
        if (record := self._selected()) is not None:
            self.cyber.copy_to_clipboard(self.query_one(RequestDetails).text(record))
            self.cyber.show_message("Copied the details.")

    def action_freeze(self) -> None:
        """Freeze the display, or continue."""
        held = (self.cyber.snapshot, self.cyber.options.now())
        self._frozen = held if self._frozen is None else None
        self.redraw()
        self.refresh_bindings()

    def action_step(self, rows: int) -> None:
        """Move to another request while the details are open."""
        self.query_one("#requests", LiveTable).action_move(rows)

    def action_back(self) -> None:
        """Close the details or the totals, unfreeze, or clear the filters, in this order."""
        if self.has_class("-details"):
            self.remove_class("-details")
            self.query_one("#pane").can_focus = False
            self.screen.set_focus(self.query_one("#requests"))
            self.redraw()
        elif self.has_class("-totals"):
            self._close_totals()
        elif self._frozen is not None:
            self.action_freeze()
        elif (
            not self.query_one(FilterLine).clear_filter()
            and self._history.choice != RequestFilter()
        ):
            self._choose(RequestFilter())


_LIST_ACTIONS = {
    *("failures", "model", "filter", "sort", "reverse", "beside"),
    *("log", "copy", "freeze", "box"),
}
