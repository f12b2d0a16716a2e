"""The abilities of a server's chat template."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cyber_inference_tui.gguf.chat_template import TemplateFacts
from cyber_inference_tui.llama.props import parse_props

TEMPLATE = "{% if tools %}{{ '<think>' }}{% endif %}"


@pytest.mark.parametrize(
    ("props", "expected"),
    [
        ({"chat_template": TEMPLATE}, TemplateFacts(tools=True, thinking=True)),
        (
            {"chat_template": TEMPLATE, "chat_template_caps": {"supports_tools": False}},
            TemplateFacts(thinking=True),
        ),
        (
            {"chat_template": "", "chat_template_caps": {"supports_tools": True, "x": 1}},
            TemplateFacts(tools=True),
        ),
        ({"chat_template": TEMPLATE, "chat_template_caps": {}}, TemplateFacts(True, True)),
        ({"chat_template": None}, None),
        ({}, None),
        ([], None),
    ],
)
def test_facts_of_an_answer(props: Any, expected: TemplateFacts | None) -> None:
    assert parse_props(json.dumps(props).encode()) == expected


def test_a_damaged_answer_has_no_facts() -> None:
    assert parse_props(b'{"chat_template": "\xff"}') is None
    assert parse_props(b"[" * 10_000) is None
