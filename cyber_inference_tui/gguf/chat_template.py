"""Recognizes in a chat template what a model can do. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

# A part that does not end reaches to the end of the text: so each search takes linear time.
_PARTS: Final = re.compile(r"\{#.*?(?:#\}|\Z)|\{[%{].*?(?:[%}]\}|\Z)", re.DOTALL)
_STRINGS: Final = re.compile(
    r"'(?:[^'\\]|\\.|\\\Z)*(?:'|\Z)|\"(?:[^\"\\]|\\.|\\\Z)*(?:\"|\Z)", re.DOTALL
)
_TOOLS: Final = re.compile(r"(?<![\w.])tools\b")
_THINKING_VARIABLES: Final = re.compile(
    r"\b(?:enable_thinking|thinking|reasoning_content|reasoning_effort|thinking_budget)\b"
)
# The marks around thoughts of DeepSeek, Qwen and others, of Command, Magistral, gpt-oss and Gemma.
_THINKING_MARKS: Final = re.compile(
    r"<[|/]?(?:seed:)?think(?:ing)?\|?>|START_THINKING|\[THINK\]|<\|channel\|?>", re.IGNORECASE
)


class TemplateFacts(msgspec.Struct, frozen=True):
    """The abilities that a model's chat template shows."""

    tools: bool = False
    """It tells the model which tools it may call."""
    thinking: bool = False
    """It knows the model's thoughts, apart from its answer."""


def read_template(template: str) -> TemplateFacts:
    """Return the abilities that a Jinja template shows.

    A template takes tools if its code reads the variable ``tools``. It is one of a model that
    thinks if it has the marks around thoughts, or reads a variable that only such models have.
    """
    template = _PARTS.sub(lambda found: "" if found[0].startswith("{#") else found[0], template)
    code = "\n".join(_STRINGS.sub("''", found[0]) for found in _PARTS.finditer(template))
    return TemplateFacts(
        tools=_TOOLS.search(code) is not None,
        thinking=(_THINKING_VARIABLES.search(code) or _THINKING_MARKS.search(template)) is not None,
    )
