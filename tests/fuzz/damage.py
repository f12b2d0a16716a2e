"""Good bytes with a few faults."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

TOKENS = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b",", b"0", b"-1", b"chunked", b"\xff", b'"']
TOKENS += [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"{", b"}", b"[", b"\\u"]


class Change(NamedTuple):
    """Bytes that are taken out at a place, and what comes there."""

    place: int
    removed: int
    added: bytes


def changes(most: int = 4) -> st.SearchStrategy[list[Change]]:
    """A few changes; a place counts modulo the length."""
    added = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4))
    return st.lists(
        st.builds(Change, st.integers(0, 5000), st.integers(0, 12), added), max_size=most
    )


def damaged(good: bytes, done: list[Change]) -> bytes:
    """Apply the changes one after another."""
    for change in done:
        place = change.place % (len(good) + 1)
        good = good[:place] + change.added + good[place + change.removed :]
    return good
