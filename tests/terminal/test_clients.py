"""Names of clients, and the ports they use."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cyber_inference_tui.records import (
    ClientRecord,
    LlamaServerRecord,
    PortRecord,
    RequestRecord,
    StatusRecord,
)
from cyber_inference_tui.terminal.clients import Caller, client_name, port_uses
from cyber_inference_tui.text import program

NOW = datetime(2026, 3, 4, tzinfo=UTC)


def caller(port: int | None = 8337, **fields: Any) -> Caller:
    return RequestRecord(
        at=NOW, model="m", path="/", status=200, duration_seconds=1.0, port=port, **fields
    )


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("OpenAI/Python 1.109.1", "OpenAI/Python"),
        ("claude-cli/2.0.1 (external, cli)", "claude-cli"),
        ("ai-sdk/openai-compatible/2.0.92 runtime/node.js/v20", "ai-sdk/openai-compatible"),
        ("/1.0", "/1.0"),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "browser"),
        ("x" * 200, "x" * 40),
    ],
)
def test_a_program_is_its_first_product(user_agent: str, name: str) -> None:
    assert program(user_agent) == name


def test_a_client_is_named_by_program_and_key() -> None:
    assert client_name(caller(user_agent="curl/8.5.0", key_name="2")) == "curl (key 2)"
    assert client_name(caller(client="10.0.0.7")) == "10.0.0.7"
    assert client_name(caller(client="10.0.0.7", key_name="laptop")) == "10.0.0.7 (key laptop)"
    assert client_name(caller()) == ""


def test_ports_have_their_clients_once_and_in_order() -> None:
    status = StatusRecord(
        version="1",
        pid=1,
        uptime_seconds=1.0,
        host="127.0.0.1",
        port=8337,
        extra_ports=(PortRecord(port=11434), PortRecord(port=8080, problem="in use by nginx")),
        llama_server=LlamaServerRecord(),
        models_loaded=0,
        requests_in_flight=0,
        requests_queued=0,
    )
    total = ClientRecord(
        user_agent="ollama/1", key_name=None, client=None, port=11434, requests=9, last_used_at=NOW
    )
    curl = caller(user_agent="curl/8.5.0")
    callers = [curl, total, caller(client="::1"), curl, caller(port=None)]
    assert [(use.port, use.in_words) for use in port_uses(status, callers)] == [
        (8337, "open, used by curl, ::1"),
        (11434, "open, used by ollama"),
        (8080, "not open: in use by nginx"),
    ]
    assert port_uses(status, [])[1].in_words == "open"
