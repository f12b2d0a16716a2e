"""From nothing to the first token, and from one model to another, as ratios to the same by hand."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks import exchange, load
from benchmarks.llama_servers import ByHand
from benchmarks.table import HAND, Row
from benchmarks.targets import Ground, Target, chat, on_llama_server, warm

UNLOAD_LIMIT = 30.0


def cold(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """From a request (by hand: from the start of the process) to the first token."""
    with model.open("rb") as file:  # so that the page cache holds it
        while file.read(1 << 24):
            pass
    asked = chat("model", tokens=4)
    with on_llama_server(ground, {"model": model}, threads=0) as (targets, by_hand):
        warm(targets, asked)
        actions: dict[str, Callable[[str], float]] = {
            HAND: lambda wanted: _by_hand(by_hand[wanted], asked)
        }
        for target in targets:
            _unload(target, "model")
            actions[target.name] = _cold_start(target, asked)
        taken = _in_turns(actions, rounds, ["model"])
    return _rows(f"cold first token, {model.stat().st_size / 1e6:.0f} MB", taken)


def swap(ground: Ground, model: Path, rounds: int) -> list[Row]:
    """From a request for another model to its first token, with room for one model."""
    models = {"one": model, "two": model}
    asked = {name: chat(name, tokens=4) for name in models}
    with (
        on_llama_server(ground, models, threads=0, at_once=1) as (targets, hands),
        contextlib.ExitStack() as stack,
    ):
        warm(targets, asked["two"])
        running = stack.enter_context(contextlib.ExitStack())
        running.enter_context(hands["two"].started())

        def swap_by_hand(wanted: str) -> float:
            began = time.perf_counter()
            running.close()
            return _by_hand(hands[wanted], asked[wanted], began, running)

        actions: dict[str, Callable[[str], float]] = {HAND: swap_by_hand}
        for target in targets:
            actions[target.name] = _asking(target, asked)
        taken = _in_turns(actions, rounds, list(models))
    return _rows(f"swap of two models of {model.stat().st_size / 1e6:.0f} MB", taken)


def _in_turns(
    actions: dict[str, Callable[[str], float]], rounds: int, models: Sequence[str]
) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds):
        for name in random.sample(list(actions), len(actions)):
            taken[name].append(actions[name](models[number % len(models)]))
    return taken


def _rows(what: str, taken: dict[str, list[float]]) -> list[Row]:
    ratios = {
        name: [value / hand for value, hand in zip(values, taken[HAND], strict=True)]
        for name, values in taken.items()
    }
    seconds = {name: [value * 1e3 for value in values] for name, values in taken.items()}
    return [
        Row("cold starts", what, "ms", seconds),
        Row("cold starts", f"{what}, ratio to by hand", "", ratios, charted=True),
    ]


def _first_token(port: int, asked: exchange.Request, began: float | None = None) -> float:
    began = time.perf_counter() if began is None else began

    async def ask() -> float:
        connection = load.Connection(port)
        sent = time.perf_counter()
        first, _, events = await connection.ask(asked)
        connection.close()
        if not events:
            raise RuntimeError("no stream")
        return sent - began + first

    return load.run(ask())


def _by_hand(
    hand: ByHand,
    asked: exchange.Request,
    began: float | None = None,
    stays: contextlib.ExitStack | None = None,
) -> float:
    """Start a server and ask it; it stays until ``stays`` ends, or ends at once."""
    began = time.perf_counter() if began is None else began
    with contextlib.ExitStack() as stack:
        port = (stack if stays is None else stays).enter_context(hand.started())
        return _first_token(port, asked, began)


def _cold_start(target: Target, asked: exchange.Request) -> Callable[[str], float]:
    def measure(wanted: str) -> float:
        taken = _first_token(target.port, asked)
        _unload(target, wanted)
        return taken

    return measure


def _asking(target: Target, asked: dict[str, exchange.Request]) -> Callable[[str], float]:
    return lambda wanted: _first_token(target.port, asked[wanted])


def _unload(target: Target, model: str) -> None:
    """Unload the model, and wait until its server is gone."""
    assert target.unload is not None
    target.unload(model)
    deadline = time.monotonic() + UNLOAD_LIMIT
    while _has_server(target):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{target.name} does not unload {model}")
        time.sleep(0.01)


def _has_server(target: Target) -> bool:
    for pid in target.pids:
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "llama-server" in child.name() and child.status() != psutil.STATUS_ZOMBIE:
                    return True
    return False
