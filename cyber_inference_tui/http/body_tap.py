"""Keeps parts of a body that passes, and reads from them what the server reported.

As long as a stream is not complete, its tokens are counted by its events, about one for each.
"""

from __future__ import annotations

from collections.abc import Callable

from cyber_inference_tui.http.framing import BodyScanner
from cyber_inference_tui.http.usage import Usage, usage_of

HEAD_BYTES = 4 << 10
TAIL_BYTES = 16 << 10

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
        "_is_begun",
        "_mark",
        "_newer",
        "_older",
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
        self._older: list[bytes] = []
        """Kept pieces of ``TAIL_BYTES`` or more, once that many have come."""
        self._newer: list[bytes] = []
        """The pieces after them."""
        self._size = 0
        """The bytes in the newer pieces."""
        self._dropped = 0
        self._counted = 0
        """The tokens in the pieces that are no longer kept."""
        self._mark: bytes | None = None
        self._is_begun = False
        """Whether only tokens come any more."""
        # By the number of a piece: the rest of an earlier chunk at its beginning, in bytes.
        self._cuts: dict[int, int] = {}
        self.first_at: float | None = None
        """The time of the first byte."""

    def take(self, data: bytes) -> None:
        """Take a piece that the scanner has just taken. Hot path: called for every chunk."""
        self._newer.append(data)
        self._size += len(data)
        if self._room > 0:
            self._begin(data)
        if self._scanner is not None and self._scanner.left:
            number = self._dropped + len(self._older) + len(self._newer)
            self._cuts[number] = self._scanner.left
        if self._size >= TAIL_BYTES:
            self._drop_older()

    def _begin(self, data: bytes) -> None:
        if self.first_at is None:
            self.first_at = self._clock()
        self._beginning += data[: self._room]
        self._room -= len(data)

    def _drop_older(self) -> None:
        gone = self._older
        self._older, self._newer, self._size = self._newer, [], 0
        if gone:
            self._dropped += len(gone)
            data = b"".join(gone)
            self._counted += self._count(data)
            self._is_begun = self._is_begun or _EMPTY not in data
        if self._cuts:
            self._cuts = {at: left for at, left in self._cuts.items() if at >= self._dropped}

    @property
    def _kept(self) -> bytes:
        return b"".join(self._older + self._newer)

    def _count(self, data: bytes) -> int:
        """Return the number of tokens in a part of a stream."""
        if self._mark is None:
            marks = [mark for sign, mark in _TOKEN_MARKS if sign in self._beginning]
            if not marks and self._room > 0:
                return 0
            self._mark = marks[0] if marks else b""
        if not self._mark:
            return 0
        empty = 0 if self._is_begun else data.count(_EMPTY)
        return data.count(self._mark) - empty

    def tokens_so_far(self) -> int:
        """Return the tokens of a stream so far: as reported, otherwise about as many."""
        last = self._kept
        # The progress of a prompt is reported with no tokens.
        reported = usage_of(b"", last[-_NEWEST_BYTES:], events=True).tokens_out
        return reported or max(0, self._counted + self._count(last))

    @property
    def says_done(self) -> bool:
        """Return whether the last event was the one that ends a stream of OpenAI's API."""
        last = self._kept[-_END_BYTES:]
        if self._scanner is not None:
            # The empty last chunk may have passed already.
            last = last.removesuffix(b"0\r\n\r\n")
        return last.rstrip().endswith(b"data: [DONE]")

    def usage(self, *, events: bool) -> Usage:
        """Parse the body; ``events`` means that it is a stream of Server-Sent Events."""
        first, last = self._beginning, self._kept
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
