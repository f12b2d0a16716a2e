"""Conversations as files and lines: JSON, Markdown, and a curl command."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cyber_inference_tui.connect.curl import curl_lines
from cyber_inference_tui.terminal.charset import UNICODE
from cyber_inference_tui.text import clean_line, clean_text
from cyber_inference_tui.tui.pages.chat.conversation import (
    ANSWER_CHARACTERS,
    Conversation,
    Turn,
    TurnState,
)
from cyber_inference_tui.tui.pages.chat.images import Image
from cyber_inference_tui.tui.pages.chat.rows import answer_summary
from cyber_inference_tui.tui.pages.chat.sampling import Sampling

FORMAT = 1


class SavedTurn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question with its answer."""

    question: str
    model: str
    answer: str = ""
    thinking: str = ""
    error: str = ""
    stopped: bool = False
    images: tuple[str, ...] = ()
    """The names of the images. The images themselves are not saved."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_per_second: float | None = None
    first_text_seconds: float | None = None


class SavedTalk(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation with one model."""

    model: str
    turns: tuple[SavedTurn, ...] = ()


class SavedChat(msgspec.Struct, frozen=True, kw_only=True):
    """Conversations side by side, and the options that were sent with each question."""

    format: int = FORMAT
    talks: tuple[SavedTalk, ...]
    system: str = ""
    sampling: dict[str, int | float] = {}

    @property
    def question(self) -> str:
        """The first question."""
        return next((turn.question for talk in self.talks for turn in talk.turns), "")


def saved_chat(talks: Sequence[tuple[str, Conversation]], sampling: Sampling) -> SavedChat:
    """Return conversations, each with the id of its model, as they are saved."""
    return SavedChat(
        talks=tuple(
            SavedTalk(model=model, turns=tuple(map(_saved_turn, talk.turns)))
            for model, talk in talks
        ),
        system=sampling.system,
        sampling=sampling.values(),
    )


def _saved_turn(turn: Turn) -> SavedTurn:
    return SavedTurn(
        question=turn.question,
        model=turn.model,
        answer=turn.answer,
        thinking=turn.thinking,
        error=turn.error,
        stopped=turn.state is TurnState.STOPPED,
        images=tuple(image.name for image in turn.images),
        tokens_in=turn.tokens_in,
        tokens_out=turn.tokens if turn.pieces else None,
        tokens_per_second=turn.rate,
        first_text_seconds=turn.first_seconds,
    )


def conversation_of(saved: SavedTalk) -> Conversation:
    """Return a saved conversation to continue; its texts are cleaned again."""
    talk = Conversation()
    for one in saved.turns:
        images = tuple(Image(clean_line(name, limit=80)) for name in one.images)
        turn = talk.begin(one.question, clean_line(one.model, limit=200), 0.0, images)
        turn.answer = clean_text(one.answer, limit=ANSWER_CHARACTERS, keep_tabs=True)
        turn.thinking = clean_text(one.thinking, limit=ANSWER_CHARACTERS)
        turn.pieces = turn.thought_pieces = one.tokens_out or 0
        turn.tokens_in, turn.tokens_out = one.tokens_in, one.tokens_out
        turn.server_rate = one.tokens_per_second
        turn.first_at = one.first_text_seconds
        state = TurnState.STOPPED if one.stopped else TurnState.DONE
        turn.end(TurnState.FAILED if one.error else state, one.error)
    return talk


def to_json(chat: SavedChat) -> bytes:
    """Return a chat as readable JSON."""
    return msgspec.json.format(msgspec.json.encode(chat), indent=2) + b"\n"


def to_markdown(chat: SavedChat) -> str:
    """Return a chat as Markdown: each question with the answers of all models."""
    parts = [f"# {_line(chat.question) or 'Chat'}"]
    if chat.system:
        parts.append(f"System prompt:\n\n{_quoted(chat.system)}")
    if chat.sampling:
        parts.append(", ".join(f"{name} {value}" for name, value in chat.sampling.items()))
    asked: list[str] = []
    for at in range(max((len(talk.turns) for talk in chat.talks), default=0)):
        for talk in chat.talks:
            if at >= len(talk.turns):
                continue
            turn = talk.turns[at]
            question = "\n\n".join([turn.question, *(f"[image {name}]" for name in turn.images)])
            if asked != [str(at), question]:
                asked = [str(at), question]
                parts.append(f"## You\n\n{_quoted(question)}")
            parts.append(f"## {_line(turn.model)}\n\n{_answer(turn)}")
    return "\n\n".join(parts) + "\n"


def _answer(turn: SavedTurn) -> str:
    whole = conversation_of(SavedTalk(model=turn.model, turns=(turn,))).turns[0]
    figures = f"*{answer_summary(whole, UNICODE)}*" if not turn.error else f"**{turn.error}**"
    return "\n\n".join(filter(None, [turn.answer.strip(), figures.strip("*") and figures]))


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _line(text: str) -> str:
    return clean_line(" ".join(text.split()), limit=80)


def to_curl(url: str, key: str, body: Mapping[str, Any], images: Sequence[Image]) -> str:
    """Return the command for a shell that sends ``body``; it reads images from their files."""
    lines = curl_lines(f"{url}/v1/chat/completions", key)
    text = json.dumps(body, ensure_ascii=False, indent=2)
    if not images:
        # A here-document has no limit of length, and needs no escapes.
        return " \\\n".join([*lines, "  -d @- <<'END'"]) + f"\n{text}\nEND\n"
    text = re.sub(r"([\\$`])", r"\\\1", text)
    for image in images:
        read = f"$(base64 < {shlex.quote(image.path)} | tr -d '\\n')"
        text = text.replace(f"base64,{image.data}", f"base64,{read}")
    return " \\\n".join([*lines, "  -d @- <<END"]) + f"\n{text}\nEND\n"
