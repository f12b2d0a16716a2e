"""The Chat page: try a model over the same endpoint as any client."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import DescendantBlur, DescendantFocus
from textual.timer import Timer
from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ModelRecord
from cyber_inference_tui.tui.dialogs.choice import ChoiceDialog
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.pages.chat.conversation import (
    Conversation,
    Turn,
    TurnState,
)
from cyber_inference_tui.tui.pages.chat.model_choice import (
    COLUMNS,
    chat_models,
    invitation,
    model_rows,
    title_content,
)
from cyber_inference_tui.tui.pages.chat.rows import TextFlow, TurnRows, state_content
from cyber_inference_tui.tui.pages.chat.sampling import Sampling
from cyber_inference_tui.tui.pages.chat.sampling_form import SamplingForm
from cyber_inference_tui.tui.pages.models.sentences import unreadable_text
from cyber_inference_tui.tui.pages.page import Page, update_static
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.message_input import MessageInput
from cyber_inference_tui.tui.widgets.text_line import TEXT_CHARACTERS
from cyber_inference_tui.tui.widgets.text_view import TextRow, TextView

PAINTS = 8
"""Updates per second of a growing answer."""
STATE_SECONDS = 0.5
"""Seconds between updates of a growing answer's numbers."""
_READONLY = "A read-only app cannot chat, because a message may load a model."
_GROUP = "answer"


class ChatPage(Page):
    """Shows the conversation above the message field.

    ``clock`` returns monotonic seconds.
    """

    MODE: ClassVar[str] = "chat"
    CSS_PATH = "page.tcss"
    STEERING: ClassVar[frozenset[str]] = frozenset(
        {"write", "stop", "model", "retry", "sampling", "clear"}
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,i", "write", "Write", id="chat.write", tooltip="write a message"),
        Binding("escape", "stop", "Stop", id="chat.stop", tooltip="stop the answer"),
        Binding(
            "escape", "leave", "Leave field", id="chat.leave", tooltip="make letters keys again"
        ),
        Binding("m,ctrl+o", "model", "Model", id="chat.model", tooltip="choose another model"),
        Binding(
            "r,ctrl+r", "retry", "Retry", id="chat.retry", tooltip="ask the last question again"
        ),
        Binding(
            "t,ctrl+t",
            "thinking",
            "Thinking",
            id="chat.thinking",
            tooltip="show or hide the model's thinking",
        ),
        Binding("c,ctrl+g", "copy", "Copy", id="chat.copy", tooltip="copy the last answer"),
        Binding(
            "s,ctrl+s",
            "sampling",
            "Sampling",
            id="chat.sampling",
            tooltip="system prompt, temperature and more",
        ),
        Binding("x,ctrl+n", "clear", "Clear", id="chat.clear", tooltip="start a new conversation"),
    ]

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._chosen: str | None = None
        self._sampling = Sampling()
        self._conversation = Conversation()
        self._turn: Turn | None = None
        """The turn that is being answered."""
        self._rows: dict[int, TurnRows] = {}
        self._past: tuple[int, list[TextRow]] | None = None
        self._unfolded = False
        self._stated = 0.0
        """Time of the last update of the answer's numbers."""
        self._timer: Timer | None = None

    def body(self) -> ComposeResult:
        """Compose the title, the conversation, the answer's state and the message field."""
        with Vertical(classes="body"):
            yield Static(id="title")
            yield TextView(id="talk")
            yield Static(id="state")
            yield MessageInput(placeholder="message; enter sends it", id="message")

    def on_mount(self) -> None:
        """Focus the conversation, so that numbers open pages."""
        self.query_one(TextView).focus()
        self.watch(self.query_one(TextView), "following", self._paint, init=False)
        self._timer = self.set_interval(1 / PAINTS, self._paint, pause=True)

    def show(self, snapshot: Snapshot) -> None:
        """Draw the title; the conversation is drawn when it changes."""
        if self._chosen is None or (snapshot.live and snapshot.model(self._chosen) is None):
            self._chosen = next((model.id for model in chat_models(snapshot.models)), None)
        model, options = self._model, self.cyber.options
        self._show_message(model is not None and not options.readonly)
        update_static(
            self.query_one("#title", Static), title_content(model, self._sampling, options.charset)
        )
        self._paint()

    def _show_message(self, shown: bool) -> None:
        message = self.query_one(MessageInput)
        shown = shown or message.has_focus  # a message that is being written stays
        if message.display != shown:
            message.display = shown
            self.refresh_bindings()

    @property
    def _model(self) -> ModelRecord | None:
        return None if self._chosen is None else self.cyber.snapshot.model(self._chosen)

    def chosen(self) -> ModelRecord | None:
        """Return the model to chat with."""
        return self._model

    def choose(self, model_id: str) -> None:
        """Choose this model and focus the message field."""
        self._chosen = model_id
        self.redraw()
        self.call_after_refresh(self.action_write)

    # Drawing

    def _paint(self) -> None:
        """Draw the conversation."""
        if not self.is_current:
            return
        view = self.query_one(TextView)
        if view.text_width:
            view.show(self._all_rows(view.text_width))
        charset = self.cyber.options.charset
        # Numbers that change with each update could not be read.
        now = self._clock()
        if self._turn is None or now - self._stated >= STATE_SECONDS:
            self._stated = now
            more = "" if view.following else "G goes to the end"
            update_static(
                self.query_one("#state", Static), state_content(self._turn, now, charset, more)
            )

    def _all_rows(self, width: int) -> list[TextRow]:
        turns = self._conversation.turns
        if self.cyber.options.readonly:
            return TextFlow(width, "dim").rows(_READONLY)
        if not turns:
            return TextFlow(width, "dim").rows(invitation(self._model, self.client.url))
        charset = self.cyber.options.charset
        for turn in turns:
            if id(turn) not in self._rows:
                self._rows[id(turn)] = TurnRows(turn, width, charset)
        # Only the last turn changes: cache the rows of those before it.
        *past, last = turns
        if self._past is None or self._past[0] != id(last):
            rows: list[TextRow] = []
            if self._conversation.dropped:
                dropped = f"{self._conversation.dropped:,} earlier messages were dropped."
                rows += [((dropped, "dim"),), ()]
            for turn in past:
                rows += self._rows[id(turn)].rows(unfolded=self._unfolded)
            self._past = (id(last), rows)
        return [*self._past[1], *self._rows[id(last)].rows(unfolded=self._unfolded)]

    @on(TextView.WidthChanged)
    def _width_changed(self) -> None:
        self._rows.clear()
        self._past = None
        self._paint()

    @on(DescendantFocus)
    @on(DescendantBlur)
    def _focus_changed(self) -> None:
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now."""
        if not self.is_mounted:
            return super().check_action(action, parameters)
        model, last = self._model, self._conversation.last
        possible = {
            "write": model is not None and not self._writing,
            "stop": self._turn is not None,
            "leave": self._writing,
            "model": model is not None,
            "retry": last is not None and self._turn is None,
            "thinking": any(turn.thinking for turn in self._conversation.turns),
            "copy": bool(self._last_answer),
            "sampling": model is not None,
            "clear": last is not None and self._turn is None,
        }
        return super().check_action(action, parameters) if possible.get(action, True) else False

    @property
    def _writing(self) -> bool:
        return isinstance(self.focused, MessageInput)

    # Asking

    def action_write(self) -> None:
        """Focus the message field."""
        if self._model is not None and not self.cyber.options.readonly:
            self.screen.set_focus(self.query_one(MessageInput))

    def action_leave(self) -> None:
        """Leave the message field, so that letters are keys again."""
        self.screen.set_focus(self.query_one(TextView))

    @on(MessageInput.Sent)
    def _send(self) -> None:
        message = self.query_one(MessageInput)
        text = message.text.strip()
        if not text or self._chosen is None or self.cyber.options.readonly:
            return
        if self._turn is not None:
            self.cyber.show_message("Wait for the answer, or press esc to stop it.", "warning")
        elif len(text) > TEXT_CHARACTERS:
            self.cyber.show_message(
                f"A message may have at most {TEXT_CHARACTERS:,} characters.", "warning"
            )
        else:
            message.clear()
            self._ask(self._conversation.begin(text, self._chosen, self._clock()))

    def _ask(self, turn: Turn) -> None:
        self._turn = turn
        self._stated = 0.0
        kept = {id(one) for one in self._conversation.turns}
        self._rows = {key: rows for key, rows in self._rows.items() if key in kept}
        self._past = None
        self.query_one(TextView).action_follow()
        self.run_worker(self._answer(turn), group=_GROUP, exclusive=True, exit_on_error=False)
        if self._timer is not None:
            self._timer.resume()
        self._changed()

    async def _answer(self, turn: Turn) -> None:
        messages = self._conversation.messages(self._sampling.system)
        answer = self.client.chat(turn.model, messages, sampling=self._sampling.values())
        try:
            # Closing the stream cancels the request, which frees the model's slot.
            async with aclosing(answer) as deltas:
                async for delta in deltas:
                    turn.take(delta, self._clock())
                    if turn.state is not TurnState.ANSWERING:
                        break
            turn.end(TurnState.DONE)
        except CyberError as error:
            turn.end(TurnState.FAILED, str(error))
        finally:
            turn.end(TurnState.STOPPED)
            if self._turn is turn:
                self._turn_ended()

    def _turn_ended(self) -> None:
        self._turn = None
        if self._timer is not None:
            self._timer.pause()
        if self.is_mounted:
            self._changed()

    def _changed(self) -> None:
        self._paint()
        self.refresh_bindings()

    def action_stop(self) -> None:
        """Stop the answer."""
        if self._turn is not None:
            self._turn.end(TurnState.STOPPED)
            self._turn_ended()
            self.workers.cancel_group(self, _GROUP)

    def action_retry(self) -> None:
        """Ask the last question again."""
        if self._turn is None and self._chosen is not None:
            turn = self._conversation.retry(self._chosen, self._clock())
            if turn is not None:
                self._ask(turn)

    # Other actions

    @property
    def _last_answer(self) -> str:
        return next((t.answer for t in reversed(self._conversation.turns) if t.answer), "")

    def action_copy(self) -> None:
        """Copy the last answer to the clipboard."""
        text = self._last_answer.strip()
        self.app.copy_to_clipboard(text)
        self.cyber.show_message(f"Copied the answer ({len(text):,} characters).")

    def action_thinking(self) -> None:
        """Show or hide the model's thinking."""
        self._unfolded = not self._unfolded
        self._past = None
        self._paint()

    def action_model(self) -> None:
        """Choose another model."""

        def chosen(model_id: str | None) -> None:
            model = None if model_id is None else self.cyber.snapshot.model(model_id)
            if model is None:
                return
            if reason := unreadable_text(model):
                self.cyber.show_message(reason, "warning")
            else:
                self.choose(model.id)

        charset = self.cyber.options.charset
        context = self.cyber.options.render_context()
        rows = model_rows(self.cyber.snapshot.models, context)
        self.app.push_screen(
            ChoiceDialog("Chat with", COLUMNS, rows, chosen=self._chosen, charset=charset), chosen
        )

    def action_sampling(self) -> None:
        """Edit the options that are sent with every question."""

        def saved(sampling: Sampling | None) -> None:
            if sampling is not None:
                self._sampling = sampling
                self.redraw()

        self.app.push_screen(SamplingForm(self._sampling), saved)

    def action_clear(self) -> None:
        """Start a new conversation after a question."""

        def answered(value: str | None) -> None:
            if value == "clear":
                self._conversation.clear()
                self._rows.clear()
                self._past = None
                self._changed()

        count = len(self._conversation.turns)
        what = "question and its answer" if count == 1 else f"{count} questions and their answers"
        self.app.push_screen(
            Question(
                "Clear the conversation?",
                f"The {what} are stored nowhere else.",
                (
                    Answer("keep", "k", "Keep it"),
                    Answer("clear", "c", "Clear it", destructive=True),
                ),
            ),
            answered,
        )
