"""The events of a streamed chat completion, in the format of OpenAI's API."""

from __future__ import annotations

from typing import Any

import msgspec

from cyber_inference_tui.client.answer_errors import error_from_event
from cyber_inference_tui.client.sse import ServerEvent
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.text import clean_text


class ChatDelta(msgspec.Struct, frozen=True, kw_only=True):
    """The content of one event of a streamed answer."""

    text: str = ""
    thinking: str = ""
    """The reasoning of a model that shows it, separate from its answer."""
    waiting: str = ""
    """The reason why the request waits for its model, in a few words."""
    finish_reason: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_per_second: float | None = None
    """The generation speed that the server measured."""


class _ChunkDelta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _ChunkChoice(msgspec.Struct):
    delta: _ChunkDelta = msgspec.field(default_factory=_ChunkDelta)
    finish_reason: str | None = None


class _ChunkUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _ChunkTimings(msgspec.Struct):
    predicted_per_second: float | None = None


class _ChatChunk(msgspec.Struct):
    choices: list[_ChunkChoice] = []
    usage: _ChunkUsage | None = None
    timings: _ChunkTimings | None = None
    error: Any = None


def chat_delta(event: ServerEvent) -> ChatDelta | None:
    """Return what an event of the stream adds to the answer; ``None`` for one that adds nothing.

    Raises the ``CyberError`` of an error event.
    """
    if event.comment is not None:
        return ChatDelta(waiting=clean_text(event.comment, limit=200)) if event.comment else None
    if event.data.strip() == b"[DONE]":
        return None
    try:
        text = event.data.decode("utf-8", "replace")
        chunk = msgspec.json.decode(text, type=thread_safe(_ChatChunk))
    except msgspec.MsgspecError as error:
        raise CyberError(
            f"The model's server sent an event that cannot be decoded: {error}."
        ) from error
    if chunk.error is not None:
        raise error_from_event(event.data)
    choice = chunk.choices[0] if chunk.choices else _ChunkChoice()
    usage = chunk.usage or _ChunkUsage()
    return ChatDelta(
        text=clean_text(choice.delta.content or "", keep_tabs=True),
        thinking=clean_text(choice.delta.reasoning_content or ""),
        finish_reason=choice.finish_reason,
        tokens_in=usage.prompt_tokens,
        tokens_out=usage.completion_tokens,
        tokens_per_second=chunk.timings.predicted_per_second if chunk.timings else None,
    )
