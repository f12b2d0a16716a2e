"""Remembers how the last prompts of each client began, to find where the next one differs.

A server reads again all of a prompt that comes after the first difference from what it has cached.
Only hashes of blocks are kept, in memory. They are Python's, with a key of this process.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from cyber_inference_tui.decoding import thread_safe

LEAST_BYTES = 4 << 10
"""Smaller requests are read so fast that a cold prompt does not matter."""
MOST_BYTES = 1 << 20
"""Larger ones would take the event loop for more than some milliseconds."""
MAX_CLIENTS = 64
"""The clients of a model that are remembered, the latest."""
MAX_PROMPTS = 4
"""A client may have some conversations at the same time."""
MAX_BLOCKS = 4096

_FINE, _FINE_BLOCKS = 8, 256
"""The first characters are in short blocks: headers that change are there."""
_COARSE = 64


class Difference(NamedTuple):
    """The place of the first difference between two prompts."""

    at: int
    """The character, at the beginning of its block."""
    part: str
    """The part of the prompt: ``the system prompt``, ``the tools``, ``message 3``."""


class _Prompt(msgspec.Struct):
    """The fields of all APIs that become the prompt."""

    system: Any = None
    instructions: Any = None
    tools: Any = None
    messages: Any = None
    prompt: Any = None
    input: Any = None


class PromptPrefixes:
    """The beginnings of the last prompts, by model and client."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], list[tuple[int, ...]]] = OrderedDict()

    def take(
        self, model_id: str, client: str, body: bytes | bytearray | memoryview
    ) -> Difference | None:
        """Remember the prompt of a request; return where it differs from the most similar one.

        ``client`` identifies the client. ``None``: it continues an earlier prompt, it is the
        client's first one, or ``body`` has none, or not between ``LEAST_BYTES`` and ``MOST_BYTES``.
        """
        if not LEAST_BYTES <= len(body) <= MOST_BYTES:
            return None
        parts = _parts(body)
        blocks = _blocks("".join(text for _, text in parts))
        if not blocks:
            return None
        earlier = self._known.setdefault((model_id, client), [])
        self._known.move_to_end((model_id, client))
        if len(self._known) > MAX_CLIENTS:
            self._known.popitem(last=False)
        same, similar = max(
            ((_same(known, blocks), known) for known in earlier),
            key=lambda found: found[0],
            default=(0, None),
        )
        continues = similar is not None and same in {len(similar), len(blocks)}
        if similar is not None and continues:
            earlier.remove(similar)
        earlier.append(blocks)
        del earlier[:-MAX_PROMPTS]
        if similar is None or continues:
            return None
        at = min(same, _FINE_BLOCKS) * _FINE + max(0, same - _FINE_BLOCKS) * _COARSE
        return Difference(at, _part_at(parts, at))


def _blocks(text: str) -> tuple[int, ...]:
    """Return the hashes of the complete blocks of a prompt; the last one may grow."""
    fine = range(_FINE, min(len(text), _FINE * _FINE_BLOCKS) + 1, _FINE)
    coarse = range(_FINE * _FINE_BLOCKS + _COARSE, len(text) + 1, _COARSE)
    return (
        *(hash(text[end - _FINE : end]) for end in fine),
        *(hash(text[end - _COARSE : end]) for end in islice(coarse, MAX_BLOCKS)),
    )


def _same(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return the number of blocks at the beginning that are the same."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def _parts(body: bytes | bytearray | memoryview) -> list[tuple[str, str]]:
    """Return the parts of a prompt in the order of chat templates, with their names."""
    try:
        prompt = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    messages = prompt.messages if isinstance(prompt.messages, list) else []
    named = [
        ("the system prompt" if _is_system(message) else f"message {number}", _text(message))
        for number, message in enumerate(messages, 1)
    ]
    parts = [
        ("the system prompt", _text(prompt.system) + _text(prompt.instructions)),
        *(part for part in named if part[0] == "the system prompt"),
        ("the tools", _text(prompt.tools)),
        ("the prompt", _text(prompt.prompt) + _text(prompt.input)),
        *(part for part in named if part[0] != "the system prompt"),
    ]
    return [(name, text) for name, text in parts if text]


def _is_system(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") in ("system", "developer")


def _text(value: object) -> str:
    """Return the text of a value, with what it has beside text."""
    match value:
        case None:
            return ""
        case str():
            return value
        case list():
            return "".join(map(_text, value))
        case {"text": str(text)} | {"content": str(text)}:
            return text
        case {"content": list(content)}:
            return _text(content)
    return msgspec.json.encode(value).decode()


def _part_at(parts: list[tuple[str, str]], at: int) -> str:
    """Return the name of the part with this character."""
    for name, text in parts:
        at -= len(text)
        if at < 0:
            return name
    return parts[-1][0]


_decode = msgspec.json.Decoder(thread_safe(_Prompt)).decode
