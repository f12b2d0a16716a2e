"""Reads the numbers of tokens and the speed of an answer from its bytes.

The bytes of a long body are its beginning and its end. They are parsed once, after the end of the
answer, from the end backwards: that is why the parser of ``client.sse`` is no use here. Only
numbers that the server reports count; others are ``None``. The fields are those of llama-server
(build 11669), OpenAI (``usage`` of chat completions, completions, embeddings and responses) and
Anthropic (``usage`` of messages, https://docs.anthropic.com/en/api/messages).
"""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.text import clean_line

_MAX_ERROR_CHARACTERS = 300
# The most positions that are tried in an incomplete body.
_TRIES = 16
_BRACES = 4

# A key of such a name. Inside a string its quotes would have backslashes.
_KEY = re.compile(rb'"(?:usage|timings|tokens_predicted|tokens_evaluated|error)"[ \t\r\n]*:')


class Usage(NamedTuple):
    """The figures of an answer; ``None`` if the server did not report them."""

    tokens_in: int | None = None
    """Tokens of the prompt, including cached tokens."""
    tokens_out: int | None = None
    tokens_per_second: float | None = None
    """The generation speed, by the server's own clock."""
    error: str | None = None
    """The server's error message."""
    tokens_cached: int | None = None
    """Tokens of the prompt that it had in its cache."""
    tokens_drafted: int | None = None
    """Tokens that a draft model proposed."""
    tokens_accepted: int | None = None
    """Those of them that became part of the answer."""
    prompt_seconds: float | None = None
    """The time for the prompt, by the server's own clock."""
    answer_seconds: float | None = None
    """The time for the answer."""
    tokens_counted: bool | None = None
    """Whether ``tokens_out`` was counted here, from the events of a stream."""


_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Speed = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class _Details(msgspec.Struct):
    """The details of a prompt's tokens in OpenAI's two shapes."""

    cached_tokens: _Count | None = None


class _Tokens(msgspec.Struct):
    """``usage`` in OpenAI's two shapes, or Anthropic's."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None

    def tokens_in(self) -> int | None:
        """Return the tokens of the prompt. Anthropic's ``input_tokens`` exclude cached tokens."""
        if self.prompt_tokens is not None or self.input_tokens is None:
            return self.prompt_tokens
        cached = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return self.input_tokens + cached

    def tokens_out(self) -> int | None:
        """Return the tokens of the answer."""
        return self.output_tokens if self.completion_tokens is None else self.completion_tokens

    def tokens_cached(self) -> int | None:
        """Return the tokens of the prompt that came from the cache."""
        details = self.prompt_tokens_details or self.input_tokens_details
        return self.cache_read_input_tokens if details is None else details.cached_tokens


class _ServerTimings(msgspec.Struct):
    """llama-server's ``timings``; ``prompt_n`` excludes cached tokens."""

    cache_n: _Count | None = None
    prompt_n: _Count | None = None
    prompt_ms: _Speed | None = None
    predicted_n: _Count | None = None
    predicted_ms: _Speed | None = None
    predicted_per_second: _Speed | None = None
    draft_n: _Count | None = None
    draft_n_accepted: _Count | None = None


class _AnswerFields(msgspec.Struct):
    """The fields of an answer, or of an event, with tokens and errors."""

    usage: _Tokens | None = None
    timings: _ServerTimings | None = None
    tokens_evaluated: _Count | None = None
    tokens_predicted: _Count | None = None
    # These names are common, so values of other types are ignored.
    message: msgspec.Raw = msgspec.Raw()
    """Anthropic's ``message_start``."""
    response: msgspec.Raw = msgspec.Raw()
    """The events of the Responses API."""
    error: msgspec.Raw = msgspec.Raw()


class _NestedUsage(msgspec.Struct):
    usage: _Tokens | None = None


class _Error(msgspec.Struct):
    message: str = ""


_NO_TIMINGS = _ServerTimings()
NO_USAGE = Usage()

_decode = msgspec.json.Decoder(thread_safe(_AnswerFields)).decode
_decode_list = msgspec.json.Decoder(thread_safe(list[_AnswerFields])).decode
_decode_within = msgspec.json.Decoder(thread_safe(_NestedUsage)).decode
_decode_error = msgspec.json.Decoder(thread_safe(_Error | str)).decode

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def usage_of(beginning: bytes, end: bytes | None, *, events: bool) -> Usage:
    """Parse a body from its first and its last bytes; without ``end`` it is complete.

    Only keys of the outermost object of an event, or of the whole body, count, so text in the
    answer cannot be mistaken for a key.
    """
    if events:
        return _usage_of_events(beginning, end)
    if end is None:
        return usage_of_whole(beginning)
    return _joined(_from_end(end, (b"{",)), _from_beginning(beginning))


def usage_of_whole(body: bytes) -> Usage:
    """Parse a whole body."""
    if not (
        b'"usage"' in body or b'"timings"' in body or b'"tokens_' in body or b'"error"' in body
    ):
        return NO_USAGE
    if not body.lstrip().startswith(b"["):
        return _from_json(body)
    try:
        parts = [_usage(said) for said in _decode_list(body)]
    except _UNREADABLE:
        return Usage()
    # An element for each prompt of the request.
    return Usage(
        tokens_in=_sum([part.tokens_in for part in parts]),
        tokens_out=_sum([part.tokens_out for part in parts]),
    )


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _usage_of_events(beginning: bytes, end: bytes | None) -> Usage:
    """Return the last value of each number in a stream."""
    lines = beginning.splitlines()
    cut = b""
    if end is not None:
        # The first event after the gap may be incomplete.
        cut, *rest = end.splitlines() or [b""]
        lines += [cut, *rest]
    known = Usage()
    for line in reversed(lines):
        if (
            b'"usage"' in line
            or b'"timings"' in line
            or b'"tokens_predicted"' in line
            or b'"error"' in line
        ):
            if line.startswith(b"data:"):
                known = _joined(known, _from_json(line[5:]))
            if line is cut:
                # The Responses API has its usage in a nested object.
                known = _joined(known, _from_end(line, (b"{", b'{"response":{')))
            if None not in known[:3]:
                break
    return known


def _joined(known: Usage, other: Usage) -> Usage:
    """Return ``known``, with missing values from ``other``."""
    pairs = zip(known, other, strict=True)
    return Usage._make(theirs if own is None else own for own, theirs in pairs)


def _from_json(text: bytes) -> Usage:
    try:
        return _usage(_decode(text))
    except _UNREADABLE:
        return Usage()


def _from_end(end: bytes, openings: tuple[bytes, ...]) -> Usage:
    """Parse the last bytes of a JSON object.

    A key belongs to the outermost object if the text from the key on, with an opening brace in
    front, is a complete object. In a nested object a closing brace would be left over.
    ``openings`` are the texts to try in front.
    """
    for match in list(_KEY.finditer(end))[-_TRIES:]:
        for opening in openings:
            try:
                return _usage(_decode(opening + end[match.start() :]))
            except _UNREADABLE:
                continue
    return Usage()


def _from_beginning(beginning: bytes) -> Usage:
    """Parse the first bytes of a JSON object.

    A value belongs to the outermost object if the text up to its end, with a closing brace added,
    is a complete object.
    """
    for match in list(_KEY.finditer(beginning))[:_TRIES]:
        end = match.end()
        for _ in range(_BRACES):
            end = beginning.find(b"}", end) + 1
            if end == 0:
                break
            try:
                return _usage(_decode(beginning[:end] + b"}"))
            except _UNREADABLE:
                continue
    return Usage()


def _usage(said: _AnswerFields) -> Usage:
    tokens = said.usage
    if tokens is None and said.response:
        tokens = _within(said.response)
    tokens_in = tokens_out = cached = None
    if tokens is not None:
        tokens_in, tokens_out = tokens.tokens_in(), tokens.tokens_out()
        cached = tokens.tokens_cached()
    timings = said.timings or _NO_TIMINGS
    if tokens_in is None and timings.prompt_n is not None and timings.cache_n is not None:
        tokens_in = timings.cache_n + timings.prompt_n
    if tokens_in is None:
        tokens_in = said.tokens_evaluated
    if tokens_in is None and said.message and (started := _within(said.message)) is not None:
        # The first event has no valid number for the answer yet.
        tokens_in, cached = started.tokens_in(), started.tokens_cached()
    if tokens_out is None:
        tokens_out = timings.predicted_n
    if tokens_out is None:
        tokens_out = said.tokens_predicted
    # The server measures the time between tokens, so a single token has no speed.
    measured = (timings.predicted_n or 0) > 1
    speed = timings.predicted_per_second if measured else None
    error = _error(said.error) if said.error else None
    if said.timings is None:
        return Usage(tokens_in, tokens_out, speed, error, cached)
    return Usage(
        tokens_in,
        tokens_out,
        speed,
        error,
        timings.cache_n if cached is None else cached,
        timings.draft_n,
        timings.draft_n_accepted,
        _seconds(timings.prompt_ms),
        _seconds(timings.predicted_ms),
    )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _within(raw: msgspec.Raw) -> _Tokens | None:
    try:
        return _decode_within(raw).usage
    except _UNREADABLE:
        return None


def _error(raw: msgspec.Raw) -> str | None:
    try:
        error = _decode_error(raw)
    except _UNREADABLE:
        return None
    text = error if isinstance(error, str) else error.message
    return clean_line(text.strip(), limit=_MAX_ERROR_CHARACTERS) or None
