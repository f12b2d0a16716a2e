"""Where a request goes: its model, found by what it names, and what is sent there."""

from __future__ import annotations

import contextlib
from typing import Protocol
from urllib.parse import unquote

import msgspec
from aiohttp import hdrs, web

from cyber_inference_tui.errors import (
    CyberError,
    InvalidRequestError,
    MethodNotAllowedError,
    ModelNotFoundError,
    NotFoundError,
)
from cyber_inference_tui.http.body import Peek, peek, read_body, with_defaults, with_model
from cyber_inference_tui.http.routes import Kind, kind_of, methods_of
from cyber_inference_tui.library.catalog import Catalog, LocalModel
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.active import ActiveRequests
from cyber_inference_tui.settings.schema import Settings

# Methods whose requests mostly have no body: an empty one says nothing then.
BODYLESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class ForwardsFor(Protocol):
    """What the forwarder needs of the service."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    @property
    def catalog(self) -> Catalog:
        """The models that lie on the disk."""

    active: ActiveRequests
    scheduler: Scheduler


class Target(msgspec.Struct):
    """Where a request goes."""

    model: LocalModel
    path: str
    """Path and query as the server gets them, percent-encoding untouched."""
    body: bytes
    name: str | None
    """The model's name in the body, if it stands there."""
    stream: bool
    kind: Kind
    is_work: bool
    """Whether it asks the model for something, and not only its server about itself."""

    def adapt(self) -> None:
        """Put into the body what is configured for the model.

        Raises ``InvalidRequestError`` for a body that nothing can be put into.
        """
        settings = self.model.settings
        if self.kind is not Kind.INFERENCE or not self.body:
            return
        if settings.request_defaults:
            self.body = with_defaults(self.body, settings.request_defaults)
        if settings.command and self.name and self.name != self.model.id:
            self.body = with_model(self.body, self.model.id)


class Targets:
    """Finds the targets of requests among a service's models."""

    def __init__(self, service: ForwardsFor) -> None:
        self._service = service

    async def find(self, request: web.Request) -> Target:
        """Read the request and find its model.

        Raises ``ModelNotFoundError``, ``NotFoundError`` (no such endpoint) or
        ``MethodNotAllowedError``, and what ``body`` raises for a body that is refused.
        """
        raw_path, _, query = request.raw_path.partition("?")
        settings = self._service.settings
        named: LocalModel | None = None
        if raw_path.startswith("/upstream/"):
            named, raw_path = self._upstream_model(raw_path.removeprefix("/upstream/"))
        path = unquote(raw_path)
        if named is None:
            self._check_route(request, path)
        kind = kind_of(path)
        body = await read_body(request, settings.max_body_size)
        found = Peek()
        if request.method not in BODYLESS or body:
            content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
            if named is None or kind is Kind.INFERENCE:
                found = peek(body, content_type, must_be_object=kind is Kind.INFERENCE)
        model = named or self._resolve(
            found.model or request.query.get("model") or request.headers.get("X-Model")
        )
        full_path = f"{raw_path}?{query}" if query else raw_path
        is_work = kind is Kind.INFERENCE or (request.method == "POST" and path.startswith("/v1/"))
        return Target(model, full_path, body, found.model, found.stream, kind, is_work)

    def _upstream_model(self, rest: str) -> tuple[LocalModel, str]:
        """``ID/PATH`` taken apart; ids may contain slashes, so the longest id that exists wins."""
        end = len(rest)
        while end > 0:
            with contextlib.suppress(ModelNotFoundError):
                return self._service.catalog.resolve(unquote(rest[:end])), rest[end:] or "/"
            end = rest.rfind("/", 0, end)
        raise self._unknown(unquote(rest.partition("/")[0]))

    def _unknown(self, name: str) -> CyberError:
        try:
            self._service.catalog.resolve(name)
        except CyberError as error:
            return error
        return ModelNotFoundError(f"There is no model {name}.")

    def _check_route(self, request: web.Request, path: str) -> None:
        methods = methods_of(path)
        if not methods:
            # A server of the user's own may serve more than llama-server does.
            if path.startswith("/v1/") and self._has_custom_models():
                return
            raise NotFoundError(
                f"There is no endpoint {path}.",
                hint="Any path of a model's server is under /upstream/MODEL/.",
            )
        if request.method not in methods:
            raise MethodNotAllowedError(
                f"{path} is asked with {' or '.join(sorted(methods))}, not {request.method}."
            )

    def _has_custom_models(self) -> bool:
        return any(model.settings.command for model in self._service.catalog.models.values())

    def _resolve(self, name: str | None) -> LocalModel:
        catalog = self._service.catalog
        if name:
            return catalog.resolve(name)
        loaded = self._service.scheduler.loaded_ids
        if len(loaded) == 1:
            return catalog.resolve(loaded[0])
        raise InvalidRequestError(
            "The request names no model, and "
            + ("none is loaded." if not loaded else f"{len(loaded)} are loaded."),
            hint='Name one in the field "model", in ?model= or in the header X-Model.',
            param="model",
        )
