"""The requests of a real day, and what came of each."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

LONGEST = 60.0
"""Seconds after which a request without an outcome counts as hung."""
REAL = ("demo", "spare")
FAKE = ("fake", "fake-slow", "fake-stubborn", "own")
DYING = "fake-dying"
EMBEDDER = "embedder"
MODELS = (*REAL, *FAKE, DYING, EMBEDDER)


@dataclass(frozen=True)
class Asked:
    """One request, and how its client behaves."""

    kind: str
    path: str
    body: dict[str, Any] | None = None
    api: str = "openai"
    """The shape of its errors: ``openai``, ``anthropic`` or ``ollama``."""
    streams: bool = False
    leaves: bool = False
    """Its client goes away after the first bytes of the answer."""
    unknown: bool = False
    """It names a model that is not here."""


@dataclass
class Exchange:
    """A request and everything that its client saw of the answer."""

    asked: Asked
    began: float
    ended: float = 0.0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    lost: str | None = None
    """Why there is no complete answer, in the words of the client's library."""
    left: bool = False

    def __str__(self) -> str:
        asked = f"{self.asked.kind} {self.asked.path} {json.dumps(self.asked.body)}"
        return f"{asked}: status {self.status}, lost {self.lost}, {self.content[-300:]!r}"


def send(asked: Asked, port: int) -> Exchange:
    """Send one request and read its answer; every failure becomes part of the exchange."""
    exchange = Exchange(asked, time.monotonic())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST)
    try:
        with contextlib.closing(connection):
            if asked.body is None:
                connection.request("GET", asked.path)
            else:
                body = json.dumps(asked.body)
                connection.request("POST", asked.path, body, {"Content-Type": "application/json"})
            _read(connection.getresponse(), exchange)
    except (OSError, http.client.HTTPException) as error:
        exchange.lost = f"{type(error).__name__}: {error}"
    exchange.ended = time.monotonic()
    return exchange


def _read(response: http.client.HTTPResponse, exchange: Exchange) -> None:
    exchange.status = response.status
    exchange.headers = {name.lower(): value for name, value in response.getheaders()}
    while block := response.read1():
        exchange.content += block
        if exchange.asked.leaves:
            exchange.left = True
            return
    if not exchange.asked.streams or response.length:
        # `read1` returns b"" also where bytes are missing; `read` raises then.
        response.read()
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)


def any_request(rng: random.Random) -> Asked:
    """Choose a request."""
    return rng.choice(_KINDS)(rng)


def _messages(rng: random.Random) -> list[dict[str, str]]:
    return [{"role": "user", "content": "word " * rng.choice([1, 5, 40])}]


def _chat(rng: random.Random) -> Asked:
    body: dict[str, Any] = {"model": rng.choice([*REAL, *FAKE, *FAKE]), "max_tokens": 8}
    body |= {"messages": _messages(rng), "fake": _answer(rng)}
    return Asked("chat", "/v1/chat/completions", body)


def _answer(rng: random.Random) -> dict[str, Any]:
    """Choose how a fake answers; a real server ignores it."""
    return rng.choice(
        [
            {},
            {"tokens": 20, "interval": 0.03},
            {"prefill": 0.5},
            {"crash_after": rng.randint(0, 4)},
            {"close_after": rng.randint(0, 4)},
            {"tokens": 50},
        ]
    )


def _stream(rng: random.Random, leaves: bool = False) -> Asked:
    asked = _chat(rng)
    assert asked.body is not None
    body = {**asked.body, "stream": True, "max_tokens": 40}
    return Asked("cancelled" if leaves else "stream", asked.path, body, streams=True, leaves=leaves)


def _cancelled(rng: random.Random) -> Asked:
    return _stream(rng, leaves=True)


def _embeddings(rng: random.Random) -> Asked:
    return Asked("embeddings", "/v1/embeddings", {"model": EMBEDDER, "input": ["one", "two"]})


def _anthropic(rng: random.Random) -> Asked:
    streams = rng.random() < 0.5
    body = {"model": rng.choice(REAL), "max_tokens": 8, "messages": _messages(rng)}
    body["stream"] = streams
    return Asked("anthropic", "/v1/messages", body, "anthropic", streams=streams)


def _ollama(rng: random.Random) -> Asked:
    streams = rng.random() < 0.5
    body = {"model": rng.choice([*REAL, "fake"]), "messages": _messages(rng), "stream": streams}
    body["options"] = {"num_predict": 8}
    return Asked("ollama", "/api/chat", body, "ollama", streams=streams)


def _look(rng: random.Random) -> Asked:
    paths = ["/v1/models", "/admin/models", "/admin/status", "/metrics", "/health"]
    paths += ["/admin/requests", "/admin/sessions", "/admin/resources", "/admin/config"]
    paths += ["/admin/trend?seconds=86400", "/admin/totals/speed?by=client"]
    return Asked("look", rng.choice(paths))


def _load(rng: random.Random) -> Asked:
    return Asked("load", f"/admin/models/{rng.choice(MODELS)}/load?wait=0", {})


def _unload(rng: random.Random) -> Asked:
    force = rng.choice(["", "?force=1"])
    return Asked("unload", f"/admin/models/{rng.choice(MODELS)}/unload{force}", {})


def _dying(rng: random.Random) -> Asked:
    body = {"model": DYING, "messages": _messages(rng)}
    return Asked("dying", "/v1/chat/completions", body)


def _unknown(rng: random.Random) -> Asked:
    api, path = rng.choice(
        [
            ("openai", "/v1/chat/completions"),
            ("anthropic", "/v1/messages"),
            ("ollama", "/api/chat"),
        ]
    )
    body = {"model": "nobody", "messages": _messages(rng), "max_tokens": 8}
    return Asked("unknown", path, body, api, unknown=True)


_KINDS = (
    *(_chat, _chat, _stream, _stream, _stream, _cancelled, _embeddings, _anthropic, _ollama),
    *(_look, _look, _load, _unload, _dying, _unknown),
)
