"""Reads the numbers of tokens and the speed of an answer from its bytes.

While a body passes, its beginning is copied and references to its last pieces are kept. They are
parsed once, after the end of the answer, from the end backwards: that is why the parser of
``client.sse`` is no use here. Only numbers that the server reports count; others are ``None``. As
long as a stream is not complete, its tokens are counted by its events, about one for each. The
fields are those of llama-server (build 11669), OpenAI (``usage`` of chat completions, completions,
embeddings and responses) and Anthropic (``usage`` of messages,
https://docs.anthropic.com/en/api/messages).
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
# The most positions that are tried in an incomplete body.
_TRIES = 16
_BRACES = 4

# A key of such a name. Inside a string its quotes would have backslashes.
_KEY = re.compile(rb'"(?:usage|timings|tokens_predicted|tokens_evaluated|error)"[ \t\r\n]*:')


_END_BYTES = 64
_NEWEST_BYTES = 2048
"""The end of a stream in which its present figures are, if its server reports them all along."""

# By a mark in the beginning of a stream: what each of its tokens brings. Inside a string the quotes
# would have backslashes, and there is no line end.
_TOKEN_MARKS = (
    (b'"message_start"', b'"content_block_delta"'),
    (b'"response.created"', b'.delta"'),
    (b'"delta":{', b'"delta":{"'),
    (b"data:", b"\ndata: {"),
)
_EMPTY = b'"content":null'
"""In events of OpenAI's API that bring the role, or the progress of the prompt."""


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


class BodyTap:
    """Keeps the first ``HEAD_BYTES`` of a passing body, and references to its last pieces.

    It holds at most ``HEAD_BYTES``, twice ``TAIL_BYTES`` and one read of the server's connection.
    For pieces with chunked framing, ``scanner`` is the scanner that they passed; ``None`` means
    that they are content. ``clock`` returns seconds.
    """

    __slots__ = (
        "_beginning",
        "_clock",
        "_counted",
        "_cuts",
        "_dropped",
        "_kept",
        "_mark",
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
        self._counted = 0
        """The tokens in the pieces that are no longer kept."""
        self._mark: bytes | None = None
        # By the number of a piece: the rest of an earlier chunk at its beginning, in bytes.
        self._cuts: dict[int, int] = {}
        self.first_at: float | None = None
        """The time of the first byte."""

    def take(self, data: bytes) -> None:
        """Take a piece that the scanner has just taken. Hot path: called for every chunk."""
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
        kept, size, gone = self._kept, self._size, []
        while size - len(kept[0]) >= TAIL_BYTES:
            size -= len(kept[0])
            gone.append(kept.popleft())
        self._size = size
        self._dropped += len(gone)
        self._counted += self._count(b"".join(gone))
        if self._cuts:
            self._cuts = {at: left for at, left in self._cuts.items() if at >= self._dropped}

    def _count(self, data: bytes) -> int:
        """Return the number of tokens in a part of a stream."""
        if self._mark is None:
            marks = [mark for sign, mark in _TOKEN_MARKS if sign in self._beginning]
            if not marks and self._room > 0:
                return 0
            self._mark = marks[0] if marks else b""
        return data.count(self._mark) - data.count(_EMPTY) if self._mark else 0

    def tokens_so_far(self) -> int:
        """Return the tokens of a stream so far: as reported, otherwise about as many."""
        last = b"".join(self._kept)
        # The progress of a prompt is reported with no tokens.
        reported = usage_of(b"", last[-_NEWEST_BYTES:], events=True).tokens_out
        return reported or max(0, self._counted + self._count(last))

    @property
    def says_done(self) -> bool:
        """Return whether the last event was the one that ends a stream of OpenAI's API."""
        last = b"".join(self._kept)[-_END_BYTES:]
        if self._scanner is not None:
            # The empty last chunk may have passed already.
            last = last.removesuffix(b"0\r\n\r\n")
        return last.rstrip().endswith(b"data: [DONE]")

    def usage(self, *, events: bool) -> Usage:
        """Parse the body; ``events`` means that it is a stream of Server-Sent Events."""
        first, last = self._beginning, b"".join(self._kept)
        if self._scanner is not None:
            first = without_framing(first, 0)
            last = without_framing(last, self._cuts.get(self._dropped, 0))
        if self._dropped == 0:
            return usage_of(last, None, events=events)
        return usage_of(first, last[-TAIL_BYTES:], events=events)


def without_framing(data: bytes, left: int) -> bytes:
    """Return the content of a piece of a chunked body (RFC 9112, 7.1) from a ``BodyScanner``.

    ``left`` is the number of its first bytes that belong to an earlier chunk, including the line
    end of that chunk.
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
