"""Tokens and speed of an answer, read from the bytes that pass by.

While a body passes, references to its last pieces are kept and its beginning is copied, nothing
else; what stands in them is read once, after the answer's end. Only what the server says counts:
a number that it does not give is ``None``. Where the numbers stand was seen on llama-server
(build 11669) and is described by OpenAI (``usage`` of chat completions, completions, embeddings
and responses) and Anthropic (``usage`` of messages, https://docs.anthropic.com/en/api/messages).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Annotated, NamedTuple

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.http.framing import BodyScanner
from cyber_inference_tui.text import clean_line

HEAD_BYTES = 4 << 10
TAIL_BYTES = 16 << 10

_TRIM_AT = 2 * TAIL_BYTES
_MAX_ERROR_CHARACTERS = 300
# How often a number's place is guessed where a body is not here whole.
_TRIES = 16
_BRACES = 4

# A key of that name: in text, which stands in a string, its quotes would have backslashes.
_KEY = re.compile(rb'"(?:usage|timings|tokens_predicted|tokens_evaluated|error)"[ \t\r\n]*:')


_END_BYTES = 64


class Usage(NamedTuple):
    """What the server said of one answer; ``None`` = it did not say."""

    tokens_in: int | None = None
    """Of the prompt, those found in its cache included."""
    tokens_out: int | None = None
    tokens_per_second: float | None = None
    """While answering, by the server's own clock."""
    error: str | None = None
    """What went wrong, in its words."""


_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Speed = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class _Tokens(msgspec.Struct):
    """``usage``: OpenAI's two shapes and Anthropic's."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None

    def prompt(self) -> int | None:
        """Tokens of the prompt. Only Anthropic's ``input_tokens`` leave the cached ones out."""
        if self.prompt_tokens is not None or self.input_tokens is None:
            return self.prompt_tokens
        cached = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return self.input_tokens + cached

    def answer(self) -> int | None:
        """Tokens of the answer."""
        return self.output_tokens if self.completion_tokens is None else self.completion_tokens


class _ServerTimings(msgspec.Struct):
    """llama-server's ``timings``; ``prompt_n`` leaves out what it found in its cache."""

    cache_n: _Count | None = None
    prompt_n: _Count | None = None
    predicted_n: _Count | None = None
    predicted_per_second: _Speed | None = None


class _AnswerFields(msgspec.Struct):
    """The fields of an answer, or of one event, that tell of tokens and errors."""

    usage: _Tokens | None = None
    timings: _ServerTimings | None = None
    tokens_evaluated: _Count | None = None
    tokens_predicted: _Count | None = None
    # Their names are common: what is no object of the expected kind says nothing.
    message: msgspec.Raw = msgspec.Raw()
    """Anthropic's ``message_start``."""
    response: msgspec.Raw = msgspec.Raw()
    """The events of the Responses API."""
    error: msgspec.Raw = msgspec.Raw()


class _NestedUsage(msgspec.Struct):
    usage: _Tokens | None = None


class _Error(msgspec.Struct):
    message: str = ""


_decode = msgspec.json.Decoder(thread_safe(_AnswerFields)).decode
_decode_list = msgspec.json.Decoder(thread_safe(list[_AnswerFields])).decode
_decode_within = msgspec.json.Decoder(thread_safe(_NestedUsage)).decode
_decode_error = msgspec.json.Decoder(thread_safe(_Error | str)).decode

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class BodyTap:
    """One body on its way: keeps its first ``HEAD_BYTES`` and, by reference, its last pieces.

    What it holds is at most these, twice ``TAIL_BYTES`` and one read of the server's connection.
    Where the pieces are as the server framed them, in chunks, ``scanner`` is the one that they
    came through; ``None`` = they are content. ``clock`` gives seconds.
    """

    __slots__ = (
        "_beginning",
        "_clock",
        "_cuts",
        "_dropped",
        "_kept",
        "_room",
        "_scanner",
        "_size",
        "first_at",
    )

    def __init__(self, scanner: BodyScanner | None, *, clock: Callable[[], float]) -> None:
        self._scanner = scanner
        self._clock = clock
        self._beginning = b""
        self._room = HEAD_BYTES
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        # By the number of a piece: how much of a chunk that began before it is in it.
        self._cuts: dict[int, int] = {}
        self.first_at: float | None = None
        """When the first byte passed."""

    def take(self, data: bytes) -> None:
        """A piece passes, just fed to the scanner. The hot path: once for every chunk."""
        self._kept.append(data)
        self._size += len(data)
        if self._room > 0:
            self._begin(data)
        if self._scanner is not None and self._scanner.left:
            self._cuts[self._dropped + len(self._kept)] = self._scanner.left
        if self._size > _TRIM_AT:
            self._trim()

    def _begin(self, data: bytes) -> None:
        if self.first_at is None:
            self.first_at = self._clock()
        self._beginning += data[: self._room]
        self._room -= len(data)

    def _trim(self) -> None:
        kept, size, before = self._kept, self._size, len(self._kept)
        while size - len(kept[0]) >= TAIL_BYTES:
            size -= len(kept.popleft())
        self._size = size
        self._dropped += before - len(kept)
        if self._cuts:
            self._cuts = {at: left for at, left in self._cuts.items() if at >= self._dropped}

    @property
    def says_done(self) -> bool:
        """The event that ends an OpenAI stream was the last that passed."""
        last = b"".join(self._kept)[-_END_BYTES:]
        if self._scanner is not None:
            # The end of the body may be on its way, or be here: the last chunk is empty.
            last = last.removesuffix(b"0\r\n\r\n")
        return last.rstrip().endswith(b"data: [DONE]")

    def usage(self, *, events: bool) -> Usage:
        """What the body says, read now; ``events`` = it is a stream of server-sent events."""
        first, last = self._beginning, b"".join(self._kept)
        if self._scanner is not None:
            first = without_framing(first, 0)
            last = without_framing(last, self._cuts.get(self._dropped, 0))
        if self._dropped == 0:
            return usage_of(last, None, events=events)
        return usage_of(first, last[-TAIL_BYTES:], events=events)


def without_framing(data: bytes, left: int) -> bytes:
    """The content of a piece of a chunked body (RFC 9112, 7.1) that passed a ``BodyScanner``.

    ``left`` is how many of its first bytes belong to a chunk that began before it, the line end
    behind that chunk included.
    """
    content: list[bytes] = []
    position = 0
    while position < len(data):
        if left == 0:
            end = data.find(b"\n", position)
            size = int(data[position:end].partition(b";")[0], 16) if end >= 0 else 0
            if size == 0:
                break
            position, left = end + 1, size + 2
        content.append(data[position : position + left - 2] if left > 2 else b"")
        position, left = position + left, 0
    return b"".join(content)


def usage_of(beginning: bytes, end: bytes | None, *, events: bool) -> Usage:
    """What a body says, from its first and its last bytes; without ``end`` it is all there.

    Text inside of the answer is never taken for it: only keys of the outermost object (of an
    event, or of the whole body) count.
    """
    if events:
        return _usage_of_events(beginning, end)
    if end is None:
        return _usage_of_whole(beginning)
    return _joined(_from_end(end, (b"{",)), _from_beginning(beginning))


def _usage_of_whole(body: bytes) -> Usage:
    if not body.lstrip().startswith(b"["):
        return _from_json(body)
    try:
        parts = [_usage(said) for said in _decode_list(body)]
    except _UNREADABLE:
        return Usage()
    # One for each prompt of a request that had several.
    return Usage(
        tokens_in=_sum([part.tokens_in for part in parts]),
        tokens_out=_sum([part.tokens_out for part in parts]),
    )


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _usage_of_events(beginning: bytes, end: bytes | None) -> Usage:
    """The last word of a stream on each number."""
    lines = beginning.splitlines()
    cut = b""
    if end is not None:
        # Of the event at the gap maybe only the end is here.
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
                # The Responses API has its usage one object deeper.
                known = _joined(known, _from_end(line, (b"{", b'{"response":{')))
            if None not in known[:3]:
                break
    return known


def _joined(known: Usage, other: Usage) -> Usage:
    """``known``, and from ``other`` what it lacks."""
    return Usage(
        other.tokens_in if known.tokens_in is None else known.tokens_in,
        other.tokens_out if known.tokens_out is None else known.tokens_out,
        other.tokens_per_second if known.tokens_per_second is None else known.tokens_per_second,
        known.error or other.error,
    )


def _from_json(text: bytes) -> Usage:
    try:
        return _usage(_decode(text))
    except _UNREADABLE:
        return Usage()


def _from_end(end: bytes, openings: tuple[bytes, ...]) -> Usage:
    """From the last bytes of a JSON object.

    A key belongs to the outermost object if all from there on, with one brace before it, is one
    object: inside of another object a brace would be left over. ``openings`` are what is put
    before it.
    """
    for match in list(_KEY.finditer(end))[-_TRIES:]:
        for opening in openings:
            try:
                return _usage(_decode(opening + end[match.start() :]))
            except _UNREADABLE:
                continue
    return Usage()


def _from_beginning(beginning: bytes) -> Usage:
    """From the first bytes of a JSON object.

    A value belongs to the outermost object if all up to its end, with one brace behind it, is one
    object.
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
    tokens = said.usage or _within(said.response) or _Tokens()
    timings = said.timings or _ServerTimings()
    tokens_in, tokens_out = tokens.prompt(), tokens.answer()
    if tokens_in is None and timings.prompt_n is not None and timings.cache_n is not None:
        tokens_in = timings.cache_n + timings.prompt_n
    if tokens_in is None:
        tokens_in = said.tokens_evaluated
    if tokens_in is None and (started := _within(said.message)) is not None:
        # Of the answer this event knows nothing yet, whatever number it gives.
        tokens_in = started.prompt()
    if tokens_out is None:
        tokens_out = timings.predicted_n
    if tokens_out is None:
        tokens_out = said.tokens_predicted
    # The time is that between tokens: with a single one there is none.
    measured = (timings.predicted_n or 0) > 1
    speed = timings.predicted_per_second if measured else None
    return Usage(tokens_in, tokens_out, speed, _error(said.error))


def _within(raw: msgspec.Raw) -> _Tokens | None:
    if not raw:
        return None
    try:
        return _decode_within(raw).usage
    except _UNREADABLE:
        return None


def _error(raw: msgspec.Raw) -> str | None:
    if not raw:
        return None
    try:
        error = _decode_error(raw)
    except _UNREADABLE:
        return None
    text = error if isinstance(error, str) else error.message
    return clean_line(text.strip(), limit=_MAX_ERROR_CHARACTERS) or None
