"""Names and addresses in ``Host``, ``Origin`` and the headers of proxies. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[^\s\[\]:@/\\?#,;%]{1,253})(?::([0-9]{0,5}))?")
_ORIGIN = re.compile(r"(https?)://([^/]{1,261})/?", re.IGNORECASE)
_PROGRAM = re.compile(r"(?:app|file|tauri|vscode-webview|vscode-file):[\x21-\x7e]{0,250}", re.I)
"""The origins of pages that belong to a program on the client's machine."""
_OTHER_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]{0,30}://[\x21-\x7e]{0,250}", re.I)
DEFAULT_PORTS = {"http": 80, "https": 443}
_FORWARDED_FOR = re.compile(r'(?:^|[;,])\s*for\s*=\s*("[^"]*"|[^;,"\s]*)', re.I)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Return the name (lower case, no brackets, no final dot) and port of a ``Host``, if valid."""
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    name = match[1].lower().strip("[]").removesuffix(".")
    return (plain_ip(name) or name, int(match[2]) if match[2] else None) if name else None


def parse_origin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, name and port of an ``Origin``; ``None`` for ``null`` and malformed values."""
    match = _ORIGIN.fullmatch(text)
    host = parse_host(match[2]) if match else None
    if match is None or host is None:
        return None
    scheme = match[1].lower()
    return scheme, host[0], host[1] or DEFAULT_PORTS[scheme]


def plain_ip(text: str) -> str | None:
    """Return an IP address in normal form (v4 in v6 as v4); ``None`` for other text."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address)


def is_loopback(name: str) -> bool:
    """Check whether a name or an address means the machine itself."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_private(name: str) -> bool:
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


def is_local_page(origin: str) -> bool:
    """Check whether a page comes from the client's own machine, or belongs to a program there."""
    parsed = parse_origin(origin)
    return _PROGRAM.fullmatch(origin) is not None if parsed is None else is_loopback(parsed[1])


class ListedOrigins:
    """The entries of ``cors_origins``: ``*``, origins, and patterns with ``*`` in name or port.

    An entry for every name opens the endpoints for models only.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self.any = False
        self._exact: set[str] = set()
        self._some: list[re.Pattern[str]] = []
        """Patterns for some names."""
        self._every: list[re.Pattern[str]] = []
        """Patterns for every name."""
        for entry in entries:
            rest = entry.removesuffix(":*")
            normal = _normal_origin(rest)
            if entry == "*":
                self.any = True
            elif normal is None:
                continue
            elif "*" in entry:
                if rest != entry:
                    normal = f"{normal.rpartition(':')[0]}:*"
                pattern = re.compile(re.escape(normal).replace(r"\*", "[^/:@]*"))
                is_every = re.search(r"://[*.]+(?::|$)", normal) is not None
                (self._every if is_every else self._some).append(pattern)
            else:
                self._exact.add(normal)

    def has(self, origin: str, *, for_owner: bool) -> bool:
        """Check whether an origin is listed; ``for_owner``: for the owner's endpoints, too."""
        normal = _normal_origin(origin)
        if normal is None:
            return self.any and not for_owner
        if normal in self._exact or any(one.fullmatch(normal) for one in self._some):
            return True
        return not for_owner and (self.any or any(one.fullmatch(normal) for one in self._every))


def _normal_origin(text: str) -> str | None:
    parsed = parse_origin(text)
    if parsed is not None:
        scheme, name, port = parsed
        return f"{scheme}://{name}:{port}"
    lower = text.lower()
    if lower.startswith(("http:", "https:")) or _OTHER_ORIGIN.fullmatch(text) is None:
        return None
    return lower.rstrip("/")


def parse_network(text: str) -> Network | None:
    """Return the network of ``10.0.0.0/8`` or of a single address; ``None`` for other text."""
    try:
        return ipaddress.ip_network(plain_ip(text) or text, strict=False)
    except ValueError:
        return None


def forwarded_addresses(x_forwarded_for: str, forwarded: str) -> list[str] | None:
    """Return the addresses that proxies have noted, the client's first.

    An entry that is no address is an empty text. ``None`` if the two headers say different things:
    then a proxy has set one, and the client may have sent the other.
    """
    first = [_address_in(entry) for entry in x_forwarded_for.split(",") if entry.strip()]
    second = [_address_in(entry.strip('"')) for entry in _FORWARDED_FOR.findall(forwarded)]
    if first and second and first != second:
        return None
    return first or second


def _address_in(node: str) -> str:
    """Return the address in ``1.2.3.4``, ``1.2.3.4:5``, ``::1`` or ``[::1]:5``."""
    node = node.strip()
    host = parse_host(node)
    return plain_ip(node) or (plain_ip(host[0]) if host else None) or ""
