"""The token's receivers, the allowed hosts of downloads, and proxies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from yarl import URL

from cyber_inference_tui.errors import HubError
from cyber_inference_tui.hub.endpoint import HubEndpoint, proxy_for, read_endpoint
from cyber_inference_tui.settings.schema import Settings

HUB = HubEndpoint(
    url="https://hub.example", token="secret", allowed_hosts=("b.example:8443", "*.c.d")
)


@pytest.mark.parametrize(
    "url",
    [
        "https://hub.example/x",
        "https://cdn-lfs.hf.co/x",
        "https://cas-bridge.xethub.hf.co/x",
        "https://cdn-lfs.huggingface.co/x",
        "https://huggingface.co/x",
        "https://b.example:8443/x",
        "https://a.c.d/x",
        "https://HUB.example/x",
    ],
)
def test_hosts_that_may_be_led_to(url: str) -> None:
    HUB.check(URL(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://hub.example/x",
        "http://cdn-lfs.hf.co/x",
        "https://hf.co.evil.example/x",
        "https://evilhf.co/x",
        "https://xhuggingface.co/x",
        "https://cdn-lfs.hf.co:8443/x",
        "https://b.example/x",
        "https://c.d/x",
        "https://user@hub.example/x",
        "https://user:password@hub.example/x",
        "https://127.0.0.1/x",
        "file:///etc/passwd",
        "/relative",
    ],
)
def test_hosts_that_may_not_be_led_to(url: str) -> None:
    with pytest.raises(HubError):
        HUB.check(URL(url))


def test_the_token_is_for_the_endpoint_alone() -> None:
    assert HUB.headers(URL("https://hub.example/x")) == {"Authorization": "Bearer secret"}
    for other in (
        "http://hub.example/x",
        "https://hub.example:444/x",
        "https://a.hub.example/x",
        "https://huggingface.co/x",
    ):
        assert HUB.headers(URL(other)) == {}
    assert HubEndpoint(url="https://hub.example").headers(URL("https://hub.example/")) == {}


def test_addresses_of_files_are_encoded() -> None:
    url = HubEndpoint(url="https://hub.example/mirror").file_url("o/n", "abc", "a b/c#d?e%.gguf")
    assert str(url) == "https://hub.example/mirror/o/n/resolve/abc/a%20b/c%23d%3Fe%25.gguf"


def test_where_endpoint_and_token_come_from(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hf_file\n")
    environ = {"HF_TOKEN_PATH": str(file)}
    found = read_endpoint(Settings(hf_allowed_hosts=("x",)), environ)
    assert (found.url, found.token) == ("https://huggingface.co", "hf_file")
    assert found.token_source == f"the file {file}"
    assert found.allowed_hosts == ("x",)
    assert read_endpoint(Settings(), {"HF_HOME": str(tmp_path)}).token == "hf_file"
    environ |= {"HF_TOKEN": "hf_env", "HF_ENDPOINT": "https://mirror.example/"}
    found = read_endpoint(Settings(), environ)
    assert (found.url, found.token) == ("https://mirror.example", "hf_env")
    assert found.token_source == "HF_TOKEN"
    found = read_endpoint(Settings(hf_token="hf_set", hf_endpoint="https://own.example"), environ)
    assert (found.url, found.token) == ("https://own.example", "hf_set")
    assert found.token_source == "hf_token"
    for bad in (b"", b"two words", b"\xff", b"line\nline"):
        file.write_bytes(bad)
        assert read_endpoint(Settings(), {"HF_TOKEN_PATH": str(file)}).token == ""
    assert read_endpoint(Settings(), {"HF_TOKEN_PATH": str(tmp_path)}).token == ""


@pytest.mark.parametrize("address", ["hub.example", "http://[bad", "http://a:port", "\x1b[31m"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(HubError, match="is not the address of a hub") as caught:
        read_endpoint(Settings(), {"HF_ENDPOINT": address})
    assert "\x1b" not in str(caught.value)


def test_variables_that_are_empty_or_quoted(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_file")
    names = ("HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "XDG_CACHE_HOME")
    environ = {**dict.fromkeys(names, " "), "HF_HOME": f'"{tmp_path}"'}
    found = read_endpoint(Settings(), environ)
    assert (found.url, found.token) == ("https://huggingface.co", "hf_file")
    environ |= {"HF_ENDPOINT": "'https://mirror.example'", "HF_TOKEN": '"hf_env"'}
    found = read_endpoint(Settings(), environ)
    assert (found.url, found.token) == ("https://mirror.example", "hf_env")


def test_a_token_file_that_is_a_fifo_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    assert read_endpoint(Settings(), {"HF_TOKEN_PATH": str(tmp_path / "token")}).token == ""


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "p:1", "HTTPS_PROXY": "http://q:1"}, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "x.y, .hub.example"}, None),
        ({"https_proxy": "", "HTTPS_PROXY": "http://q:1"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "example"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "hub.example:443"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "ub.example,,"}, "http://p:1"),
        ({"HTTPS_PROXY": " http://p:1 "}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "socks5://s:1"}, "http://p:1"),
        ({"ALL_PROXY": "socks5://s:1", "NO_PROXY": "hub.example"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "x.y hub.example"}, None),
    ],
)
def test_proxies_of_the_environment(environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(URL("https://hub.example/x"), environ) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "url", "used"),
    [
        ("10.0.0.0/8", "https://10.1.2.3/x", False),
        ("10.0.0.0/8", "https://11.1.2.3/x", True),
        ("10.9.9.9/8", "https://10.1.2.3/x", False),
        ("10.1.2.3", "https://10.1.2.3/x", False),
        ("fd00::/8", "https://[fd00::1]:8443/x", False),
        ("[fd00::1]", "https://[fd00::1]:8443/x", False),
        ("[fd00::1]:8443", "https://[fd00::1]:8443/x", False),
        ("fd00::/8", "https://[fe80::1]/x", True),
        ("10.0.0.0/8", "https://hub.example/x", True),
        ("10.0.0.0/99, 10.0.0.0/8", "https://10.1.2.3/x", False),
    ],
)
def test_networks_without_a_proxy(no_proxy: str, url: str, *, used: bool) -> None:
    environ = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": no_proxy}
    assert (proxy_for(URL(url), environ) is not None) == used


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALL_PROXY", "socks5://user:secret@s:1080", "ALL_PROXY names a SOCKS proxy"),
        ("all_proxy", "socks5h://s:1080", "all_proxy names a SOCKS proxy"),
        ("HTTPS_PROXY", "socks4://s:1080", "HTTPS_PROXY names a SOCKS proxy"),
        ("HTTPS_PROXY", "quic://s:1080", "HTTPS_PROXY names a quic proxy"),
    ],
)
def test_proxies_of_another_kind_are_refused(name: str, value: str, words: str) -> None:
    with pytest.raises(HubError) as caught:
        proxy_for(URL("https://hub.example/x"), {name: value})
    assert words in caught.value.message
    assert "Set an HTTP proxy in HTTPS_PROXY" in caught.value.hint
    assert "secret" not in str(caught.value)
    assert not caught.value.passing
