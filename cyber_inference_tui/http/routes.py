"""Which paths llama-server knows, and how a request there names its model."""

from __future__ import annotations

import re
from enum import Enum, auto


class Kind(Enum):
    """What stands in a request's body."""

    INFERENCE = auto()
    """A JSON object that asks for model output: ``request_defaults`` apply."""
    OTHER = auto()
    """Anything else; a JSON object may name the model."""


_INFERENCE = {
    "/completion",
    "/infill",
    "/embedding",
    "/v1/messages",
    "/v1/messages/count_tokens",
    *(
        prefix + path
        for prefix in ("", "/v1")
        for path in (
            "/completions",
            "/chat/completions",
            "/responses",
            "/embeddings",
            "/rerank",
            "/reranking",
            "/chat/completions/input_tokens",
            "/responses/input_tokens",
        )
    ),
}
_POST = {
    "/audio/transcriptions",
    "/v1/audio/transcriptions",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/v1/chat/completions/control",
}
_GET = {"/slots", "/props", "/lora-adapters", "/metrics"}
_GET_AND_POST = {"/props", "/lora-adapters"}
_SLOT = re.compile(r"/slots/\d{1,9}")

ANTHROPIC_PREFIX = "/v1/messages"


def methods_of(path: str) -> frozenset[str]:
    """The methods that go with a path of llama-server's; empty = it does not know the path."""
    if path in _GET_AND_POST:
        return frozenset({"GET", "HEAD", "POST"})
    if path in _GET:
        return frozenset({"GET", "HEAD"})
    if path in _INFERENCE or path in _POST or _SLOT.fullmatch(path):
        return frozenset({"POST"})
    return frozenset()


def kind_of(path: str) -> Kind:
    """What a request to this path carries."""
    return Kind.INFERENCE if path in _INFERENCE else Kind.OTHER
