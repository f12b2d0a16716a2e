"""One question with a few answers, each a key."""

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
    """One answer: ``value`` is what the question returns. A ``grave`` one is drawn as a warning."""

    value: str
    key: str
    label: str
    grave: bool = False


class Question(ModalScreen[str | None]):
    """Asks ``title``; returns the chosen answer's value, or ``None`` for escape.

    The first answer has the focus, so it should be the harmless one.
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
        """The question and its answers."""
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
                        variant="error" if answer.grave else "default",
                        compact=True,
                    )

    def on_mount(self) -> None:
        """Let each answer's key choose it."""
        for answer in self._answers:
            self._bindings.bind(answer.key, f"choose('{answer.value}')", answer.label, show=False)
        self.query_one(Button).focus()

    def action_choose(self, value: str) -> None:
        """Return an answer."""
        self.dismiss(value)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Return the pressed answer."""
        self.dismiss((event.button.id or "").removeprefix("answer-"))
