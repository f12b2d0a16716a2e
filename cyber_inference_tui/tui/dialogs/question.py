"""A dialog with a question and a few answers, each with a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; the dialog returns ``value``. ``destructive`` draws it as a warning."""

    value: str
    key: str
    label: str
    destructive: bool = False


class Question(ModalScreen[str | None]):
    """Returns the value of the chosen answer, or ``None`` for escape.

    The first answer has the focus, so it should be harmless.
    """

    CSS_PATH = "question.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="question.cancel"),
        Binding("left,up", "app.focus_previous", "Previous answer", show=False),
        Binding("right,down", "app.focus_next", "Next answer", show=False),
    ]

    def __init__(self, title: str, text: str, answers: tuple[Answer, ...]) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._answers = answers

    def compose(self) -> ComposeResult:
        """Compose the question and its answers."""
        with Vertical(id="box"):
            yield Static(Content.styled(self._title, "bold"), id="title")
            if self._text:
                yield Static(Content(self._text), id="text")
            with Horizontal(id="answers"):
                for answer in self._answers:
                    label = Content.assemble((answer.key, "bold underline"), f" {answer.label}")
                    yield Button(
                        label,
                        id=f"answer-{answer.value}",
                        variant="error" if answer.destructive else "default",
                        compact=True,
                    )

    def on_mount(self) -> None:
        """Bind the answers' keys."""
        for answer in self._answers:
            self._bindings.bind(answer.key, f"choose('{answer.value}')", answer.label, show=False)
        self.query_one(Button).focus()

    def action_choose(self, value: str) -> None:
        """Return an answer."""
        self.dismiss(value)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Return the pressed answer."""
        self.dismiss((event.button.id or "").removeprefix("answer-"))
