"""The place at which a prompt differs from the same client's earlier ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cyber_inference_tui.service.prompt_prefixes import (
    MAX_CLIENTS,
    MAX_PROMPTS,
    Difference,
    PromptPrefixes,
)

TEXT = " ".join(f"word{number}" for number in range(2000))


def chat(*contents: str, **fields: Any) -> bytes:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(contents)]
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()


def test_a_continued_conversation_does_not_differ() -> None:
    prefixes = PromptPrefixes()
    assert prefixes.take("m", "a", chat(TEXT)) is None
    assert prefixes.take("m", "a", chat(TEXT, "yes", "go on")) is None
    assert (
        prefixes.take(
            "m",
            "a",
            chat(TEXT, "yes", "go on"),
        )
        is None
    )


@pytest.mark.parametrize("at", [0, 79, 2040, 2047, 2048, 9000])
def test_the_first_difference_is_found_to_its_block(at: int) -> None:
    prefixes = PromptPrefixes()
    prefixes.take("m", "a", chat(TEXT))
    changed = f"{TEXT[:at]}#{TEXT[at + 1 :]}"
    found = prefixes.take("m", "a", chat(changed))
    assert found is not None
    assert found.at <= at < found.at + (8 if at < 2048 else 64)
    assert found.part == "message 1"


def test_the_part_is_named_in_the_order_of_the_prompt() -> None:
    prefixes = PromptPrefixes()
    system = [{"type": "text", "text": "You are a program. cch=0001; " + TEXT[:200]}]
    tools = [{"name": "read", "description": TEXT[:300]}]
    prefixes.take("m", "a", chat(TEXT, system=system, tools=tools))
    system[0]["text"] = system[0]["text"].replace("0001", "0002")
    assert prefixes.take("m", "a", chat(TEXT, system=system, tools=tools)) == Difference(
        24, "the system prompt"
    )
    tools[0]["name"] = "write"
    found = prefixes.take("m", "a", chat(TEXT, system=system, tools=tools))
    assert found is not None
    assert found.part == "the tools"
    # OpenAI's system prompt is a message.
    openai = json.loads(chat(TEXT, "yes"))
    openai["messages"].insert(0, {"role": "system", "content": TEXT[:100]})
    prefixes.take("m", "b", json.dumps(openai).encode())
    openai["messages"][2]["content"] = "no" * 50
    openai["messages"].append({"role": "user", "content": TEXT[:100]})
    changed = prefixes.take("m", "b", json.dumps(openai).encode())
    assert changed is None  # what is after the other prompt's last complete block
    openai["messages"][1]["content"] = TEXT[:500] + "!" + TEXT[501:]
    found = prefixes.take("m", "b", json.dumps(openai).encode())
    assert found == Difference(600 // 8 * 8, "message 2")


def test_conversations_of_a_client_and_of_others_are_apart() -> None:
    prefixes = PromptPrefixes()
    other = TEXT[::-1]
    assert prefixes.take("m", "a", chat(TEXT)) is None
    assert prefixes.take("m", "b", chat(other)) is None
    assert prefixes.take("n", "a", chat(other)) is None
    # A second conversation of a client begins otherwise, and then both continue.
    assert prefixes.take("m", "a", chat(other)) is not None
    assert prefixes.take("m", "a", chat(TEXT, "yes")) is None
    assert prefixes.take("m", "a", chat(other, "no")) is None


def test_only_the_last_prompts_are_kept() -> None:
    prefixes = PromptPrefixes()
    prefixes.take("m", "a", chat(TEXT))
    for number in range(MAX_PROMPTS):
        assert prefixes.take("m", "a", chat(f"{number}{TEXT}")) is not None
    assert prefixes.take("m", "a", chat(TEXT, "yes")) is not None
    for number in range(MAX_CLIENTS):
        prefixes.take("m", f"other {number}", chat(TEXT))
    assert prefixes.take("m", "a", chat(f"!{TEXT}")) is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"messages": 5, "prompt": {}}', b'{"prompt": "short"}']
)
def test_a_body_without_a_prompt_is_ignored(body: bytes) -> None:
    prefixes = PromptPrefixes()
    assert prefixes.take("m", "a", body) is None
    assert prefixes.take("m", "a", body) is None
