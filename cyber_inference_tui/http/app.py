"""Port 8337 put together: every route, who may use it, and errors in one shape."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.http.access import ACCESS, Access, Area, Handler
from cyber_inference_tui.http.admin import Admin
from cyber_inference_tui.http.api import ServiceApi
from cyber_inference_tui.http.configuration import ConfigurationPages
from cyber_inference_tui.http.entry import refusal_record
from cyber_inference_tui.http.errors import (
    error_response,
    from_http_exception,
    internal_error,
    method_not_allowed,
)
from cyber_inference_tui.http.events import HEARTBEAT, SEND_TIMEOUT, EventStreams
from cyber_inference_tui.http.forward import Forwarder
from cyber_inference_tui.http.history import PastRecords
from cyber_inference_tui.http.hub import HubPages
from cyber_inference_tui.http.install import Installing
from cyber_inference_tui.http.login import AdminLogin
from cyber_inference_tui.http.logs import LogReader
from cyber_inference_tui.http.metrics import MetricsPage
from cyber_inference_tui.http.models import ModelListing
from cyber_inference_tui.http.resources import Resources
from cyber_inference_tui.http.wire import json_answer, text_answer
from cyber_inference_tui.service.service import utc_now

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

_logger = logging.getLogger(__name__)


def make_app(service: Service, login: AdminLogin) -> web.Application:
    """The application of a service; its cleanup closes what it opened."""
    forwarder = Forwarder(service, on_request=service.note_request, now=utc_now)
    app = assemble(service, forwarder.handle, login)

    async def close(_: web.Application) -> None:
        await forwarder.close()

    app.on_cleanup.append(close)
    return app


def assemble(
    service: ServiceApi,
    forward: Handler,
    login: AdminLogin,
    *,
    heartbeat: float = HEARTBEAT,
    send_timeout: float = SEND_TIMEOUT,
) -> web.Application:
    """The application with ``forward`` answering every model endpoint, ``login`` guarding the rest.

    ``heartbeat`` and ``send_timeout`` (seconds) are those of the event streams.
    """
    listing = ModelListing(service)
    metrics = MetricsPage(service, forward)
    streams = EventStreams(
        service,
        heartbeat=heartbeat,
        send_timeout=send_timeout,
        admits=lambda request: login.admits(request.headers),
    )
    table = _RouteTable()
    for path in ("/health", "/v1/health"):
        table.add(path, Area.OPEN, {"GET": _health})
    table.add("/", Area.OPEN, {"GET": _front_page})
    for path in ("/v1/models", "/models"):
        table.add(path, Area.MODEL, {"GET": listing.all})
        table.add(path + "/{id:.+}", Area.MODEL, {"GET": listing.one})
    table.add("/metrics", Area.MODEL, {"GET": metrics.answer})
    table.add("/admin/login", Area.LOGIN, {"POST": login.login})
    # A HEAD of something endless would be a stream that nobody can read.
    table.add("/admin/events", Area.ADMIN, {"GET": streams.sse}, head=False)
    table.add("/ws/logs", Area.ADMIN, {"GET": streams.logs}, head=False)
    table.add("/ws/status", Area.ADMIN, {"GET": streams.status}, head=False)
    _add_admin(table, service)
    table.add("/{path:.*}", Area.MODEL, {"*": forward})

    access = Access(service, table.areas)
    app = web.Application(middlewares=[_border(access, login, service)])
    app[ACCESS] = access
    table.register(app)

    async def share(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(access.cors_headers(request))

    async def end_streams(_: web.Application) -> None:
        # A stream without an end would hold up the shutdown.
        service.events.close()

    app.on_response_prepare.append(share)
    app.on_shutdown.append(end_streams)
    return app


def _add_admin(table: _RouteTable, service: ServiceApi) -> None:
    """The owner's endpoints, but for the login and the streams."""
    admin = Admin(service)
    logs = LogReader(service)
    config = ConfigurationPages(service)
    past = PastRecords(service)
    installing = Installing(service)
    resources = Resources(service)
    hub = HubPages(service)
    table.add("/admin/status", Area.ADMIN, {"GET": admin.status})
    table.add("/admin/resources", Area.ADMIN, {"GET": resources.resources})
    table.add("/admin/memory", Area.ADMIN, {"GET": admin.memory})
    table.add("/admin/queue", Area.ADMIN, {"GET": admin.queue})
    table.add("/admin/problems", Area.ADMIN, {"GET": admin.problems})
    table.add("/admin/models", Area.ADMIN, {"GET": admin.models})
    table.add("/admin/models/{id:.+}", Area.ADMIN, {"*": admin.model})
    table.add("/admin/hub/search", Area.ADMIN, {"GET": hub.search})
    table.add("/admin/hub/files", Area.ADMIN, {"GET": hub.files})
    table.add("/admin/downloads", Area.ADMIN, {"GET": hub.downloads, "POST": hub.add})
    table.add("/admin/downloads/{id:.+}", Area.ADMIN, {"*": hub.one})
    table.add("/admin/logs", Area.ADMIN, {"GET": logs.all})
    table.add("/admin/logs/{id:.+}", Area.ADMIN, {"GET": logs.tail})
    table.add("/admin/log-lines/{id:.+}", Area.ADMIN, {"GET": logs.lines})
    table.add("/admin/requests/active", Area.ADMIN, {"GET": admin.active})
    table.add("/admin/requests", Area.ADMIN, {"GET": past.requests})
    table.add("/admin/sessions", Area.ADMIN, {"GET": past.sessions})
    table.add("/admin/totals", Area.ADMIN, {"GET": past.totals})
    table.add("/admin/config", Area.ADMIN, {"GET": config.values})
    table.add("/admin/config/{key:.+}", Area.ADMIN, {"PUT": config.change, "DELETE": config.reset})
    table.add("/admin/config-file", Area.ADMIN, {"GET": config.file, "PUT": config.replace})
    table.add(
        "/admin/install",
        Area.ADMIN,
        {"GET": installing.state, "POST": installing.start, "DELETE": installing.cancel},
    )
    table.add("/admin/demo", Area.ADMIN, {"POST": installing.demo})
    for prefix in ("admin", "ws"):
        table.add(f"/{prefix}/{{rest:.*}}", Area.ADMIN, {"*": admin.unknown})


class _RouteTable:
    """Routes with their areas; a known path answers 405 to the methods it does not have."""

    def __init__(self) -> None:
        self.areas: dict[Handler, Area] = {}
        self._routes: list[tuple[str, dict[str, Handler]]] = []

    def add(self, path: str, area: Area, methods: dict[str, Handler], *, head: bool = True) -> None:
        """Routes of ``path``; a GET answers HEAD too, unless ``head`` is false."""
        routes = dict(methods)
        if head and "GET" in routes:
            routes["HEAD"] = routes["GET"]
        if "*" not in routes:
            routes["*"] = _refuse_method(tuple(sorted(routes)))
        for handler in routes.values():
            self.areas[handler] = area
        self._routes.append((path, routes))

    def register(self, app: web.Application) -> None:
        """Add all of it to ``app``, in order."""
        for path, routes in self._routes:
            resource = app.router.add_resource(path)
            for method, handler in routes.items():
                # Whether a body is welcome is for the access check to say first.
                resource.add_route(method, handler, expect_handler=_expect_later)


def _refuse_method(allow: tuple[str, ...]) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise method_not_allowed(request.method, request.path, allow)

    return refuse


async def _expect_later(request: web.Request) -> None:
    """``Expect: 100-continue`` is answered once the request has passed the checks."""


def _border(access: Access, login: AdminLogin, service: ServiceApi) -> web.middleware:  # type: ignore[valid-type]
    def refused(request: web.Request, error: CyberError, began: float) -> web.Response:
        # Who finds no model has a client to set up, and looks for it among the requests. What a
        # browser fetches for a page (its icon) is not meant for a model.
        of_client = request.headers.get("Sec-Fetch-Dest", "empty") == "empty"
        if access.area_of(request) is Area.MODEL and of_client:
            seconds = time.monotonic() - began
            at = utc_now() - timedelta(seconds=seconds)
            record = refusal_record(request, error, at=at, seconds=seconds)
            service.note_refusal(record, error.code)
        return error_response(error, request.path)

    @web.middleware
    async def border(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets requests in, and every error out in the client's shape."""
        began = time.monotonic()
        try:
            preflight = access.admit(request)
            if preflight is not None:
                return preflight
            if access.area_of(request) is Area.ADMIN:
                await login.check(request.headers)
            if hdrs.EXPECT in request.headers:
                _continue(request)
            return await handler(request)
        except CyberError as error:
            return refused(request, error, began)
        except web.HTTPException as error:
            problem = from_http_exception(error, request.method, request.path)
            return refused(request, problem, began)
        except Exception as error:
            transport = request.transport
            if transport is None or (isinstance(error, ConnectionError) and transport.is_closing()):
                # Nobody is left to answer.
                raise ConnectionAbortedError from None
            _logger.exception("%s %s failed", request.method, request.path)
            if request.writer.output_size > 0:
                # In the middle of an answer, only its early end can tell.
                transport.abort()
                raise ConnectionAbortedError from None
            return error_response(internal_error(), request.path)

    return border


def _continue(request: web.Request) -> None:
    if request.headers[hdrs.EXPECT].lower() != "100-continue" or request.version < (1, 1):
        return
    if request.transport is not None and request.can_read_body:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _health(request: web.Request) -> web.Response:
    return json_answer({"status": "ok"})


async def _front_page(request: web.Request) -> web.Response:
    return text_answer(
        f"cyber-inference-tui {__version__}: local models over HTTP.\n\n"
        "/v1                 the OpenAI-compatible API (use this as a client's base URL)\n"
        "/v1/models          the models on this machine\n"
        "/admin/status       this service\n"
        "/metrics            the same for Prometheus\n"
        "/health             is it up\n"
    )
