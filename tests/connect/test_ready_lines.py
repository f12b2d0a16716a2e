"""Lines to copy are valid in their languages, and have the address, the key and the model."""

from __future__ import annotations

import ast
import json
import shlex
from dataclasses import replace
from typing import Any

import pytest

from cyber_inference_tui.connect.clients import CLIENTS
from cyber_inference_tui.connect.connection import Connection, Model
from cyber_inference_tui.connect.ready_lines import Kind, ReadyLines, ready_lines

ODD = Model('it\'s a "model" $(x) \\ 模', 65536)
PLAIN = Model("demo", 2048)
WITH_KEY = Connection("http://[::1]:9000", "sk-'$key", ODD, ODD, (ODD,))
WITHOUT = Connection("http://127.0.0.1:8337", "", PLAIN, PLAIN, (PLAIN,))
KINDS: tuple[Kind, ...] = ("chat", "embeddings", "rerank")


def of(connection: Connection, title: str, kind: Kind = "chat") -> ReadyLines:
    return next(lines for lines in ready_lines(connection, kind) if lines.title == title)


def words(lines: ReadyLines) -> list[str]:
    """The arguments, as a shell splits them."""
    return shlex.split(lines.text.replace("\\\n", ""))


@pytest.mark.parametrize("kind", KINDS)
def test_curl_sends_json_and_the_key(kind: Kind) -> None:
    program, url, *options = words(of(WITH_KEY, "curl", kind))
    assert program == "curl"
    assert url.startswith("http://[::1]:9000/v1/")
    assert "Authorization: Bearer sk-'$key" in options
    assert json.loads(options[options.index("-d") + 1])["model"] == ODD.id
    assert "Authorization" not in of(WITHOUT, "curl", kind).text


def strings(text: str) -> set[Any]:
    """The strings of a Python program."""
    return {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}


@pytest.mark.parametrize("title", ["OpenAI Python", "Anthropic"])
def test_python_has_the_values_as_they_are(title: str) -> None:
    found = strings(of(WITH_KEY, title).text)
    assert {ODD.id, "sk-'$key"} <= found
    assert found & {"http://[::1]:9000", "http://[::1]:9000/v1"}
    assert "none" in strings(of(WITHOUT, title).text)


def test_embedding_models_get_no_chat() -> None:
    lines = ready_lines(WITHOUT, "embeddings")
    assert [one.title for one in lines] == ["curl", "OpenAI Python", "OpenAI JS"]
    assert all("embeddings" in one.text and "messages" not in one.text for one in lines)
    ast.parse(lines[1].text)
    assert [one.title for one in ready_lines(WITHOUT, "rerank")] == ["curl"]


def test_every_client_has_lines_once() -> None:
    lines = ready_lines(WITHOUT)
    titles = [one.title for one in lines]
    assert len(set(titles)) == len(titles)
    assert {client.title for client in CLIENTS.values()} <= set(titles)
    assert titles[4:6] == ["Claude Code", "Open WebUI"]
    assert all("demo" in one.text for one in lines)


def test_claude_code_gets_its_variables_and_is_started() -> None:
    lines = of(WITH_KEY, "Claude Code")
    assert lines.text.startswith("export ANTHROPIC_BASE_URL='http://[::1]:9000'\n")
    assert lines.text.endswith("\nclaude\n")
    assert "connect claude-code" in lines.note
    assert "needs about 65,536" in of(WITHOUT, "Claude Code").note
    assert "needs about" not in lines.note


def test_the_command_names_an_unusual_address() -> None:
    assert words(of(WITHOUT, "Aider")) == [
        *("cyber-inference-tui", "connect", "aider", "--model", "demo")
    ]
    assert words(of(WITH_KEY, "Aider"))[-4:] == ["--host", "::1", "--port", "9000"]
    secure = replace(WITHOUT, url="https://llm.example")
    titles = [one.title for one in ready_lines(secure)]
    assert "Aider" not in titles, "no option says https"
    assert {"Claude Code", "Open WebUI"} <= set(titles)
    assert "`" not in of(secure, "Claude Code").note
