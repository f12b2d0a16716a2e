"""Reads what Ollama's answers need from those of a model's server.

These are chat completions and completions in OpenAI's shape, whole or as the events of a stream,
and llama-server's own shape for ``/infill``.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.http.framing import BadResponseError

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class ToolFunction(msgspec.Struct):
    """A function that the model calls, or a part of it."""

    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()
    """A string with JSON, or with a part of it; some servers send the object."""


class ToolCall(msgspec.Struct):
    """A call of a tool, or a part of it."""

    index: int | None = None
    id: str | None = None
    function: ToolFunction | None = None


class Message(msgspec.Struct):
    """A message of the model, or a part of it."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class Token(msgspec.Struct, omit_defaults=True):
    """A token with its probability, in the shape that both APIs share."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[Token] | None = None


class _Logprobs(msgspec.Struct):
    content: list[Token] | None = None


class _Choice(msgspec.Struct):
    delta: Message | None = None
    message: Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class Timings(msgspec.Struct):
    """llama-server's counts and durations; ``prompt_n`` excludes cached tokens."""

    cache_n: _Count = 0
    prompt_n: _Count = 0
    prompt_ms: _Milliseconds = 0.0
    predicted_n: _Count = 0
    predicted_ms: _Milliseconds = 0.0


class Usage(msgspec.Struct):
    """The counts of other servers."""

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0


class Piece(NamedTuple):
    """A part of an answer, or all of it."""

    text: str
    thinking: str
    tool_calls: list[ToolCall]
    logprobs: list[Token]
    finish: str | None
    """The reason for its end, if it ends here: ``length``, or any other."""


class ServerAnswer(msgspec.Struct):
    """An answer, or an event of a stream."""

    choices: list[_Choice] | None = None
    content: str | None = None
    stop: bool | None = None
    stop_type: str | None = None
    timings: Timings | None = None
    usage: Usage | None = None
    error: Any = None

    def piece(self) -> Piece:
        """Return what it says."""
        if not self.choices:
            finish = "length" if self.stop_type == "limit" else "stop"
            return Piece(self.content or "", "", [], [], finish if self.stop else None)
        choice = self.choices[0]
        said = choice.delta or choice.message or _NOTHING
        logprobs = choice.logprobs.content if choice.logprobs is not None else None
        return Piece(
            choice.text or said.content or "",
            said.reasoning_content or "",
            said.tool_calls or [],
            logprobs or [],
            choice.finish_reason,
        )


class Embedding(msgspec.Struct):
    """The vector of one text."""

    embedding: msgspec.Raw
    index: int = 0


class Embeddings(msgspec.Struct):
    """The vectors of a request's texts."""

    data: list[Embedding]
    usage: Usage | None = None


_NOTHING = Message()
_decode = msgspec.json.Decoder(thread_safe(ServerAnswer)).decode
_decode_embeddings = msgspec.json.Decoder(thread_safe(Embeddings)).decode
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_answer(data: bytes) -> ServerAnswer:
    """Read an answer, or the data of an event. Raises ``BadResponseError``."""
    try:
        return _decode(data)
    except _BROKEN:
        raise BadResponseError("it sent an answer of another kind") from None


def read_embeddings(data: bytes) -> Embeddings:
    """Read the answer to a request for embeddings. Raises ``BadResponseError``."""
    try:
        return _decode_embeddings(data)
    except _BROKEN:
        raise BadResponseError("it sent an answer of another kind") from None
