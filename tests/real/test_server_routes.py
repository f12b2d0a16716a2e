"""The table of llama-server's paths, compared with a real one; and names that no model should have.

Whatever the file is called, an answer names its model by its id.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cyber_inference_tui.http.llama_paths import methods_of
from tests.real.conftest import Starter, StartReal
from tests.real.service_process import ServiceProcess, chat_body, free_low_port, sse_data
from tests.waiting import eventually

pytestmark = pytest.mark.real

# A word of the program that may be a path of its; those of its web page are files.
_PATH = re.compile(rb"(?<![\w/.%-])/[a-z][a-z0-9-]*(?:/[a-z0-9_:-]+)*(?![\w/.%-])")
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH")
# Answered by the service itself.
_OWN = {"/health", "/v1/health", "/models", "/v1/models"}


def paths_in(llama_server: Path) -> set[str]:
    """What may be a path, of the texts in llama-server and its library."""
    files = [llama_server, *llama_server.parent.glob("libllama-server*")]
    words = {word.decode() for file in files for word in _PATH.findall(file.read_bytes())}
    return {word.replace(":id_slot", "0") for word in words}


@pytest.fixture(scope="module")
def bare_server(
    llama_server: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A llama-server with nothing in front of it."""
    port = free_low_port(1)
    words = ["--model", str(demo_gguf), "--host", "127.0.0.1", "--port", str(port), "--no-webui"]
    log = tmp_path_factory.mktemp("bare") / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [str(llama_server), *words, "--ctx-size", "256", "--threads", "1"],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return client.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        try:
            eventually(is_ready, what="the server")
            yield client
        finally:
            process.terminate()


def test_the_table_has_the_paths_of_a_real_server(
    demo_service: ServiceProcess, llama_server: Path, bare_server: httpx.Client
) -> None:
    served: dict[str, set[str]] = {}
    for path in paths_in(llama_server):
        for method in _METHODS:
            if bare_server.request(method, path, content=b"").status_code != 404:
                served.setdefault(path, set()).add(method)
    assert {"/props", "/v1/chat/completions", "/slots/0", "/v1/stream", "/tools"} <= set(served)
    unknown = {
        path: methods - methods_of(path) for path, methods in served.items() if path not in _OWN
    }
    assert not {path: methods for path, methods in unknown.items() if methods}
    # Through the service they are what they are at the server.
    for path, methods in served.items():
        for method in methods:
            with demo_service.client() as client:
                answer = client.request(method, f"{path}?model=demo", content=b"")
            assert answer.status_code not in {404, 405}, (method, path)


def test_streams_of_a_conversation(demo_service: ServiceProcess, bare_server: httpx.Client) -> None:
    """A stream ends with its client, so there is never one to go on with."""
    if bare_server.get("/v1/stream").status_code == 404:
        pytest.skip("this llama-server has no streams to go on with")
    headers = {"X-Conversation-Id": "c1"}
    answer = demo_service.post(
        "/v1/chat/completions", json=chat_body("demo", stream=True), headers=headers
    )
    assert answer.status_code == 200
    body = {"model": "demo", "conversation_ids": ["c1"]}
    looked = demo_service.post("/v1/streams/lookup", json=body)
    assert (looked.status_code, looked.json()) == (200, [])
    assert demo_service.get("/v1/stream?model=demo&conv_id=c1").status_code == 404
    with demo_service.client() as client:
        assert client.delete("/v1/stream?model=demo&conv_id=c1").status_code == 204


ODD = [
    "a,b",
    ",",
    "b, a",
    "two words",
    "-dash",
    "--alias",
    "Modèle-ключ-模型",
    "quote\"d 'n' back\\slash",
    "x" * 200,
    "z.gguf.Q4",
]


@pytest.fixture(scope="module")
def odd_service(
    llama_server: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    one = Starter(tmp_path_factory.mktemp("odd"), demo_gguf)
    vectors = {
        "in,dir/embed,der": {
            "path": str(demo_gguf),
            "aliases": ["vectors"],
            "args": ["--embedding", "--pooling", "mean", "--alias", "aaa"],
        },
        "ran,ker": {
            "path": str(demo_gguf),
            "aliases": ["order"],
            "args": ["--reranking", "-a", "aaa"],
            "env": {"LLAMA_ARG_ALIAS": "aab"},
        },
    }
    yield one.real(llama_server, {"models": vectors, "max_loaded_models": 2}, tuple(ODD))
    one.end()


def names_in(value: Any) -> set[str]:
    """What an answer says of its model, wherever it says it."""
    found: set[str] = set()
    if isinstance(value, dict):
        for name, inner in value.items():
            named = name in {"model", "model_alias"} and isinstance(inner, str)
            found |= {inner} if named else names_in(inner)
    elif isinstance(value, list):
        found = found.union(*map(names_in, value))
    return found


MESSAGES = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", MESSAGES),
    ("/chat/completions", {**MESSAGES, "stream": True}),
    ("/v1/messages", MESSAGES),
    ("/v1/messages", {**MESSAGES, "stream": True}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 3}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 3, "stream": True}),
    ("/v1/completions", {"prompt": "hello", "max_tokens": 3}),
    ("/v1/completions", {"prompt": "hello", "max_tokens": 3, "stream": True}),
    ("/completion", {"prompt": "hello", "n_predict": 3}),
]


@pytest.mark.parametrize("model_id", ODD)
def test_answers_name_the_model_by_its_id(odd_service: ServiceProcess, model_id: str) -> None:
    assert model_id in odd_service.models()
    with odd_service.client() as client:
        for path, body in ASKED:
            answer = client.post(path, json={"model": model_id, **body})
            assert answer.status_code == 200, answer.text
            if body.get("stream"):
                said = [one for one in sse_data(answer.text) if one != "[DONE]"]
            else:
                said = [answer.json()]
            assert names_in(said) == {model_id}, path
        assert names_in(client.get("/props", params={"model": model_id}).json()) == {model_id}
        listed = client.get(
            f"/upstream/{httpx.URL(path='/' + model_id).raw_path.decode()[1:]}/v1/models"
        )
        assert [one["id"] for one in listed.json()["data"]] == [model_id]


@pytest.mark.parametrize(
    ("path", "name", "model_id", "body"),
    [
        ("/v1/embeddings", "vectors", "in,dir/embed,der", {"input": "hello"}),
        ("/v1/embeddings", "VECTORS", "in,dir/embed,der", {"input": "hello"}),
        ("/v1/embeddings", "in,dir/embed,der", "in,dir/embed,der", {"input": "hello"}),
        ("/v1/rerank", "order", "ran,ker", {"query": "a", "documents": ["b"]}),
        ("/v1/rerank", "Ran,Ker", "ran,ker", {"query": "a", "documents": ["b"]}),
    ],
)
def test_vectors_name_their_model_by_its_id(
    odd_service: ServiceProcess, path: str, name: str, model_id: str, body: dict[str, Any]
) -> None:
    with odd_service.client() as client:
        for answer in (
            client.post(path, json={"model": name, **body}),
            client.post(path, json=body, params={"model": name}),
            client.post(f"/upstream/{name}{path}", json={"model": "anything", **body}),
        ):
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == model_id


def test_the_only_model_needs_no_name(start_real: StartReal) -> None:
    """Also after it was unloaded: plug-ins that complete code never send one."""
    service = start_real()
    for _ in range(2):
        answer = service.post("/completion", json={"prompt": "hello", "n_predict": 2})
        assert (answer.status_code, answer.json()["model"]) == (200, "demo")
        assert service.post("/admin/models/demo/unload").status_code == 200
    assert service.get("/lora-adapters").json() == []
    # By this answer clients recognize a router.
    assert service.get("/props").json()["role"] == "router"


def test_a_byte_order_mark_passes(demo_service: ServiceProcess) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(chat_body("demo")).encode()
    assert demo_service.post("/v1/chat/completions", content=body).status_code == 200
