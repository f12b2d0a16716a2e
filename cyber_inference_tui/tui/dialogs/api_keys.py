"""Shows the API keys with names and their use; creates and removes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import CreatedKey, KeyRecord, endpoints
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.terminal.keys import limits_text
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.dialogs.new_key import NewKeyForm
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.widgets.live_table import LiveTable, row_of
from cyber_inference_tui.units import age_text, number_text

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_REFRESH = 5.0
"""Seconds after which the use is read again."""


def _name_cell(record: KeyRecord, context: RenderContext) -> Cell:
    return Cell(plain(record.name), "dim" if record.expired else "none")


def _last_cell(record: KeyRecord, context: RenderContext) -> Cell | str:
    if record.last_used_at is None:
        return Cell("never", "dim")
    return age_text(max(0.0, (context.now - record.last_used_at).total_seconds()))


def _limits_cell(record: KeyRecord, context: RenderContext) -> Cell:
    return Cell(limits_text(record) or "none", "bad" if record.expired else "dim")


_COLUMNS: tuple[Column[KeyRecord, RenderContext], ...] = (
    Column("name", "NAME", least=12, cell=_name_cell),
    Column("last", "LAST USE", 9, right=True, cell=_last_cell),
    Column(
        "requests",
        "REQUESTS",
        8,
        lambda one: one.requests_today,
        right=True,
        priority=2,
        text=number_text,
    ),
    Column(
        "tokens",
        "TOKENS",
        9,
        lambda one: one.tokens_today,
        right=True,
        priority=1,
        text=number_text,
    ),
    Column("limits", "LIMITS", least=20, priority=3, cell=_limits_cell),
)


class KeyList(LiveTable):
    """The table of keys."""

    KEYS_TITLE = "API keys"


class ApiKeysDialog(ModalScreen[None]):
    """The keys of the service. A new key is shown until the dialog is closed."""

    CSS_PATH = "api_keys.tcss"
    KEYS_TITLE = "API keys"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "create", "New", id="api-keys.new", tooltip="create a key"),
        Binding("x,delete", "remove", "Remove", id="api-keys.remove", tooltip="make it invalid"),
        Binding("y", "copy", "Copy", id="api-keys.copy", tooltip="copy the new key"),
        Binding("escape,q", "dismiss", "Close", id="api-keys.close"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[KeyRecord] | None = None
        self._problem = ""
        self._made: CreatedKey | None = None
        self._go_to = ""
        """The name of a new key that is not in the table yet."""

    @property
    def cyber(self) -> CyberApp:
        """The app with its own type."""
        return cast("CyberApp", self.app)

    def compose(self) -> ComposeResult:
        """Compose the table, the limits of the selected key, and a new key."""
        with Vertical(id="box"):
            title = Content.assemble(
                ("API keys", "bold"),
                ("   requests and tokens of today (UTC)", "$text-muted"),
            )
            yield Static(title, id="title")
            yield KeyList(_COLUMNS, charset=self.cyber.options.charset, id="keys")
            yield Static(id="limits")
            yield Static(id="made")
            yield Static(id="hint")

    def on_mount(self) -> None:
        """Read the keys, and again from time to time."""
        self.query_one(KeyList).focus()
        self.set_interval(_REFRESH, self._read_soon)
        self._read_soon()
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        """Give the table the lines that the other parts leave."""
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        limit_height(self, "#keys", least=3)

    def _read_soon(self) -> None:
        self.run_worker(self._read(), group="read", exclusive=True, exit_on_error=False)

    async def _read(self) -> None:
        try:
            self._keys, self._problem = await self.cyber.client.call(endpoints.KEYS), ""
        except CyberError as error:
            self._problem = clean_line(str(error), limit=200)
        self._draw()

    # Drawing

    def _draw(self) -> None:
        context = self.cyber.options.render_context()
        table = self.query_one(KeyList)
        text = self._problem or f"Reading {context.charset.dots}"
        if self._keys is not None:
            text = (
                "None yet. A key gives a person or a program its own limits and totals. "
                "With the first key, every client needs one."
            )
            table.show([row_of(one.name, one, _COLUMNS, context) for one in self._keys])
            table.styles.height = max(4, len(self._keys) + 1)
            if any(one.name == self._go_to for one in self._keys):
                table.move_to(self._go_to)
                self._go_to = ""
        table.show_empty(Content.styled(text, "$text-muted"))
        self._draw_limits()
        made = Content("")
        if self._made is not None:
            made = Content.assemble(
                ("The new key of ", "$text-muted"),
                (clean_line(self._made.name), "bold"),
                (". It is not shown again.\n", "$text-muted"),
                (clean_line(self._made.key), "$text-success"),
            )
        shown = self.query_one("#made", Static)
        shown.display = self._made is not None
        update_static(shown, made, layout=True)
        can_change = not self.cyber.options.readonly
        hints = [
            *([("n", "creates")] if can_change else []),
            *([("x", "removes")] if can_change and self._keys else []),
            *([("y", "copies key")] if self._made is not None else []),
            ("esc", "closes"),
        ]
        update_static(self.query_one("#hint", Static), key_hints(*hints), layout=True)
        self.call_after_refresh(self._fit)

    def _draw_limits(self) -> None:
        record = self._selected()
        text = "" if record is None else limits_text(record) or "It has no limits."
        limits = Content.styled(text, "$text-muted")
        update_static(self.query_one("#limits", Static), limits, layout=True)

    def _selected(self) -> KeyRecord | None:
        name = self.query_one(KeyList).cursor_key
        return next((one for one in self._keys or [] if one.name == name), None)

    @on(LiveTable.RowHighlighted)
    def _moved(self) -> None:
        self._draw_limits()
        self.call_after_refresh(self._fit)
        self.refresh_bindings()

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available: a read-only app changes nothing."""
        if action in {"create", "remove"} and self.cyber.options.readonly:
            return False
        if action == "remove" and self.is_mounted:
            return self._selected() is not None
        if action == "copy":
            return self._made is not None
        return super().check_action(action, parameters)

    def action_create(self) -> None:
        """Open the form for a new key."""

        def created(made: CreatedKey | None) -> None:
            if made is not None:
                self._made, self._go_to = made, made.name
                self._read_soon()
                self._draw()
                self.refresh_bindings()

        self.app.push_screen(NewKeyForm(), created)

    def action_copy(self) -> None:
        """Copy the new key."""
        if self._made is not None:
            self.app.copy_to_clipboard(self._made.key)
            self.cyber.show_message("Copied the new key.")

    def action_remove(self) -> None:
        """Remove the selected key, after a question."""
        record = self._selected()
        if record is None:
            return
        is_last = len(self._keys or []) == 1
        text = "Its programs are refused from now on."
        if is_last:
            text += " It is the last one: without api_keys, every client may then use the models."

        def answered(value: str | None) -> None:
            if value == "remove":
                self.cyber.do(self._remove(record))

        answers = (Answer("keep", "k", "Keep it"), Answer("remove", "r", "Remove", True))
        self.app.push_screen(
            Question(f"Remove the key of {clean_line(record.name)}?", text, answers), answered
        )

    async def _remove(self, record: KeyRecord) -> None:
        await self.cyber.client.call(endpoints.REMOVE_KEY, record.name)
        self.cyber.show_message(f"The key of {clean_line(record.name)} is removed.")
        if self._made is not None and self._made.name == record.name:
            self._made = None
        if self.is_attached:
            await self._read()
