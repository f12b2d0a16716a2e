"""Access checks: the ``Host``, ``Origin``, content type and key of each request.

Any web page can make a browser send requests to this machine, and DNS rebinding even lets it read
the answers. ``Host`` is the name that the browser used, ``Origin`` is the site that sent the
request: both must be known. Clients of a proxy on this machine look like programs on it, so a
proxy's requests need keys. The settings are read at each request, but their rules are computed only
once for each settings object.
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
from multidict import CIMultiDictProxy

from cyber_inference_tui.errors import (
    ForbiddenHostError,
    ForbiddenOriginError,
    ForbiddenProxyError,
    InvalidApiKeyError,
    InvalidRequestError,
    PeerRightsError,
    UnsupportedMediaTypeError,
)
from cyber_inference_tui.http.allowed_models import not_allowed
from cyber_inference_tui.http.hosts import (
    DEFAULT_PORTS,
    ListedOrigins,
    forwarded_addresses,
    is_local_page,
    is_loopback,
    is_private,
    parse_host,
    parse_network,
    parse_origin,
    plain_ip,
)
from cyber_inference_tui.peers.peers import PeerKey
from cyber_inference_tui.records import KeyLimits
from cyber_inference_tui.records.endpoints import Area
from cyber_inference_tui.records.keys import NO_LIMITS
from cyber_inference_tui.records.peers import Role
from cyber_inference_tui.service.api_keys import expired
from cyber_inference_tui.settings.credentials import digest_of

if TYPE_CHECKING:
    from cyber_inference_tui.service.key_file import Keys
    from cyber_inference_tui.service.service import Service
    from cyber_inference_tui.settings.schema import Settings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]{1,2048}")
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = "GET, HEAD, POST, PUT, DELETE"
_EXPOSED = "Retry-After, X-Should-Retry, X-Last-Event-ID, X-Request-Id"
_PROXY_HEADERS = (hdrs.X_FORWARDED_FOR, hdrs.FORWARDED, "X-Real-IP")
_CACHE_SIZE = 256
_NOTHING: Mapping[str, str] = MappingProxyType({})
_NO_BOXES: Mapping[bytes, PeerKey] = MappingProxyType({})

_logger = logging.getLogger(__name__)


_OWNERS = frozenset({Area.LOGIN, Area.ADMIN, Area.OWNER})


def bearer_token(headers: Mapping[str, str]) -> str:
    """Return the token of ``Authorization: Bearer TOKEN``; empty without one."""
    scheme, _, token = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


class ApiKey(NamedTuple):
    """A valid key, with its limits."""

    name: str | None
    """The name; of a key in ``api_keys`` its place there, from 1; ``None`` = the owner's own."""
    limits: KeyLimits = NO_LIMITS
    box: PeerKey | None = None
    """The paired box whose key it is."""


class AccessRules:
    """The access rules of one settings object, and some keys, at one bound address.

    ``is_over`` checks whether a key has expired. ``own_key`` is valid wherever a key is needed.
    ``boxes`` are the paired boxes by the digest of their key.
    """

    def __init__(
        self,
        settings: Settings,
        bound: str,
        keys: Keys = (),
        *,
        is_over: Callable[[KeyLimits], bool] = lambda limits: False,
        own_key: str = "",
        boxes: Mapping[bytes, PeerKey] = _NO_BOXES,
    ) -> None:
        machine = socket.gethostname().lower()
        self._names = {machine, machine.partition(".")[0]} - {""}
        self._names_with_port: set[tuple[str, int]] = set()
        self._domains: list[tuple[str, int | None]] = []
        """The domains of ``*.example.org``, with a dot in front."""
        for entry in (bound, settings.host, *settings.allowed_hosts):
            # Here an IPv6 address needs no brackets.
            host = parse_host(entry) or (parse_host(f"[{entry}]") if ":" in entry else None)
            if host is None:
                _logger.warning("ignoring %r: it is not a host name or address", entry)
            elif host[0].startswith("*."):
                self._domains.append((host[0][1:], host[1]))
            elif host[1] is None:
                self._names.add(host[0])
            else:
                self._names_with_port.add((host[0], host[1]))
        address = plain_ip(bound.strip("[]"))
        self.wildcard = address is not None and ipaddress.ip_address(address).is_unspecified
        self._origins = ListedOrigins(settings.cors_origins)
        self._proxies = [
            network
            for entry in settings.trusted_proxies
            if (network := parse_network(entry)) is not None
        ]
        self.needs_key = bool(settings.api_keys or keys)
        """Whether model endpoints need a key."""
        # The time of a look-up says something about a digest, and nothing about its key.
        self._keys = {bytes.fromhex(key.digest): ApiKey(key.name, key) for key in keys}
        for place, key in enumerate(settings.api_keys, 1):
            self._keys[digest_of(key)] = ApiKey(str(place))
        if own_key:
            self._keys[digest_of(own_key)] = ApiKey(None)
        for digest, box in boxes.items():
            self._keys[digest] = ApiKey(f"box {box.name}", box=box)
        self._reads_keys = self.needs_key or bool(boxes)
        self._is_over = is_over
        self._hosts: dict[tuple[str, str], bool] = {}
        self._scheme = "https" if settings.tls_cert else "http"
        self._default_port = DEFAULT_PORTS[self._scheme]

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
            or is_loopback(name)
            or is_private(name)
            or (name, port or self._default_port) in self._names_with_port
            or (self.wildcard and name == plain_ip(local))
            or any(
                name.endswith(domain) and only in {None, port or self._default_port}
                for domain, only in self._domains
            )
        )

    def allows_origin(self, origin: str, host: str, area: Area) -> bool:
        """Check whether pages of ``origin`` may use the endpoints of ``area`` at ``host``."""
        if self._origins.has(origin, for_owner=area in _OWNERS):
            return True
        parsed, own = parse_origin(origin), parse_host(host)
        if area in _OWNERS:
            # This port serves one scheme only: the same name with the other one is another site.
            here = (self._scheme, *_with_port(own, self._default_port))
            return parsed is not None and parsed == here
        if parsed is not None and parsed[1:] == _with_port(own, parsed[2]):
            # A proxy in front may serve this service's pages over https.
            return True
        return is_local_page(origin)

    def shares_with(self, origin: str, area: Area) -> str | None:
        """Return the ``Access-Control-Allow-Origin`` for ``origin``; ``None`` = not shared."""
        if self._origins.has(origin, for_owner=True):
            return origin
        if area in _OWNERS:
            return None
        if self._origins.any:
            return "*"
        is_shared = self._origins.has(origin, for_owner=False) or (
            area is Area.MODEL and is_local_page(origin)
        )
        return origin if is_shared else None

    def client_address(self, remote: str | None, headers: CIMultiDictProxy[str]) -> str | None:
        """Return the client's address: ``remote``, or what a trusted proxy there has noted.

        Each proxy adds the address of its own client at the end. So the last address that is not
        that of a trusted proxy counts: a client may have written those before it.
        """
        if not self._proxies or not self._is_proxy(remote):
            return remote
        noted = forwarded_addresses(
            ",".join(headers.getall(hdrs.X_FORWARDED_FOR, ())),
            ",".join(headers.getall(hdrs.FORWARDED, ())),
        )
        for address in reversed(noted or ()):
            if not address:
                break
            remote = address
            if not self._is_proxy(address):
                break
        return remote

    def _is_proxy(self, address: str | None) -> bool:
        ip = plain_ip(address or "")
        return ip is not None and any(ipaddress.ip_address(ip) in one for one in self._proxies)

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
        if self._reads_keys:
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
        self._boxes: Mapping[bytes, PeerKey] = _NO_BOXES

    @property
    def rules(self) -> AccessRules:
        """The rules of the current settings."""
        settings, address = self._service.settings, self._service.address
        keys, boxes = self._store.present, self._service.peers.keys
        if (
            settings is not self._settings
            or address is not self._address
            or keys is not self._keys
            or boxes is not self._boxes
        ):
            self._rules = AccessRules(
                settings,
                address[0],
                keys,
                is_over=self._store.is_over,
                own_key=self._own_key,
                boxes=boxes,
            )
            self._settings, self._address = settings, address
            self._keys, self._boxes = keys, boxes
        return self._rules

    def area_of(self, request: web.Request) -> Area:
        """Return the area of the endpoint that handles the request."""
        return self._areas.get(request.match_info.handler, Area.MODEL)

    def admit(self, request: web.Request) -> web.Response | None:
        """Check a request. Return the answer to a CORS preflight, otherwise ``None``.

        Raises ``ForbiddenHostError``, ``ForbiddenProxyError``, ``ForbiddenOriginError``,
        ``UnsupportedMediaTypeError``, ``InvalidApiKeyError`` or ``ModelNotAllowedError``.
        """
        rules = self.rules
        headers = request.headers
        host = headers.get(hdrs.HOST)
        self._check_host(rules, request, host)
        area = self.area_of(request)
        origin = headers.get(hdrs.ORIGIN)
        if area is not Area.OPEN:
            _check_proxy(rules, self._service.settings, headers, area)
            self._check_page(rules, headers, area)
        if (
            origin is not None
            and request.method == "OPTIONS"
            and hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers
        ):
            return self._preflight(rules, request, origin, area)
        box = box_of(rules, headers)
        if area in _OWNERS and box is not None and box.role is not Role.ADMIN:
            raise PeerRightsError(
                f"The box {box.name} may ask the models of this one, and no more.",
                hint="Pair them again with --role serve+admin if it should.",
            )
        if area is Area.PEER and box is None:
            raise InvalidApiKeyError("Only a paired box may ask for this.")
        needs_key = area is Area.MODEL
        if area is Area.OWNER and box is None:
            # A login counts more, and is checked by its own rules.
            needs_key = not self._service.settings.admin_password
        if needs_key and rules.needs_key:
            key = rules.key_of(headers)
            if key is None:
                raise rules.missing_key(headers)
            if area is Area.OWNER and key.limits.models:
                raise not_allowed(key.limits, "change models")
        if area in _OWNERS and area is not Area.OWNER and request.method not in _READS:
            _check_content_type(request)
        return None

    @staticmethod
    def _check_page(rules: AccessRules, headers: Mapping[str, str], area: Area) -> None:
        """Refuse a request that a page of another site makes a browser send."""
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None:
            if not rules.allows_origin(origin, headers.get(hdrs.HOST, ""), area):
                raise _foreign(origin)
        elif headers.get("Sec-Fetch-Site", "").lower() == "cross-site":
            # Without Origin: an image, a form or a link.
            raise ForbiddenOriginError(
                "Pages of other sites may not use this service.",
                hint="Open the address by hand, not by a link.",
            )

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


def box_of(rules: AccessRules, headers: Mapping[str, str]) -> PeerKey | None:
    """Return the paired box that sends a request, if one does."""
    key = rules.key_of(headers)
    return None if key is None else key.box


def is_admin_box(request: web.Request) -> PeerKey | None:
    """Return the paired box that sends a request, if it may do what the owner may."""
    box = box_of(request.app[ACCESS].rules, request.headers)
    return box if box is not None and box.role is Role.ADMIN else None


def is_box(request: web.Request) -> bool:
    """Check whether a paired box sends a request."""
    return box_of(request.app[ACCESS].rules, request.headers) is not None


def has_key(request: web.Request) -> bool:
    """Check whether a request has a valid API key, or needs none."""
    return request.app[ACCESS].rules.allows_key(request.headers)


def limits_of(request: web.Request) -> KeyLimits:
    """Return the limits of the request's API key."""
    key = key_of(request)
    return NO_LIMITS if key is None else key.limits


def client_address(request: web.Request) -> str | None:
    """Return the address of a request's client, which may be behind a trusted proxy."""
    return request.app[ACCESS].rules.client_address(request.remote, request.headers)


def _with_port(host: tuple[str, int | None] | None, default: int) -> tuple[str, int]:
    return ("", 0) if host is None else (host[0], host[1] or default)


def _check_proxy(
    rules: AccessRules, settings: Settings, headers: Mapping[str, str], area: Area
) -> None:
    """Refuse a request that came through a proxy to a service that is open to this machine."""
    if settings.insecure_no_auth:
        return
    header = next((name for name in _PROXY_HEADERS if name in headers), None)
    if header is None:
        return
    needed = [] if rules.needs_key else ["api_keys"]
    if area in _OWNERS and area is not Area.OWNER and not settings.admin_password:
        needed.append("admin_password")
    if needed:
        raise ForbiddenProxyError(
            f"This request came through a proxy ({header}), but {' and '.join(needed)} are not set,"
            " so everybody who reaches the proxy could use the service.",
            hint="Set api_keys and admin_password, or insecure_no_auth if the proxy asks for a "
            "login itself.",
        )


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
