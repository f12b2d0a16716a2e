"""The official ``anthropic`` client, unmodified, on ``/v1/messages``."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest
from anthropic import Anthropic

from tests.real.service_process import ServiceProcess

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def client(demo_service: ServiceProcess) -> Iterator[Anthropic]:
    with Anthropic(base_url=demo_service.url, api_key="none", max_retries=0) as client:
        yield client


def test_message(client: Anthropic) -> None:
    answer = client.messages.create(
        model="demo", max_tokens=12, messages=[{"role": "user", "content": "hello"}]
    )
    assert answer.role == "assistant"
    assert answer.usage.output_tokens > 0
    assert any(block.type == "text" and block.text for block in answer.content)


def test_message_stream(client: Anthropic) -> None:
    with client.messages.stream(
        model="demo", max_tokens=12, messages=[{"role": "user", "content": "hello"}]
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text
    assert final.stop_reason in {"end_turn", "max_tokens"}


def test_count_tokens(client: Anthropic) -> None:
    counted = client.messages.count_tokens(
        model="demo", messages=[{"role": "user", "content": "hello"}]
    )
    assert counted.input_tokens > 0


def test_errors_have_anthropics_shape(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(
            model="no-such-model", max_tokens=4, messages=[{"role": "user", "content": "hello"}]
        )
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert body["error"]["type"] == "not_found_error"
    assert "no-such-model" in body["error"]["message"]
