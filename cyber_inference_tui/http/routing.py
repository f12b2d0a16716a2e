"""Creates routes from the table of endpoints, and decodes their requests.

A path parameter may contain slashes, encoded or not. If a segment may follow the parameter, it is
the last segment of the path, so a model may be named ``x/load``.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web

from cyber_inference_tui.errors import NotFoundError
from cyber_inference_tui.http.access import Handler, limits_of
from cyber_inference_tui.http.error_responses import method_not_allowed
from cyber_inference_tui.http.json_io import json_answer, read_json, text_answer
from cyber_inference_tui.http.query import is_asked_for, read_query
from cyber_inference_tui.records import KeyLimits
from cyber_inference_tui.records.endpoints import Area, Endpoint, Stream
from cyber_inference_tui.records.keys import NO_LIMITS

Q = TypeVar("Q")
B = TypeVar("B")
A = TypeVar("A")


class Call(msgspec.Struct, Generic[Q, B], frozen=True):
    """A decoded call of an endpoint.

    ``name`` is the parameter in its path. ``by_owner``: it writes, and its client has shown that it
    is the service's owner.
    """

    name: str
    query: Q
    body: B
    by_owner: bool
    limits: KeyLimits = NO_LIMITS
    """The limits of its API key."""


class WithHeaders(msgspec.Struct, Generic[A], frozen=True):
    """An answer with headers."""

    value: A
    headers: dict[str, str]


Answerer = Callable[
    [Call[Q, B]], A | WithHeaders[A] | msgspec.Raw | Awaitable[A | WithHeaders[A] | msgspec.Raw]
]
"""Returns a record, plain or with headers, or its JSON."""


class RouteTable:
    """The routes of an application. A path answers 405 to methods that it does not have.

    ``body_limit`` returns the most bytes of a body. ``is_name`` checks whether a model has exactly
    this name: then the last segment in the path of a GET is a part of the name. ``is_owner`` checks
    by the headers of a request whether it comes from the service's owner.
    """

    def __init__(
        self,
        body_limit: Callable[[], int],
        is_name: Callable[[str], bool],
        is_owner: Callable[[Mapping[str, str]], bool],
    ) -> None:
        self.areas: dict[Handler, Area] = {}
        self._body_limit = body_limit
        self._is_name = is_name
        self._is_owner = is_owner
        self._answers: dict[str, list[tuple[Endpoint[Any, Any, Any], Answerer[Any, Any, Any]]]] = {}
        self._routes: dict[str, dict[tuple[str, str], Handler]] = {}

    def answer(self, endpoint: Endpoint[Q, B, A], answer: Answerer[Q, B, A]) -> None:
        """Answer calls of ``endpoint`` with ``answer``."""
        same = self._answers.setdefault(endpoint.route, [])
        same.append((endpoint, answer))
        if len(same) == 1:
            self.handle(endpoint, self._handler(same))

    def handle(self, endpoint: Endpoint[Any, Any, Any], handler: Handler) -> None:
        """Pass requests for ``endpoint`` to ``handler``, undecoded."""
        prefix, _, rest = endpoint.path.partition("{")
        parameter, _, action = rest.partition("}")
        path = f"{prefix}{{{parameter}:(?s:.+)}}" if parameter else prefix
        methods = self._routes.setdefault(path, {})
        methods[endpoint.method, action.removeprefix("/")] = handler
        # No HEAD of an endless stream.
        if endpoint.method == "GET" and endpoint.answer is not Stream:
            methods["HEAD", action.removeprefix("/")] = handler
        self.areas[handler] = endpoint.area

    def catch(self, path: str, area: Area, handler: Handler) -> None:
        """Pass all other requests for ``path`` to ``handler``."""
        self._routes.setdefault(path, {})["*", ""] = handler
        self.areas[handler] = area

    def register(self, app: web.Application) -> None:
        """Add all routes to ``app``, in order."""
        for path, handlers in self._routes.items():
            if any(action for _, action in handlers):
                routes = {"*": _by_action(path.partition("{")[0], handlers, self._is_name)}
            else:
                routes = {method: handler for (method, _), handler in handlers.items()}
            if "*" not in routes:
                routes["*"] = _refuse_method(tuple(sorted(routes)))
            area = self.areas[next(iter(handlers.values()))]
            resource = app.router.add_resource(path)
            for method, handler in routes.items():
                self.areas[handler] = area
                # The access check decides first whether the client may send its body.
                resource.add_route(method, handler, expect_handler=_expect_later)

    def _handler(
        self, candidates: list[tuple[Endpoint[Any, Any, Any], Answerer[Any, Any, Any]]]
    ) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            asked = (it for it in candidates if is_asked_for(it[0].query, request.query))
            endpoint, answer = next(asked, candidates[-1])
            query = read_query(endpoint.query, request.query)
            limit = self._body_limit()
            body = await read_json(request, endpoint.body, limit=limit) if endpoint.writes else None
            by_owner = endpoint.writes and self._is_owner(request.headers)
            name = _name(request, endpoint.path)
            limits = limits_of(request) if endpoint.area is Area.MODEL else NO_LIMITS
            result = answer(Call(name, query, body, by_owner, limits))
            if inspect.isawaitable(result):
                result = await result
            reply: WithHeaders[Any] = (
                result if isinstance(result, WithHeaders) else WithHeaders(result, {})
            )
            if endpoint.answer is str:
                return text_answer(reply.value, headers=reply.headers)
            return json_answer(reply.value, status=endpoint.status, headers=reply.headers)

        return handle


def _name(request: web.Request, path: str) -> str:
    prefix, _, rest = path.partition("{")
    if not rest:
        return ""
    raw = _raw_tail(request, prefix.count("/") - 1)
    return _decoded(raw if rest.endswith("}") else raw.rpartition("/")[0])


def _raw_tail(request: web.Request, depth: int) -> str:
    """Return the path behind its first ``depth`` segments, still percent-encoded.

    Ids may contain slashes, encoded or not; only the raw path shows where they end.
    """
    return request.raw_path.partition("?")[0].split("/", depth + 1)[depth + 1]


def _decoded(raw: str) -> str:
    """Decode a piece of a raw path; bytes that are not UTF-8 become replacement characters."""
    return unquote(raw, errors="replace")


def _by_action(
    prefix: str, handlers: dict[tuple[str, str], Handler], is_name: Callable[[str], bool]
) -> Handler:
    """Return a handler that dispatches by the method and the last segment of the path."""
    actions = [action for method, action in handlers if method == "POST" and action]

    async def dispatch(request: web.Request) -> web.StreamResponse:
        method = request.method
        raw = _raw_tail(request, prefix.count("/") - 1)
        raw_name, _, action = raw.rpartition("/")
        handler = handlers.get((method, action)) if raw_name else None
        if handler is None or (method in {"GET", "HEAD"} and is_name(_decoded(raw))):
            handler = handlers.get((method, ""))
        if handler is not None:
            return await handler(request)
        if method == "POST" and raw_name and action not in actions:
            raise NotFoundError(
                f"There is no action {_decoded(action)}.",
                hint=f"POST to {prefix}ID/ and one of {', '.join(actions)}.",
            )
        there = {other for other, its in handlers if its in ({"", action} if raw_name else {""})}
        raise method_not_allowed(method, request.path, tuple(sorted(there)))

    return dispatch


def _refuse_method(allow: tuple[str, ...]) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise method_not_allowed(request.method, request.path, allow)

    return refuse


async def _expect_later(request: web.Request) -> None:
    """Do nothing: ``Expect: 100-continue`` is answered after the access checks."""
