"""Shortens a chat that is too long for the model's context, as Ollama does. Pure."""

from __future__ import annotations

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.http.body_fields import Body, with_fields

_ROOM = 0.75
"""The share of the context that the messages may fill, so that there is room for the answer."""


class _Refusal(msgspec.Struct):
    type: str
    n_prompt_tokens: int
    n_ctx: int


class _Refused(msgspec.Struct):
    error: _Refusal


class _Chat(msgspec.Struct):
    messages: list[msgspec.Raw]


class _Message(msgspec.Struct):
    role: str


_decode_refused = msgspec.json.Decoder(thread_safe(_Refused)).decode
_decode_chat = msgspec.json.Decoder(thread_safe(_Chat)).decode
_decode_message = msgspec.json.Decoder(thread_safe(_Message)).decode


def shorter_chat(request: Body | memoryview, refusal: bytes) -> bytes | None:
    """Return a chat request of llama-server without its oldest messages.

    ``refusal`` is llama-server's answer to it; ``None`` = it has another reason, or nothing can be
    left out. All messages of the system stay, and the others begin with one of the user.
    """
    try:
        error = _decode_refused(refusal).error
        messages = _decode_chat(request).messages
        roles = [_decode_message(message).role for message in messages]
    except (msgspec.MsgspecError, RecursionError):
        return None
    if error.type != "exceed_context_size_error" or error.n_prompt_tokens <= 0:
        return None
    sizes = [len(bytes(message)) for message in messages]
    # As if all parts of the prompt had the same number of tokens for a byte.
    most = sum(sizes) * error.n_ctx * _ROOM / error.n_prompt_tokens
    is_system = [role in {"system", "developer"} for role in roles]
    first = next((at for at, system in enumerate(is_system) if not system), len(roles))
    starts = [at for at, role in enumerate(roles) if role == "user" and at > first]
    for start in starts:
        kept = [at for at in range(len(roles)) if is_system[at] or at >= start]
        if start == starts[-1] or sum(sizes[at] for at in kept) <= most:
            rest = [messages[at] for at in kept]
            return with_fields(bytes(request), defaults={}, overrides={"messages": rest})
    return None
