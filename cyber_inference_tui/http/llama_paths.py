"""The paths that llama-server serves, with their methods and the kinds of their bodies.

They are the paths of ``tools/server/server.cpp`` in llama.cpp; ``tests/real/test_server_routes.py``
compares them with a real server.
"""

from __future__ import annotations

import re
from enum import Enum, auto


class Kind(Enum):
    """The kind of a request's body."""

    INFERENCE = auto()
    """A JSON object that asks for model output: the rules for requests apply."""
    OTHER = auto()
    """Anything else. A JSON object may name the model."""


_INFERENCE = {
    "/completion",
    "/infill",
    "/embedding",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/systemone",
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
_OTHERS = {
    **dict.fromkeys(
        (
            "/audio/transcriptions",
            "/v1/audio/transcriptions",
            "/tokenize",
            "/detokenize",
            "/apply-template",
            "/v1/chat/completions/control",
            "/v1/streams/lookup",
        ),
        frozenset({"POST"}),
    ),
    **dict.fromkeys(("/slots", "/metrics"), frozenset({"GET", "HEAD"})),
    # The last two answer 403 until an argument turns them on.
    **dict.fromkeys(
        ("/props", "/lora-adapters", "/tools", "/cors-proxy"), frozenset({"GET", "HEAD", "POST"})
    ),
    "/v1/stream": frozenset({"GET", "HEAD", "DELETE"}),
}
PATHS = frozenset(_INFERENCE | _OTHERS.keys())
"""All paths but those of single slots."""
_SLOT = re.compile(r"/slots/\d{1,9}")
_OURS = frozenset({"admin", "ws", "upstream", "ui"})

ANTHROPIC_PREFIX = "/v1/messages"


def methods_of(path: str) -> frozenset[str]:
    """Return the methods of a path of llama-server; empty for unknown paths."""
    if path in _INFERENCE or _SLOT.fullmatch(path):
        return frozenset({"POST"})
    return _OTHERS.get(path, frozenset())


def is_ours(path: str) -> bool:
    """Check whether a path belongs to the service, so that no model's server ever gets it."""
    return path.lstrip("/").partition("/")[0] in _OURS


def kind_of(path: str) -> Kind:
    """Return the kind of body that a request to this path has."""
    return Kind.INFERENCE if path in _INFERENCE else Kind.OTHER
