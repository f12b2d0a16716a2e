"""The bodies of the requests that try a model. Pure."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

from cyber_inference_tui.service.checks.judge import FIELDS, PLACE, TOOL

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}
"""The colours of the images, by their names in the answers."""

_SIDE = 64
_TOKENS = 1024
_THINKING_TOKENS = 2048
_NEAR = "The cat sleeps on the sofa."
_SAME = "A cat is asleep on the couch."
_FAR = "The bank raises the interest on loans."
_SUM = "A train leaves at 14:35 and arrives 95 minutes later. When does it arrive?"


def _chat(content: object, *, tokens: int = _TOKENS, thinks: bool = False) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "temperature": 0,
        "seed": 1,
        # Thoughts would take most of the time, and are a trial of their own.
        "chat_template_kwargs": {"enable_thinking": thinks},
    }


STREAM = _chat("Count from one to ten in words.", tokens=64) | {
    "stream": True,
    "stream_options": {"include_usage": True},
}
TOOLS = _chat(f"What is the weather in {PLACE} now? Use the function.") | {
    "tools": [
        {
            "type": "function",
            "function": {
                "name": TOOL,
                "description": "Returns the present weather of a city.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                },
            },
        }
    ]
}
SCHEMA = _chat("Anna is 31 years old. Return her name and age as JSON.") | {
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "person",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                "required": list(FIELDS),
                "additionalProperties": False,
            },
        },
    }
}
THINKING = _chat(_SUM, tokens=_THINKING_TOKENS, thinks=True)
NO_THINKING = _chat(_SUM)
EMBEDDINGS = {"input": [_NEAR, _SAME, _FAR]}
RANKS = {"query": "Where does the cat sleep?", "documents": [_FAR, _NEAR]}


def vision(colour: str) -> dict[str, Any]:
    """Return the question for the colour of an image."""
    image = base64.b64encode(_png(COLOURS[colour])).decode("ascii")
    return _chat(
        [
            {"type": "text", "text": "Which colour has this image? Answer with one word."},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        ]
    )


def _png(colour: tuple[int, int, int]) -> bytes:
    """Return a square image of one colour (https://www.w3.org/TR/png-3/)."""
    rows = (b"\0" + bytes(colour) * _SIDE) * _SIDE
    head = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
