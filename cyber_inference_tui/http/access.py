"""Access checks: the ``Host``, ``Origin``, content type and key of each request.

Any web page can make a browser send requests to this machine, and DNS rebinding even lets it read
the answers. ``Host`` is the name that the browser used, ``Origin`` is the site that sent the
request: both must be known. The settings are read at each request, but their rules are computed
only once for each settings object.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import hdrs, web

from cyber_inference_tui.errors import (
    ForbiddenHostError,
    ForbiddenOriginError,
    InvalidApiKeyError,
    InvalidRequestError,
    UnsupportedMediaTypeError,
)
from cyber_inference_tui.http.allowed_models import not_allowed
from cyber_inference_tui.records import KeyLimits
from cyber_inference_tui.records.endpoints import Area
from cyber_inference_tui.records.keys import NO_LIMITS
from cyber_inference_tui.service.api_keys import expired
from cyber_inference_tui.settings.credentials import digest_of

if TYPE_CHECKING:
    from cyber_inference_tui.service.key_file import Keys
    from cyber_inference_tui.service.service import Service
    from cyber_inference_tui.settings.schema import Settings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[^\s\[\]:@/\\?#,;%]{1,253})(?::([0-9]{0,5}))?")
_ORIGIN = re.compile(r"(https?)://([^/]{1,261})/?", re.IGNORECASE)
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]{1,2048}")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = "GET, HEAD, POST, PUT, DELETE"
_EXPOSED = "Retry-After, X-Should-Retry, X-Last-Event-ID"
_CACHE_SIZE = 256
_NOTHING: Mapping[str, str] = MappingProxyType({})

_logger = logging.getLogger(__name__)


_OWNERS = frozenset({Area.LOGIN, Area.ADMIN, Area.OWNER})


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Return the name (lower case, no brackets, no final dot) and port of a ``Host``, if valid."""
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    name = match[1].lower().strip("[]").removesuffix(".")
    return (_plain_ip(name) or name, int(match[2]) if match[2] else None) if name else None


def parse_origin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, name and port of an ``Origin``; ``None`` for ``null`` and malformed values."""
    match = _ORIGIN.fullmatch(text)
    host = parse_host(match[2]) if match else None
    if match is None or host is None:
        return None
    scheme = match[1].lower()
    return scheme, host[0], host[1] or _DEFAULT_PORTS[scheme]


def _plain_ip(text: str) -> str | None:
    """Return an IP address in normal form (v4 in v6 as v4); ``None`` for other text."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address)


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_private(name: str) -> bool:
    """Check whether ``name`` belongs to a private network, so that nobody can register it.

    Private names are ``.local`` (mDNS, RFC 6762) and ``.internal`` (reserved by ICANN; Docker uses
    ``host.docker.internal``). Private addresses are safe too, because DNS rebinding needs a name.
    ``0.0.0.0`` is not private: pages of public sites can reach this machine with it.
    """
    if name.endswith((".local", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return not (address.is_global or address.is_multicast or address.is_unspecified)


def bearer_token(headers: Mapping[str, str]) -> str:
    """Return the token of ``Authorization: Bearer TOKEN``; empty without one."""
    scheme, _, token = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class ApiKey(NamedTuple):
    """A valid key, with its limits."""

    name: str | None
    """The name; of a key in ``api_keys`` its place there, from 1; ``None`` = the owner's own."""
    limits: KeyLimits = NO_LIMITS


class AccessRules:
    """The access rules of one settings object, and some keys, at one bound address.

    ``is_over`` checks whether a key has expired. ``own_key`` is valid wherever a key is needed.
    """

    def __init__(
        self,
        settings: Settings,
        bound: str,
        keys: Keys = (),
        *,
        is_over: Callable[[KeyLimits], bool] = lambda limits: False,
        own_key: str = "",
    ) -> None:
        machine = socket.gethostname().lower()
        self._names = {machine, machine.partition(".")[0]} - {""}
        self._names_with_port: set[tuple[str, int]] = set()
        for entry in (bound, settings.host, *settings.allowed_hosts):
            # Here an IPv6 address needs no brackets.
            host = parse_host(entry) or (parse_host(f"[{entry}]") if ":" in entry else None)
            if host is None:
                _logger.warning("ignoring %r: it is not a host name or address", entry)
            elif host[1] is None:
                self._names.add(host[0])
            else:
                self._names_with_port.add((host[0], host[1]))
        address = _plain_ip(bound.strip("[]"))
        self.wildcard = address is not None and ipaddress.ip_address(address).is_unspecified
        self._origins = {parse_origin(origin) for origin in settings.cors_origins} - {None}
        self._any_origin = "*" in settings.cors_origins
        self.needs_key = bool(settings.api_keys or keys)
        """Whether model endpoints need a key."""
        # The time of a look-up says something about a digest, and nothing about its key.
        self._keys = {bytes.fromhex(key.digest): ApiKey(key.name, key) for key in keys}
        for place, key in enumerate(settings.api_keys, 1):
            self._keys[digest_of(key)] = ApiKey(str(place))
        if own_key:
            self._keys[digest_of(own_key)] = ApiKey(None)
        self._is_over = is_over
        self._hosts: dict[tuple[str, str], bool] = {}
        self._scheme = "https" if settings.tls_cert else "http"

    def allows_host(self, host: str, local: str) -> bool:
        """Check a ``Host``; ``local`` is the IP address on which the connection arrived."""
        known = self._hosts.get((host, local))
        if known is None:
            if len(self._hosts) >= _CACHE_SIZE:
                self._hosts.clear()
            known = self._hosts[host, local] = self._decide_host(host, local)
        return known

    def _decide_host(self, host: str, local: str) -> bool:
        parsed = parse_host(host)
        if parsed is None:
            return False
        name, port = parsed
        return (
            name in self._names
            or _is_loopback(name)
            or _is_private(name)
            or (name, port or _DEFAULT_PORTS[self._scheme]) in self._names_with_port
            or (self.wildcard and name == _plain_ip(local))
        )

    def allows_origin(self, origin: str, host: str) -> bool:
        """Check whether pages of ``origin`` may use the admin endpoints at ``host``."""
        parsed = parse_origin(origin)
        if parsed is None:
            return False
        if parsed in self._origins:
            return True
        own = parse_host(host)
        # This port serves one scheme only: the same name with the other one is another site.
        scheme = self._scheme
        return own is not None and parsed == (scheme, own[0], own[1] or _DEFAULT_PORTS[scheme])

    def shares_with(self, origin: str, area: Area) -> str | None:
        """Return the ``Access-Control-Allow-Origin`` for ``origin``; ``None`` = not shared."""
        if self._origins and parse_origin(origin) in self._origins:
            return origin
        return "*" if self._any_origin and area not in _OWNERS else None

    def key_of(self, headers: Mapping[str, str]) -> ApiKey | None:
        """Return the request's key; ``None`` if it has no valid key, or needs none."""
        key = self._known_key(headers)
        return None if key is None or self._is_over(key.limits) else key

    def allows_key(self, headers: Mapping[str, str]) -> bool:
        """Check whether a request has a valid key, or needs none."""
        return not self.needs_key or self.key_of(headers) is not None

    def missing_key(self, headers: Mapping[str, str]) -> InvalidApiKeyError:
        """Return the error of a request without a valid key."""
        key = self._known_key(headers)
        if key is not None:
            return expired(key.limits)
        return InvalidApiKeyError(
            "A valid API key is needed.",
            hint="Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
        )

    def _known_key(self, headers: Mapping[str, str]) -> ApiKey | None:
        """Return the request's key, which may have expired."""
        if self.needs_key:
            for text in (headers.get("x-api-key"), bearer_token(headers)):
                if text and (key := self._keys.get(digest_of(text))) is not None:
                    return key
        return None


class Access:
    """Checks requests against the current settings. Logins are checked by ``http.login``.

    ``areas`` has the area of each route's handler. Other handlers count as model endpoints, so
    that a forgotten handler is protected too. ``own_key`` is that of the owner's programs.
    """

    def __init__(
        self, service: Service, areas: Mapping[Handler, Area], *, own_key: str = ""
    ) -> None:
        self._service = service
        self._areas = areas
        self._own_key = own_key
        self._store = service.keys
        self._settings: Settings | None = None
        self._address: tuple[str, int] | None = None
        self._keys: Keys = ()

    @property
    def rules(self) -> AccessRules:
        """The rules of the current settings."""
        settings, address = self._service.settings, self._service.address
        keys = self._store.present
        if settings is not self._settings or address is not self._address or keys is not self._keys:
            self._rules = AccessRules(
                settings, address[0], keys, is_over=self._store.is_over, own_key=self._own_key
            )
            self._settings, self._address, self._keys = settings, address, keys
        return self._rules

    def area_of(self, request: web.Request) -> Area:
        """Return the area of the endpoint that handles the request."""
        return self._areas.get(request.match_info.handler, Area.MODEL)

    def admit(self, request: web.Request) -> web.Response | None:
        """Check a request. Return the answer to a CORS preflight, otherwise ``None``.

        Raises ``ForbiddenHostError``, ``ForbiddenOriginError``, ``UnsupportedMediaTypeError``,
        ``InvalidApiKeyError`` or ``ModelNotAllowedError``.
        """
        rules = self.rules
        headers = request.headers
        host = headers.get(hdrs.HOST)
        self._check_host(rules, request, host)
        area = self.area_of(request)
        origin = headers.get(hdrs.ORIGIN)
        if (
            origin is not None
            and request.method == "OPTIONS"
            and hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers
        ):
            return self._preflight(rules, request, origin, area)
        needs_key = area is Area.MODEL
        if area is Area.OWNER:
            # A login counts more, and is checked by its own rules.
            needs_key = not self._service.settings.admin_password
        if needs_key and rules.needs_key:
            key = rules.key_of(headers)
            if key is None:
                raise rules.missing_key(headers)
            if area is Area.OWNER and key.limits.models:
                raise not_allowed(key.limits, "change models")
        if area in _OWNERS:
            if origin is not None and not rules.allows_origin(origin, host or ""):
                raise _foreign(origin)
            if area is not Area.OWNER and request.method not in _READS:
                _check_content_type(request)
        return None

    def _check_host(self, rules: AccessRules, request: web.Request, host: str | None) -> None:
        if host is None:
            # Browsers always send it, programs with HTTP/1.0 may not.
            if request.version >= (1, 1):
                raise ForbiddenHostError("The request has no Host header.")
            return
        if not rules.allows_host(host, local_ip(request.transport) if rules.wildcard else ""):
            # Without a user name and password in front.
            shown = host.rpartition("@")[2][:253]
            raise ForbiddenHostError(
                f"This service does not accept requests for the host {shown!r}.",
                hint="Add the name to allowed_hosts if it is yours.",
            )
        if not request.raw_path.startswith("/") and request.raw_path != "*":
            # A target with a host name would be a second, unchecked Host.
            raise InvalidRequestError("The request's target must be a path.")

    def _preflight(
        self, rules: AccessRules, request: web.Request, origin: str, area: Area
    ) -> web.Response:
        if rules.shares_with(origin, area) is None:
            raise _foreign(origin)
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
        headers: dict[str, str] = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
            hdrs.ACCESS_CONTROL_MAX_AGE: "600",
        }
        if _HEADER_NAMES.fullmatch(asked):
            # Client libraries add their own headers; an admitted site may send any header.
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            # A page of a public site calls a machine in a private network:
            # https://wicg.github.io/private-network-access/
            headers["Access-Control-Allow-Private-Network"] = "true"
        return web.Response(status=204, headers=headers)

    def cors_headers(self, request: web.Request) -> Mapping[str, str]:
        """Return the headers that let a browser show the answer to the page; usually none."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            return _NOTHING
        shared = self.rules.shares_with(origin, self.area_of(request))
        if shared is None:
            return _NOTHING
        headers: dict[str, str] = {
            hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: shared,
            hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: _EXPOSED,
        }
        if shared != "*":
            headers[hdrs.VARY] = hdrs.ORIGIN
        return headers


ACCESS = web.AppKey("access", Access)


def cors_headers(request: web.Request) -> Mapping[str, str]:
    """Return the CORS headers for an answer that is written without aiohttp."""
    if hdrs.ORIGIN not in request.headers:
        return _NOTHING
    return request.app[ACCESS].cors_headers(request)


def key_of(request: web.Request) -> ApiKey | None:
    """Return the request's API key; ``None`` if it has no valid key, or needs none."""
    return request.app[ACCESS].rules.key_of(request.headers)


def has_key(request: web.Request) -> bool:
    """Check whether a request has a valid API key, or needs none."""
    return request.app[ACCESS].rules.allows_key(request.headers)


def limits_of(request: web.Request) -> KeyLimits:
    """Return the limits of the request's API key."""
    key = key_of(request)
    return NO_LIMITS if key is None else key.limits


def _foreign(origin: str) -> ForbiddenOriginError:
    return ForbiddenOriginError(
        f"Pages of {origin[:253]!r} may not use this service.",
        hint="Add the site to cors_origins if it is yours.",
    )


def _check_content_type(request: web.Request) -> None:
    """Refuse forms and plain text, which any page can send without a preflight."""
    kind = request.content_type
    if kind == "application/json":
        return
    # aiohttp reports octet-stream if there is no header, and its client sends it if there is no
    # body. No page can send that type without a preflight.
    if kind == "application/octet-stream" and not request.can_read_body:
        return
    raise UnsupportedMediaTypeError("Send the body as application/json.")


def local_ip(transport: asyncio.BaseTransport | None) -> str:
    """Return the IP address on which a client has connected; empty if there is none."""
    name = transport.get_extra_info("sockname") if transport is not None else None
    return str(name[0]) if isinstance(name, tuple) else ""
