"""A dialog with a question and a few answers, each with a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from cyber_inference_tui.terminal.text_width import fold
from cyber_inference_tui.tui.dialogs.fit import limit_height

_WIDTH = 70
"""Maximum cells of a line of text."""
_SIDES = 4
_AROUND_LABEL = 8
"""Cells of an answer beside its label: its key, the button's sides and the gap."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; the dialog returns ``value``. ``destructive`` draws it as a warning."""

    value: str
    key: str
    label: str
    destructive: bool = False


def _folded(text: str, room: int) -> list[str]:
    """Return the lines, with those that are one long path divided behind a slash."""
    lines = []
    for line in text.split("\n"):
        lines += [line] if " " in line else fold(line, room, after="/")
    return lines


class Question(ModalScreen[str | None]):
    """Returns the value of the chosen answer, or ``None`` for escape.

    The first answer has the focus, so it should be harmless.
    """

    CSS_PATH = "question.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="question.cancel"),
        Binding("left,up", "app.focus_previous", "Previous answer", show=False),
        Binding("pageup", "scroll(-1)", "Page up", show=False),
        Binding("pagedown", "scroll(1)", "Page down", show=False),
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
                with VerticalScroll(id="body", can_focus=False):
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

    def on_resize(self, event: events.Resize) -> None:
        """Wrap the texts, and stack answers that do not fit side by side."""
        room = min(_WIDTH, int(event.size.width * 0.96) - _SIDES)
        for name in ("#title", "#text"):
            for text in self.query(name):
                text.styles.max_width = room
        for text in self.query("#text").results(Static):
            text.update(Content("\n".join(_folded(self._text, room))))
        labels = [cell_len(answer.label) + _AROUND_LABEL for answer in self._answers]
        self.query_one("#answers").set_class(sum(labels) > room, "-stacked")
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        limit_height(self, "#body", least=1)

    def action_scroll(self, pages: int) -> None:
        """Scroll a text that is higher than the screen."""
        for body in self.query("#body"):
            body.scroll_relative(y=pages * body.size.height, animate=False)

    def action_choose(self, value: str) -> None:
        """Return an answer."""
        self.dismiss(value)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Return the pressed answer."""
        self.dismiss((event.button.id or "").removeprefix("answer-"))
