"""Make types safe to decode from several threads.

msgspec inspects a type when the type is first used, and marks it as inspected before it has
finished. A second thread that uses the type meanwhile reads unset fields, and the process dies of
a segmentation fault (msgspec 0.20 to 0.22; two threads that decode a new ``Struct`` at once show it
within milliseconds). So ``thread_safe`` lets msgspec inspect one type at a time.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")
_inspecting = threading.Lock()
_inspected: set[Any] = set()


def thread_safe(kind: _T) -> _T:
    """Return ``kind`` once msgspec has inspected all of it. Wrap every ``type=`` of a decoder."""
    if kind not in _inspected:
        with _inspecting:
            msgspec.json.Decoder(kind)
            _inspected.add(kind)
    return kind
