"""Examines ports, a running service, and the model hub. Every wait has a limit."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import psutil
from yarl import URL

from cyber_inference_tui import __version__
from cyber_inference_tui.certificates import read_certificate, trusting
from cyber_inference_tui.client.service_url import base_url
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.doctor.facts import HubFacts, PortState, ServiceFacts
from cyber_inference_tui.errors import HubError
from cyber_inference_tui.hub.endpoint import proxy_for, read_endpoint
from cyber_inference_tui.llama.launch_plan import SERVER_HOST
from cyber_inference_tui.llama.ports import TRIES
from cyber_inference_tui.records import PortRecord, StatusRecord
from cyber_inference_tui.service.runtime import RuntimeRecord, read_runtime_file
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.text import clean_line

_HUB_LIMIT = 3.0
_SERVICE_LIMIT = 3.0
"""Seconds for all requests to a service together."""
_ANSWER_LIMIT = 65536


class _Health(msgspec.Struct):
    status: str


def service_facts(settings: Settings) -> ServiceFacts:
    """Examine the service's port and its program. Ports are tested by binding them."""
    record = read_runtime_file(settings.data_dir)
    error = _bind_error(settings.host.strip("[]"), settings.port)
    base = settings.llama_server_base_port
    tried = range(base, min(base + TRIES, 65536)) if base else range(1)
    free = sum(_bind_error(SERVER_HOST, port) is None for port in tried)
    url = base_url(settings.host, settings.port, tls=bool(settings.tls_cert))
    state, reason = PortState.FREE, ""
    healthy, status = False, None
    if record is not None and _same_port(record, url):
        url = record.url
    elif record is not None and error is None:
        # The service of this directory runs elsewhere, or ran there last.
        url = record.url
    in_use = error is not None and error.errno == errno.EADDRINUSE
    if in_use or record is not None:
        # The token is only for the service that wrote it.
        token = record.token if record is not None and url == record.url else ""
        certificate = read_certificate(Path(settings.tls_cert)) if settings.tls_cert else ""
        healthy, status = asyncio.run(_ask(url, token, certificate))
    alive = record is not None and _is_alive(record)
    if in_use:
        state = PortState.ANOTHER if status is not None else PortState.FOREIGN
        if record is not None and _same_port(record, url):
            # Health alone proves nothing: llama-server gives the same answer. A hanging service is
            # still ours, and a service with a password does not give its pid.
            ours = alive if status is None else status.pid == record.pid
            state = PortState.OURS if ours else state
    elif error is not None:
        state, reason = PortState.REFUSED, error.strerror or str(error)
    extra_ports = status.extra_ports if status is not None else ()
    if not alive:
        extra_ports = _extra_ports(settings)
    version = status.version if status else record.version if record else None
    return ServiceFacts(
        host=settings.host,
        port=settings.port,
        state=state,
        reason=reason,
        url=url if in_use or record is not None else "",
        pid=record.pid if record is not None and alive else None,
        answers=healthy,
        running_version=clean_line(version, limit=40) if version and healthy else None,
        own_version=__version__,
        base_port=base,
        free_model_ports=free,
        extra_ports=extra_ports,
    )


def _extra_ports(settings: Settings) -> tuple[PortRecord, ...]:
    host = settings.host.strip("[]")
    errors = {port: _bind_error(host, port) for port in settings.extra_ports}
    return tuple(
        PortRecord(port=port, problem=None if error is None else error.strerror or str(error))
        for port, error in errors.items()
        if port != settings.port
    )


def _same_port(record: RuntimeRecord, url: str) -> bool:
    try:
        return urlsplit(record.url).port == urlsplit(url).port
    except ValueError:
        return False


def _is_alive(record: RuntimeRecord) -> bool:
    """Return whether the process still runs, and is not a later process with its pid."""
    try:
        # A service writes its start time after its process has started; clocks differ a little.
        return psutil.Process(record.pid).create_time() <= record.started_at.timestamp() + 1.0
    except (psutil.Error, ValueError, OverflowError):
        return False


def _bind_error(host: str, port: int) -> OSError | None:
    """Return the reason why nobody can listen there now; ``None`` = it is possible."""
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as probe:
            # Like the service: connections in TIME_WAIT are ignored.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


async def _ask(url: str, token: str, certificate: str) -> tuple[bool, StatusRecord | None]:
    """Return whether ``GET /health`` is answered like a service, and its status, if any."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    healthy, status = False, None
    # A program that does not answer like a service is none; earlier results count.
    unlike = (httpx.HTTPError, httpx.InvalidURL, TimeoutError, msgspec.MsgspecError, ValueError)
    with contextlib.suppress(*unlike):
        async with (
            asyncio.timeout(_SERVICE_LIMIT),
            # Proxies of the environment are for the internet.
            httpx.AsyncClient(
                timeout=_SERVICE_LIMIT, trust_env=False, verify=trusting(certificate)
            ) as client,
        ):
            health = msgspec.json.decode(
                await _get(client, f"{url}/health", {}), type=thread_safe(_Health)
            )
            healthy = health.status == "ok"
            content = await _get(client, f"{url}/admin/status", headers)
            status = msgspec.json.decode(content, type=thread_safe(StatusRecord))
    return healthy, status


async def _get(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> bytes:
    content = b""
    async with client.stream("GET", url, headers=headers) as response:
        response.raise_for_status()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > _ANSWER_LIMIT:
                raise ValueError("the answer is too long")
    return content


def hub_facts(settings: Settings, environ: Mapping[str, str]) -> HubFacts:
    """Examine whether the hub for downloads answers, through the proxies of the environment."""
    try:
        url = read_endpoint(settings, environ).url
    except HubError as error:
        return HubFacts(url="The hub", problem=error.message)
    return HubFacts(url=url, problem=asyncio.run(_reach(url, environ)))


async def _reach(url: str, environ: Mapping[str, str]) -> str:
    try:
        async with (
            asyncio.timeout(_HUB_LIMIT),
            # Like downloads: with their proxy and the system's certificates.
            httpx.AsyncClient(
                timeout=_HUB_LIMIT,
                proxy=proxy_for(URL(url), environ),
                trust_env=False,
                verify=ssl.create_default_context(),
            ) as client,
        ):
            response = await client.head(url)
    except HubError as error:
        return error.message
    except TimeoutError:
        return f"no answer within {_HUB_LIMIT:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        # A ValueError is about a proxy of the environment.
        reason = re.sub(r"^\[Errno -?[0-9]+\] ", "", clean_line(str(error), limit=200))
        return reason or type(error).__name__
    return f"status {response.status_code}" if response.status_code >= 500 else ""
