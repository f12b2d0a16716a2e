"""The form for the options that are sent with every question."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static, TextArea

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.pages.chat.sampling import FIELDS, Sampling, read_sampling
from cyber_inference_tui.tui.widgets.text_line import TextLine


class SamplingForm(ModalScreen[Sampling | None]):
    """Returns the typed options, or ``None`` for escape."""

    CSS_PATH = "sampling_form.tcss"
    KEYS_TITLE = "Sampling"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="sampling.cancel"),
        Binding("ctrl+s", "save", "Save", id="sampling.save"),
    ]

    def __init__(self, sampling: Sampling) -> None:
        super().__init__()
        self._sampling = sampling

    def compose(self) -> ComposeResult:
        """Compose the system prompt and a line for each value."""
        with Vertical(id="box"):
            yield Static(Content.styled("Sampling options", "bold"), id="title")
            yield Static("system prompt", classes="name")
            prompt = TextArea(
                self._sampling.system,
                id="system",
                compact=True,
                highlight_cursor_line=False,
                placeholder="none",
            )
            prompt.cursor_blink = False
            yield prompt
            for name, means in FIELDS.items():
                value = getattr(self._sampling, name)
                with Horizontal(classes="line"):
                    yield Static(name, classes="name")
                    yield TextLine(
                        ""
                        if value is None
                        else f"{value:g}"
                        if isinstance(value, float)
                        else f"{value}",
                        placeholder="server's default",
                        id=name,
                    )
                    yield Static(Content(means), classes="means")
            yield Static(id="problem")
            yield Static(key_hints(("tab", "next field"), ("ctrl+s", "saves"), ("esc", "cancels")))

    def on_mount(self) -> None:
        """Focus the system prompt."""
        self.query_one("#system").focus()

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.action_save()

    def action_save(self) -> None:
        """Return the options if they are valid, else show the error."""
        typed = {name: self.query_one(f"#{name}", Input).value for name in FIELDS}
        try:
            sampling = read_sampling(self.query_one("#system", TextArea).text, typed)
        except InvalidRequestError as error:
            self.query_one("#problem", Static).update(Content.styled(str(error), "$text-error"))
            self.query_one(f"#{error.param}").focus()
            return
        self.dismiss(sampling)
