"""Who gets the token, whom a download may come from, and which proxy leads there."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from multidict import CIMultiDict
from yarl import URL

from cyber_inference_tui.errors import (
    HubError,
    HubGatedError,
    HubNotFoundError,
    HubRateLimitError,
    HubTokenError,
    HubUnreachableError,
)
from cyber_inference_tui.hub.endpoint import Endpoint, proxy_for, read_endpoint
from cyber_inference_tui.hub.problems import MAX_WAIT, hub_error
from cyber_inference_tui.settings.schema import Settings

HUB = Endpoint(url="https://hub.example", token="secret", allowed_hosts=("b.example:8443", "*.c.d"))


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
    assert Endpoint(url="https://hub.example").headers(URL("https://hub.example/")) == {}


def test_addresses_of_files_are_encoded() -> None:
    url = Endpoint(url="https://hub.example/mirror").file_url("o/n", "abc", "a b/c#d?e%.gguf")
    assert str(url) == "https://hub.example/mirror/o/n/resolve/abc/a%20b/c%23d%3Fe%25.gguf"


def test_where_endpoint_and_token_come_from(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hf_file\n")
    environ = {"HF_TOKEN_PATH": str(file)}
    found = read_endpoint(Settings(hf_allowed_hosts=("x",)), environ)
    assert (found.url, found.token) == ("https://huggingface.co", "hf_file")
    assert found.allowed_hosts == ("x",)
    assert read_endpoint(Settings(), {"HF_HOME": str(tmp_path)}).token == "hf_file"
    environ |= {"HF_TOKEN": "hf_env", "HF_ENDPOINT": "https://mirror.example/"}
    found = read_endpoint(Settings(), environ)
    assert (found.url, found.token) == ("https://mirror.example", "hf_env")
    found = read_endpoint(Settings(hf_token="hf_set", hf_endpoint="https://own.example"), environ)
    assert (found.url, found.token) == ("https://own.example", "hf_set")
    for bad in (b"", b"two words", b"\xff", b"line\nline"):
        file.write_bytes(bad)
        assert read_endpoint(Settings(), {"HF_TOKEN_PATH": str(file)}).token == ""
    assert read_endpoint(Settings(), {"HF_TOKEN_PATH": str(tmp_path)}).token == ""


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
    ],
)
def test_proxies_of_the_environment(environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(URL("https://hub.example/x"), environ) == proxy


@pytest.mark.parametrize(
    ("status", "headers", "kind", "words"),
    [
        (401, {"x-error-code": "GatedRepo"}, HubGatedError, "licence at https://hub.example/o/n"),
        (403, {"x-error-code": "GatedRepo"}, HubGatedError, "no access to o/n yet"),
        (401, {"x-error-message": "Invalid credentials"}, HubTokenError, "not valid"),
        (401, {"x-error-code": "RepoNotFound"}, HubNotFoundError, "or it is private"),
        (404, {}, HubNotFoundError, "or it is private"),
        (404, {"x-error-code": "EntryNotFound"}, HubNotFoundError, r"no file a\.gguf"),
        (404, {"x-error-code": "RevisionNotFound"}, HubNotFoundError, "is gone"),
        (403, {"x-error-message": "Blocked\x1b[31m."}, HubGatedError, r"refuses o/n: Blocked\."),
        (429, {"ratelimit": '"api";r=0;t=55'}, HubRateLimitError, r"again in 55\.0 s"),
        (429, {}, HubRateLimitError, "for now"),
        (500, {}, HubUnreachableError, "status 500"),
        (503, {"x-error-message": "down"}, HubUnreachableError, "status 503: down"),
        (451, {}, HubError, "status 451"),
    ],
)
def test_what_refusals_mean(
    status: int, headers: dict[str, str], kind: type[HubError], words: str
) -> None:
    given = CIMultiDict(headers)
    error = hub_error(status, given, endpoint=HUB.url, repo="o/n", path="a.gguf")
    assert type(error) is kind
    with pytest.raises(HubError, match=words):
        raise error
    assert "\x1b" not in str(error)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "99999999"}, MAX_WAIT),
        ({"Retry-After": "Sat, 31 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"Retry-After": "Sat, 31 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": "nonsense"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    error = hub_error(429, CIMultiDict(headers), endpoint=HUB.url, repo="o/n", now=now)
    assert error.retry_after == seconds
