"""Requests of Ollama's API that ask for nothing: they only load or unload their model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from cyber_inference_tui.http.json_io import NOSNIFF
from cyber_inference_tui.http.ollama.call import OnlyLoadError

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service


async def load_or_unload(service: Service, asked: OnlyLoadError) -> web.Response:
    """Load the model as any request does, or begin to unload it."""
    model, answer = asked.model, asked.call.answer
    if asked.call.unloads:
        service.models.begin_unload(model.id)
        body = answer.nothing("unload")
    else:
        with await service.scheduler.acquire(model) as lease:
            if answer.idle_timeout is not None:
                lease.keep_loaded(answer.idle_timeout)
        body = answer.nothing("load")
    return web.Response(body=body, content_type="application/json", headers=NOSNIFF)
