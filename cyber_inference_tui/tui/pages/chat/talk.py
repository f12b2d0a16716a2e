"""One model's conversation on the Chat page: its title, its text, and its running answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ModelRecord
from cyber_inference_tui.tui.pages.chat.conversation import Conversation, Turn, TurnState
from cyber_inference_tui.tui.pages.chat.images import Image, blind_text, takes_images
from cyber_inference_tui.tui.pages.chat.markdown_rows import CodeBlock
from cyber_inference_tui.tui.pages.chat.model_choice import invitation, talk_content
from cyber_inference_tui.tui.pages.chat.rows import TextFlow, TurnRows, state_content
from cyber_inference_tui.tui.pages.chat.sampling import Sampling
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.widgets.text_view import TextRow, TextView

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

STATE_SECONDS = 0.5
"""Seconds between updates of a growing answer's numbers."""
_WIDE_TITLE = 56
"""Cells from which on the title of a talk beside others needs only two lines."""
_AHEAD = 4
"""Rows that a growing answer moves at once."""
_READONLY = "A read-only app cannot chat, because a message may load a model."
_GROUP = "answer"


class Talk(Vertical):
    """A conversation with the model ``chosen``.

    ``clock`` returns monotonic seconds. It posts ``Ended`` when an answer has ended.
    """

    class Ended(Message):
        """Posted when an answer has ended."""

    def __init__(
        self,
        chosen: str | None,
        clock: Callable[[], float],
        conversation: Conversation | None = None,
    ) -> None:
        super().__init__()
        self.chosen = chosen
        self.conversation = conversation or Conversation()
        self.turn: Turn | None = None
        """The turn that is being answered."""
        self.unfolded = False
        """The model's thinking is shown."""
        self._clock = clock
        self._rows: dict[int, TurnRows] = {}
        self._past: tuple[int, list[TextRow]] | None = None
        self._stated = 0.0
        """Time of the last update of the answer's numbers."""

    def compose(self) -> ComposeResult:
        """Compose the title, which is shown beside others only, the text and the state."""
        yield Static(classes="head")
        yield TextView(ahead=_AHEAD)
        yield Static(classes="state")

    def on_mount(self) -> None:
        """Say where the end is when the user scrolls up."""
        self.watch(self.view, "following", self._paint_state, init=False)

    @property
    def cyber(self) -> CyberApp:
        """The app with its own type."""
        return cast("CyberApp", self.app)

    @property
    def view(self) -> TextView:
        """The text."""
        return self.query_one(TextView)

    @property
    def model(self) -> ModelRecord | None:
        """The model's record."""
        return None if self.chosen is None else self.cyber.snapshot.model(self.chosen)

    # Drawing

    def paint(self, *, fastest: bool = False) -> None:
        """Draw the conversation and the numbers of its answer."""
        if not self.display or not self.is_mounted:
            return
        view = self.view
        if view.text_width:
            view.show(self._all_rows(view.text_width))
        # Numbers that change with each update could not be read.
        if self.turn is None or self._clock() - self._stated >= STATE_SECONDS:
            self._paint_state()
            if not self.is_alone:
                self._paint_head(fastest=fastest)

    @property
    def is_alone(self) -> bool:
        """Whether no other talk is beside it."""
        return self.has_class("-alone")

    def _paint_head(self, *, fastest: bool) -> None:
        lines = 1
        if self.screen.has_class("-wide"):
            lines = 2 if self.size.width >= _WIDE_TITLE else 3
        content = talk_content(
            self.model,
            self.chosen or "",
            self.conversation.last,
            self.cyber.options.render_context(),
            lines=lines,
            active=self.has_class("-active"),
            fastest=fastest,
        )
        head = self.query_one(".head", Static)
        head.styles.height = lines
        update_static(head, content)

    def _paint_state(self) -> None:
        self._stated = now = self._clock()
        more = "" if self.view.following else "G goes to the end"
        charset = self.cyber.options.charset
        content = state_content(self.turn, now, charset, more, short=not self.is_alone)
        update_static(self.query_one(".state", Static), content)

    def _all_rows(self, width: int) -> list[TextRow]:
        turns = self.conversation.turns
        if self.cyber.options.readonly:
            return TextFlow(width, "dim").rows(_READONLY)
        if not turns:
            return TextFlow(width, "dim").rows(invitation(self.model, self.cyber.client.url))
        charset = self.cyber.options.charset
        for turn in turns:
            if id(turn) not in self._rows:
                self._rows[id(turn)] = TurnRows(turn, width, charset)
        # Only the last turn changes: cache the rows of those before it.
        *past, last = turns
        if self._past is None or self._past[0] != id(last):
            rows: list[TextRow] = []
            if self.conversation.dropped:
                dropped = f"{self.conversation.dropped:,} earlier messages were dropped."
                rows += [((dropped, "dim"),), ()]
            for turn in past:
                rows += self._rows[id(turn)].rows(unfolded=self.unfolded)
            self._past = (id(last), rows)
        return [*self._past[1], *self._rows[id(last)].rows(unfolded=self.unfolded)]

    @on(TextView.WidthChanged)
    def render_again(self) -> None:
        """Make all rows again, for another width or another conversation."""
        self._rows.clear()
        self._past = None
        self.paint()

    @property
    def code_blocks(self) -> list[CodeBlock]:
        """The blocks of code in the last answer that has any."""
        shown = (self._rows.get(id(turn)) for turn in reversed(self.conversation.turns))
        return next((rows.code_blocks for rows in shown if rows and rows.code_blocks), [])

    def unfold(self, *, unfolded: bool) -> None:
        """Show or hide the model's thinking."""
        self.unfolded = unfolded
        self._past = None
        self.paint()

    # Asking

    def ask(self, question: str, images: tuple[Image, ...], sampling: Sampling) -> None:
        """Send a question."""
        if self.chosen is not None:
            turn = self.conversation.begin(question, self.chosen, self._clock(), images)
            self._begin(turn, sampling)

    def retry(self, sampling: Sampling) -> None:
        """Ask the last question again."""
        if self.turn is None and self.chosen is not None:
            turn = self.conversation.retry(self.chosen, self._clock())
            if turn is not None:
                self._begin(turn, sampling)

    def _begin(self, turn: Turn, sampling: Sampling) -> None:
        self.turn = turn
        self._stated = 0.0
        kept = {id(one) for one in self.conversation.turns}
        self._rows = {key: rows for key, rows in self._rows.items() if key in kept}
        self._past = None
        self.view.action_follow()
        answer = self._answer(turn, sampling)
        self.run_worker(answer, group=_GROUP, exclusive=True, exit_on_error=False)

    async def _answer(self, turn: Turn, sampling: Sampling) -> None:
        model = self.cyber.snapshot.model(turn.model)
        sees = model is None or takes_images(model)
        try:
            if any(image.data for image in turn.images) and not sees:
                turn.end(TurnState.FAILED, blind_text(turn.model))
                return
            messages = self.conversation.messages(sampling.system, images=sees)
            answer = self.cyber.client.chat(turn.model, messages, sampling=sampling.values())
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
            if self.turn is turn:
                self._ended()

    def _ended(self) -> None:
        self.turn = None
        self._stated = 0.0
        self.post_message(self.Ended())

    def stop(self) -> None:
        """Stop the answer."""
        if self.turn is not None:
            self.turn.end(TurnState.STOPPED)
            self._ended()
            self.workers.cancel_group(self, _GROUP)

    def clear(self) -> None:
        """Start a new conversation."""
        self.conversation.clear()
        self.render_again()


def fastest_of(talks: Sequence[Talk]) -> Talk | None:
    """Return the talk whose last answer came faster than those of others, if there are any."""
    rates = [
        (turn.rate, number)
        for number, talk in enumerate(talks)
        if (turn := talk.conversation.last) is not None and turn.rate is not None
    ]
    (best, number), *others = sorted(rates, reverse=True) or [(0.0, 0)]
    return talks[number] if others and others[0][0] < best else None
