"""The totals of the Requests page: sums and speeds by model, client, key or day."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import ClassVar, Literal, cast

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.worker import Worker

from cyber_inference_tui.errors import CyberError, NotFoundError
from cyber_inference_tui.records import RequestRecord, SpeedTotals, endpoints
from cyber_inference_tui.records.queries import SpeedQuery
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.columns import Cell, Column, Order, RenderContext
from cyber_inference_tui.terminal.drafts import accepted_text, gain, gain_text
from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.pages.table_order import ask_order, keep_order, kept_order
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row, row_of
from cyber_inference_tui.units import (
    age_text,
    number_text,
    seconds_text,
    speed_text,
    watt_hours_text,
)

By = Literal["model", "client", "key", "day"]
_BY: tuple[By, ...] = ("model", "client", "key", "day")
_TITLES: dict[By, str] = {
    "model": "model",
    "client": "client",
    "key": "API key",
    "day": "day (UTC)",
}
_NOTHING: dict[By, tuple[str, str]] = {
    "model": ("No requests yet.", "Each model gets a line with its sums and speeds."),
    "client": ("No requests yet.", "Each program that sends requests gets a line."),
    "key": ("No requests with an API key yet.", "a on page 7 creates keys and gives them names."),
    "day": ("No requests yet.", "Each day gets a line, so that a slower one is seen."),
}
_LEAST_PAUSE = 0.5
"""Seconds between two readings of the totals."""
_PAUSE = 10
"""The pause is at least as many times the time that the reading took."""
_KEPT = "totals_"
"""Begins the names of the values that are kept for the next start."""


def _used_cell(totals: SpeedTotals, context: RenderContext) -> str:
    return age_text(max(0.0, (context.now - totals.last_used_at).total_seconds()))


def _failures_cell(totals: SpeedTotals, context: RenderContext) -> Cell:
    return Cell(number_text(totals.failures), "bad" if totals.failures else "dim")


def _cost_text(cost: float) -> str:
    return number_text(cost, decimals=2 if cost >= 0.995 else 4)


def _accepted_cell(totals: SpeedTotals, context: RenderContext) -> str:
    drafted = totals.drafted
    return accepted_text(drafted.tokens_drafted, drafted.tokens_accepted) if drafted else ""


def _gain_cell(totals: SpeedTotals, context: RenderContext) -> str:
    return gain_text(totals.drafted) if totals.drafted else ""


COLUMNS: tuple[Column[SpeedTotals, RenderContext], ...] = (
    Column("name", "NAME", least=18, value=lambda t: t.name),
    Column("requests", "REQUESTS", 8, lambda t: t.requests, right=True, text=number_text),
    Column(
        "failures",
        "FAILED",
        6,
        lambda t: t.failures,
        right=True,
        priority=5,
        cell=_failures_cell,
    ),
    Column("in", "TOKENS IN", 11, lambda t: t.tokens_in, right=True, priority=7, text=number_text),
    Column(
        "out", "TOKENS OUT", 11, lambda t: t.tokens_out, right=True, priority=6, text=number_text
    ),
    Column(
        "speed",
        "TOK/S P50",
        9,
        lambda t: t.tokens_per_second_p50,
        right=True,
        priority=1,
        text=speed_text,
    ),
    Column(
        "slow",
        "TOK/S P95",
        9,
        lambda t: t.tokens_per_second_p95,
        right=True,
        priority=3,
        text=speed_text,
    ),
    Column(
        "first",
        "FIRST P50",
        9,
        lambda t: t.first_token_seconds_p50,
        right=True,
        priority=2,
        text=seconds_text,
    ),
    Column(
        "late",
        "FIRST P95",
        9,
        lambda t: t.first_token_seconds_p95,
        right=True,
        priority=4,
        text=seconds_text,
    ),
    Column(
        "energy", "ENERGY", 9, lambda t: t.energy_j, right=True, priority=3, text=watt_hours_text
    ),
    Column("cost", "COST", 8, lambda t: t.cost, right=True, priority=3, text=_cost_text),
    Column(
        "accepted",
        "ACCEPTED",
        8,
        lambda t: t.drafted and t.drafted.tokens_accepted / t.drafted.tokens_drafted,
        right=True,
        priority=9,
        cell=_accepted_cell,
    ),
    Column(
        "gain",
        "GAIN",
        7,
        lambda t: t.drafted and gain(t.drafted),
        right=True,
        priority=10,
        cell=_gain_cell,
    ),
    Column(
        "used",
        "LAST USED",
        11,
        lambda t: t.last_used_at.timestamp(),
        right=True,
        priority=8,
        cell=_used_cell,
    ),
)
_LAST_USED: Order[SpeedTotals] = Order(COLUMNS[-1], descending=True)


def _unknown(totals: Sequence[SpeedTotals]) -> set[str]:
    """Return the columns without a figure, because no energy is measured, or it has no price."""
    found = {"energy"} if all(one.energy_j is None for one in totals) else set()
    return found | {"cost"} if all(one.cost is None for one in totals) else found


def total_rows(
    totals: Sequence[SpeedTotals], order: Order[SpeedTotals], context: RenderContext
) -> list[Row]:
    """Return the rows of the totals in their order."""
    return [row_of(one.name, one, COLUMNS, context) for one in order.sort(totals)]


class TotalsTable(LiveTable):
    """The table of totals, which reads them from the service while it is shown."""

    KEYS_TITLE = "Totals"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "choose",
            "Requests",
            id="requests.of-model",
            tooltip="show the requests to this model, or of this client or key",
        ),
        Binding(
            "b", "by", "By", id="requests.by", tooltip="totals by model, client, API key or day"
        ),
        Binding("s", "sort", "Sort", id="totals.sort", tooltip="choose the column"),
        Binding("S", "reverse", "Reverse order", show=False, id="totals.reverse"),
    ]

    def __init__(self, charset: Charset) -> None:
        super().__init__(COLUMNS, charset=charset, id="totals")
        self.by: By = "model"
        self._order = _LAST_USED
        self._totals: list[SpeedTotals] | None = None
        self._problem = ""
        self._reading: Worker[None] | None = None
        self._summed: object = None
        """The finished requests for which the totals were read."""

    @property
    def _page(self) -> Page:
        return cast("Page", self.screen)

    def on_mount(self) -> None:
        """Show the totals as before the last end of the app."""
        kept = self._page.kept(f"{_KEPT}by", self.by)
        self.by = next((by for by in _BY if by == kept), self.by)
        self._order = kept_order(self._page, COLUMNS, _LAST_USED, _KEPT)

    def title(self, dot: str, width: int) -> Content:
        """Return the title in ``width`` cells, with all that the requests can be summed up by."""
        parts: list[tuple[str, str]] = [("TOTALS", ""), ("  by ", "not bold $text-muted")]
        for by in _BY:
            parts.append((f" {dot} " if by != _BY[0] else "", "not bold $text-muted"))
            chosen = by == self.by
            parts.append((_TITLES[by], "$accent" if chosen else "not bold $text-muted"))
        order = self._order
        notes = ["95 of 100 answers reach p95"]
        if order != _LAST_USED and order.column not in self.shown_columns:
            notes.insert(0, f"sorted by {order.column.title.lower()}")
        for note in notes:
            title = Content.assemble(*parts, (f"  {note}", "not bold $text-muted"))
            if title.cell_length > width:
                break
            parts.append((f"  {note}", "not bold $text-muted"))
        return Content.assemble(*parts)

    def draw(self, finished: tuple[RequestRecord, ...], *, live: bool) -> None:
        """Draw the totals, and read them if there are others since the last time."""
        page = self._page
        charset = page.cyber.options.charset
        if self._totals is None:
            text = self._problem or f"Reading {charset.dots}"
            self.show([])
            self.show_empty(Content.styled(text, "$error" if self._problem else "$text-muted"))
        else:
            context = page.cyber.options.render_context()
            self.leave_out(_unknown(self._totals))
            self.show(total_rows(self._totals, self._order, context))
            headline, hint = _NOTHING[self.by]
            self.show_empty(
                Content.assemble(
                    (f"{headline}\n\n", "bold"),
                    f"{hint}\n",
                    ("Tokens per second and the time to the first token are compared here: ", ""),
                    ("half of the answers reach p50, and 95 of 100 reach p95.", ""),
                )
            )
        self.show_sort(self._order.column.key, descending=self._order.descending)
        busy = self._reading is not None and not self._reading.is_finished
        if live and not busy and finished is not self._summed:
            self._read(finished)

    def read_again(self) -> None:
        """Forget the totals, and read them the next time."""
        self.leave()
        self._totals, self._problem, self._summed = None, "", None

    def leave(self) -> None:
        """Stop reading; the next time the totals are read again."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading, self._summed = None, None

    def _read(self, finished: tuple[RequestRecord, ...]) -> None:
        self._summed = finished
        self._reading = self.run_worker(self._read_totals(), exclusive=True, exit_on_error=False)

    async def _read_totals(self) -> None:
        began = monotonic()
        try:
            self._totals = await self._page.client.call(
                endpoints.SPEED_TOTALS, query=SpeedQuery(by=self.by)
            )
        except NotFoundError:
            self._problem = "The service is of an older version, and has no such totals."
        except CyberError as error:
            self._problem = str(error)
        self._page.redraw()
        # The service looks at all requests that it keeps.
        await asyncio.sleep(max(_LEAST_PAUSE, _PAUSE * (monotonic() - began)))
        self._page.call_after_refresh(self._page.redraw)

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now; the list has no requests of one day."""
        if action == "choose" and self.by == "day":
            return False
        return super().check_action(action, parameters)

    def action_by(self) -> None:
        """Sum up by the next of model, client, key and day."""
        self.by = _BY[(_BY.index(self.by) + 1) % len(_BY)]
        self._page.keep(**{f"{_KEPT}by": self.by})
        self.read_again()
        self.refresh_bindings()
        self._page.redraw()

    def action_sort(self) -> None:
        """Choose the column to sort by."""
        unknown = _unknown(self._totals or [])
        known = [column for column in COLUMNS if column.key not in unknown]
        ask_order(self._page, known, self._order, self._sort_by)

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._sort_by(self._order.reversed())

    @on(LiveTable.HeaderSelected)
    def _title_clicked(self, message: LiveTable.HeaderSelected) -> None:
        message.stop()
        self._sort_by(self._order.by(message.column))

    def _sort_by(self, order: Order[SpeedTotals]) -> None:
        self._order = order
        keep_order(self._page, order, _KEPT)
        self._page.redraw()
