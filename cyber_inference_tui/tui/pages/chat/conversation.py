"""A conversation as it is held: questions, answers and what they took. It has its bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cyber_inference_tui.client.completions import ChatDelta
from cyber_inference_tui.text import clean_line, clean_text

TURNS_KEPT = 200
CHARACTERS_KEPT = 500_000
"""Of all questions and answers together; the oldest go first."""
ANSWER_CHARACTERS = 200_000
"""An answer that grows longer is ended: the model repeats itself."""
RATE_SECONDS = 0.25
"""A rate that is counted over less says nothing."""
QUESTION_CHARACTERS = 100_000


class TurnState(StrEnum):
    """Where an answer stands."""

    ANSWERING = "answering"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class Turn:
    """A question, and its answer as far as it is there. Times are of a clock that only grows."""

    question: str
    model: str
    began: float
    answer: str = ""
    thinking: str = ""
    waiting: str = ""
    """Why nothing comes yet, as the service tells it."""
    error: str = ""
    state: TurnState = TurnState.ANSWERING
    first_at: float | None = None
    """When the first text came, thought or said."""
    last_at: float | None = None
    pieces: int = 0
    thought_pieces: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    told_rate: float | None = None
    """Tokens a second, as the server measured it."""
    finish_reason: str | None = None

    def take(self, delta: ChatDelta, at: float) -> None:
        """Add what came at the moment ``at``; an answer that is too long ends."""
        if delta.waiting:
            self.waiting = clean_line(delta.waiting, limit=200)
        if delta.text or delta.thinking:
            self.waiting = ""
            if self.first_at is None:
                self.first_at = at
            self.last_at = at
            self.pieces += 1
            self.thought_pieces += bool(delta.thinking)
            self.answer += clean_text(delta.text)
            self.thinking += clean_text(delta.thinking)
        self.tokens_in = delta.tokens_in if delta.tokens_in is not None else self.tokens_in
        self.tokens_out = delta.tokens_out if delta.tokens_out is not None else self.tokens_out
        self.told_rate = delta.tokens_per_second or self.told_rate
        self.finish_reason = delta.finish_reason or self.finish_reason
        if len(self.answer) + len(self.thinking) > ANSWER_CHARACTERS:
            self.end(TurnState.STOPPED)
            self.finish_reason = "too long"

    def end(self, state: TurnState, error: str = "") -> None:
        """The answer is over."""
        if self.state is TurnState.ANSWERING:
            self.state = state
            self.waiting = ""
            self.error = clean_line(" ".join(error.split()), limit=600)

    @property
    def first_seconds(self) -> float | None:
        """From sending to the first text, in seconds."""
        return None if self.first_at is None else self.first_at - self.began

    @property
    def tokens(self) -> int:
        """Tokens that were generated: as told, else the pieces that came (one token each)."""
        return self.pieces if self.tokens_out is None else self.tokens_out

    @property
    def rate(self) -> float | None:
        """Tokens a second: as told, else counted from the first piece to the last."""
        if self.told_rate is not None:
            return self.told_rate
        if self.first_at is None or self.last_at is None or self.pieces < 2:
            return None
        seconds = self.last_at - self.first_at
        return (self.pieces - 1) / seconds if seconds >= RATE_SECONDS else None

    @property
    def size(self) -> int:
        """Characters that it holds."""
        return len(self.question) + len(self.answer) + len(self.thinking)


@dataclass(slots=True)
class Conversation:
    """Turns, oldest first; of ``dropped`` ones only the number is known."""

    turns: list[Turn] = field(default_factory=list)
    dropped: int = 0

    @property
    def last(self) -> Turn | None:
        """The newest turn."""
        return self.turns[-1] if self.turns else None

    def begin(self, question: str, model: str, at: float) -> Turn:
        """A new turn; the oldest ones go where there is too much."""
        turn = Turn(question=clean_text(question), model=model, began=at)
        self.turns.append(turn)
        while len(self.turns) > 1 and (
            len(self.turns) > TURNS_KEPT or sum(one.size for one in self.turns) > CHARACTERS_KEPT
        ):
            del self.turns[0]
            self.dropped += 1
        return turn

    def again(self, model: str, at: float) -> Turn | None:
        """The last question once more, its answer forgotten; ``None`` where there is none."""
        if not self.turns:
            return None
        question = self.turns.pop().question
        return self.begin(question, model, at)

    def messages(self, system: str = "") -> list[dict[str, Any]]:
        """What to send for the last turn: the answers that came, and its question."""
        sent = [{"role": "system", "content": system}] if system.strip() else []
        for turn in self.turns[:-1]:
            if turn.answer and turn.state is not TurnState.FAILED:
                sent.append({"role": "user", "content": turn.question})
                sent.append({"role": "assistant", "content": turn.answer})
        if self.turns:
            sent.append({"role": "user", "content": self.turns[-1].question})
        return sent

    def clear(self) -> None:
        """Begin anew."""
        self.turns.clear()
        self.dropped = 0
