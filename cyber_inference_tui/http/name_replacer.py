"""Puts a model's id into answers of a server that uses another name."""

from __future__ import annotations

import json


class NameReplacer:
    """Replaces a name in the JSON of an answer, if it is a whole string.

    ``alias`` and ``model_id`` have the same length in bytes, so the answer's framing stays valid. A
    possible beginning of the name is held back until the next piece. A name has no line end, so a
    complete event is never held back.
    """

    def __init__(self, alias: str, model_id: str) -> None:
        self._old = _in_json(alias)
        self._new = _in_json(model_id)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the answer, and return the bytes that can be passed on."""
        data = (self._held + data).replace(self._old, self._new)
        held = next(
            length
            for length in range(min(len(self._old) - 1, len(data)), -1, -1)
            if data.endswith(self._old[:length])
        )
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def rest(self) -> bytes:
        """Return the bytes held back, at the end of the answer."""
        held, self._held = self._held, b""
        return held


def _in_json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()
