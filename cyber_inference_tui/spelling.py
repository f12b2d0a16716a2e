"""Finds known names that are close to a wrong one, for every "did you mean …?"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+")
_COMPARED: Final = 64
"""The characters of a name that are compared one by one."""
_SHORTEST: Final = 3
"""The length of the shortest name that is compared."""
_SHARED: Final = 0.6
"""The share of a name that a common beginning must have, to identify a model."""


def close_names(wanted: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the names among ``known`` that ``wanted`` may be meant to be, closest first.

    Case and punctuation are ignored. A name is close if ``wanted`` begins it or its words, or the
    reverse (``qwen3-4b``, ``Qwen3-4B-Q4_K_M``); if ``wanted`` abbreviates its words; if one letter
    in four is wrong, at most three; or if most of the two names begin alike (``Qwen3-4B-Q8_0``,
    ``Qwen3-4B-Q4_K_M``).
    """
    words = _words(wanted)
    letters = "".join(words)
    if len(letters) < _SHORTEST:
        return []
    ranked: list[tuple[tuple[int, int], str]] = []
    for name in known:
        rank = _rank(words, letters, _words(name))
        if rank is not None:
            ranked.append((rank, name))
    ranked.sort(key=lambda pair: pair[0])
    return [name for _, name in ranked[:most]]


def _words(name: str) -> list[str]:
    return _WORD.findall(name.casefold())


def _rank(words: list[str], letters: str, known: list[str]) -> tuple[int, int] | None:
    """Return the kind of similarity and the distance, lower is closer; ``None`` = not close."""
    other = "".join(known)
    if len(other) < _SHORTEST:
        return None
    apart = abs(len(other) - len(letters))
    if letters == other:
        return 0, 0
    if other.startswith(letters) or _follows(words, known):
        return 1, apart
    if len(other) > _SHORTEST and (letters.startswith(other) or _follows(known, words)):
        return 2, apart
    if _abbreviates(words, known):
        return 2, apart
    mistakes = _mistakes(letters[:_COMPARED], other[:_COMPARED])
    if mistakes is not None:
        return 3, mistakes * 100 + min(apart, 99)
    alike = next(
        (at for at, (one, two) in enumerate(zip(letters, other, strict=False)) if one != two), 0
    )
    if alike > _SHORTEST and alike >= _SHARED * len(letters):
        return 4, len(letters) - alike
    return None


def _follows(words: list[str], known: list[str]) -> bool:
    """Return whether each word begins a later word of ``known``, in this order."""
    rest = iter(known)
    return all(any(other.startswith(word) for other in rest) for word in words)


def _abbreviates(words: list[str], known: list[str]) -> bool:
    """Return whether words abbreviate those at their place (``ctx_size``), and one is equal."""
    if len(words) != len(known) or not set(words) & set(known):
        return False
    return all(
        word[0] == other[0] and _follows(list(word), list(other))
        for word, other in zip(words, known, strict=True)
    )


def _mistakes(wanted: str, known: str) -> int | None:
    """Return the number of wrong, missing, extra or swapped letters (Damerau distance).

    The end of a long name may be missing. ``None`` = too many mistakes: more than one in four
    letters.
    """
    allowed = min(3, max(1, len(wanted) // 4))
    far = allowed + 1
    before: list[int] = []
    row = [at if at <= allowed else far for at in range(len(known) + 1)]
    for at, letter in enumerate(wanted, start=1):
        earlier, before = before, row
        row = [min(at, far)] + [far] * len(known)
        # Farther from the diagonal there are too many mistakes.
        for to in range(max(1, at - allowed), min(len(known), at + allowed) + 1):
            cost = before[to - 1] + (letter != known[to - 1])
            swapped = at > 1 and to > 1 and wanted[at - 2 : at] == known[to - 1] + known[to - 2]
            if swapped:
                cost = min(cost, earlier[to - 2] + 1)
            row[to] = min(cost, before[to] + 1, row[to - 1] + 1, far)
        if min(row) >= far:
            return None
    whole = row[len(known)]
    found = min(row) if len(wanted) > _SHORTEST + 1 else whole
    return found if found <= allowed else None
