"""The routes of Ollama's API that list, get and name models."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from cyber_inference_tui.errors import InvalidRequestError, ModelNotFoundError
from cyber_inference_tui.http.access import Handler, limits_of
from cyber_inference_tui.http.error_responses import HttpError, method_not_allowed
from cyber_inference_tui.http.json_io import json_answer, read_json, text_answer
from cyber_inference_tui.http.model_request import client_of
from cyber_inference_tui.http.ollama.aliases import Aliases, changes_of
from cyber_inference_tui.http.ollama.lines import Lines, answer_lines
from cyber_inference_tui.http.ollama.model_lists import Shower, running, tags
from cyber_inference_tui.http.ollama.pull import SUCCESS, Pulls
from cyber_inference_tui.http.routing import Call, RouteTable
from cyber_inference_tui.records import endpoints
from cyber_inference_tui.records.endpoints import Area
from cyber_inference_tui.records.queries import (
    Nothing,
    OllamaCopy,
    OllamaCreation,
    OllamaModel,
    OllamaPull,
)

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

VERSION = "0.24.0"
"""The version of Ollama whose API this is. Clients refuse versions that are too old for them."""

_PORT = 11434
_RUNNING = "Ollama is running"
_COPILOT = "GitHubCopilotChat/"
_NOT_HERE = 501


def add_ollama(table: RouteTable, service: Service) -> None:
    """Add the routes."""
    models = service.models
    calls = _Calls(service)
    table.answer(endpoints.OLLAMA_VERSION, lambda call: {"version": VERSION})
    table.answer(
        endpoints.OLLAMA_STATUS, lambda call: {"cloud": {"disabled": True, "source": "config"}}
    )
    table.answer(endpoints.OLLAMA_TAGS, lambda call: tags(models, call.limits, service.peers))
    table.answer(endpoints.OLLAMA_PS, lambda call: running(service, call.limits))
    table.handle(endpoints.OLLAMA_SHOW, calls.show)
    table.handle(endpoints.OLLAMA_PULL, calls.pull)
    table.handle(endpoints.OLLAMA_CREATE, calls.create)
    table.answer(endpoints.OLLAMA_COPY, calls.copy)
    table.answer(endpoints.OLLAMA_DELETE, calls.delete)
    table.catch("/api/push", Area.MODEL, _push)
    table.catch("/api/blobs/{digest:.*}", Area.MODEL, _blob)


def front_page(text: str) -> Handler:
    """Return the handler of the front page: ``text``, and Ollama's words for Ollama's clients.

    Those call themselves so, or call Ollama's port and are no browser.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        is_client = "ollama" in request.headers.get(hdrs.USER_AGENT, "").lower()
        if client_of(request).local_port == _PORT:
            is_client = "text/html" not in request.headers.get(hdrs.ACCEPT, "")
        return text_answer(_RUNNING if is_client else text)

    return handle


class _Calls:
    """The calls that name a model."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._shower = Shower(service)
        self._aliases = Aliases(service)
        self._pulls = Pulls(service, self._aliases)

    @property
    def _limit(self) -> int:
        return self._service.settings.max_body_size

    async def show(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, OllamaModel, limit=self._limit)
        # Copilot shows the name in the header. Only the name in its list tells models apart.
        by_copilot = request.headers.get(hdrs.USER_AGENT, "").startswith(_COPILOT)
        shown = await self._shower.show(
            body.asked,
            verbose=body.verbose is True,
            basename=body.asked if by_copilot else None,
            limits=limits_of(request),
        )
        return json_answer(shown)

    async def pull(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, OllamaPull, limit=self._limit)
        lines = self._pulls.lines(_new_name(body.asked))
        return await answer_lines(request, lines, stream=body.stream)

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request, OllamaCreation, limit=self._limit)
        _new_name(body.asked)
        if body.files or body.adapters or body.quantize:
            raise _no_files()
        if not body.source:
            raise InvalidRequestError("neither 'from' or 'files' was specified", param="from")
        if body.messages:
            raise HttpError(
                "A model cannot have messages of its own.",
                _NOT_HERE,
                hint="Its system prompt can say more.",
            )
        return await answer_lines(request, self._created(body, body.source), stream=body.stream)

    async def _created(self, body: OllamaCreation, source: str) -> Lines:
        """Name a model, with parameters of its own; pull it first if it is not here."""
        changes = changes_of(body.system, body.parameters)
        try:
            self._service.models.resolve(source)
        except ModelNotFoundError:
            async with aclosing(self._pulls.lines(source)) as lines:
                async for line in lines:
                    if line is not SUCCESS:
                        yield line
        shown = await self._shower.show(source)
        if body.template and body.template != shown.get("template"):
            raise HttpError(
                "A name cannot have a template of its own.",
                _NOT_HERE,
                hint='Set args = ["--chat-template-file", FILE] in the table of its model.',
            )
        await self._aliases.copy(source, body.asked, changes)
        yield {"status": "writing manifest"}
        yield SUCCESS

    async def copy(self, call: Call[Nothing, OllamaCopy]) -> str:
        source, destination = call.body.source, call.body.destination
        for name in (source, destination):
            if not name:
                raise InvalidRequestError("invalid model name", param="destination")
        await self._aliases.copy(source or "", destination or "")
        return ""

    async def delete(self, call: Call[Nothing, OllamaModel]) -> str:
        await self._aliases.delete(call.body.asked)
        return ""


def _new_name(name: str) -> str:
    if not name:
        raise InvalidRequestError("invalid model name", param="model")
    return name


def _no_files() -> HttpError:
    return HttpError(
        "Files are not taken over HTTP.",
        _NOT_HERE,
        hint="Pull the model from the hub, or put its GGUF file into models_dir.",
    )


async def _push(request: web.Request) -> web.StreamResponse:
    """Refuse to upload a model."""
    _only(request, "POST")
    raise HttpError("Models are not pushed to a registry from here.", _NOT_HERE)


async def _blob(request: web.Request) -> web.StreamResponse:
    """Answer that a file is not here, and refuse to take it."""
    _only(request, "HEAD", "POST")
    if request.method == "HEAD":
        return web.Response(status=404)
    raise _no_files()


def _only(request: web.Request, *methods: str) -> None:
    if request.method not in methods:
        raise method_not_allowed(request.method, request.path, methods)
