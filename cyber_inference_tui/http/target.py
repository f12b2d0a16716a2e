"""Finds the model of a request, and changes the request by the model's rules."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, unquote_plus

import msgspec
from aiohttp import hdrs, web

from cyber_inference_tui.errors import (
    CyberError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
)
from cyber_inference_tui.http.body_fields import (
    BodyFields,
    read_fields,
    try_read_fields,
    with_fields,
    with_model_field,
)
from cyber_inference_tui.http.error_responses import method_not_allowed
from cyber_inference_tui.http.llama_paths import Kind, is_ours, kind_of, methods_of
from cyber_inference_tui.http.request_body import read_body
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.settings.schema import RequestRules
from cyber_inference_tui.text import escaped

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

# Methods whose requests mostly have no body. An empty body is not an error then.
BODYLESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_NAME_IT = (
    "A model with a command takes any path from a request that names the model (in the field"
    ' "model" of JSON or a form, in ?model= or in the header X-Model).'
)
_LISTED = 10
"""The most models that a message lists."""


class Target(msgspec.Struct, frozen=True):
    """A request's model, and the request that its server gets."""

    model: LocalModel
    path: str
    """Path and query, with the percent-encoding unchanged."""
    body: bytes
    stream: bool
    is_work: bool
    """Whether it asks the model for output, not only its server for information."""


class _Addressed(NamedTuple):
    """The parts of ``/upstream/NAME/PATH``."""

    model: LocalModel
    name: str
    path: str


class TargetFinder:
    """Finds the targets of requests among the models of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def find(self, request: web.Request) -> Target:
        """Read the request, find its model, and apply the rules of the model.

        Raises ``ModelNotFoundError``, ``NotFoundError`` (no such endpoint),
        ``MethodNotAllowedError``, and the errors of ``read_body`` and ``body_fields``.
        """
        raw_path, _, query = request.raw_path.partition("?")
        addressed = None
        if raw_path.startswith("/upstream/"):
            addressed = self._addressed(raw_path.removeprefix("/upstream/"))
            raw_path = addressed.path
        path = unquote(raw_path)
        # The server of a command may serve more than llama-server does.
        refusal = None if addressed else _refusal(request.method, path)
        if refusal is not None and (is_ours(path) or not self._has_commands()):
            raise refusal
        asks = kind_of(path) is Kind.INFERENCE
        body = await read_body(request, self._service.settings.max_body_size)
        content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
        found = BodyFields()
        if request.method not in BODYLESS or body:
            if refusal or (addressed and not asks):
                found = try_read_fields(body, content_type)
            else:
                found = read_fields(body, content_type, must_be_object=asks)
        name = found.model or request.query.get("model") or request.headers.get("X-Model")
        if addressed is not None:
            model = addressed.model
            # The body's name may be the engine's own. An alias of this model is this model.
            name = name if name and self._means(name, model) else addressed.name
        else:
            if isinstance(refusal, NotFoundError):
                refusal.hint += f" {found.problem or _NAME_IT}"
            model = self._resolve(name, refusal)
        is_command = bool(model.settings.command)
        if refusal is not None and not is_command:
            raise refusal
        stream = found.stream
        if found.is_object:
            rules = model.request_rules(name) if asks or is_command else RequestRules()
            overrides = rules.request_overrides
            if self._is_renamed(found.model, model):
                overrides = {**overrides, "model": model.id}
            if rules or overrides:
                body = with_fields(
                    body,
                    strip=rules.request_strip,
                    defaults=rules.request_defaults,
                    overrides=overrides,
                )
                stream = read_fields(body, content_type, must_be_object=True).stream
        elif self._is_renamed(found.model, model):
            body = with_model_field(body, content_type, model.id)
        full_path = f"{raw_path}?{self._with_id(query, model)}" if query else raw_path
        is_work = asks or (request.method == "POST" and (path.startswith("/v1/") or is_command))
        return Target(model, full_path, body, stream, is_work)

    def _is_renamed(self, name: str | None, model: LocalModel) -> bool:
        """Check whether the model's id replaces this name in a body.

        A llama-server repeats any name in its answer. Another engine may have its own names.
        """
        if name is None or name == model.id:
            return False
        return not model.settings.command or self._means(name, model)

    def _with_id(self, query: str, model: LocalModel) -> str:
        """Return the query with the model's id in place of an alias."""
        if "model" not in query:
            return query
        return "&".join(
            f"model={quote(model.id, safe='')}"
            if unquote_plus(key) == "model"
            and (name := unquote_plus(value)) != model.id
            and self._means(name, model)
            else f"{key}{equals}{value}"
            for key, equals, value in (part.partition("=") for part in query.split("&"))
        )

    def _means(self, name: str, model: LocalModel) -> bool:
        """Check whether ``name`` is a name of this model."""
        try:
            return self._service.models.catalog.resolve(name).id == model.id
        except ModelNotFoundError:
            return False

    def _addressed(self, rest: str) -> _Addressed:
        """Split ``NAME/PATH``. Names may contain slashes: the longest known name wins."""
        end = len(rest)
        while end > 0:
            name = unquote(rest[:end])
            with contextlib.suppress(ModelNotFoundError):
                return _Addressed(
                    self._service.models.catalog.resolve(name), name, rest[end:] or "/"
                )
            end = rest.rfind("/", 0, end)
        raise self._unknown(unquote(rest.partition("/")[0]))

    def _unknown(self, name: str) -> CyberError:
        try:
            self._service.models.catalog.resolve(name)
        except CyberError as error:
            return error
        return ModelNotFoundError(f"There is no model {name}.")

    def _has_commands(self) -> bool:
        return any(model.settings.command for model in self._service.models.catalog.models.values())

    def _resolve(self, name: str | None, refusal: CyberError | None) -> LocalModel:
        """Return the model with this name, or without a name the only candidate.

        A path with a ``refusal`` needs a name, unless there is only one model.
        """
        catalog = self._service.models.catalog
        if name:
            return catalog.resolve(name)
        if refusal is not None and len(catalog.models) != 1:
            raise refusal
        loaded = self._service.scheduler.loaded_ids
        here = sorted(loaded) or [one.id for one in catalog.models.values() if not one.problem]
        here = here or list(catalog.models)
        if len(here) == 1:
            return catalog.resolve(here[0])
        if not here:
            raise ModelNotFoundError(
                "There is no model yet.", hint="Download one, or start with --demo."
            )
        shown = ", ".join([*here[:_LISTED], *(["…"] if len(here) > _LISTED else [])])
        state = "are loaded" if loaded else "could be meant"
        raise InvalidRequestError(
            f"The request names no model, and {len(here)} {state}: {shown}.",
            hint='Name one in the field "model", in ?model= or in the header X-Model.',
            param="model",
        )


def _refusal(method: str, path: str) -> CyberError | None:
    """Return the error for a path that llama-server does not serve, or for a wrong method."""
    methods = methods_of(path)
    if not methods:
        return NotFoundError(
            f"There is no endpoint {escaped(path)}.",
            hint="Any path of a model's server is under /upstream/MODEL/.",
        )
    if method not in methods:
        return method_not_allowed(method, path, tuple(sorted(methods)))
    return None
