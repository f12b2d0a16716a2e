"""Addresses of services as users type them."""

from __future__ import annotations

import pytest

from cyber_inference_tui.client.service_url import service_address
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
