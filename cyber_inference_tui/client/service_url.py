"""URLs of services. Imports little, because every command line needs it at its start."""

from __future__ import annotations

import ipaddress
import shlex
from urllib.parse import urlsplit

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.text import clean_line

DEFAULT_PORT = 8337

_TUNNEL_OFFSET = 10_000
_SCHEMES = frozenset({"http", "https"})


def base_url(host: str, port: int, *, tls: bool = False) -> str:
    """Return the URL at which a service bound to ``host`` and ``port`` answers on this machine.

    For a wildcard address it is the loopback address of the same family.
    """
    scheme = "https" if tls else "http"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return f"{scheme}://{host}:{port}"
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    name = f"[{address}]" if address.version == 6 else str(address)
    return f"{scheme}://{name}:{port}"


def service_address(text: str) -> str:
    """Return the URL of a service from user input: a URL, or a host with or without a port.

    The port of a host without one is 8337. Raises ``InvalidRequestError``.
    """
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    odd = not host or not host.isprintable() or " " in host or parts.scheme not in _SCHEMES
    if odd or "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment:
        raise InvalidRequestError(
            f"'{clean_line(text, limit=200)}' is not the address of a service.",
            hint="Give one such as http://jetson:8337.",
        )
    name = f"[{host}]" if ":" in host else host
    if port is None and "://" not in text:
        port = DEFAULT_PORT
    return f"{parts.scheme}://{name}" + (f":{port}" if port else "")


def reachable_url(bound: str) -> str:
    """Return a URL that reaches the service listening at the URL ``bound``, even a wildcard."""
    parts = urlsplit(bound)
    return base_url(parts.hostname or "", parts.port or 80, tls=parts.scheme == "https")


def is_same_service(bound: str, url: str) -> bool:
    """Check whether ``url`` leads to the service on this machine that listens at ``bound``.

    ``False`` for other names of this machine, because they may lead elsewhere.
    """
    try:
        ours, asked = urlsplit(reachable_url(bound)), urlsplit(url)
        local = asked.hostname == "localhost" and ours.hostname in {"127.0.0.1", "::1"}
        return (asked.scheme, asked.port) == (ours.scheme, ours.port) and (
            local or asked.hostname == ours.hostname
        )
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Check whether ``url`` is of this machine, where it may also be the end of a tunnel."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tunnel(url: str, far_port: int = DEFAULT_PORT) -> tuple[str, str]:
    """Return an ssh command that opens a tunnel to the service at ``url``, and its URL then.

    A URL of this machine is taken for the near end of the tunnel; the service is at ``far_port``.
    """
    parts = urlsplit(url)
    if is_loopback_url(url):
        return f"ssh -N -L {parts.port or 80}:127.0.0.1:{far_port} user@host", url
    far = f"{parts.scheme}://127.0.0.1:{parts.port or DEFAULT_PORT}"
    return tunnel_to(parts.hostname or "", far)


def tunnel_to(host: str, far: str, *options: str) -> tuple[str, str]:
    """Return an ssh command that opens a tunnel to the URL ``far`` of ``host``, and its URL then.

    ``options`` are ssh's own.

    The near machine may have a service at the far port, so the near port is another.
    """
    parts = urlsplit(far)
    port = parts.port or 80
    near = port + _TUNNEL_OFFSET if port + _TUNNEL_OFFSET < 65536 else port
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    forward = shlex.quote(f"{near}:{name}:{port}")
    return (
        f"ssh -N -L {forward} {shlex.join([*options, host])}",
        f"{parts.scheme}://127.0.0.1:{near}",
    )


def serve_command(url: str) -> str:
    """Return the command that starts a service at ``url`` on this machine."""
    port = urlsplit(url).port or 80
    return "cyber-inference-tui serve" + ("" if port == DEFAULT_PORT else f" --port {port}")
