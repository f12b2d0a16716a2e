"""The official ``ollama`` client, unmodified: lists, pulls, chats, embeddings and loads."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gguf.synthetic_projector import projector
from tests.hub.stand_in_hub import StandInHub
from tests.real.conftest import Starter, StartFake
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually

ollama = pytest.importorskip("ollama")
pytestmark = pytest.mark.real

HELLO = [{"role": "user", "content": "hello"}]
FEW = {"num_predict": 6, "temperature": 0, "seed": 1, "num_ctx": 4096}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
# It thinks, as those of Qwen do, unless the request forbids it.
TEMPLATE = """\
{%- for message in messages %}{{ message.content }} {% endfor -%}
{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false -%}
<think></think>{% elif add_generation_prompt %}<think>{% endif -%}"""


@pytest.fixture(scope="module")
def service(
    llama_server: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("ollama")
    template = folder / "thinker.jinja"
    template.write_text(TEMPLATE)
    tables: dict[str, dict[str, Any]] = {
        "embedder": {"args": ["--embedding", "--pooling", "mean"], "aliases": ["vectors"]},
        "thinker": {"args": ["--chat-template-file", str(template)]},
        "endless": {"request_overrides": {"ignore_eos": True}},
        "caller": {"request_overrides": {"tool_choice": "required"}},
        "seer": {"mmproj": str(folder / "mmproj.gguf")},
    }
    projector(image=224, width=1120).write(folder / "mmproj.gguf")
    one = Starter(folder, demo_gguf)
    with StandInHub() as hub:
        # A file that differs from those of the other models: a copy would not be downloaded.
        hub.add("owner/tiny-GGUF", {"Tiny-Q8_0.gguf": demo_gguf.read_bytes() + bytes(4096)})
        config = {"models": tables, "hf_endpoint": hub.url, "hf_allowed_hosts": [hub.cdn]}
        yield one.real(llama_server, config, tuple(tables))
        one.end()


@pytest.fixture(scope="module")
def client(service: ServiceProcess) -> Iterator[Any]:
    client = ollama.Client(host=service.url, timeout=60)
    yield client
    client._client.close()


def test_lists(client: Any) -> None:
    listed = {one.model: one for one in client.list().models}
    assert {"demo", "vectors", "seer"} <= listed.keys()
    assert listed["demo"].details.parameter_size == "5.12M"
    shown = client.show("demo")
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo["llama.context_length"] == 8192
    client.generate(model="demo")
    (loaded,) = (one for one in client.ps().models if one.model == "demo")
    assert loaded.digest == listed["demo"].digest
    assert loaded.expires_at > loaded.expires_at.now(loaded.expires_at.tzinfo)


def test_names_and_files(client: Any) -> None:
    name = "hf.co/owner/tiny-GGUF:Q8_0"
    first, *parts, last = client.pull(name, stream=True)
    assert (first.status, last.status) == ("pulling manifest", "success")
    end = [part for part in parts if part.digest][-1]
    assert end.completed == end.total > 0
    assert end.digest.startswith("sha256:")
    assert client.pull(name).status == "success"
    assert client.copy(name, "short").status == "success"
    client.create("brief", from_=name, system="Be brief.", parameters={"num_predict": 3})
    assert client.chat(model="brief", messages=HELLO).eval_count == 3
    names = {name, "Tiny-Q8_0", "short", "brief"}
    assert names <= {one.model for one in client.list().models}
    assert client.delete("short").status == "success"
    client.delete("Tiny-Q8_0")
    assert not names & {one.model for one in client.list().models}
    for name in ("short", "nope"):
        with pytest.raises(ollama.ResponseError, match=f"model '{name}' not found") as caught:
            client.delete(name)
        assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="was not found"):
        list(client.pull("hf.co/owner/none", stream=True))


def test_chat(client: Any) -> None:
    whole = client.chat(model="demo", messages=HELLO, options=FEW)
    assert whole.message.role == "assistant"
    assert whole.message.content
    assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 6)
    assert whole.prompt_eval_count > 0
    for duration in (whole.total_duration, whole.load_duration, whole.eval_duration):
        assert duration > 0
    *parts, last = client.chat(model="demo:latest", messages=HELLO, options=FEW, stream=True)
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert not any(part.done for part in parts)
    assert {part.model for part in parts} == {"demo:latest"}
    assert (last.done, last.done_reason, last.eval_count) == (True, "length", 6)


def test_chat_in_a_given_format(client: Any) -> None:
    schema = {"type": "object", "properties": {"c": {"enum": ["red"]}}, "required": ["c"]}
    found = client.chat(model="demo", messages=HELLO, format=schema, options={"num_predict": 60})
    assert json.loads(found.message.content) == {"c": "red"}
    found = client.generate(model="demo", prompt="hello", raw=True, format=schema)
    assert json.loads(found.response) == {"c": "red"}
    found = client.chat(model="demo", messages=HELLO, format="json", options={"num_predict": 4})
    assert found.message.content.lstrip().startswith("{")


def test_tools(client: Any) -> None:
    asked: dict[str, Any] = {"model": "demo", "tools": [WEATHER], "options": FEW}
    assert client.chat(messages=HELLO, **asked).done
    called = {"function": {"name": "weather", "arguments": {"city": "Köln"}}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "tool_name": "weather", "content": "sunny"},
    ]
    assert client.chat(messages=messages, **asked).message.content


def test_a_call_of_a_tool(client: Any) -> None:
    asked: dict[str, Any] = {"model": "caller", "messages": HELLO, "tools": [WEATHER]}
    (called,) = client.chat(**asked).message.tool_calls
    assert called.function.name == "weather"
    assert called.function.arguments.keys() == {"city"}
    *_, before, last = client.chat(**asked, stream=True)
    (called,) = before.message.tool_calls
    assert called.function.arguments.keys() == {"city"}
    assert (before.done, last.done, last.message.tool_calls) == (False, True, None)


def test_images(client: Any) -> None:
    asked = {"role": "user", "content": "what is it?", "images": [PICTURE]}
    found = client.chat(model="seer", messages=[asked], options=FEW)
    assert found.message.content
    # The picture takes tokens of its own.
    assert found.prompt_eval_count > 20
    *_, last = client.generate(
        model="seer", prompt="what?", images=[PICTURE], options=FEW, stream=True
    )
    assert last.prompt_eval_count > 20
    with pytest.raises(ollama.ResponseError, match='"demo" does not support images'):
        client.chat(model="demo", messages=[asked])


def test_thoughts(client: Any, service: ServiceProcess) -> None:
    with pytest.raises(ollama.ResponseError, match='"demo" does not support thinking'):
        client.chat(model="demo", messages=HELLO, think=True)
    # What a template of the settings can do is known soon after the load.
    assert client.chat(model="thinker", messages=[]).done_reason == "load"
    eventually(lambda: "thinking" in service.model("thinker")["capabilities"])
    found = client.chat(model="thinker", messages=HELLO, think=True, options=FEW)
    assert (found.message.content, bool(found.message.thinking)) == ("", True)
    found = client.chat(model="thinker", messages=HELLO, think=False, options=FEW)
    assert (bool(found.message.content), found.message.thinking) == (True, None)
    parts = client.chat(model="thinker", messages=HELLO, think="low", options=FEW, stream=True)
    assert "".join(part.message.thinking or "" for part in parts)


def test_probabilities(client: Any, service: ServiceProcess) -> None:
    options = {"num_predict": 2, "temperature": 0}
    asked = {"model": "demo", "logprobs": True, "top_logprobs": 2, "options": options}
    for path, more in (
        ("/api/chat", {"messages": HELLO}),
        ("/api/generate", {"prompt": "hello"}),
        ("/api/generate", {"prompt": "hello", "raw": True}),
    ):
        found = service.post(path, json={**asked, **more, "stream": False}).json()
        assert len(found["logprobs"]) == 2
        for token in found["logprobs"]:
            assert token.keys() == {"token", "logprob", "bytes", "top_logprobs"}
            assert len(token["top_logprobs"]) == 2
        lines = service.post(path, json={**asked, **more}).text.splitlines()
        answered = [token for line in lines for token in json.loads(line).get("logprobs", [])]
        assert answered == found["logprobs"]


def test_generate(client: Any) -> None:
    whole = client.generate(model="demo", prompt="hello", system="be brief", options=FEW)
    assert whole.response
    assert (whole.done_reason, whole.eval_count) == ("length", 6)
    *parts, last = client.generate(
        model="demo", prompt="hello", system="be brief", options=FEW, stream=True
    )
    assert "".join(part.response for part in parts) == whole.response
    assert last.context == whole.context
    again = client.generate(model="demo", prompt="more", context=whole.context, options=FEW)
    assert again.prompt_eval_count > whole.prompt_eval_count
    raw = client.generate(model="demo", prompt="the sea", raw=True, options=FEW)
    assert raw.response
    assert raw.prompt_eval_count < whole.prompt_eval_count
    with pytest.raises(ollama.ResponseError, match='"demo" does not support insert'):
        client.generate(model="demo", prompt="x", suffix="y")


def test_embeddings(client: Any) -> None:
    found = client.embed(model="vectors", input=["the sea", "a story"])
    assert len(found.embeddings) == 2
    assert found.prompt_eval_count > 2
    for vector in found.embeddings:
        assert sum(number * number for number in vector) == pytest.approx(1, abs=1e-3)
    (vector,) = client.embed(model="vectors", input="the sea").embeddings
    assert vector == pytest.approx(found.embeddings[0], abs=1e-4)
    (cut,) = client.embed(model="vectors", input="the sea", dimensions=40).embeddings
    assert len(cut) == 40
    old = client.embeddings(model="vectors", prompt="the sea")
    assert old.embedding == pytest.approx(vector, abs=1e-4)
    assert client.embed(model="vectors", input="").embeddings == []
    with pytest.raises(ollama.ResponseError) as caught:
        client.embed(model="demo", input="x")
    assert caught.value.status_code == 501
    with pytest.raises(ollama.ResponseError, match='"vectors" does not support chat'):
        client.chat(model="vectors", messages=HELLO)


def test_unknown_models(client: Any) -> None:
    for ask in (
        lambda: client.chat(model="nope", messages=HELLO),
        lambda: list(client.chat(model="nope", messages=HELLO, stream=True)),
        lambda: client.generate(model="nope", prompt="x"),
        lambda: client.embed(model="nope", input="x"),
    ):
        with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
            ask()
        assert caught.value.status_code == 404


def test_an_error_of_llama_server(client: Any) -> None:
    long = [{"role": "user", "content": "the quick brown " * 20_000}]
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="exceeds the available context") as caught:
            list(client.chat(model="demo", messages=long, stream=stream))
        assert caught.value.status_code == 400


def test_a_conversation_that_is_too_long_loses_its_oldest_messages(client: Any) -> None:
    turns = [
        {"role": role, "content": "the quick brown " * 200}
        for _ in range(30)
        for role in ("user", "assistant")
    ]
    system = {"role": "system", "content": "be brief"}
    asked: dict[str, Any] = {"model": "demo", "messages": [system, *turns, *HELLO], "options": FEW}
    for stream in (False, True):
        found = client.chat(**asked, stream=stream)
        last = list(found)[-1] if stream else found
        assert last.eval_count == 6
        # A quarter of the context is free.
        assert 2000 < last.prompt_eval_count < 6200


def test_keys(start_fake: StartFake, monkeypatch: pytest.MonkeyPatch) -> None:
    service = start_fake({"a": {}}, config={"api_keys": ["secret"]})
    with ollama.Client(host=service.url) as client, pytest.raises(ollama.ResponseError) as caught:
        client.list()
    assert caught.value.status_code == 401
    monkeypatch.setenv("OLLAMA_API_KEY", "secret")
    with ollama.Client(host=service.url) as client:
        assert [one.model for one in client.list().models] == ["a"]
        assert client.chat(model="a", messages=HELLO).done


def test_keep_alive(client: Any, service: ServiceProcess) -> None:
    client.chat(model="demo", messages=HELLO, options=FEW, keep_alive=-1)
    eventually(lambda: service.model("demo")["in_flight"] == 0)
    assert service.model("demo")["unload_at"] is None
    client.generate(model="demo", keep_alive="10m")
    assert service.model("demo")["unload_at"] is not None
    # After this request, at once.
    client.chat(model="demo", messages=HELLO, options=FEW, keep_alive=0)
    service.wait_status("demo", "unloaded")
    assert client.generate(model="demo").done_reason == "load"
    service.wait_status("demo", "loaded")
    assert client.generate(model="demo", keep_alive=0).done_reason == "unload"
    service.wait_status("demo", "unloaded")


def test_an_abort_ends_the_request(service: ServiceProcess) -> None:
    async def abort() -> None:
        client = ollama.AsyncClient(host=service.url, timeout=60)
        async for part in await client.chat(model="endless", messages=HELLO, stream=True):
            if part.message.content:
                break
        await client._client.aclose()

    asyncio.run(abort())
    eventually(lambda: service.model("endless")["in_flight"] == 0)
    records = service.get("/admin/requests?limit=5").json()
    assert (records[0]["path"], records[0]["status"]) == ("/api/chat", 499)
