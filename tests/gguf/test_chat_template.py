"""The abilities that a chat template shows."""

from __future__ import annotations

import pytest

from cyber_inference_tui.gguf.chat_template import TemplateFacts, read_template
from cyber_inference_tui.gguf.demo import CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("template", "tools", "thinking"),
    [
        ("", False, False),
        ("{{ messages }} with tools", False, False),
        ("{# tools and <think> #}{{ messages }}", False, False),
        ("{{ 'Here are the tools: <x>' }}", False, False),
        ("{{ message.tools }}{{ my_tools }}", False, False),
        ("{%- if tools %}{{ tools | tojson }}{%- endif %}", True, False),
        ("{% for tool in tools %}{{ tool }}{% endfor %}", True, False),
        ("{% set first = not tools is none %}", True, False),
        ("{{ '<think>\\n' }}", False, True),
        ("{{ content.split('</think>')[-1] }}", False, True),
        ("{%- if enable_thinking is false %}{%- endif %}", False, True),
        ("{{ message.reasoning_content }}", False, True),
        ("{{ '<|START_THINKING|>' }}", False, True),
        ("{{ '[THINK]' }}", False, True),
        ("{{ '<|channel|>analysis' }}", False, True),
        ("{{ 'Think step by step about thinking.' }}", False, False),
        ("{% if unfinished %", False, False),
    ],
)
def test_abilities(template: str, tools: bool, thinking: bool) -> None:
    assert read_template(template) == TemplateFacts(tools=tools, thinking=thinking)


@pytest.mark.parametrize(
    "part", ["{#", "{%", "{{'", "{{'\\'", '{{"\\', "{# #}", "{{ '' }}", "<|think"]
)
def test_a_hostile_template_takes_linear_time(part: str) -> None:
    assert not read_template(part * (256 * 1024 // len(part))).tools


def test_the_built_in_model_takes_tools() -> None:
    assert read_template(CHAT_TEMPLATE).tools
