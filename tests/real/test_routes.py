"""Where a request goes and what becomes of it: byte for byte, with the model named anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.launcher import write_fake_llama
from tests.real.conftest import Starter, StartFake
from tests.real.service_process import ServiceProcess, chat_body

ECHO = {"answer": {"echo": True}}


@pytest.fixture(scope="module")
def echo_service(
    demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """A service whose models ``a`` and ``b`` answer with the request that they got."""
    folder = tmp_path_factory.mktemp("echo")
    starter = Starter(folder, demo_gguf)
    env = {"FAKE_LLAMA": json.dumps(ECHO)}
    config = {
        "llama_server_path": str(write_fake_llama(folder / "fake" / "llama-server")),
        "llama_server_base_port": 0,
        "models": {
            "a": {"env": env, "aliases": ["gpt-alias", "org/alias"]},
            "b": {"env": env},
            "dflt": {"env": env, "request_defaults": {"temperature": 0.5, "top_k": 7}},
        },
    }
    yield starter.make(config, ("a", "b", "dflt")).start()
    starter.end()


def model_behind(service: ServiceProcess, echoed: dict[str, Any]) -> str:
    """The id of the model whose server this echo came from."""
    host = {name.lower(): value for name, value in echoed["headers"]}["host"]
    for model_id, record in service.models().items():
        if record["port"] and host.endswith(f":{record['port']}"):
            return model_id
    raise AssertionError(f"no model at {host}")


def sent(echoed: dict[str, Any]) -> bytes:
    return base64.b64decode(echoed["body_base64"])


ODD_BODIES = [
    b'{"model":"a","messages":[]}',
    b'  {\r\n\t"messages" : [ ], "x":1.0000000000000000001,"model": "a" }  \n',
    '{"model":"a","messages":[{"role":"user","content":"\\u00e9é😀 \\/ \\ud83d\\ude00"}]}'.encode(),
    b'{"n":1e400,"big":123456789012345678901234567890,"model":"a"}',
    b'{"dup":1,"dup":2,"model":"a"}',
]


@pytest.mark.parametrize("body", ODD_BODIES)
def test_a_body_passes_byte_for_byte(echo_service: ServiceProcess, body: bytes) -> None:
    answer = echo_service.post(
        "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 200
    assert sent(answer.json()) == body


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain", None])
def test_json_is_recognised_without_its_content_type(
    echo_service: ServiceProcess, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    body = b'{"model": "b", "messages": []}'
    answer = echo_service.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 200
    assert sent(answer.json()) == body
    assert model_behind(echo_service, answer.json()) == "b"


def test_a_big_body_passes_whole(echo_service: ServiceProcess) -> None:
    text = base64.b64encode(os.urandom(12_000_000)).decode()
    body = json.dumps({"messages": [{"role": "user", "content": text}], "model": "a"}).encode()
    for content in (body, iter([body[:1_000_000], body[1_000_000:]])):
        answer = echo_service.post("/v1/chat/completions", content=content)
        assert answer.json()["body_sha256"] == hashlib.sha256(body).hexdigest()
        assert answer.json()["body_bytes"] == len(body)


@pytest.mark.parametrize(
    ("name", "model_id"), [("a", "a"), ("A", "a"), ("GPT-alias", "a"), ("org/alias", "a")]
)
def test_ids_and_aliases_whatever_their_case(
    echo_service: ServiceProcess, name: str, model_id: str
) -> None:
    echoed = echo_service.chat(name).json()
    assert model_behind(echo_service, echoed) == model_id


def test_method_path_query_and_headers_pass(echo_service: ServiceProcess) -> None:
    answer = echo_service.post(
        "/v1/chat/completions?x=%20%2F+a&y=&y=2",
        json=chat_body("a"),
        headers={"X-Custom": "value; with=signs", "Accept": "text/event-stream"},
    )
    echoed = answer.json()
    assert (echoed["method"], echoed["target"]) == (
        "POST",
        "/v1/chat/completions?x=%20%2F+a&y=&y=2",
    )
    headers = {name.lower(): value for name, value in echoed["headers"]}
    assert headers["x-custom"] == "value; with=signs"
    assert headers["accept"] == "text/event-stream"


def test_answers_status_and_headers_pass(echo_service: ServiceProcess) -> None:
    answer = echo_service.post(
        "/v1/chat/completions",
        json=chat_body("a", fake={"status": 418, "headers": [["X-Mine", "1"], ["X-Mine", "2"]]}),
    )
    assert answer.status_code == 418
    assert answer.headers.get_list("x-mine") == ["1", "2"]


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_an_answers_body_passes_whatever_its_framing(
    echo_service: ServiceProcess, framing: str, size: int
) -> None:
    fake = {"echo": False, "size": size, "framing": framing}
    with echo_service.client() as client:
        for _ in range(2):
            answer = client.post("/v1/chat/completions", json=chat_body("a", fake=fake))
            assert answer.status_code == 200
            pattern = (bytes(range(256)) * 256 * (size // 65_536 + 1))[:size]
            assert hashlib.sha256(answer.content).digest() == hashlib.sha256(pattern).digest()


def test_model_in_a_multipart_field(echo_service: ServiceProcess) -> None:
    audio = os.urandom(300_000)
    with echo_service.client() as client:
        request = client.build_request(
            "POST",
            "/v1/audio/transcriptions",
            files={"file": ("speech.wav", audio, "audio/wav")},
            data={"model": "b", "language": "en"},
        )
        body = request.read()
        answer = client.send(request)
    assert answer.status_code == 200
    assert model_behind(echo_service, answer.json()) == "b"
    assert answer.json()["body_sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("path", ["/props?model=b", "/slots?x=1&model=b", "/lora-adapters?model=b"])
def test_model_in_the_query(echo_service: ServiceProcess, path: str) -> None:
    answer = echo_service.get(path)
    assert answer.status_code == 200
    assert model_behind(echo_service, answer.json()) == "b"


def test_model_in_the_header(echo_service: ServiceProcess) -> None:
    answer = echo_service.post("/tokenize", json={"content": "x"}, headers={"X-Model": "b"})
    assert model_behind(echo_service, answer.json()) == "b"
    answer = echo_service.post("/lora-adapters", json=[{"id": 0}], headers={"X-Model": "b"})
    assert model_behind(echo_service, answer.json()) == "b"
    assert sent(answer.json()) == b'[{"id":0}]'


def test_the_body_goes_before_query_and_header(echo_service: ServiceProcess) -> None:
    answer = echo_service.post(
        "/v1/chat/completions?model=nowhere", json=chat_body("b"), headers={"X-Model": "nowhere"}
    )
    assert model_behind(echo_service, answer.json()) == "b"
    answer = echo_service.post(
        "/tokenize?model=b", json={"content": ""}, headers={"X-Model": "nowhere"}
    )
    assert model_behind(echo_service, answer.json()) == "b"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_upstream_passes_any_method_and_path(echo_service: ServiceProcess, method: str) -> None:
    with echo_service.client() as client:
        answer = client.request(method, "/upstream/b/deep/path%20x?q=1%2F2", content=b"\x00\xff")
    assert answer.status_code == 200
    echoed = answer.json()
    assert (echoed["method"], echoed["target"]) == (method, "/deep/path%20x?q=1%2F2")
    assert sent(echoed) == b"\x00\xff"
    assert model_behind(echo_service, echoed) == "b"


def test_upstream_with_a_slash_in_the_name(echo_service: ServiceProcess) -> None:
    for path in ("/upstream/org/alias/props", "/upstream/org%2Falias/props"):
        answer = echo_service.get(path)
        assert answer.status_code == 200
        assert answer.json()["target"] == "/props"


def test_request_defaults_are_merged_under_the_request(echo_service: ServiceProcess) -> None:
    answer = echo_service.chat("dflt", temperature=0.1)
    body = json.loads(sent(answer.json()))
    assert (body["temperature"], body["top_k"]) == (0.1, 7)
    assert body["messages"] == [{"role": "user", "content": "hello"}]


def test_without_a_name_the_only_loaded_model_answers(start_fake: StartFake) -> None:
    service = start_fake({"a": ECHO, "b": ECHO})
    refused = service.post("/tokenize", json={"content": "x"})
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert service.chat("b").status_code == 200
    assert service.post("/tokenize", json={"content": "x"}).status_code == 200
    assert service.chat("a").status_code == 200
    assert service.post("/tokenize", json={"content": "x"}).status_code == 400
