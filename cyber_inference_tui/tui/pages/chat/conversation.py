"""A conversation: questions, answers and their figures, within bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cyber_inference_tui.client.completions import ChatDelta
from cyber_inference_tui.text import clean_line, clean_text
from cyber_inference_tui.tui.pages.chat.images import IMAGE_BYTES, IMAGES, Image
from cyber_inference_tui.tui.ways_out import with_keys

TURNS_KEPT = 200
CHARACTERS_KEPT = 500_000
"""Of all questions and answers together; the oldest are dropped first."""
IMAGE_BYTES_KEPT = IMAGES * IMAGE_BYTES
"""Of the images of a conversation, which are sent with each question."""
ANSWER_CHARACTERS = 200_000
"""A longer answer is stopped: the model repeats itself."""
RATE_SECONDS = 0.25
"""Least seconds over which a rate is measured."""


class TurnState(StrEnum):
    """The state of an answer."""

    ANSWERING = "answering"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class Turn:
    """A question and the answer so far. Times are of a monotonic clock."""

    question: str
    model: str
    began: float
    images: tuple[Image, ...] = ()
    answer: str = ""
    thinking: str = ""
    waiting: str = ""
    """Why there is no text yet, from the service's comments."""
    error: str = ""
    state: TurnState = TurnState.ANSWERING
    first_at: float | None = None
    """Time of the first text, thinking included."""
    last_at: float | None = None
    pieces: int = 0
    thought_pieces: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    server_rate: float | None = None
    """Tokens per second, measured by the server."""
    finish_reason: str | None = None

    def take(self, delta: ChatDelta, at: float) -> None:
        """Add a delta that came at ``at``; stop an answer that is too long."""
        if delta.waiting:
            self.waiting = clean_line(delta.waiting, limit=200)
        if delta.text or delta.thinking:
            self.waiting = ""
            if self.first_at is None:
                self.first_at = at
            self.last_at = at
            self.pieces += 1
            self.thought_pieces += bool(delta.thinking)
            self.answer += clean_text(delta.text, keep_tabs=True)
            self.thinking += clean_text(delta.thinking)
        self.tokens_in = delta.tokens_in if delta.tokens_in is not None else self.tokens_in
        self.tokens_out = delta.tokens_out if delta.tokens_out is not None else self.tokens_out
        self.server_rate = delta.tokens_per_second or self.server_rate
        self.finish_reason = delta.finish_reason or self.finish_reason
        if len(self.answer) + len(self.thinking) > ANSWER_CHARACTERS:
            self.end(TurnState.STOPPED)
            self.finish_reason = "too long"

    def end(self, state: TurnState, error: str = "") -> None:
        """End the answer, unless it has ended."""
        if self.state is TurnState.ANSWERING:
            self.state = state
            self.waiting = ""
            self.error = clean_line(with_keys(" ".join(error.split())), limit=600)

    @property
    def first_seconds(self) -> float | None:
        """Seconds from sending to the first text."""
        return None if self.first_at is None else self.first_at - self.began

    @property
    def tokens(self) -> int:
        """Generated tokens: the server's count, else the number of deltas (one token each)."""
        return self.pieces if self.tokens_out is None else self.tokens_out

    @property
    def rate(self) -> float | None:
        """Tokens per second: the server's figure, else measured between first and last delta."""
        if self.server_rate is not None:
            return self.server_rate
        if self.first_at is None or self.last_at is None or self.pieces < 2:
            return None
        seconds = self.last_at - self.first_at
        return (self.pieces - 1) / seconds if seconds >= RATE_SECONDS else None

    @property
    def size(self) -> int:
        """Characters of the turn."""
        return len(self.question) + len(self.answer) + len(self.thinking)


@dataclass(slots=True)
class Conversation:
    """Turns, oldest first, and the number of dropped ones."""

    turns: list[Turn] = field(default_factory=list)
    dropped: int = 0

    @property
    def last(self) -> Turn | None:
        """The newest turn."""
        return self.turns[-1] if self.turns else None

    def begin(self, question: str, model: str, at: float, images: tuple[Image, ...] = ()) -> Turn:
        """Add a turn; drop the oldest ones beyond the bounds."""
        turn = Turn(question=clean_text(question), model=model, began=at, images=images)
        self.turns.append(turn)
        while len(self.turns) > 1 and (
            len(self.turns) > TURNS_KEPT
            or sum(one.size for one in self.turns) > CHARACTERS_KEPT
            or sum(image.size for one in self.turns for image in one.images) > IMAGE_BYTES_KEPT
        ):
            del self.turns[0]
            self.dropped += 1
        return turn

    def retry(self, model: str, at: float) -> Turn | None:
        """Replace the last turn by a new one with its question; ``None`` if there is none."""
        if not self.turns:
            return None
        last = self.turns.pop()
        return self.begin(last.question, model, at, last.images)

    def messages(self, system: str = "", *, images: bool = True) -> list[dict[str, Any]]:
        """Return the messages for the last turn: the questions and answers before, its question.

        Without ``images``, earlier questions have the names of theirs.
        """
        sent = [{"role": "system", "content": system}] if system.strip() else []
        for turn in self.turns[:-1]:
            if turn.answer and turn.state is not TurnState.FAILED:
                sent.append({"role": "user", "content": _content(turn, images=images)})
                sent.append({"role": "assistant", "content": turn.answer})
        if self.turns:
            sent.append({"role": "user", "content": _content(self.turns[-1], images=images)})
        return sent

    def clear(self) -> None:
        """Drop all turns."""
        self.turns.clear()
        self.dropped = 0


def _content(turn: Turn, *, images: bool) -> Any:
    """Return a question as the API takes it: a text, or parts if there are images."""
    sent = [image for image in turn.images if images and image.data]
    names = [f"[image {image.name}]" for image in turn.images if image not in sent]
    text = "\n".join([turn.question, *names])
    if not sent:
        return text
    parts = [{"type": "image_url", "image_url": {"url": image.url}} for image in sent]
    return [*parts, {"type": "text", "text": text}]
