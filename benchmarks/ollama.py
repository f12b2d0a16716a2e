"""Measures what the translation of Ollama's API costs, beside the same requests through ``/v1``."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from benchmarks import exchange, llama_servers, load, programs
from benchmarks.table import DIRECT, Row
from benchmarks.targets import Ground

_GROUP = "Ollama's API, real llama-server"
_FIRST_GROUP = "Ollama's API, first byte of a stream"
_V1, _OLLAMA = "/v1/chat/completions", "/api/chat"
_REQUESTS = 600
_CLIENTS = 8
_TOKENS = 400
_STREAMS = 8
_FIRST_TOKENS = 4


def translation(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """Processor time of whole answers and of streams, and the time to the first byte."""
    table = {"path": str(model), "request_overrides": {"ignore_eos": True}}
    config = {
        "llama_server_path": str(ground.llama_server),
        "llama_threads": 1,
        "models": {"demo": table},
    }
    with programs.service(ground.own("ollama"), config, {}) as service:
        by_hand = llama_servers.ByHand.like(service.load("demo")["pid"])
        with by_hand.started() as upstream:
            return [*_costs(service, rounds), *_first_bytes(service.port, upstream, rounds)]


def _asked(tokens: int, *, stream: bool = True) -> dict[str, exchange.Request]:
    """Return the same request in both APIs."""
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": stream,
    }
    v1 = {**body, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    ollama = {**body, "options": {"num_predict": tokens, "temperature": 0}}
    mark = b'"done":'
    return {
        _V1: exchange.request(_V1, v1, b'"choices"'),
        _OLLAMA: exchange.request(_OLLAMA, ollama, mark)._replace(mark=mark),
    }


def _costs(service: programs.Service, rounds: int) -> list[Row]:
    def whole(asked: exchange.Request) -> None:
        load.run(load.requests(service.port, asked, _REQUESTS, _CLIENTS))

    def streamed(asked: exchange.Request) -> None:
        events = load.run(load.streams(service.port, asked, _STREAMS))
        if events < _STREAMS * _TOKENS:
            raise RuntimeError(f"{events} events of {_STREAMS * _TOKENS}")

    def cost(
        asked: dict[str, exchange.Request], action: Callable[[exchange.Request], None]
    ) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {name: [] for name in asked}
        for number in range(rounds + 1):
            for name in random.sample(list(asked), len(asked)):
                before = programs.cpu_seconds([service.pid])
                action(asked[name])
                if number:  # the first is to warm up
                    found[name].append(programs.cpu_seconds([service.pid]) - before)
        return found

    def row(what: str, found: dict[str, list[float]], count: int) -> Row:
        each = {name: [one / count * 1e6 for one in all_] for name, all_ in found.items()}
        return Row(_GROUP, what, "µs", each)

    said = f"{_CLIENTS} clients, answers of one token: CPU per request"
    streams = f"{_STREAMS} streams of {_TOKENS} tokens: CPU per token"
    return [
        row(said, cost(_asked(1, stream=False), whole), _REQUESTS),
        row(streams, cost(_asked(_TOKENS), streamed), _STREAMS * _TOKENS),
    ]


def _first_bytes(port: int, upstream: int, rounds: int) -> list[Row]:
    asked = _asked(_FIRST_TOKENS)
    targets = {
        DIRECT: (upstream, asked[_V1]),
        **{name: (port, request) for name, request in asked.items()},
    }
    found: dict[str, dict[str, list[float]]] = {"p50": {}, "p99": {}}
    for _ in range(rounds):
        taken = load.run(load.first_bytes(targets, 150, 0.001))
        for what, at in (("p50", 0.5), ("p99", 0.99)):
            for name, seconds in taken.items():
                value = sorted(seconds)[int(len(seconds) * at)] * 1e3
                found[what].setdefault(name, []).append(value)
    return [Row(_FIRST_GROUP, what, "ms", values) for what, values in found.items()]
