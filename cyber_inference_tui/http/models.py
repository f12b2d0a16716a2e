"""``/v1/models``: the local models as OpenAI's clients list them. Nothing here loads one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.wire import decoded, json_answer, raw_tail
from cyber_inference_tui.records import ModelRecord


class ModelListing:
    """The handlers of ``GET /v1/models`` and ``GET /v1/models/ID``."""

    def __init__(self, service: ServiceApi) -> None:
        self._service = service

    async def all(self, request: web.Request) -> web.Response:
        """Every local model, by id."""
        return json_answer(
            {"object": "list", "data": await _listed(self._service.models.records())}
        )

    async def one(self, request: web.Request) -> web.Response:
        """One model by id or alias."""
        depth = 2 if request.path.startswith("/v1/") else 1
        record = self._service.models.record(decoded(raw_tail(request, depth)))
        return json_answer((await _listed([record]))[0])


async def _listed(records: list[ModelRecord]) -> list[dict[str, Any]]:
    # Files may lie on a disk that sleeps or a network that hangs.
    created = await asyncio.to_thread(_created, [record.path for record in records])
    return [
        {
            "id": record.id,
            "object": "model",
            "created": time,
            "owned_by": "local",
            "status": record.status,
            "aliases": record.aliases,
            "architecture": record.architecture,
            "parameters": record.parameters,
            "quantization": record.quantization,
            "context_length": record.context_length,
            "meta": _meta(record),
            "size_bytes": record.size_bytes,
            "pinned": record.pinned,
            "in_flight": record.in_flight,
            "queued": record.queued,
        }
        for record, time in zip(records, created, strict=True)
    ]


def _meta(record: ModelRecord) -> dict[str, Any] | None:
    """The facts under llama-server's names; ``None`` = nothing is known of the context."""
    if record.context_length is None:
        return None
    return {"n_ctx": record.context_length, "n_ctx_train": record.trained_context_length}


def _created(paths: list[str | None]) -> list[int]:
    """When each file was last written, in seconds since 1970; 0 = no file."""
    return [_written(Path(path)) if path else 0 for path in paths]


def _written(path: Path) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0
