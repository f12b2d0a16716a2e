"""A model's id, put where its server says another name for it."""

from __future__ import annotations

import json


class NameReplacer:
    """Replaces a name in an answer's JSON as it passes, where it is a whole string.

    ``alias`` and ``model_id`` are of the same length in bytes, so the answer's framing stays
    right. What may be the beginning of the name waits for the next piece; a name has no line end,
    so no whole event does.
    """

    def __init__(self, alias: str, model_id: str) -> None:
        self._old = _in_json(alias)
        self._new = _in_json(model_id)
        self._held = b""

    def of(self, data: bytes) -> bytes:
        """A piece of the answer, as far as it can be told."""
        data = (self._held + data).replace(self._old, self._new)
        held = next(
            length
            for length in range(min(len(self._old) - 1, len(data)), -1, -1)
            if data.endswith(self._old[:length])
        )
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def rest(self) -> bytes:
        """What waits; nothing follows."""
        held, self._held = self._held, b""
        return held


def _in_json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()
