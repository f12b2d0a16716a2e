"""The demo model on a real llama-server started by hand: it really talks, and stops talking."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cyber_inference_tui.gguf.demo_text import TOPICS

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "tags"],
}


@contextlib.contextmanager
def running(llama_server: Path, model: Path, *arguments: str) -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(llama_server), "--model", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--threads", "1", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/health").status_code == 200:
                        break
                time.sleep(0.01)
            assert process.poll() is None, "llama-server did not take the demo model"
            yield client
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(llama_server: Path, demo_gguf: Path) -> Iterator[httpx.Client]:
    with running(llama_server, demo_gguf) as client:
        yield client


def chat(server: httpx.Client, question: str, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 400, **more}
    answer = server.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.calls.split()[0])
def test_asked_about_a_subject_it_answers_on_it_and_ends(server: httpx.Client, topic: Any) -> None:
    subject = topic.calls.split()[0]
    choice = chat(server, f"Tell me about the {subject}.", temperature=0)
    assert choice["finish_reason"] == "stop"
    content = choice["message"]["content"]
    assert content.split()[:3] == topic.text.split()[:3]
    assert content.endswith((".", "!"))
    again = chat(server, f"Tell me about the {subject}.", temperature=0)
    assert again["message"]["content"] == content


def test_answers_vary_with_the_seed_and_go_on_as_long_as_asked(server: httpx.Client) -> None:
    answers = {
        chat(server, "Tell me something.", seed=seed)["message"]["content"] for seed in range(6)
    }
    assert len(answers) >= 3
    choice = chat(server, "Tell me something.", ignore_eos=True, max_tokens=1000)
    assert choice["finish_reason"] == "length"
    assert len(choice["message"]["content"].split()) > 600


def test_every_text_survives_tokens(server: httpx.Client) -> None:
    text = "Naïve 🙂 text,\n\ttabs \\ and \\x00 <odd> marks\r\n by the sea."
    tokens = server.post("/tokenize", json={"content": text}).json()["tokens"]
    assert server.post("/detokenize", json={"tokens": tokens}).json()["content"] == text
    known = server.post("/tokenize", json={"content": "Tell me about the sea."}).json()["tokens"]
    assert len(known) < 12


def test_json_by_schema(server: httpx.Client) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    for seed in range(4):
        choice = chat(server, "Describe a person.", seed=seed, response_format=wanted)
        assert choice["finish_reason"] == "stop"
        person = json.loads(choice["message"]["content"])
        assert isinstance(person["age"], int)
        assert person["name"]


def test_a_tool_is_called_where_the_request_demands_it(server: httpx.Client) -> None:
    function = {"name": "get_weather", "parameters": SCHEMA}
    tools = [{"type": "function", "function": function}]
    choice = chat(server, "Weather?", temperature=0, tools=tools, tool_choice="required")
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]["function"]
    assert call["name"] == "get_weather"
    assert set(json.loads(call["arguments"])) == {"name", "age", "tags"}
    plain = chat(server, "Weather?", temperature=0, tools=tools)
    assert plain["finish_reason"] == "stop"
    assert "tool_call" not in plain["message"]["content"]


def test_the_template_takes_every_role(server: httpx.Client) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "system", "content": "SYSTEM"},
        {"role": "user", "content": [{"type": "text", "text": "USER"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "RESULT"},
    ]
    prompt = server.post("/apply-template", json={"messages": messages}).json()["prompt"]
    places = [prompt.index(text) for text in ("SYSTEM", "USER", '"name": "f"', "RESULT")]
    assert places == sorted(places)
    assert prompt.endswith("<|assistant|>")


def test_it_streams(server: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 5}
    with server.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 5


def test_embeddings_tell_what_is_alike(llama_server: Path, demo_gguf: Path) -> None:
    with running(llama_server, demo_gguf, "--embedding", "--pooling", "mean") as client:
        texts = ["the boats on the sea", "a boat at sea", "bake the bread"]
        data = client.post("/v1/embeddings", json={"input": texts}).json()["data"]
    sea, boat, bread = (item["embedding"] for item in data)

    def likeness(left: list[float], right: list[float]) -> float:
        return sum(x * y for x, y in zip(left, right, strict=True))

    assert likeness(sea, boat) > likeness(sea, bread)
