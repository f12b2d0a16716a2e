"""Bad input gets the contract's error; nothing is loaded for it and nothing leaks."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.real.conftest import Starter, StartReal
from tests.real.service_process import ServiceProcess, chat_body
from tests.waiting import eventually


@pytest.fixture(scope="module")
def service(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("bad")
    starter = Starter(folder, demo_gguf)
    # Two, so that a request without a name means none of them.
    yield starter.fake({"a": {}, "b": {}}, config={"max_body_size": 100_000})
    starter.end()


def error_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"].startswith("application/json")
    error: dict[str, Any] = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["message"]
    return error


def assert_nothing_loaded(service: ServiceProcess) -> None:
    assert {record["status"] for record in service.models().values()} == {"unloaded"}
    status = service.get("/admin/status").json()
    assert (status["requests_in_flight"], status["requests_queued"]) == (0, 0)
    assert not service.servers()


def test_unknown_model(service: ServiceProcess) -> None:
    answer = service.chat("no-such-model")
    assert answer.status_code == 404
    error = error_of(answer)
    assert (error["code"], error["type"]) == ("model_not_found", "invalid_request_error")
    assert "no-such-model" in error["message"]
    assert_nothing_loaded(service)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "a", "messages": [}',
        b'{"model": "a"} trailing',
        b'{"model": 5, "messages": []}',
        b'{"model": ["a"]}',
        b'{"model": null, "messages": []}',
        b'{"messages": []}',
        b'["a"]',
        b'"a"',
        b'{"model": "\xff"}',
        b"\xff\xfe\x00",
    ],
)
def test_bodies_that_are_no_request(service: ServiceProcess, body: bytes) -> None:
    answer = service.post(
        "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"
    assert_nothing_loaded(service)


@pytest.mark.parametrize("path", ["chat", "generate", "embed", "embeddings", "show"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'["a"]',
        b'{"model": 5}',
        b'{"model": "\xff"}',
        b'{"model": "no-such-model", "prompt": "x", "input": "x"}',
    ],
)
def test_bodies_that_are_no_request_of_ollamas_api(
    service: ServiceProcess, path: str, body: bytes
) -> None:
    answer = service.post(f"/api/{path}", content=body)
    assert answer.status_code in {400, 404}
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert isinstance(error, str)
    assert error
    assert_nothing_loaded(service)


def test_a_body_over_the_limit(service: ServiceProcess) -> None:
    big = json.dumps(chat_body("a", "x" * 100_001)).encode()
    answer = service.post("/v1/chat/completions", content=big)
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "request_too_large"
    with service.client() as client:
        # Chunked: its length is not known before it is read.
        pieces = (big[start : start + 10_000] for start in range(0, len(big), 10_000))
        assert client.post("/v1/chat/completions", content=pieces).status_code == 413
    assert_nothing_loaded(service)


def test_an_announced_body_over_the_limit_is_refused_before_it_is_sent(
    service: ServiceProcess,
) -> None:
    with service.raw() as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 999999999\r\n\r\n"
        )
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")
    assert_nothing_loaded(service)


def test_half_a_body(service: ServiceProcess) -> None:
    half = json.dumps(chat_body("a")).encode()
    for _ in range(5):
        with service.raw() as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(half) + 50, half)
            )
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65_536)
    assert_nothing_loaded(service)


def test_broken_http(service: ServiceProcess) -> None:
    for garbage in (
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"A" * 20_000 + b"\r\n\r\n",
    ):
        with service.raw() as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65_536)
            assert not answer or answer.startswith(b"HTTP/1.")
    with service.raw() as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        assert b" 400 " in connection.recv(65_536).split(b"\r\n")[0]
    assert service.get("/health").json() == {"status": "ok"}
    assert_nothing_loaded(service)


def test_health_and_models_wake_nothing(service: ServiceProcess) -> None:
    assert service.get("/health").json() == {"status": "ok"}
    listed = service.get("/v1/models").json()
    assert listed["object"] == "list"
    assert {model["id"]: model["state"] for model in listed["data"]} == {
        "a": "unloaded",
        "b": "unloaded",
    }
    assert service.get("/v1/models/a").json()["object"] == "model"
    assert service.get("/v1/models/nope").status_code == 404
    assert_nothing_loaded(service)


def test_a_foreign_host_is_refused(service: ServiceProcess) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
        answer = service.get("/v1/models", headers={"Host": host})
        assert answer.status_code == 403
        assert error_of(answer)["code"] == "forbidden_host"
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9"):
        assert service.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.real
def test_a_path_that_llama_server_does_not_know(start_real: StartReal) -> None:
    service = start_real()
    answer = service.post("/v1/no/such/path", json={"model": "demo"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]
    named = service.get("/no-such-file")
    assert named.status_code in {400, 404}
    assert service.chat("demo").status_code == 200


@pytest.mark.real
def test_wrong_types_are_answered_by_llama_server_itself(start_real: StartReal) -> None:
    service = start_real()
    answer = service.post("/v1/chat/completions", json={"model": "demo", "messages": "no list"})
    assert answer.status_code in {400, 500}
    assert answer.json()["error"]["message"]
    status = eventually(
        lambda: (s := service.get("/admin/status").json())["requests_in_flight"] == 0 and s
    )
    assert status["models_loaded"] == 1
