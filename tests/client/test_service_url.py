"""Addresses of services as users type them."""

from __future__ import annotations

import shlex

import pytest

from cyber_inference_tui.client.service_url import service_address, tunnel, tunnel_to
from cyber_inference_tui.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("jetson", "http://jetson:8337"),
        (" jetson:9000/ ", "http://jetson:9000"),
        ("http://jetson/", "http://jetson"),
        ("HTTPS://Box.lan:80", "https://box.lan:80"),
        ("[::1]:9", "http://[::1]:9"),
        ("http://[::1]", "http://[::1]"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    assert service_address(text) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", "http://", "http:///", "ftp://x", "http://x:99999", "http://x/path", "http://x?q"),
        *("http://x#f", "http://a b", "http://user:pw@x", "::1", "//x"),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not the address of a service"):
        service_address(text)


@pytest.mark.parametrize(
    ("url", "command", "near"),
    [
        ("http://jetson:8337", "18337:127.0.0.1:8337 jetson", "http://127.0.0.1:18337"),
        ("https://box.example", "18337:127.0.0.1:8337 box.example", "https://127.0.0.1:18337"),
        ("http://[fe80::1]:60000", "60000:127.0.0.1:60000 fe80::1", "http://127.0.0.1:60000"),
        ("http://a;b:9000", "19000:127.0.0.1:9000 'a;b'", "http://127.0.0.1:19000"),
        ("http://localhost:18337", "18337:127.0.0.1:8337 user@host", "http://localhost:18337"),
        ("http://[::1]:8337", "8337:127.0.0.1:8337 user@host", "http://[::1]:8337"),
    ],
)
def test_a_tunnel_leads_to_the_service(url: str, command: str, near: str) -> None:
    assert tunnel(url) == (f"ssh -N -L {command}", near)


def test_a_tunnel_may_lead_to_another_port_and_to_this_machine() -> None:
    assert tunnel("http://127.0.0.1:8337", 9000)[0] == "ssh -N -L 8337:127.0.0.1:9000 user@host"
    command, near = tunnel_to("me@it's", "http://[::1]:8337")
    assert shlex.split(command) == ["ssh", "-N", "-L", "18337:[::1]:8337", "me@it's"]
    assert near == "http://127.0.0.1:18337"
