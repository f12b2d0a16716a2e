"""The form for a new API key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from cyber_inference_tui.errors import CyberError, InvalidRequestError
from cyber_inference_tui.records import CreatedKey, NewKey, Priority, endpoints
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.widgets.text_line import PATH_CHARACTERS, TextLine

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_FIELDS = {
    "name": ("name", "alice, or a program"),
    "models": ("models", "all; or ids with commas"),
    "requests_per_minute": ("requests/min", "no limit"),
    "tokens_per_day": ("tokens/day", "no limit"),
    "priority": ("priority", "normal; or low, high"),
    "expires": ("last day", "none; or 2027-01-31"),
}
"""The label of each field, and what an empty one means."""


def read_new_key(typed: Mapping[str, str]) -> NewKey:
    """Return the key with the typed limits.

    Raises ``InvalidRequestError``; its ``param`` is the field.
    """
    values = {name: text.strip() for name, text in typed.items()}
    if not values["name"]:
        raise InvalidRequestError("A key needs a name.", param="name")
    try:
        expires = date.fromisoformat(values["expires"]) if values["expires"] else None
    except ValueError:
        raise InvalidRequestError(
            "The last day is a date, such as 2027-01-31.", param="expires"
        ) from None
    priority = values["priority"].lower() or Priority.NORMAL
    if priority not in tuple(Priority):
        words = ", ".join(Priority)
        raise InvalidRequestError(f"The priority is one of {words}.", param="priority")
    return NewKey(
        name=values["name"],
        models=tuple(filter(None, (one.strip() for one in values["models"].split(",")))),
        requests_per_minute=_number(values, "requests_per_minute"),
        tokens_per_day=_number(values, "tokens_per_day"),
        priority=Priority(priority),
        expires=expires,
    )


def _number(values: Mapping[str, str], name: str) -> int:
    text = values[name].replace(",", "").replace("_", "").replace(" ", "")
    if not text:
        return 0
    if not text.isdecimal() or len(text) > 15:
        label, _ = _FIELDS[name]
        raise InvalidRequestError(f"{label} is a whole number, or empty.", param=name)
    return int(text)


class NewKeyForm(ModalScreen[CreatedKey | None]):
    """Creates a key and returns it, or ``None`` for escape."""

    CSS_PATH = "new_key.tcss"
    KEYS_TITLE = "New key"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Create", id="new-key.save"),
        Binding("escape", "dismiss(None)", "Cancel", id="new-key.cancel"),
        Binding("up", "app.focus_previous", "Previous field", show=False),
        Binding("down", "app.focus_next", "Next field", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._creating = False

    def compose(self) -> ComposeResult:
        """Compose a line for each field."""
        with Vertical(id="box"):
            yield Static(Content.styled("New API key", "bold"), id="title")
            for name, (label, hint) in _FIELDS.items():
                limit = PATH_CHARACTERS if name == "models" else 64
                with Horizontal(classes="line"):
                    yield Static(label, classes="name")
                    yield TextLine(placeholder=hint, id=name, limit=limit)
            yield Static(id="problem")
            yield Static(key_hints(("enter", "creates it"), ("esc", "cancels")), id="hint")

    def on_mount(self) -> None:
        """Focus the name."""
        self.query_one("#name").focus()

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.action_save()

    def action_save(self) -> None:
        """Create the key if the fields are valid, else show the error."""
        if self._creating:
            return
        try:
            new = read_new_key({name: self.query_one(f"#{name}", Input).value for name in _FIELDS})
        except InvalidRequestError as error:
            self._show_problem(error)
            return
        self._creating = True
        self.run_worker(self._create(new), exit_on_error=True)

    async def _create(self, new: NewKey) -> None:
        try:
            made = await cast("CyberApp", self.app).client.call(endpoints.ADD_KEY, body=new)
        except CyberError as error:
            self._show_problem(error)
        else:
            self.dismiss(made)
        finally:
            self._creating = False

    def _show_problem(self, error: CyberError) -> None:
        text = Content.styled(clean_line(str(error), limit=400), "$text-error")
        self.query_one("#problem", Static).update(text)
        if error.param in _FIELDS:
            self.query_one(f"#{error.param}").focus()
