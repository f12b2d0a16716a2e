"""The other boxes: pairs with them, and removes them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import endpoints
from cyber_inference_tui.records.peers import (
    PairingQuery,
    PairingRecord,
    PairingRequest,
    PeerRecord,
    PeerState,
    PeerSuggestion,
    Role,
)
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.dialogs.add_box import CODE_DIGITS, AddBox, ask_role
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.pages.dashboard.boxes import box_state
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.widgets.live_table import LiveTable, row_of

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_WAIT_SECONDS = 400.0
"""Longer than a code is valid."""
_NONE_YET = (
    "None yet. On one of two boxes w shows a code, on the other a asks for it. Then each lists and "
    "answers the models of the other."
)


AnyBox = PeerRecord | PeerSuggestion
"""A box that is paired, or one that is only found in the network."""


def _state_cell(box: AnyBox, context: RenderContext) -> Cell:
    if isinstance(box, PeerSuggestion):
        return Cell("  found", "dim")
    return box_state(box.state, context.charset)


def _role_text(box: AnyBox) -> str:
    if isinstance(box, PeerSuggestion):
        return ""
    return "ask + steer" if box.role is Role.ADMIN else "ask"


_COLUMNS: tuple[Column[AnyBox, RenderContext], ...] = (
    Column("name", "BOX", 12, cell=lambda box, _: clean_line(box.name)),
    Column("state", "STATE", 11, cell=_state_cell),
    Column("role", "MAY HERE", 11, priority=1, cell=lambda box, _: _role_text(box)),
    Column("url", "ADDRESS", least=16, cell=lambda box, _: Cell(clean_line(box.url), "dim")),
)


def _about(box: AnyBox | None) -> str:
    """Return what the table does not say about a box."""
    if box is None:
        return ""
    if isinstance(box, PeerSuggestion):
        return "It announces itself in this network, and nobody has checked it."
    if box.state is PeerState.CLIENT:
        return "It asks this box, and has no address at which this one could ask it."
    return clean_line(box.problem or f"Version {box.version}", limit=300)


class BoxList(LiveTable):
    """The table of boxes."""

    KEYS_TITLE = "Boxes"


class BoxesDialog(ModalScreen[None]):
    """Lists the other boxes. A code is valid while the dialog that shows it is open."""

    DEFAULT_CSS = """
    BoxesDialog { align: center middle; }
    BoxesDialog #box { width: 84; max-width: 96%; height: auto; max-height: 96%; padding: 1 2;
        background: $panel; }
    BoxesDialog #boxes { margin-top: 1; background: $panel; }
    BoxesDialog #about, BoxesDialog #code, BoxesDialog #hint { height: auto; margin-top: 1; }
    BoxesDialog #about { color: $text-muted; }
    """
    KEYS_TITLE = "Boxes"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "wait", "Show a code", id="boxes.wait", tooltip="and wait for another box"),
        Binding("a", "add", "Add", id="boxes.add", tooltip="pair with the box that shows a code"),
        Binding("x,delete", "remove", "Remove", id="boxes.remove", tooltip="end the pairing"),
        Binding("escape,q,B", "dismiss(None)", "Close", id="boxes.close"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._pairing: PairingRecord | None = None
        """The code that is shown."""
        self._found: tuple[PeerSuggestion, ...] = ()
        """The boxes in the network that are not paired."""

    @property
    def cyber(self) -> CyberApp:
        """The app with its own type."""
        return cast("CyberApp", self.app)

    def compose(self) -> ComposeResult:
        """Compose the table, a line about the selected box, and a code."""
        with Vertical(id="box"):
            yield Static(Content.styled("Other boxes", "bold"))
            empty = Content.styled(_NONE_YET, "$text-muted")
            charset = self.cyber.options.charset
            yield BoxList(_COLUMNS, empty=empty, charset=charset, id="boxes")
            yield Static(id="about")
            yield Static(id="code")
            yield Static(id="hint")

    def on_mount(self) -> None:
        """Show the boxes."""
        self.query_one(BoxList).focus()
        self.draw(None)
        self._look()

    def on_resize(self, event: events.Resize) -> None:
        """Give the table the lines that the other parts leave."""
        self.call_after_refresh(limit_height, self, "#boxes", least=3)

    def on_unmount(self) -> None:
        """Make a code invalid that nobody sees any more."""
        if self._pairing is not None:
            self.cyber.do(self.cyber.client.call(endpoints.CLOSE_PAIRING))

    # Drawing

    def draw(self, _: object) -> None:
        """Draw the boxes; the app calls it, too."""
        context = self.cyber.options.render_context()
        boxes = self._boxes()
        table = self.query_one(BoxList)
        table.show([row_of(key, box, _COLUMNS, context) for key, box in boxes.items()])
        table.styles.height = max(4, len(boxes) + 1)
        about = self.query_one("#about", Static)
        about.display = bool(boxes)
        update_static(about, Content(_about(self._selected())), layout=True)
        shown = self.query_one("#code", Static)
        shown.display = self._pairing is not None
        update_static(shown, self._code_content(), layout=True)
        hints = [
            (key, says)
            for action, key, says in (
                ("wait", "w", "shows a code"),
                ("add", "a", "adds a box that shows one"),
                ("remove", "x", "removes"),
            )
            if self.check_action(action, ())
        ]
        update_static(
            self.query_one("#hint", Static), key_hints(*hints, ("esc", "closes")), layout=True
        )
        self.call_after_refresh(limit_height, self, "#boxes", least=3)

    def _code_content(self) -> Content:
        if self._pairing is None:
            return Content("")
        code = self._pairing.code or ""
        half = CODE_DIGITS // 2
        until, zone = self._pairing.until, self.cyber.options.now().tzinfo
        valid = "" if until is None else f" It is valid until {until.astimezone(zone):%H:%M}."
        return Content.assemble(
            ("The code is  ", "$text-muted"),
            (f"{code[:half]} {code[half:]}", "bold $text-success"),
            (
                "\nOn the other box, a in this dialog or 'cyber-inference-tui peers add' asks for "
                f"it.{valid}",
                "$text-muted",
            ),
        )

    def _boxes(self) -> dict[str, AnyBox]:
        """Return the boxes by the keys of their rows, those that are paired first."""
        found = {f"found {one.url}": one for one in self._found}
        return {one.name: one for one in self.cyber.snapshot.boxes} | found

    def _selected(self) -> AnyBox | None:
        return self._boxes().get(self.query_one(BoxList).cursor_key or "")

    def _look(self) -> None:
        """Ask for the boxes in the network."""
        self.app.run_worker(self._read_found(), group="found boxes", exclusive=True)

    async def _read_found(self) -> None:
        # A service that does not look for others, and an older one, say so by an error.
        with suppress(CyberError):
            found = await self.cyber.client.call(endpoints.PEER_SUGGESTIONS)
            if self.is_attached and tuple(found) != self._found:
                self._found = tuple(found)
                self.draw(None)
                self.refresh_bindings()

    @on(LiveTable.RowHighlighted)
    def _moved(self) -> None:
        self.draw(None)
        self.refresh_bindings()

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available: a read-only app changes nothing."""
        if action in {"wait", "add", "remove"} and self.cyber.options.readonly:
            return False
        if action == "wait":
            return self._pairing is None
        if action == "remove" and self.is_mounted:
            return isinstance(self._selected(), PeerRecord)
        return super().check_action(action, parameters)

    def action_wait(self) -> None:
        """Show a code, and wait for a box that has it."""
        ask_role(self.cyber, lambda role: self.cyber.do(self._wait(role)))

    async def _wait(self, role: Role) -> None:
        call = self.cyber.client.call
        self._pairing = await call(endpoints.OPEN_PAIRING, body=PairingRequest(role=role))
        if not self.is_attached:
            await call(endpoints.CLOSE_PAIRING)
            return
        self.draw(None)
        self.refresh_bindings()
        try:
            ended = await call(
                endpoints.PAIRING, query=PairingQuery(wait=True), timeout=_WAIT_SECONDS
            )
        finally:
            self._pairing = None
            if self.is_attached:
                self.draw(None)
                self.refresh_bindings()
        if ended.paired is not None:
            self.cyber.show_message(f"{ended.paired} is paired.")
        elif self.is_attached:
            raise CyberError(ended.problem or "No box came.")

    def action_add(self) -> None:
        """Pair with another box: the selected one, if it is found and not paired."""
        box = self._selected()
        url = box.url if isinstance(box, PeerSuggestion) else ""
        AddBox(self.cyber, added=self._look).ask(url)

    def action_remove(self) -> None:
        """Remove the selected box, after a question."""
        record = self._selected()
        if not isinstance(record, PeerRecord):
            return
        name = clean_line(record.name)

        def answered(value: str | None) -> None:
            if value == "remove":
                self.cyber.do(
                    self.cyber.client.call(endpoints.REMOVE_PEER, record.name),
                    done=f"{name} is removed.",
                )

        text = "Its key is invalid at once: neither box asks the other any more."
        answers = (Answer("keep", "k", "Keep it"), Answer("remove", "r", "Remove", True))
        self.app.push_screen(Question(f"Remove {name}?", text, answers), answered)
