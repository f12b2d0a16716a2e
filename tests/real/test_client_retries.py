"""What the official clients send again by themselves, and what they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.real.conftest import Starter, StartFake, StartReal
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually

pytestmark = pytest.mark.real

LASTING = {
    "argument": "error: invalid argument: --nope",
    "architecture": "E llama_model_load: error loading model: unknown model architecture: 'new'",
    "damaged": "llama_model_load: error loading model: data is not within the file bounds",
    "missing": "gguf_init_from_file: failed to open GGUF file '/x' (No such file or directory)",
    "memory": "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9",
}


class Told:
    """The last answer to a client that failed, and how often it had tried again by then."""

    def __init__(self, error: openai.APIStatusError | anthropic.APIStatusError) -> None:
        response = error.response
        self.status = response.status_code
        self.headers = response.headers
        self.text = response.text
        self.retries = int(response.request.headers["x-stainless-retry-count"])
        self.body: Any = error.body


Ask = Callable[[ServiceProcess, str], Told]


def ask_openai(service: ServiceProcess, model: str) -> Told:
    with (
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="none") as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
    return Told(caught.value)


def ask_anthropic(
    service: ServiceProcess, model: str, text: str = "hi", *, stream: bool = False
) -> Told:
    with (
        anthropic.Anthropic(base_url=service.url, api_key="none") as client,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        client.messages.create(
            model=model,
            max_tokens=4,
            stream=stream,
            messages=[{"role": "user", "content": text}],
        )
    return Told(caught.value)


ASKS: dict[str, Ask] = {"openai": ask_openai, "anthropic": ask_anthropic}


def dying(line: str) -> dict[str, Any]:
    return {"die": {"after": 0.0, "stderr": [line], "exit": 1}}


def for_each(switches: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Models of its own for each client."""
    return {f"{name}-{client}": one for name, one in switches.items() for client in ASKS}


@pytest.fixture(scope="module")
def service(module_starter: Starter) -> ServiceProcess:
    return module_starter.fake(for_each({name: dying(line) for name, line in LASTING.items()}))


@pytest.mark.parametrize("client", ASKS)
def test_what_needs_a_person_is_asked_once(service: ServiceProcess, client: str) -> None:
    # The last one is told while the next try is not due yet.
    for name in (*LASTING, "argument"):
        told = ASKS[client](service, f"{name}-{client}")
        assert (told.status, told.retries) == (503, 0), name
        assert told.headers["x-should-retry"] == "false"
        assert "retry-after" not in told.headers


def test_what_may_pass_is_asked_again(start_fake: StartFake) -> None:
    switches = {"dies": dying("E srv: something went wrong"), "slow": {"load_seconds": 60.0}}
    service = start_fake(for_each(switches), config={"queue_timeout": 0.2})
    for client, ask in ASKS.items():
        for name in switches:
            told = ask(service, f"{name}-{client}")
            assert (told.status, told.retries) == (503, 2), name
            assert "x-should-retry" not in told.headers


def test_real_servers_and_files(starter: Starter, llama_server: Path, demo_gguf: Path) -> None:
    tables: dict[str, dict[str, Any]] = {}
    for client in ASKS:
        tables[f"refused-{client}"] = {"args": ["--no-such-argument"]}
        tables[f"gone-{client}"] = {"path": str(starter.folder / "gone.gguf")}
    refused = tuple(f"refused-{client}" for client in ASKS)
    service = starter.real(llama_server, {"models": tables, "max_body_size": 4096}, refused)
    models = service.data_dir / "models"
    whole = demo_gguf.read_bytes()
    for client in ASKS:
        # Its header is whole, its tensors are not.
        (models / f"cut-{client}.gguf").write_bytes(whole[: len(whole) // 2])
        (models / f"new-{client}.gguf").write_bytes(whole.replace(b"llama", b"lhama"))
    written = {f"{name}-{client}" for name in ("cut", "new") for client in ASKS}
    eventually(lambda: written <= service.models().keys())
    for client, ask in ASKS.items():
        for name in ("refused", "cut", "new", "gone"):
            told = ask(service, f"{name}-{client}")
            assert told.retries == 0, (name, told.text)
            assert told.headers["x-should-retry"] == "false"
            assert told.status in {404, 503}
    too_large = service.chat("demo", "x" * 8000)
    assert (too_large.status_code, too_large.headers["x-should-retry"]) == (413, "false")


def test_memory_that_cannot_be_freed(start_real: StartReal) -> None:
    service = start_real({"max_memory_percent": 0.1})
    for ask in ASKS.values():
        told = ask(service, "demo")
        assert "insufficient_memory" in told.text
        assert (told.retries, told.headers["x-should-retry"]) == (0, "false")


def test_what_a_server_cannot_do_is_asked_once(demo_service: ServiceProcess) -> None:
    with (
        openai.OpenAI(base_url=f"{demo_service.url}/v1", api_key="none") as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.embeddings.create(model="demo", input="hi")
    told = Told(caught.value)
    assert (told.status, told.retries) == (501, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_told_in_anthropics_shape(
    demo_service: ServiceProcess, stream: bool
) -> None:
    told = ask_anthropic(demo_service, "demo", "word " * 40_000, stream=stream)
    assert told.status == 400
    assert told.body["type"] == "error"
    assert told.body["error"]["type"] == "invalid_request_error"
    assert "context size" in told.body["error"]["message"]
