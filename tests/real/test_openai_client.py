"""The official ``openai`` client, unmodified, against the service and a real llama-server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.real.service_process import ServiceProcess

pytestmark = pytest.mark.real

WEATHER_TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
VERDICT_SCHEMA = {
    "type": "object",
    "properties": {"good": {"type": "boolean"}},
    "required": ["good"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(demo_service: ServiceProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{demo_service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_list_and_retrieve(client: OpenAI) -> None:
    ids = {model.id for model in client.models.list()}
    assert {"demo", "embedder"} <= ids
    model = client.models.retrieve("demo")
    assert (model.id, model.object) == ("demo", "model")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


def test_chat_is_deterministic_at_temperature_zero(client: OpenAI) -> None:
    answers = {
        client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "hello"}],
            temperature=0,
            max_tokens=12,
        )
        .choices[0]
        .message.content
        for _ in range(2)
    }
    assert len(answers) == 1
    assert answers.pop()


def test_chat_stream_with_usage(client: OpenAI) -> None:
    text, usage, finish = "", None, None
    with client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
            usage = chunk.usage or usage
    assert text
    assert finish in {"stop", "length"}
    assert usage is not None
    assert usage.prompt_tokens > 0
    assert 0 < usage.completion_tokens <= 12


def test_tools(client: OpenAI) -> None:
    """The tools, a call and its result reach the model's template; the demo calls none itself."""
    question: ChatCompletionMessageParam = {"role": "user", "content": "How is the weather?"}
    call: ChatCompletionMessageParam = {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
            }
        ],
    }
    result: ChatCompletionMessageParam = {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": "It rains.",
    }

    def prompt_tokens(messages: list[ChatCompletionMessageParam], *, tools: bool) -> int:
        answer = client.chat.completions.create(
            model="demo",
            messages=messages,
            tools=[WEATHER_TOOL] if tools else openai.omit,
            tool_choice="auto" if tools else openai.omit,
            max_tokens=8,
            temperature=0,
        )
        assert answer.choices[0].message.content or answer.choices[0].message.tool_calls
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    bare = prompt_tokens([question], tools=False)
    with_tools = prompt_tokens([question], tools=True)
    assert with_tools > bare + 20
    assert prompt_tokens([question, call, result], tools=True) > with_tools + 10


def test_json_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Is it good?"}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "verdict", "schema": VERDICT_SCHEMA, "strict": True},
        },
        max_tokens=60,
        temperature=0,
    )
    verdict = json.loads(answer.choices[0].message.content or "")
    assert isinstance(verdict["good"], bool)


def test_logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "hello"}],
        logprobs=True,
        top_logprobs=3,
        max_tokens=4,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert len(logprobs.content[0].top_logprobs) == 3


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt="the", max_tokens=5, temperature=0)
    assert answer.choices[0].text
    with client.completions.create(model="demo", prompt="the", max_tokens=5, stream=True) as stream:
        assert "".join(choice.text for chunk in stream for choice in chunk.choices)


def test_embeddings(client: OpenAI) -> None:
    answer = client.embeddings.create(model="embedder", input=["a house", "a house", "the sea"])
    first, second, third = (item.embedding for item in answer.data)
    assert first == second
    assert first != third
    assert any(first)


def test_responses(client: OpenAI) -> None:
    answer = client.responses.create(model="demo", input="hello", max_output_tokens=12)
    assert answer.output_text
    with client.responses.create(
        model="demo", input="hello", max_output_tokens=12, stream=True
    ) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def test_unknown_model_is_not_answered_by_another(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(
            model="demo2", messages=[{"role": "user", "content": "hello"}]
        )
    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"
