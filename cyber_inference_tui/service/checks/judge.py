"""Judges the answers of a model. Pure.

A trial is passed only by what the model itself did: an answer that could be luck, or that the
server alone makes, is no evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cyber_inference_tui.records.checks import Ability, Outcome, Trial
from cyber_inference_tui.service.checks.answers import (
    Chat,
    Message,
    Ranks,
    Refusal,
    Vectors,
    decoded,
    joined,
)
from cyber_inference_tui.text import clean_line

_QUOTED = 60
_EVIDENCE = 200
_THOUGHTS = ("<think", "</think", "<|channel|>analysis", "[THINK]")
"""Marks of thoughts that a server left inside an answer."""

TOOL = "get_weather"
PLACE = "Lisbon"
FIELDS: dict[str, type] = {"name": str, "age": int}
"""The fields of the object that a model is asked for."""


def refused(ability: Ability, refusal: Refusal) -> Trial:
    """Return the result for an answer that is none."""
    return _no(ability, refusal.reason)


def not_tried(ability: Ability, reason: str) -> Trial:
    """Return the result of an ability that the model is not made for."""
    return _trial(ability, Outcome.NOT_TRIED, reason)


def stream(events: Sequence[Chat]) -> Trial:
    """Judge a streamed answer."""
    parts = [choice.delta for event in events for choice in event.choices]
    texts = [part for part in parts if part.content or part.reasoning_content]
    counts = [event.usage.completion_tokens for event in events if event.usage is not None]
    if len(texts) < 2:
        return _no(Ability.STREAM, f"the text came in {len(texts)} parts")
    if not counts or not counts[-1]:
        return _no(Ability.STREAM, f"{len(texts)} parts, but no count of tokens at the end")
    return _yes(Ability.STREAM, f"{len(texts)} parts, {counts[-1]} tokens counted")


def tools(answer: Chat) -> Trial:
    """Judge the answer to the question for the weather in ``PLACE``."""
    calls = answer.message.tool_calls or []
    if not calls:
        return _no(Ability.TOOLS, f"no call, but {_text(answer.message)}")
    function = calls[0].function
    shown = f"{function.name}({function.arguments})"
    arguments = decoded(function.arguments)
    place = arguments.get("city") if isinstance(arguments, dict) else None
    right = function.name == TOOL and isinstance(place, str)
    if not right or PLACE.casefold() not in str(place).casefold():
        return _no(Ability.TOOLS, f"called {shown}")
    return _yes(Ability.TOOLS, f"called {shown}")


def schema(answer: Chat) -> Trial:
    """Judge the answer to a request for an object with exactly the ``FIELDS``."""
    text = answer.message.content or ""
    value = decoded(text)
    right = isinstance(value, dict) and value.keys() == FIELDS.keys()
    if not right or any(type(value[name]) is not kind for name, kind in FIELDS.items()):
        cut = "" if answer.is_complete else ", cut at the limit of tokens"
        return _no(Ability.SCHEMA, f"{_text(answer.message)}{cut}")
    return _yes(Ability.SCHEMA, _quote(text))


def vision(answers: Sequence[tuple[str, Chat]]) -> Trial:
    """Judge the answers to images of one colour each, with the colours.

    Several, because a model that sees nothing guesses a colour, too.
    """
    shown = "; ".join(f"{colour}: {_text(answer.message)}" for colour, answer in answers)
    names = [colour for colour, _ in answers]

    def sees(colour: str, answer: Chat) -> bool:
        said = (answer.message.content or "").casefold()
        return [name for name in names if name in said] == [colour]

    right = all(sees(colour, answer) for colour, answer in answers)
    return _yes(Ability.VISION, shown) if right else _no(Ability.VISION, shown)


def thinking(answer: Chat) -> Trial:
    """Judge the answer to a question to think about."""
    message = answer.message
    thoughts = message.reasoning_content or ""
    if _has_thoughts(message.content):
        return _no(Ability.THINKING, f"its thoughts are part of the answer: {_text(message)}")
    if not thoughts.strip():
        return _no(Ability.THINKING, f"no thoughts, but {_text(message)}")
    if not answer.is_complete or not (message.content or "").strip():
        return _no(Ability.THINKING, f"{len(thoughts):,} characters of thoughts without an answer")
    return _yes(
        Ability.THINKING, f"{len(thoughts):,} characters of thoughts, then {_text(message)}"
    )


def no_thinking(answer: Chat) -> Trial:
    """Judge the answer to the same question with thinking switched off."""
    message = answer.message
    if (message.reasoning_content or "").strip() or _has_thoughts(message.content):
        thoughts = message.reasoning_content or message.content or ""
        return _no(Ability.NO_THINKING, f"it thinks all the same: {_quote(thoughts)}")
    if not (message.content or "").strip():
        return _no(Ability.NO_THINKING, "no answer")
    return _yes(Ability.NO_THINKING, f"at once {_text(message)}")


def embeddings(
    vectors: Vectors, *, width: int | None, pooling: str | None, used: str | None
) -> Trial:
    """Judge the vectors of two texts with the same meaning and a third one.

    ``width`` (numbers of a vector) and ``pooling`` are those of the file's header, ``used`` is the
    pooling of the server; ``None`` = unknown.
    """
    found = [one.embedding for one in vectors.data]
    sizes = {len(vector) for vector in found}
    if len(found) != 3 or len(sizes) != 1:
        return _no(Ability.EMBEDDINGS, f"{len(found)} vectors of {sorted(sizes)} numbers")
    size = sizes.pop()
    if width is not None and size != width:
        return _no(Ability.EMBEDDINGS, f"{size:,} numbers, and the file has {width:,}")
    near, far = _cosine(found[0], found[1]), _cosine(found[0], found[2])
    shown = (
        f"{size:,} numbers, pooling {used or 'unknown'}; likeness of near texts {near:.2f},"
        f" of others {far:.2f}"
    )
    if pooling is not None and used is not None and pooling != used:
        return _no(Ability.EMBEDDINGS, f"{shown}, but the file asks for pooling {pooling}")
    return _yes(Ability.EMBEDDINGS, shown) if near > far else _no(Ability.EMBEDDINGS, shown)


def ranks(answer: Ranks) -> Trial:
    """Judge the ranks of two documents, of which the second one answers the question."""
    scores = {rank.index: rank.relevance_score for rank in answer.results}
    if scores.keys() != {0, 1}:
        return _no(Ability.EMBEDDINGS, f"ranks of {len(scores)} documents instead of 2")
    shown = f"the answer to a question ranks {scores[1]:.2f}, another text {scores[0]:.2f}"
    right = scores[1] > scores[0]
    return _yes(Ability.EMBEDDINGS, shown) if right else _no(Ability.EMBEDDINGS, shown)


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    length = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / length if length else 0.0


def _has_thoughts(content: str | None) -> bool:
    return any(mark in (content or "") for mark in _THOUGHTS)


def _text(message: Message) -> str:
    """Return the text of a message, quoted."""
    said = joined((message.content,)).strip()
    return _quote(said) if said else "an empty answer"


def _quote(text: str) -> str:
    line = clean_line(text.strip())
    return f"“{line if len(line) <= _QUOTED else f'{line[:_QUOTED].rstrip()}…'}”"


def _yes(ability: Ability, evidence: str) -> Trial:
    return _trial(ability, Outcome.YES, evidence)


def _no(ability: Ability, evidence: str) -> Trial:
    return _trial(ability, Outcome.NO, evidence)


def _trial(ability: Ability, outcome: Outcome, evidence: str) -> Trial:
    return Trial(ability=ability, outcome=outcome, evidence=clean_line(evidence, limit=_EVIDENCE))
