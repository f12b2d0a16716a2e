"""Each check sees what it is for: with it changed to what is right, it is content."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.chaos.checks import (
    MORE_DESCRIPTORS,
    MORE_MEMORY,
    Down,
    Seen,
    Usage,
    WrongError,
    grown,
    orphans,
    outcome,
    wrong_state,
)
from tests.chaos.clients import Asked, Exchange
from tests.chaos.world import marked
from tests.waiting import eventually

CHAT = Asked("chat", "/v1/chat/completions", {})
STREAM = Asked("stream", "/v1/chat/completions", {}, streams=True)
ANTHROPIC = Asked("anthropic", "/v1/messages", {}, "anthropic", streams=True)
OLLAMA = Asked("ollama", "/api/chat", {}, "ollama", streams=True)
UNKNOWN = Asked("unknown", "/v1/chat/completions", {}, unknown=True)
ERROR = {"message": "no", "type": "server_error", "param": None, "code": "upstream_failed"}


def exchange(asked: Asked, status: int | None, content: Any = b"", lost: str | None = None) -> Any:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Exchange(asked, began=10.0, ended=11.0, status=status, content=data, lost=lost)


def sse(*values: str) -> bytes:
    return b"".join(f"data: {value}\n\n".encode() for value in values)


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (exchange(CHAT, 200, {"choices": [{}]}), "answer"),
        (exchange(CHAT, 502, {"error": ERROR}), "error"),
        (exchange(CHAT, 200, lost="IncompleteRead"), "cut after its beginning"),
        (exchange(UNKNOWN, 404, {"error": ERROR}), "error"),
        (exchange(STREAM, 200, sse("{}", "[DONE]")), "answer"),
        (exchange(STREAM, 200, sse("{}", json.dumps({"error": ERROR}))), "error in the stream"),
        (exchange(ANTHROPIC, 200, sse('{"type":"message_stop"}')), "answer"),
        (exchange(ANTHROPIC, 503, {"type": "error", "error": ERROR}), "error"),
        (exchange(OLLAMA, 200, b'{"done":false}\n{"done":true}\n'), "answer"),
        (exchange(OLLAMA, 200, b'{"done":false}\n{"error":"it died"}\n'), "error in the stream"),
        (exchange(OLLAMA, 404, {"error": "no such model"}), "error"),
    ],
)
def test_good_outcomes(seen: Exchange, name: str) -> None:
    assert outcome(seen, ()) == name


@pytest.mark.parametrize(
    "seen",
    [
        exchange(CHAT, None, lost="TimeoutError: timed out"),
        exchange(CHAT, None, lost="ConnectionResetError"),
        exchange(CHAT, 200, b"half of an answ"),
        exchange(CHAT, 200, {"choices": []}),
        exchange(CHAT, 502, b"<html>Bad Gateway</html>"),
        exchange(CHAT, 502, {"error": "a sentence"}),
        exchange(CHAT, 502, {"error": {"message": "no", "type": "x"}}),
        exchange(CHAT, 500, {"error": ERROR}),
        exchange(UNKNOWN, 200, {"choices": [{}]}),
        exchange(STREAM, 200, sse("{}")),
        exchange(STREAM, 200, b""),
        exchange(STREAM, 200, sse("{}"), lost="IncompleteRead"),
        exchange(STREAM, 200, sse(json.dumps({"error": ERROR}), "[DONE]")),
        exchange(ANTHROPIC, 200, sse("{}", "[DONE]")),
        exchange(ANTHROPIC, 503, {"error": ERROR}),
        exchange(OLLAMA, 200, b'{"done":false}\n'),
        exchange(OLLAMA, 404, {"error": ERROR}),
    ],
    ids=str,
)
def test_bad_outcomes(seen: Exchange) -> None:
    with pytest.raises(WrongError):
        outcome(seen, ())


@pytest.mark.parametrize(
    ("down", "status", "excused"),
    [
        (Down(10.5, 12.0, killed=True), None, True),
        (Down(10.5, 12.0, killed=True), 200, True),
        (Down(10.5, 12.0, killed=False), None, True),
        (Down(10.5, 12.0, killed=False), 200, False),  # what it began, it has to end
        (Down(5.0, 9.0, killed=True), None, False),
        (Down(11.5, 12.0, killed=True), None, False),
    ],
)
def test_only_a_service_that_was_away_may_lose(
    down: Down, status: int | None, excused: bool
) -> None:
    seen = exchange(STREAM, status, lost="ConnectionResetError")
    if excused:
        assert outcome(seen, [down]) == "lost with the service"
    else:
        with pytest.raises(WrongError):
            outcome(seen, [down])


RECORD = {"id": "a", "status": "loaded", "pid": 7, "port": 8338, "in_flight": 0, "queued": 0}
STATUS = {"models_loaded": 1, "requests_in_flight": 0, "requests_queued": 0}


def state(
    record: Mapping[str, Any] = {},
    status: Mapping[str, Any] = {},
    servers: Mapping[int, set[int]] = MappingProxyType({7: {8338}}),
    expected: tuple[str, ...] = ("a",),
) -> list[str]:
    return wrong_state(Seen([{**RECORD, **record}], {**STATUS, **status}, servers, expected))


def test_a_right_state() -> None:
    assert state() == []
    unloaded = {"status": "unloaded", "pid": None, "port": None}
    assert state(unloaded, {"models_loaded": 0}, {}) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"servers": {}},
        {"servers": {7: {8339}}},
        {"servers": {7: {8338}, 8: set()}},
        {"record": {"status": "unloaded"}, "status": {"models_loaded": 0}},
        {"record": {"in_flight": 1}},
        {"record": {"queued": 1}},
        {"status": {"models_loaded": 2}},
        {"status": {"requests_in_flight": 1}},
        {"status": {"requests_queued": 1}},
        {"expected": ("a", "b")},
        {"expected": ()},
    ],
    ids=str,
)
def test_wrong_states(wrong: dict[str, Any]) -> None:
    assert len(state(**wrong)) >= 1


def test_growth() -> None:
    first = Usage(20, 100 << 20)
    assert grown(first, Usage(20 + MORE_DESCRIPTORS, (100 << 20) + MORE_MEMORY)) == []
    assert len(grown(first, Usage(21 + MORE_DESCRIPTORS, 100 << 20))) == 1
    assert len(grown(first, Usage(20, (101 << 20) + MORE_MEMORY))) == 1


def test_an_orphan_is_found_by_its_environment(tmp_path: Path) -> None:
    """Also where it has left its parent and its session."""
    mark = tmp_path / "data"
    script = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", script], env={"CYBER_CHILD_OF": f"{mark}/1/a"})
    parent.wait()
    (pid,) = eventually(lambda: marked(mark))
    try:
        found = marked(mark)
        assert len(orphans(found, ())) == 1
        assert orphans(found, {pid}) == []
    finally:
        os.kill(pid, signal.SIGKILL)
