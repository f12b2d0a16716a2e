"""Asks a llama-server for the strengths of its LoRA adapters, and changes them without a reload.

The answers are those of build 11669 (``tools/server/README.md`` of llama.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.llama.http_get import ServerAddress, http_get

_PATH = "/lora-adapters"
_MOST_BYTES = 1 << 20


class LoadedAdapter(msgspec.Struct, frozen=True):
    """An adapter that a server has loaded."""

    id: int
    """Its number in requests: ``"lora": [{"id": 0, "scale": 1.0}]``."""
    path: str
    scale: float


async def ask_adapters(server: ServerAddress, timeout: float) -> tuple[LoadedAdapter, ...] | None:
    """Return the adapters by ``GET /lora-adapters``; ``None`` = no valid answer in time.

    ``timeout`` is in seconds.
    """
    try:
        status, body = await http_get(server, _PATH, timeout=timeout, most_bytes=_MOST_BYTES)
        if status != HTTPStatus.OK:
            return None
        return msgspec.json.decode(body, type=thread_safe(tuple[LoadedAdapter, ...]))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        # TimeoutError is an OSError.
        return None


async def set_scales(server: ServerAddress, scales: Mapping[int, float], timeout: float) -> bool:
    """Set the strengths of all adapters, by number; return whether the server did so in time.

    An adapter without a strength gets 0. The server applies them between two steps of its work, to
    the requests that come next.
    """
    wanted: Sequence[dict[str, float]] = [{"id": i, "scale": one} for i, one in scales.items()]
    try:
        status, _ = await http_get(
            server, _PATH, timeout=timeout, most_bytes=_MOST_BYTES, post=msgspec.json.encode(wanted)
        )
    except OSError:
        return False
    return status == HTTPStatus.OK
