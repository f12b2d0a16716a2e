"""Translates answers of a model's server into those of Ollama's API.

A stream is translated event by event as its bytes arrive: each one becomes a line, or nothing.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.http.body_fields import Body
from cyber_inference_tui.http.error_responses import in_ollama_shape
from cyber_inference_tui.http.framing import BadResponseError
from cyber_inference_tui.http.ollama.server_answer import (
    ServerAnswer,
    Timings,
    Token,
    ToolCall,
    Usage,
    read_answer,
)
from cyber_inference_tui.http.ollama.shorter_chat import shorter_chat
from cyber_inference_tui.http.ollama.values import Clock

_MAX_EVENT = 16 << 20
_now = Clock().now
_encode = msgspec.json.encode
_decode_object = msgspec.json.Decoder(thread_safe(dict[str, msgspec.Raw])).decode


class _Call(msgspec.Struct):
    """A call of a tool, as far as its parts have arrived."""

    id: str = ""
    name: str = ""
    arguments: str = ""


class Answer(ABC):
    """The answer to one request, which arrived when this was made."""

    stream_type = b"application/x-ndjson"
    shortens = False
    """Whether a conversation that is too long loses its oldest messages."""

    def __init__(self, model: str, idle_timeout: float | None = None) -> None:
        self.idle_timeout = idle_timeout
        """The idle timeout that the request asks for; 0 = never."""
        self._head = b'{"model":%b' % _encode(model)
        self._began = self._sent = time.monotonic_ns()

    def sent(self) -> None:
        """Note that the request leaves for the model's server, after a wait."""
        self._sent = time.monotonic_ns()

    @abstractmethod
    def nothing(self, reason: str) -> bytes:
        """Return the answer to a request that has only loaded or unloaded its model."""

    def waiting(self) -> bytes:
        """Return a line that says nothing yet."""
        return b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the server's stream, and return lines. Raises ``BadResponseError``."""
        raise BadResponseError("it sent a stream")

    def rest(self) -> bytes:
        """Return the last lines."""
        return b""

    @abstractmethod
    def whole(self, body: bytes) -> bytes:
        """Translate an answer that is not a stream. Raises ``BadResponseError``."""

    def shortened(self, request: Body | memoryview, refusal: bytes) -> bytes | None:
        """Return the request without its oldest messages, if it was too long for the server."""
        return shorter_chat(request, refusal) if self.shortens else None

    def _durations(self) -> dict[str, int]:
        # Never 0, because Ollama has no fields with 0, and clients expect these.
        return {
            "total_duration": time.monotonic_ns() - self._began or 1,
            "load_duration": self._sent - self._began or 1,
        }


class TextAnswer(Answer):
    """An answer with text: of a chat, or of a completion.

    ``_before`` and ``_after`` are the JSON around the text.
    """

    _before = _after = b""
    shows_alternatives = True
    """Whether the probabilities of a token have those of the alternatives."""
    # The beginnings of an answer's values. Most answers change few of them.
    _held = b""
    """The beginning of an event."""
    _calls: dict[int, _Call] | None = None
    _finish: str | None = None
    _timings: Timings | None = None
    _usage: Usage | None = None
    _is_over = False

    def nothing(self, reason: str) -> bytes:
        """Return the answer to a request that has only loaded or unloaded its model."""
        return self._object("", {"done": True, "done_reason": reason})

    def waiting(self) -> bytes:
        """Return a line without text."""
        return self._line("")

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the server's stream, and return lines. Raises ``BadResponseError``.

        Hot path: called for every chunk.
        """
        if b"\r" in data:
            # JSON has no bare line ends.
            data = data.replace(b"\r", b"")
        if self._held:
            data = self._held + data
        *events, self._held = data.split(b"\n\n")
        if len(events) == 1:
            return self._lines_of(events[0])
        if len(self._held) > _MAX_EVENT:
            raise BadResponseError("it sent an endless event")
        return b"".join(map(self._lines_of, events))

    def rest(self) -> bytes:
        """Return the last lines. A stream that has not said that it is over was cut."""
        lines = b""
        with contextlib.suppress(BadResponseError):
            lines = self._lines_of(self._held)
        if not self._is_over:
            if self._finish is None:
                self._is_over = True
                return lines + b'{"error":"The model\'s server ended its answer early."}\n'
            lines += self._last_lines()
        return lines

    def whole(self, body: bytes) -> bytes:
        """Translate an answer that is not a stream. Raises ``BadResponseError``."""
        answer = read_answer(body)
        if answer.error is not None:
            return in_ollama_shape(body, 500)
        piece = answer.piece()
        self._note(answer, piece.text, piece.finish)
        self._collect(piece.tool_calls)
        ending = self._ending()
        if piece.logprobs:
            ending["logprobs"] = self._probabilities(piece.logprobs)
        return self._object(piece.text, ending, piece.thinking, self._tool_calls())

    def _lines_of(self, event: bytes) -> bytes:
        """Return the lines for an event of the server."""
        if not event.startswith(b"data:"):
            # A comment, or an event with a name.
            event = next((one for one in event.split(b"\n") if one.startswith(b"data:")), b"")
        data = event[5:]
        if self._is_over or not data:
            return b""
        if len(data) < 16 and data.strip() == b"[DONE]":
            return self._last_lines()
        answer = read_answer(data)
        if answer.error is not None:
            self._is_over = True
            return in_ollama_shape(data, 500) + b"\n"
        piece = answer.piece()
        self._note(answer, piece.text, piece.finish)
        lines = b""
        if piece.thinking or piece.logprobs:
            more: dict[str, Any] = {"done": False}
            if piece.logprobs:
                more["logprobs"] = self._probabilities(piece.logprobs)
            lines = self._object(piece.text, more, piece.thinking) + b"\n"
        elif piece.text:
            lines = self._line(piece.text)
        if piece.tool_calls:
            self._collect(piece.tool_calls)
        # llama-server's own shape has no [DONE].
        return lines + self._last_lines() if answer.stop else lines

    def _last_lines(self) -> bytes:
        self._is_over = True
        lines = b""
        if calls := self._tool_calls():
            # In a line of their own, as most versions of Ollama send them.
            lines = self._object("", {"done": False}, "", calls) + b"\n"
        return lines + self._object("", self._ending()) + b"\n"

    def _line(self, text: str) -> bytes:
        """Return a line with nothing but text."""
        return b'%b,"created_at":"%b",%b%b%b,"done":false}\n' % (
            self._head,
            _now(),
            self._before,
            _encode(text),
            self._after,
        )

    def _object(
        self,
        text: str,
        more: dict[str, Any],
        thinking: str = "",
        tool_calls: Sequence[dict[str, Any]] = (),
    ) -> bytes:
        """Return an object with ``more`` fields at its end."""
        said = _encode(text)
        if thinking:
            said += b',"thinking":' + _encode(thinking)
        if tool_calls:
            said += b',"tool_calls":' + _encode(tool_calls)
        return b'%b,"created_at":"%b",%b%b%b,%b' % (
            self._head,
            _now(),
            self._before,
            said,
            self._after,
            _encode(more)[1:],
        )

    def _probabilities(self, tokens: list[Token]) -> list[Token]:
        if not self.shows_alternatives:
            for token in tokens:
                token.top_logprobs = None
        return tokens

    def _note(self, answer: ServerAnswer, text: str, finish: str | None) -> None:
        """Note what the last object needs."""
        if finish is not None:
            self._finish = finish
        if answer.timings is not None:
            self._timings = answer.timings
        if answer.usage is not None:
            self._usage = answer.usage

    def _ending(self) -> dict[str, Any]:
        """Return the fields of the last object."""
        reason = "length" if self._finish == "length" else "stop"
        ending = {"done": True, "done_reason": reason, **self._durations()}
        timings, usage = self._timings, self._usage
        counts: dict[str, int] = {}
        if timings is not None:
            counts = {
                "prompt_eval_count": timings.cache_n + timings.prompt_n,
                "prompt_eval_duration": round(timings.prompt_ms * 1e6),
                "eval_count": timings.predicted_n,
                "eval_duration": round(timings.predicted_ms * 1e6),
            }
        elif usage is not None:
            counts = {
                "prompt_eval_count": usage.prompt_tokens,
                "eval_count": usage.completion_tokens,
            }
        # As in Ollama, 0 is left out.
        return ending | {name: count for name, count in counts.items() if count}

    # Calls of tools, which a stream sends in parts

    def _collect(self, calls: Sequence[ToolCall]) -> None:
        for number, call in enumerate(calls):
            if self._calls is None:
                self._calls = {}
            index = number if call.index is None else call.index
            known = self._calls.setdefault(index, _Call())
            known.id = call.id or known.id
            if call.function is not None:
                known.name = call.function.name or known.name
                known.arguments += _text_of(call.function.arguments)

    def _tool_calls(self) -> list[dict[str, Any]]:
        """Return the calls in Ollama's shape, without those that were cut."""
        found: list[dict[str, Any]] = []
        for _, call in sorted((self._calls or {}).items()):
            try:
                arguments = _decode_object(call.arguments or "{}")
            except (msgspec.MsgspecError, RecursionError):
                continue
            shown = {"index": len(found), "name": call.name, "arguments": arguments}
            found.append({**({"id": call.id} if call.id else {}), "function": shown})
        return found


class ChatAnswer(TextAnswer):
    """The answer to ``/api/chat``."""

    _before = b'"message":{"role":"assistant","content":'
    _after = b"}"


def _text_of(arguments: msgspec.Raw) -> str:
    """Return the JSON text of a call's arguments, or the part of it that a stream has sent."""
    text = bytes(arguments)
    if text.startswith(b'"'):
        return msgspec.json.decode(text, type=thread_safe(str))
    return "" if text == b"null" else text.decode()
