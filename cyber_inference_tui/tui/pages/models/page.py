"""The Models page: all local models, whether they fit, and the details of the selected one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static
from textual.worker import Worker

from cyber_inference_tui.records import ModelDetails, ModelRecord
from cyber_inference_tui.terminal.columns import Order
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.marks import toggled
from cyber_inference_tui.tui.pages.models.details import details_content
from cyber_inference_tui.tui.pages.models.details_pane import DetailsPane, DetailsReader
from cyber_inference_tui.tui.pages.models.favourites import favourites, toggle_favourite
from cyber_inference_tui.tui.pages.models.marked_models import MarkedModels
from cyber_inference_tui.tui.pages.models.model_actions import model_bindings, room_binding
from cyber_inference_tui.tui.pages.models.presets import (
    ask_preset,
    with_presets,
    without_unused,
)
from cyber_inference_tui.tui.pages.models.sentences import chosen_content, problems_content
from cyber_inference_tui.tui.pages.models.table import COLUMNS, Rows, box_text, title_text
from cyber_inference_tui.tui.pages.page import SIDE_BY_SIDE, update_static
from cyber_inference_tui.tui.pages.table_order import ask_order, keep_order, kept_order
from cyber_inference_tui.tui.snapshot import EVERYWHERE, RemoteModel, Snapshot
from cyber_inference_tui.tui.widgets.filter_line import FilterLine
from cyber_inference_tui.tui.widgets.live_table import LiveTable


class ModelsPage(MarkedModels):
    """A table, a summary of the selected model, and its details: beside the table, or on demand."""

    MODE: ClassVar[str] = "models"
    CSS_PATH = "page.tcss"
    # The filter must not get the focus: it would take a key for text.
    AUTO_FOCUS = "#table"
    BINDINGS: ClassVar[list[BindingType]] = [
        *model_bindings("models"),
        Binding(
            "enter,d",
            "details",
            "Details",
            id="models.details",
            tooltip="files, memory by context size, command and settings",
        ),
        Binding(
            "slash",
            "filter",
            "Filter",
            key_display="/",
            id="models.filter",
            tooltip="by name, alias, architecture or quantization",
        ),
        Binding(
            "y",
            "copy_command",
            "Copy command",
            show=False,
            id="models.copy-command",
            tooltip="the command line of its server",
        ),
        Binding(
            "a",
            "adapters",
            "Adapters",
            show=False,
            id="models.adapters",
            tooltip="the strengths of its LoRA adapters",
        ),
        Binding("s", "sort", "Sort", id="models.sort", tooltip="choose the column"),
        Binding(
            "space",
            "mark",
            "Mark",
            id="models.mark",
            tooltip="for an action on several models, and to see whether they fit together",
        ),
        Binding(
            "K",
            "check",
            "Check",
            show=False,
            id="models.check",
            tooltip="try what the model can do",
        ),
        Binding(
            "m",
            "bench",
            "Bench",
            show=False,
            id="models.bench",
            tooltip="measure speed, energy and memory, and compare",
        ),
        Binding(
            "f",
            "favourite",
            "Favourite",
            show=False,
            id="models.favourite",
            tooltip="let it come first in lists",
        ),
        Binding(
            "P",
            "presets",
            "Presets",
            id="models.presets",
            tooltip="load the model with another set of settings",
        ),
        Binding("S", "reverse", "Reverse order", show=False, id="models.turn"),
        room_binding("models"),
        Binding(
            "escape",
            "back",
            "Back",
            id="models.back",
            tooltip="close the details, remove the marks, or show all models again",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._order = Order(COLUMNS[0])
        self._wanted = ""
        self._pane_wanted = True
        """A person wants the details beside the table."""
        self._in_place = False
        """The details are in place of the table."""
        self._select: str | None = None
        self._offered: object = None
        self._reader = DetailsReader()
        self._reading: Worker[None] | None = None

    def body(self) -> ComposeResult:
        """Compose the table, the details, the problems, the filter and the summary."""
        charset = self.cyber.options.charset
        self._order = kept_order(self, COLUMNS, self._order)
        self._pane_wanted = self.kept("details", default=True)
        self._rows = Rows(charset)
        with Vertical(classes="body"):
            yield Static(id="title", classes="heading")
            with Horizontal(id="middle"):
                yield LiveTable(COLUMNS, marks=True, charset=charset, id="table")
                yield DetailsPane(id="details")
            yield from self.marked_body()
            yield Static(id="problems")
            yield FilterLine("name, alias, architecture or quantization", id="filter")
            yield Static(id="line")

    def on_mount(self) -> None:
        """Focus the table."""
        self._arrange()

    @property
    def _table(self) -> LiveTable:
        return self.query_one("#table", LiveTable)

    def chosen(self) -> ModelRecord | None:
        """Return the model under the cursor."""
        key = self._table.cursor_key
        return None if key is None else self.cyber.snapshot.model(key)

    def chosen_details(self) -> ModelDetails | None:
        """Return the details of the selected model while they are shown."""
        return self._reader.details_of(self.chosen()) if self._open else None

    @property
    def _open(self) -> bool:
        """The details are shown."""
        return self._pane_wanted if self._side_by_side else self._in_place

    def edited(self) -> None:
        """Read the details again."""
        self._reader.forget()
        self.redraw()

    def select(self, model_id: str) -> None:
        """Move the cursor to a model, also if a filter or the choice of a box hides it."""
        self._select = model_id
        models = self.cyber.snapshot.models_of(self.cyber.box_shown)
        if all(model.id != model_id for model in models):
            self.cyber.keep("app", box=EVERYWHERE)
        self.redraw()

    # Drawing

    def show(self, snapshot: Snapshot) -> None:
        """Draw ``snapshot``."""
        wanted = self._select
        if wanted is not None and snapshot.model(wanted) is not None and self._wanted:
            self._stop_filter()
        self._show_rows(snapshot)
        if wanted is not None and snapshot.status is not None:
            self._table.move_to(wanted)
            self._select = None
        self._table.show_empty(self._empty(snapshot))
        box = self.cyber.box_shown
        title = title_text(len(self._table.rows), len(self._listed(snapshot)), self._wanted)
        if snapshot.boxes:
            title += f"  {box_text(box)}"
        counts = (title + self._hidden_order(), "not bold")
        update_static(self.query_one("#title", Static), Content.assemble("MODELS", counts))
        if self.has_class("-beside") != self._side_by_side:
            self._arrange()
        self._table.show_marks(self.marks)
        self.show_marked(snapshot)
        self._show_problems(snapshot)
        self._show_chosen()

    def _show_problems(self, snapshot: Snapshot) -> None:
        """List files that cannot be used, below the table."""
        box = self.query_one("#problems", Static)
        box.display = bool(snapshot.problems) and (self._side_by_side or not self._open)
        if snapshot.problems:
            room, charset = box.content_size.width or self.size.width, self.cyber.options.charset
            lines = 3 if self.has_class("-tall") else 1
            update_static(
                self.query_one("#problems", Static),
                problems_content(snapshot.problems, lines, room, charset),
                layout=True,
            )

    def _show_rows(self, snapshot: Snapshot) -> None:
        rows = self._rows.of(
            self._listed(snapshot),
            wanted=self._wanted,
            order=self._order,
            now=self.cyber.options.now(),
            favourites=favourites(self),
        )
        self._table.leave_out(() if snapshot.boxes else {"box"})
        self._table.show(rows)
        self._table.show_sort(self._order.column.key, descending=self._order.descending)

    def _listed(self, snapshot: Snapshot) -> Sequence[ModelRecord]:
        """Return the models of the boxes shown; the filter searches all their presets."""
        models = snapshot.models_of(self.cyber.box_shown)
        if self._wanted:
            return models
        keep = {*self.marks, *favourites(self), self._select, self._table.cursor_key}
        return without_unused(models, keep)

    def _hidden_order(self) -> str:
        """Return the order in words if its column is hidden."""
        shown = self._table.shown_columns
        if not shown or self._order.column in shown:
            return ""
        charset = self.cyber.options.charset
        arrow = charset.descending if self._order.descending else charset.ascending
        return f"  by {self._order.column.title.lower()} {arrow}"

    def _empty(self, snapshot: Snapshot) -> Content:
        if snapshot.models_of(self.cyber.box_shown):
            return Content.assemble(
                "No model matches this text. ", ("esc", "bold $accent"), " shows all models."
            )
        if self.cyber.box_shown not in {"", EVERYWHERE}:
            return Content.styled("This box has no models, or cannot be asked now.", "$text-muted")
        known = snapshot.status.models_dir if snapshot.status else None
        folder = clean_line(known or "the models directory", limit=300)
        return Content.assemble(
            ("No models yet.\n\n", "bold"),
            "This page loads, unloads and configures the models of this service.\n\n",
            ("3", "bold $accent"),
            "  finds models in the Hub and downloads them\n",
            (f"Or put GGUF files into {folder}; they appear here.", "$text-muted"),
        )

    def _show_chosen(self) -> None:
        """Draw what depends on the selected model."""
        model = self.chosen()
        if self._in_place and (model is None or self._details_model_removed()):
            self._close()
        self.query_one("#line").display = not self._open
        update_static(self.query_one("#line", Static), self._line(model), layout=True)
        if self._open:
            self._show_details(model)
        # check_action depends on these values. Refreshing the bindings costs more than drawing.
        details = self.chosen_details()
        offered = (
            None if model is None else model.status,
            isinstance(model, RemoteModel),
            bool(self._table.rows),
            details is not None and bool(details.command),
            self._open,
            bool(self._wanted),
            self._side_by_side,
            len(self.marks),
            len(self._presets()) > 1,
        )
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()

    def _details_model_removed(self) -> bool:
        """Return whether the details fill the page and their model was removed."""
        model_id = self.query_one(DetailsPane).model_id
        return (
            not self._side_by_side
            and bool(model_id)
            and self.cyber.snapshot.model(model_id) is None
        )

    def _line(self, model: ModelRecord | None) -> Content:
        if model is None:
            return Content("\n")
        options = self.cyber.options
        room = self.query_one("#line").content_size.width
        # Each of the two texts may wrap to two lines.
        width = max(20, room * 2)
        return chosen_content(model, now=options.now(), charset=options.charset, width=width)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now."""
        if not super().check_action(action, parameters):
            return False
        if not self.is_mounted:
            return True
        if action in _TABLE_ACTIONS:
            there = bool(self._table.rows) or bool(self._wanted)
            return there and (self._side_by_side or not self._open)
        if action == "favourite":
            return self.chosen() is not None
        if action == "presets":
            return len(self._presets()) > 1
        if action == "mark":
            return not isinstance(self.chosen(), RemoteModel)
        if action == "bench":
            chosen = self.chosen()
            return bool(self.marks) or not (chosen is None or isinstance(chosen, RemoteModel))
        if action == "back":
            inside = self._in_place or self.query_one(DetailsPane).has_focus
            return inside or bool(self.marks) or bool(self._wanted)
        return True

    @on(LiveTable.RowHighlighted, "#table")
    def _highlighted(self) -> None:
        self._show_chosen()

    @on(LiveTable.RowChosen, "#table")
    def _row_chosen(self) -> None:
        self.action_details()

    # Order and filter

    @on(LiveTable.HeaderSelected, "#table")
    def _header_selected(self, event: LiveTable.HeaderSelected) -> None:
        self._sort(self._order.by(event.column))

    def action_sort(self) -> None:
        """Choose the column to sort by."""
        ask_order(self, COLUMNS, self._order, self._sort)

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._sort(self._order.reversed())

    def _sort(self, order: Order[ModelRecord]) -> None:
        self._order = order
        keep_order(self, order)
        self.redraw()

    def action_mark(self) -> None:
        """Mark the selected model, or remove its mark, and go to the next one."""
        self.mark(toggled(self.marks, self._table))

    def action_bench(self) -> None:
        """Open the results of benches, to measure the marked models, or the selected one."""
        from cyber_inference_tui.tui.dialogs.bench import BenchDialog  # noqa: PLC0415 - seldom

        chosen = self.chosen()
        models = tuple(one.id for one in self.marked()) or ((chosen.id,) if chosen else ())
        if models:
            self.app.push_screen(BenchDialog(models))

    def action_favourite(self) -> None:
        """Make the selected model a favourite, or none."""
        if (model := self.chosen()) is not None:
            toggle_favourite(self, model.id)
            self.redraw()

    def _presets(self) -> Sequence[ModelRecord]:
        """Return the selected model and its presets."""
        model = self.chosen()
        models = self.cyber.snapshot.models_of(self.cyber.box_shown)
        return () if model is None else with_presets(model, models)

    def action_presets(self) -> None:
        """Choose the model or one of its presets, and load it."""

        def chosen(model_id: str) -> None:
            self.select(model_id)
            self.load(model_id)

        context = replace(self.cyber.options.render_context(), favourites=favourites(self))
        ask_preset(self, self._presets(), context, chosen)

    def action_filter(self) -> None:
        """Open the filter."""
        self.query_one(FilterLine).open(self._table)

    @on(FilterLine.Filtered)
    def _filtered(self) -> None:
        self._wanted = plain(self.query_one(FilterLine).value.strip())
        self.redraw()

    def _stop_filter(self) -> None:
        self._wanted = ""
        self.query_one(FilterLine).clear_filter()

    def action_back(self) -> None:
        """Leave the details, remove the marks, or clear the filter, in this order."""
        if self.query_one(DetailsPane).has_focus:
            self._leave_details()
        elif self.marks:
            self.mark(frozenset())
        elif self._wanted:
            self._stop_filter()
        else:
            return
        self.redraw()

    # The details pane

    @property
    def _side_by_side(self) -> bool:
        return self.size.width >= SIDE_BY_SIDE and bool(self.cyber.snapshot.models)

    def action_details(self) -> None:
        """Open the details; if they are open beside the table, focus them, then close them."""
        if self.chosen() is None:
            return
        pane = self.query_one(DetailsPane)
        if not self._open:
            self._open_details()
            self._show_chosen()
            self.keep_keys(self._reading)
        elif self._side_by_side and not pane.has_focus:
            self.screen.set_focus(pane)
        else:
            self._close()
        self.call_after_refresh(self.redraw)

    def _open_details(self) -> None:
        if self._side_by_side:
            self._pane_wanted = True
            self.keep(details=True)
        else:
            self._in_place = True
        self._arrange()

    def _leave_details(self) -> None:
        """Return to the table; details beside it stay."""
        if self._side_by_side:
            self.screen.set_focus(self._table)
        else:
            self._close()

    def _close(self) -> None:
        if self._side_by_side:
            self._pane_wanted = False
            self.keep(details=False)
        self._in_place = False
        self.query_one(DetailsPane).model_id = ""
        self._arrange()

    def _arrange(self) -> None:
        """Show the details beside the table, or one of the two."""
        pane = self.query_one(DetailsPane)
        beside = self._side_by_side
        pane.display = self._open
        self._table.display = beside or not self._open
        self.set_class(beside, "-beside")
        if self._open and not beside:
            self.screen.set_focus(pane)
        elif not (self.query_one(FilterLine).has_focus or (self._open and pane.has_focus)):
            self.screen.set_focus(self._table)

    def on_resize(self) -> None:
        """Arrange the parts for the new size; a filter that is being typed keeps its table."""
        if self.query_one(FilterLine).has_focus:
            self._in_place = False
        self._arrange()
        super().on_resize()

    def _show_details(self, model: ModelRecord | None) -> None:
        snapshot = self.cyber.snapshot
        if model is None:
            self.query_one(DetailsPane).show("", Content(""))
            return
        if snapshot.live and self._reader.wants(model, snapshot.config_version):
            at = self.cyber.at(model.id)
            self._reading = self.run_worker(
                self._reader.read(*at, model, snapshot.config_version, self.redraw),
                group="details",
                exclusive=True,
                exit_on_error=False,
            )
        problem = self._reader.problem_of(model) if snapshot.live else snapshot.problem
        options = self.cyber.options
        pane = self.query_one(DetailsPane)
        if pane.room <= 0:
            return  # it has no size before its first layout
        pane.show(
            model.id,
            details_content(
                model,
                self._reader.details_of(model),
                problem=problem,
                now=options.now(),
                charset=options.charset,
                width=max(20, pane.room),
                keys=not (options.readonly or isinstance(model, RemoteModel)),
            ),
        )


_TABLE_ACTIONS = frozenset({"filter", "sort", "reverse", "mark"})
"""Actions that need a visible table."""
