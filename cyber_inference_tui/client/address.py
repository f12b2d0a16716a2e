"""Where a service answers, from what it is bound to. Imports nothing, so that asking is quick."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def base_url(host: str, port: int) -> str:
    """The URL at which a service bound to ``host`` and ``port`` answers on this machine.

    A wildcard address is reached over the loopback address of its family.
    """
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    name = f"[{address}]" if address.version == 6 else str(address)
    return f"http://{name}:{port}"


def reachable_url(bound: str) -> str:
    """Where a service answers that says it listens at ``bound`` (a URL, wildcards included)."""
    parts = urlsplit(bound)
    return base_url(parts.hostname or "", parts.port or 80)


def is_same_service(bound: str, url: str) -> bool:
    """Whether ``url`` leads to the service of this machine that listens at ``bound``.

    Only what is sure counts: another name of this machine does not.
    """
    try:
        ours, asked = urlsplit(reachable_url(bound)), urlsplit(url)
        local = asked.hostname == "localhost" and ours.hostname in {"127.0.0.1", "::1"}
        return asked.scheme == "http" and (
            asked.port == ours.port and (local or asked.hostname == ours.hostname)
        )
    except ValueError:
        return False
