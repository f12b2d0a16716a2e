"""The HTTP application: all routes, their access checks, and one shape for errors."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import CyberError, NotFoundError
from cyber_inference_tui.http.access import (
    ACCESS,
    Access,
    Handler,
    client_address,
    is_admin_box,
    limits_of,
)
from cyber_inference_tui.http.admin import add_admin, is_model_name
from cyber_inference_tui.http.allowed_models import not_allowed
from cyber_inference_tui.http.body_limits import BODY_LIMITS, BodyLimits
from cyber_inference_tui.http.client_connection import refusal
from cyber_inference_tui.http.error_responses import (
    SERVER_NAME,
    from_http_exception,
    internal_error,
)
from cyber_inference_tui.http.event_streams import HEARTBEAT, SEND_TIMEOUT, EventStreams
from cyber_inference_tui.http.forward import Forwarder
from cyber_inference_tui.http.json_io import NOSNIFF, json_answer
from cyber_inference_tui.http.lean_path import LEAN_PATH, LeanPath
from cyber_inference_tui.http.login import AdminLogin
from cyber_inference_tui.http.model_list import listed_model, model_list
from cyber_inference_tui.http.ollama.routes import add_ollama, front_page
from cyber_inference_tui.http.openapi import document
from cyber_inference_tui.http.peer_api import add_peers
from cyber_inference_tui.http.relay import PATH as RELAYED
from cyber_inference_tui.http.relay import Relay
from cyber_inference_tui.http.request_id import REQUEST_ID, id_of
from cyber_inference_tui.http.request_log import refusal_record
from cyber_inference_tui.http.router_api import begin_load, begin_unload, router_props
from cyber_inference_tui.http.routing import RouteTable
from cyber_inference_tui.http.web_page import WebPage
from cyber_inference_tui.records import endpoints
from cyber_inference_tui.records.endpoints import Area
from cyber_inference_tui.service.audit_log import Caller, acting
from cyber_inference_tui.service.metrics_text import CONTENT_TYPE
from cyber_inference_tui.service.service import utc_now
from cyber_inference_tui.text import escaped

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

_FRONT_PAGE = (
    f"cyber-inference-tui {__version__}: local models over HTTP.\n\n"
    "/v1                 the OpenAI-compatible API (use this as a client's base URL)\n"
    "/v1/models          the models on this machine\n"
    "/ui/                llama-server's web page\n"
    "/admin/status       this service\n"
    "/metrics            the same for Prometheus\n"
    "/health             is it up\n"
)

_NEED_LOGIN = frozenset({Area.ADMIN, Area.OWNER})

_logger = logging.getLogger(__name__)


def make_app(service: Service, login: AdminLogin) -> web.Application:
    """Return the application of a service. Its cleanup closes the forwarder."""
    forwarder = Forwarder(service, finished=service.finished, now=utc_now)
    app = assemble(service, forwarder.handle, login, forwarder=forwarder)

    async def close(_: web.Application) -> None:
        await forwarder.close()

    app.on_cleanup.append(close)
    return app


def assemble(
    service: Service,
    forward: Handler,
    login: AdminLogin,
    *,
    forwarder: Forwarder | None = None,
    heartbeat: float = HEARTBEAT,
    send_timeout: float = SEND_TIMEOUT,
) -> web.Application:
    """Return an application that passes requests for models to ``forward``.

    With the ``forwarder`` behind it, plain requests take the lean path. ``login`` protects the
    admin endpoints. ``heartbeat`` and ``send_timeout`` are those of the event streams, in seconds.
    """

    def admits(request: web.Request) -> bool:
        return bool(login.admits(request.headers) or is_admin_box(request))

    streams = EventStreams(service, heartbeat=heartbeat, send_timeout=send_timeout, admits=admits)
    relay = Relay(service, admits)
    table = RouteTable(
        lambda: service.settings.max_body_size,
        lambda name: is_model_name(service, name),
        login.is_owner,
    )
    for health in (endpoints.HEALTH, endpoints.HEALTH_V1):
        table.answer(health, lambda call: {"status": "ok"})
    table.handle(endpoints.FRONT_PAGE, front_page(_FRONT_PAGE))
    for models, model in (
        (endpoints.LIST_V1, endpoints.LISTED_V1),
        (endpoints.LIST, endpoints.LISTED),
    ):
        table.answer(models, lambda call: model_list(service.models, call.limits, service.peers))
        table.answer(
            model, lambda call: listed_model(service.models, call.name, call.limits, service.peers)
        )
    table.answer(
        endpoints.BEGIN_LOAD,
        lambda call: begin_load(service.models, call.body.model, call.limits),
    )
    table.answer(
        endpoints.BEGIN_UNLOAD,
        lambda call: begin_unload(service.models, call.body.model, call.limits),
    )
    table.handle(endpoints.MODEL_EVENTS, streams.models)
    table.handle(endpoints.PROPS, _unless_named(_props(service), forward))
    table.catch(endpoints.PROPS.path, Area.MODEL, forward)
    table.handle(endpoints.METRICS, _unless_named(_metrics(service), forward))
    # A model with a command may have its own document and other methods at this path.
    table.handle(endpoints.OPENAPI, _unless_named(_openapi, forward))
    table.catch(endpoints.OPENAPI.path, Area.MODEL, forward)
    table.handle(endpoints.LOGIN, login.login)
    table.handle(endpoints.LOGOUT, login.logout)
    table.handle(endpoints.EVENTS, streams.sse)
    table.handle(endpoints.LOG_EVENTS, streams.logs)
    table.handle(endpoints.STATUS_EVENTS, streams.status)
    page = WebPage(service, forward)
    table.handle(endpoints.WEB_PAGE, page.file)
    table.catch("/ui", Area.PAGE, page.redirect)
    table.catch("/ui/{file:.*}", Area.PAGE, page.file)
    add_ollama(table, service)
    add_admin(table, service)
    add_peers(table, service)
    table.catch(f"{RELAYED}{{rest:.*}}", Area.ADMIN, relay.handle)
    for prefix in ("admin", "ws"):
        table.catch(f"/{prefix}/{{rest:.*}}", Area.ADMIN, _unknown)
    table.catch("/{path:.*}", Area.MODEL, forward)

    access = Access(service, table.areas, own_key=login.process_token)
    app = web.Application(middlewares=[_error_boundary(access, login, service)])
    app[ACCESS] = access
    app[BODY_LIMITS] = BodyLimits(lambda: service.settings)
    if forwarder is not None:
        app[LEAN_PATH] = LeanPath(access, forwarder)
        forwarder.service.active.add_others = app[LEAN_PATH].list_requests
    table.register(app)

    async def share(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(access.cors_headers(request))
        response.headers[hdrs.SERVER] = SERVER_NAME
        response.headers[REQUEST_ID] = id_of(request).decode()

    async def end_streams(_: web.Application) -> None:
        # An endless stream would delay the shutdown.
        service.events.close()

    app.on_response_prepare.append(share)
    app.on_shutdown.append(end_streams)
    app.on_cleanup.append(relay.close)
    return app


def _metrics(service: Service) -> Handler:
    async def metrics(request: web.Request) -> web.StreamResponse:
        limits = limits_of(request)
        if limits.models:
            raise not_allowed(limits, "read the figures of all models")
        service.finished.flush()
        body, kind = await service.metrics.scrape(), CONTENT_TYPE
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: kind, **NOSNIFF})

    return metrics


def _props(service: Service) -> Handler:
    async def props(request: web.Request) -> web.StreamResponse:
        return json_answer(router_props(service))

    return props


async def _openapi(request: web.Request) -> web.StreamResponse:
    return web.Response(body=document(), content_type="application/json", headers=NOSNIFF)


def _unless_named(own: Handler, forward: Handler) -> Handler:
    """Return a handler that calls ``forward`` if the request names a model, otherwise ``own``."""

    async def handle(request: web.Request) -> web.StreamResponse:
        named = request.query.get("model") or request.headers.get("X-Model")
        return await (forward if named else own)(request)

    return handle


async def _unknown(request: web.Request) -> web.StreamResponse:
    """Refuse any other path under ``/admin/`` or ``/ws/``."""
    raise NotFoundError(f"There is no endpoint {escaped(request.path)}.")


def _error_boundary(access: Access, login: AdminLogin, service: Service) -> web.middleware:  # type: ignore[valid-type]
    def refused(request: web.Request, error: CyberError, began: float) -> web.Response:
        # A refused request is recorded, because users who set up a client look for it there. A
        # browser's requests for parts of a page, such as its icon, are not meant for a model.
        of_client = request.headers.get("Sec-Fetch-Dest", "empty") == "empty"
        if access.area_of(request) is Area.MODEL and of_client:
            seconds = time.monotonic() - began
            at = utc_now() - timedelta(seconds=seconds)
            record = refusal_record(request, error, at=at, seconds=seconds)
            service.note_refusal(record, error.code)
        return refusal(request, error)

    @web.middleware
    async def border(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check access, and turn every error into an answer."""
        began = time.monotonic()
        try:
            preflight = access.admit(request)
            if preflight is not None:
                return preflight
            who = "client"
            if access.area_of(request) in _NEED_LOGIN:
                box = is_admin_box(request)
                who = f"box {box.name}" if box else await login.check(request.headers)
            if hdrs.EXPECT in request.headers:
                _continue(request)
            with acting(Caller(who, client_address(request))):
                return await handler(request)
        except CyberError as error:
            return refused(request, error, began)
        except web.HTTPException as error:
            problem = from_http_exception(error, request.method, request.path)
            return refused(request, problem, began)
        except Exception as error:
            transport = request.transport
            if transport is None or (isinstance(error, ConnectionError) and transport.is_closing()):
                # The client is gone.
                raise ConnectionAbortedError from None
            name = id_of(request).decode()
            _logger.exception("%s %s failed (%s)", request.method, request.path, name)
            if request.writer.output_size > 0:
                # In the middle of an answer, only an early end can show the error.
                transport.abort()
                raise ConnectionAbortedError from None
            return refusal(request, internal_error())

    return border


def _continue(request: web.Request) -> None:
    if request.headers[hdrs.EXPECT].lower() != "100-continue" or request.version < (1, 1):
        return
    if request.transport is not None and request.can_read_body:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
