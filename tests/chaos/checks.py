"""The checks after every fault; each is a function of the facts that were seen.

``tests/chaos/test_checks.py`` shows that each of them can fail.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.chaos.clients import Exchange

MORE_DESCRIPTORS = 12
"""An idle service may have so many more open than at its first rest, for connections it keeps."""
MORE_MEMORY = 96 << 20
_ANSWERS = {
    "/v1/chat/completions": "choices",
    "/v1/embeddings": "data",
    "/v1/messages": "content",
    "/api/chat": "message",
}
"""The parts that a whole answer must have."""


class WrongError(AssertionError):
    """The service broke a promise."""


@dataclass(frozen=True)
class Down:
    """A time when the service could take no new request: in seconds of ``time.monotonic``."""

    began: float
    ended: float
    killed: bool
    """It had no chance to end what it had begun."""


def outcome(exchange: Exchange, downs: Iterable[Down]) -> str:
    """Return the name of a request's outcome. Raises ``WrongError`` for none or a bad one."""
    asked = exchange.asked
    if exchange.left:
        return "cancelled"
    if exchange.lost is not None:
        return _lost(exchange, downs)
    assert exchange.status is not None
    if exchange.status >= 400:
        _check_error(exchange)
        return "error"
    if asked.unknown:
        raise WrongError(f"a model that is not here has answered: {exchange}")
    if asked.streams:
        return _end_of_stream(exchange)
    if asked.path == "/metrics":
        return "answer"
    value = _json(exchange.content, exchange)
    wanted = _ANSWERS.get(asked.path)
    if wanted is not None and not (isinstance(value, dict) and value.get(wanted)):
        raise WrongError(f"an answer without its {wanted}: {exchange}")
    return "answer"


def _lost(exchange: Exchange, downs: Iterable[Down]) -> str:
    assert exchange.lost is not None
    if exchange.lost.startswith("TimeoutError"):
        raise WrongError(f"no outcome in time: {exchange}")
    for down in downs:
        met = exchange.began <= down.ended and down.began <= exchange.ended
        if met and (down.killed or exchange.status is None):
            return "lost with the service"
    if exchange.status == 200 and not exchange.asked.streams:
        # Its length or its last chunk is missing: the client knows that it is not complete.
        return "cut after its beginning"
    raise WrongError(f"the connection was lost, and the service was there: {exchange}")


def _check_error(exchange: Exchange) -> None:
    value = _json(exchange.content, exchange)
    error = value.get("error") if isinstance(value, dict) else None
    api = exchange.asked.api
    if isinstance(error, dict):
        good = bool(error.get("message")) and bool(error.get("type"))
        wanted = {"openai": {"param", "code"} <= error.keys(), "anthropic": "type" in value}
        good = good and wanted.get(api, False)
    else:
        good = api == "ollama" and isinstance(error, str) and bool(error)
    if not good:
        raise WrongError(f"an error in a wrong shape: {exchange}")
    if exchange.status == 500:
        raise WrongError(f"an error that nobody expected: {exchange}")


def _end_of_stream(exchange: Exchange) -> str:
    """Check that a stream says how it ended."""
    content = exchange.content
    if exchange.asked.api == "ollama":
        lines = [_json(line, exchange) for line in content.splitlines() if line.strip()]
        if lines and "error" in lines[-1]:
            return "error in the stream"
        if lines and lines[-1].get("done") is True:
            return "answer"
        raise WrongError(f"a stream ended without a word: {exchange}")
    data = [line[6:] for line in content.splitlines() if line.startswith(b"data: ")]
    errors = [one for one in data if one != b"[DONE]" and "error" in _json(one, exchange)]
    if errors:
        if errors != data[-1:]:
            raise WrongError(f"a stream went on after its error: {exchange}")
        return "error in the stream"
    last = b"[DONE]" if exchange.asked.api == "openai" else b'"message_stop"'
    if not data or last not in data[-1]:
        raise WrongError(f"a stream ended without a word: {exchange}")
    return "answer"


def _json(content: bytes, exchange: Exchange) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise WrongError(f"not JSON: {exchange}") from None


@dataclass(frozen=True)
class Seen:
    """The service's own account while no request runs, and the system's."""

    models: list[dict[str, Any]]
    status: dict[str, Any]
    servers: Mapping[int, Collection[int]]
    """Its servers' pids, with the ports on which each listens."""
    expected: Collection[str]
    """The ids of the models that are there."""


def wrong_state(seen: Seen) -> list[str]:
    """Compare what the service says with what is."""
    wrong = []
    ids = sorted(model["id"] for model in seen.models)
    if ids != sorted(seen.expected):
        wrong.append(f"it lists {ids}, there are {sorted(seen.expected)}")
    named = {model["pid"] for model in seen.models if model["pid"] is not None}
    if unnamed := sorted(seen.servers.keys() - named):
        wrong.append(f"servers run that no model has: {unnamed}")
    for model in seen.models:
        what = f"{model['id']} is {model['status']}"
        pid, port = model["pid"], model["port"]
        if model["status"] in ("unloaded", "failed", "queued"):
            if pid is not None or port is not None:
                wrong.append(f"{what}, and has the pid {pid} and the port {port}")
        elif model["status"] == "loaded":
            if pid not in seen.servers:
                wrong.append(f"{what}, and its pid {pid} is no server")
            elif port not in seen.servers[pid]:
                wrong.append(f"{what}, and its server does not listen on {port}")
        if model["in_flight"] or model["queued"]:
            counts = f"{model['in_flight']} requests, {model['queued']} waiting"
            wrong.append(f"{what} and has {counts}, and nobody asks")
    loaded = sum(model["status"] == "loaded" for model in seen.models)
    if seen.status["models_loaded"] != loaded:
        wrong.append(f"it counts {seen.status['models_loaded']} loaded models and lists {loaded}")
    return wrong + [
        f"{key} is {seen.status[key]}, and nobody asks"
        for key in ("requests_in_flight", "requests_queued")
        if seen.status[key]
    ]


def orphans(marked: Mapping[int, str], family: Collection[int]) -> list[str]:
    """Name the processes that carry the mark of this run and are not below its service."""
    return [f"{pid} {what}" for pid, what in sorted(marked.items()) if pid not in family]


@dataclass(frozen=True)
class Usage:
    """The descriptors and the memory of an idle service."""

    descriptors: int
    memory: int
    """Bytes."""


def grown(first: Usage, now: Usage) -> list[str]:
    """Say what an idle service has more of than at its first rest."""
    wrong = []
    if now.descriptors > first.descriptors + MORE_DESCRIPTORS:
        wrong.append(f"{now.descriptors} descriptors at rest, first {first.descriptors}")
    if now.memory > first.memory + MORE_MEMORY:
        wrong.append(f"{now.memory >> 20} MiB at rest, first {first.memory >> 20}")
    return wrong
