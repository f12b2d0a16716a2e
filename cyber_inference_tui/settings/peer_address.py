"""The addresses of other boxes."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from cyber_inference_tui.sockets import is_loopback

_PORT = 8337


def split_address(url: str) -> SplitResult:
    """Return the parts of ``http(s)://host[:port]``. Raises ``ValueError`` with a sentence."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("expected an address like https://192.168.1.20:8337")
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("expected only the host and the port, without a path, name or password")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("expected a port of 1 to 65535") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return SplitResult(parts.scheme, f"{host}:{_PORT if port is None else port}", "", "", "")


def address_problem(url: str, *, insecure: bool) -> str | None:
    """Return why a box cannot be asked at ``url``; ``None`` if it can."""
    try:
        parts = split_address(url)
    except ValueError as error:
        return str(error)
    if parts.scheme == "http" and not insecure and not is_loopback(parts.hostname or ""):
        return (
            "without TLS, prompts and keys are readable on the way: use https (see `tls make`), "
            "or set insecure = true"
        )
    return None
