"""The programs that are measured beside each other, started before the same models."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import exchange, llama_servers, load, peers, programs
from benchmarks.table import DIRECT, NGINX, OTHER, OURS, ROUTER, STASH, SWAP

ROOT = Path(__file__).resolve().parent.parent
WARM_LIMIT = 60.0


@dataclass(frozen=True)
class Target:
    """A running program: where it answers, and the processes that it consists of.

    The servers that it starts are not counted among these.
    """

    name: str
    port: int
    pids: list[int]
    unload: peers.Unload | None = None


@dataclass(frozen=True)
class Ground:
    """The working folder and the paths of the programs."""

    folder: Path
    llama_server: Path
    llama_swap: Path | None = None
    llamastash: Path | None = None
    other: Path | None = None
    """Another checkout of this program."""

    def own(self, name: str) -> Path:
        """Make a new folder."""
        number = len(list(self.folder.glob(f"{name}-*")))
        path = self.folder / f"{name}-{number}"
        path.mkdir(parents=True)
        return path

    @property
    def checkouts(self) -> dict[str, Path | None]:
        """Return the versions of this program."""
        return {OURS: None} | ({OTHER: self.other} if self.other else {})


def source_script(ground: Ground, folder: Path) -> Path:
    """Write a program that is the fast source when it is started like a llama-server.

    Its other arguments, which ask a llama-server for its version or its devices, go to a real one.
    """
    script = folder / "source"
    python = shlex.join([sys.executable, "-m", "benchmarks.source"])
    script.write_text(
        f"#!/bin/sh\ncase \" $* \" in *' --port '*)\n"
        f'export PYTHONPATH={shlex.quote(str(ROOT))}; exec {python} "$@";; esac\n'
        f'exec {shlex.quote(str(ground.llama_server))} "$@"\n'
    )
    script.chmod(0o755)
    return script


@contextlib.contextmanager
def on_source(ground: Ground, model: Path) -> Iterator[list[Target]]:
    """Start every program before the fast source, as the model ``source``.

    ``model`` is a file for programs that want one; nothing reads it. llama-server's router starts
    nothing but itself, so it is not among them.
    """
    folder = ground.own("source")
    script = source_script(ground, folder)
    command = [str(script), "--port", "{port}"]
    models = folder / "models"
    models.mkdir()
    (models / "source.gguf").hardlink_to(model)
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(programs.source())
        nginx = stack.enter_context(programs.nginx(folder / "nginx", upstream))
        found = [Target(DIRECT, upstream, []), Target(NGINX, *nginx)]
        for name, checkout in ground.checkouts.items():
            service = stack.enter_context(source_service(folder / name, script, checkout))
            found.append(Target(name, service.port, [service.pid]))
        if ground.llama_swap:
            port, pid, unload = stack.enter_context(
                peers.llama_swap(ground.llama_swap, folder / "swap", {"source": command})
            )
            found.append(Target(SWAP, port, [pid], unload))
        if ground.llamastash:
            port, pid, unload = stack.enter_context(
                peers.llamastash(ground.llamastash, folder / "stash", script, models)
            )
            found.append(Target(STASH, port, [pid], unload))
        warm(found, chat("source", stream=False, expected=b""))
        yield found


@contextlib.contextmanager
def source_service(
    folder: Path, script: Path, checkout: Path | None = None, more: int = 0
) -> Iterator[programs.Service]:
    """Start the service with the fast source as its model, loaded, and ``more`` unloaded ones."""
    command = [str(script), "--port", "{port}"]
    models = {name: {"command": command} for name in ("source", *map("m{}".format, range(more)))}
    with programs.service(folder, {"models": models}, {}, checkout) as service:
        service.load("source")
        yield service


@contextlib.contextmanager
def on_llama_server(
    ground: Ground,
    models: Mapping[str, Path],
    *,
    arguments: Sequence[str] = (),
    threads: int = 1,
    at_once: int = 0,
) -> Iterator[tuple[list[Target], dict[str, llama_servers.ByHand]]]:
    """Start every program before real llama-servers; also how each model is started by hand.

    All servers have the arguments that the service gives its own. ``at_once`` limits how many
    models are loaded; LlamaStash has no such limit, so it is left out then.
    """
    folder = ground.own("real")
    files = folder / "models"
    files.mkdir()
    for name, path in models.items():
        (files / f"{name}.gguf").hardlink_to(path)
    tables = {name: {"path": str(path), "args": list(arguments)} for name, path in models.items()}
    config = {
        "llama_server_path": str(ground.llama_server),
        "llama_threads": threads,
        "max_loaded_models": at_once,
        "models": tables,
    }
    found: list[Target] = []
    by_hand: dict[str, llama_servers.ByHand] = {}
    with contextlib.ExitStack() as stack:
        for name, checkout in ground.checkouts.items():
            service = stack.enter_context(programs.service(folder / name, config, {}, checkout))
            for model in () if by_hand else models:
                by_hand[model] = llama_servers.ByHand.like(service.load(model)["pid"])
            found.append(Target(name, service.port, [service.pid], service.unload))
        options = next(iter(by_hand.values())).options
        if ground.llama_swap:
            commands = {name: hand.command_for("{port}") for name, hand in by_hand.items()}
            port, pid, unload = stack.enter_context(
                peers.llama_swap(ground.llama_swap, folder / "swap", commands)
            )
            found.append(Target(SWAP, port, [pid], unload))
        if ground.llamastash and not at_once:
            port, pid, unload = stack.enter_context(
                peers.llamastash(
                    ground.llamastash, folder / "stash", ground.llama_server, files, options
                )
            )
            found.append(Target(STASH, port, [pid], unload))
        if at_once:
            options = [*options, "--models-max", str(at_once)]
        port, pid = stack.enter_context(
            llama_servers.router(folder / "router", ground.llama_server, files, *options)
        )
        found.append(Target(ROUTER, port, [pid], llama_servers.router_unload(port)))
        yield found, by_hand


@contextlib.contextmanager
def with_direct(
    ground: Ground, targets: list[Target], by_hand: llama_servers.ByHand
) -> Iterator[list[Target]]:
    """Add a server that was started by hand, and nginx before it."""
    folder = ground.own("direct") / "nginx"
    with by_hand.started() as upstream, programs.nginx(folder, upstream) as nginx:
        yield [Target(DIRECT, upstream, []), Target(NGINX, *nginx), *targets]


def chat(
    model: str,
    *,
    stream: bool = True,
    tokens: int = 1,
    expected: bytes = b'"choices"',
    query: str = "",
) -> exchange.Request:
    """Return a request for a chat of exactly so many tokens."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": tokens,
        "stream": stream,
        "temperature": 0,
        "ignore_eos": True,
    }
    return exchange.request(f"/v1/chat/completions{query}", body, expected)


def warm(targets: Sequence[Target], asked: exchange.Request) -> None:
    """Ask each target until it answers, which loads the model."""
    for target in targets:
        deadline = time.monotonic() + WARM_LIMIT
        while True:
            try:
                load.run(load.requests(target.port, asked, 3, 1))
                break
            except (OSError, RuntimeError) as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{target.name} does not answer: {error}") from error
                time.sleep(0.1)
