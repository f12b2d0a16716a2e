"""The matches of a search in a log."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from cyber_inference_tui.tui.pages.logs.reader import LogReader

MAX_MATCHES = 100_000
"""Matches that are kept; the service finds older ones again when they are visited."""


class Matches:
    """The numbers of the newest lines with ``text``, and of all if it is ``complete``."""

    def __init__(self, reader: LogReader, text: str, numbers: list[int], *, complete: bool) -> None:
        self._reader = reader
        self._text = text
        self._numbers = numbers
        self._complete = complete

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def add(self, numbers: Iterable[int]) -> None:
        """Add new lines of the log, in order; those that are known are left out."""
        last = self._numbers[-1] if self._numbers else -1
        self._numbers += [number for number in numbers if number > last]
        if len(self._numbers) > MAX_MATCHES:
            del self._numbers[:-MAX_MATCHES]
            self._complete = False

    def place(self, number: int | None) -> str:
        """Return the place of a match, such as ``3 of 17``, or without one how many there are."""
        count = len(self._numbers)
        index = count if number is None else bisect_left(self._numbers, number)
        more = "" if self._complete else "+"
        if not count:
            return "no match"
        if index == count or self._numbers[index] != number:
            return f"{count:,}{more} {'match' if count == 1 else 'matches'}"
        if self._complete:
            return f"{index + 1:,} of {count:,}"
        return f"{count - index:,} of {count:,}+ from the end"

    async def beyond(self, here: int, step: int) -> tuple[int, bool]:
        """Return the next (1) or previous (-1) match from ``here``, and whether the search went
        round the end of the log. There must be a match.
        """
        numbers = self._numbers
        if step > 0:
            index = bisect_right(numbers, here)
            if index < len(numbers) and (index or self._complete):
                return numbers[index], False
            around = index == len(numbers)
            if self._complete:
                return numbers[0], around
            found = await self._reader.find(self._text, 0 if around else here + 1)
            return (numbers[0] if found is None else found), around
        if here == numbers[0] and not self._complete:
            older, self._complete = await self._reader.matches(self._text, before=here)
            numbers[:0] = older
        index = bisect_left(numbers, here) - 1
        if index < 0 and not self._complete:
            older, _ = await self._reader.matches(self._text, before=here, limit=1)
            if older:
                return older[0], False
        return numbers[index], index < 0
