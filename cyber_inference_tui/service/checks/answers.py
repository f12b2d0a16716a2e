"""The parts of a server's answers that the trials judge.

Source of the shapes: OpenAI's API reference, and ``tools/server/README.md`` of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec

from cyber_inference_tui.decoding import thread_safe

T = TypeVar("T")


class Refusal(NamedTuple):
    """An answer that is an error, or is not what was asked for."""

    reason: str


class Function(msgspec.Struct):
    """The function that a model calls."""

    name: str = ""
    arguments: str = ""
    """JSON."""


class ToolCall(msgspec.Struct):
    """A call of a function."""

    function: Function = msgspec.field(default_factory=Function)


class Message(msgspec.Struct):
    """A message, or a part of it in a stream."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct):
    """An answer of a chat."""

    message: Message = msgspec.field(default_factory=Message)
    delta: Message = msgspec.field(default_factory=Message)
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    """The counts of a request."""

    completion_tokens: int | None = None


class Chat(msgspec.Struct):
    """An answer of ``/v1/chat/completions``, or an event of its stream."""

    choices: list[Choice] = []
    usage: Usage | None = None

    @property
    def message(self) -> Message:
        """The first answer; an empty one if there is none."""
        return self.choices[0].message if self.choices else Message()

    @property
    def is_complete(self) -> bool:
        """True unless the limit of tokens cut it."""
        return bool(self.choices) and self.choices[0].finish_reason != "length"


class Vector(msgspec.Struct):
    """The embedding of a text."""

    embedding: list[float]


class Vectors(msgspec.Struct):
    """An answer of ``/v1/embeddings``."""

    data: list[Vector]


class Rank(msgspec.Struct):
    """The relevance of a document."""

    index: int
    relevance_score: float


class Ranks(msgspec.Struct):
    """An answer of ``/v1/rerank``."""

    results: list[Rank]


class _ErrorText(msgspec.Struct):
    message: str


class _Error(msgspec.Struct):
    error: _ErrorText


def read_answer(status: int, body: bytes, kind: type[T]) -> T | Refusal:
    """Return the answer, if it is one of this kind."""
    if status != 200:
        return _refusal(body) or Refusal(f"status {status}")
    try:
        return msgspec.json.decode(body, type=thread_safe(kind))
    except msgspec.MsgspecError as error:
        return Refusal(f"the answer has another shape: {error}")


def read_events(status: int, body: bytes) -> list[Chat] | Refusal:
    """Return the events of a streamed chat, without the last one, ``[DONE]``."""
    if status != 200:
        return _refusal(body) or Refusal(f"status {status}")
    lines = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
    if not lines or lines[-1] != b"[DONE]":
        return (_refusal(lines[-1]) if lines else None) or Refusal("the stream has no end")
    try:
        return [msgspec.json.decode(line, type=thread_safe(Chat)) for line in lines[:-1]]
    except msgspec.MsgspecError as error:
        return Refusal(f"an event has another shape: {error}")


def _refusal(body: bytes) -> Refusal | None:
    try:
        return Refusal(msgspec.json.decode(body, type=thread_safe(_Error)).error.message)
    except msgspec.MsgspecError:
        return None


def joined(parts: Iterable[str | None]) -> str:
    """Return the parts of a text as one."""
    return "".join(part for part in parts if part)


def decoded(text: str) -> Any:
    """Return the value of a JSON text; ``None`` if it is not JSON."""
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return None
