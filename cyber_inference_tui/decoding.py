"""Types that any thread may decode.

msgspec learns what a type consists of when the type is first used, and takes it for learned
before it is: a second thread that uses it meanwhile reads what is not there yet, and the process
dies of a segmentation fault. Two threads that decode one new ``Struct`` at once show it within
milliseconds (msgspec 0.20 to 0.22). So types are learned one at a time, by ``learned``.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")
_learning = threading.Lock()
_known: set[Any] = set()


def learned(kind: _T) -> _T:
    """``kind`` itself, when msgspec knows all of it: for everything that decodes into a type."""
    if kind not in _known:
        with _learning:
            msgspec.json.Decoder(kind)
            _known.add(kind)
    return kind
