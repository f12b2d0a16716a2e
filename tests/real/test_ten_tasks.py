"""Ten things that people do in the app, on a small screen that names each key before its time."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from cyber_inference_tui.records import TrendPoint, to_json
from cyber_inference_tui.service.history import History
from cyber_inference_tui.service.trend_points import MINUTE, Minute, start_of
from tests.hub.stand_in_hub import StandInHub
from tests.real.conftest import Starter, StartFake, StartReal
from tests.real.service_process import ServiceProcess, chat_body
from tests.real.terminal import Terminal
from tests.real.test_terminal_app import Home
from tests.ssh_server import SshServer
from tests.tools import tool
from tests.tui.regenerate import PAGE
from tests.waiting import LIMIT, eventually, is_alive

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SIZE = (80, 24)
_TMUX = {"⏎": "Enter", "↓": "Down", "←": "Left", "ctrl+s": "C-s"}


@dataclass(frozen=True)
class Key:
    """A key, and the text on the screen that says so."""

    name: str
    shown: str

    @property
    def documented(self) -> str:
        return f"`{self.name}`"


@dataclass(frozen=True)
class Typed:
    """A text of the user's, and the text on the screen that asks for it."""

    name: str
    shown: str

    @property
    def documented(self) -> str:
        return f"*{self.name}*"


FIND = "Find a model and chat with it"
FAILED = "See why a model failed"
SLOW = "Find the slowest request, and why it was slow"
FREE = "Free the memory of all idle models"
CONTEXT = "Raise the context of a model"
CLAUDE = "Point Claude Code at it"
HOUR = "Read the memory in the last hour"
COMPARE = "Compare two models"
HOST = "Watch another machine"
STOP = "Stop everything"

TASKS: dict[str, tuple[Key | Typed, ...]] = {
    FIND: (
        Key("3", "3 Hub"),
        Key("/", "/ Search"),
        Typed("name", "search Hugging Face"),
        Key("⏎", "⏎ Results"),
        Key("d", "d Download"),
        Key("t", "t Chat"),
        Typed("message", "enter sends it"),
        Key("⏎", "⏎ Send"),
    ),
    FAILED: (Key("↓", "✖ failed"), Key("o", "o Log"), Key("w", "w Wrap")),
    SLOW: (
        Key("5", "5 Requests"),
        Key("s", "s Sort"),
        Key("a", "a  took"),
        Key("⏎", "⏎ Details"),
    ),
    FREE: (
        Key(":", ": Palette"),
        Typed("unload all", "part of a command"),
        Key("⏎", "▸ Unload all idle models"),
    ),
    CONTEXT: (
        Key("e", "e Edit"),
        Key("↓", "context_size"),
        Key("↓", "context_size"),
        Typed("tokens", "Tokens of context"),
        Key("ctrl+s", "ctrl+s saves"),
    ),
    # The palette finds Connect and Hosts, for which the last line has no room.
    CLAUDE: (
        Key("C", ": Palette"),
        *(Key("↓", "Claude Code"),) * 4,
        Key("c", "c copies the lines"),
    ),
    HOUR: (Key("h", "h 5 min · 1 h · 24 h · 7 d"), *(Key("←", "h 5 min"),) * 3),
    COMPARE: (
        Key("6", "6 Chat"),
        Key("a", "a Add model"),
        Key("⏎", "enter chooses"),
        Key("⏎", "⏎ Write"),
        Typed("message", "enter sends it"),
        Key("⏎", "⏎ Send"),
    ),
    HOST: (
        Key("H", ": Palette"),
        Key("a", "a adds"),
        Typed("ssh://user@host", "Another machine"),
        Key("⏎", "enter accepts"),
        Key("⏎", "enter switches"),
    ),
    STOP: (Key("q", "q Quit"), Key("s", "Stop the service as well?")),
}


def carry_out(terminal: Terminal, task: str, *texts: str) -> None:
    """Press the keys of a task and type ``texts``, each when the screen says so."""
    waiting = iter(texts)
    for step in TASKS[task]:
        terminal.wait_for(step.shown)
        if isinstance(step, Key):
            terminal.press(_TMUX.get(step.name, step.name))
        else:
            terminal.type(next(waiting))
    assert next(waiting, None) is None


def test_the_documentation_has_the_tasks_with_their_few_keys() -> None:
    rows = ["| to | press |", "|---|---|"]
    for task, steps in TASKS.items():
        assert sum(isinstance(step, Key) for step in steps) <= 8
        rows.append(f"| {task} | {' '.join(step.documented for step in steps)} |")
    assert "\n".join(rows) + "\n\n" in PAGE.read_text("utf-8")


@pytest.fixture(scope="module")
def service(
    module_starter: Starter, llama_server: Path, demo_gguf: Path
) -> Iterator[ServiceProcess]:
    """A service with three models, one of them ``broken``, and a hub with a fourth."""
    content = demo_gguf.read_bytes()
    with StandInHub() as hub:
        hub.add("owner/tiny-GGUF", {"Tiny-Q8_0.gguf": content})
        settings = {"hf_endpoint": hub.url, "hf_allowed_hosts": [hub.cdn]}
        running = module_starter.real(llama_server, settings, ("second",))
        (running.data_dir / "models" / "broken.gguf").write_bytes(
            content.replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight")
        )
        eventually(lambda: "broken" in running.models())
        yield running


def have_loaded(service: ServiceProcess, *names: str) -> None:
    """Load these models, and unload all others."""
    for name in service.models():
        done = "load" if name in names else "unload"
        service.post(f"/admin/models/{name}/{done}", json={})
    for name in service.models():
        service.wait_status(name, *(["loaded"] if name in names else ["unloaded", "failed"]))


@contextmanager
def app_of(service: ServiceProcess, folder: Path, **environ: str) -> Iterator[Terminal]:
    """The dashboard of a service on this machine."""
    config = folder / "app.toml"
    config.touch()
    arguments = [sys.executable, "-m", "cyber_inference_tui", "--port", str(service.port)]
    arguments += ["--config", str(config), "--data-dir", str(service.data_dir)]
    with Terminal(arguments, folder=folder, environ=environ, size=SIZE) as terminal:
        terminal.wait_for("TOKENS/S", "▸")
        yield terminal


def test_find_a_model_and_chat(service: ServiceProcess, tmp_path: Path) -> None:
    with app_of(service, tmp_path) as terminal:
        carry_out(terminal, FIND, "tiny", "Hello")
        terminal.wait_for("Tiny-Q8_0  ● loaded", "tok/s")
    assert service.model("Tiny-Q8_0")["status"] == "loaded"


def test_why_did_it_fail(service: ServiceProcess, tmp_path: Path) -> None:
    have_loaded(service, "second")
    assert service.post("/admin/models/broken/load", json={}).status_code >= 500
    with app_of(service, tmp_path) as terminal:
        carry_out(terminal, FAILED)
        terminal.wait_for("tensor", "'blk.0.attn_q.weight' not found")


def test_which_request_is_slow_and_why(start_real: StartReal, tmp_path: Path) -> None:
    service = start_real()
    have_loaded(service, "demo")
    for _ in range(4):
        service.chat("demo").raise_for_status()
    service.chat("demo", max_tokens=1000, ignore_eos=True).raise_for_status()
    service.chat("demo").raise_for_status()
    with app_of(service, tmp_path) as terminal:
        carry_out(terminal, SLOW)
        terminal.wait_for("a long answer", "It wrote 1,000 tokens")


def test_free_memory(service: ServiceProcess, tmp_path: Path) -> None:
    have_loaded(service, "demo", "second")
    with app_of(service, tmp_path) as terminal:
        terminal.wait_for("● loaded")
        carry_out(terminal, FREE, "unload all")
        for name in ("demo", "second"):
            service.wait_status(name, "unloaded")
        terminal.wait_without("● loaded")


def test_raise_a_context(service: ServiceProcess, tmp_path: Path) -> None:
    have_loaded(service, "second")
    assert service.model("second")["context_length"] == 8192
    with app_of(service, tmp_path) as terminal:
        terminal.wait_for("▸ second")
        carry_out(terminal, CONTEXT, "16384")
        terminal.wait_for("Saved settings of second", "context 16K")
    assert service.model("second")["context_length"] == 16384


def test_point_claude_code_at_it(service: ServiceProcess, tmp_path: Path) -> None:
    have_loaded(service, "second")
    with app_of(service, tmp_path) as terminal:
        terminal.wait_for("▸ second")
        carry_out(terminal, CLAUDE)
        terminal.wait_for("Copied the lines for Claude Code.")
        lines = terminal.copied()
        # A stand-in for Claude Code, which says what it would ask.
        (tmp_path / "claude").write_text("#!/bin/sh\nexec env\n")
        (tmp_path / "claude").chmod(0o755)
        said = subprocess.run(
            [tool("bash")],
            input=lines,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        names = dict(line.split("=", 1) for line in said.splitlines())
        assert names["ANTHROPIC_BASE_URL"] == service.url
        answer = service.post(
            "/v1/messages",
            json=chat_body(names["ANTHROPIC_MODEL"]),
            headers={
                "Authorization": f"Bearer {names['ANTHROPIC_AUTH_TOKEN']}",
                "User-Agent": "claude-cli/2.0",
            },
        )
        assert answer.status_code == 200
        assert answer.json()["content"][0]["text"]
        terminal.wait_for("RECENT CLIENTS", "claude-cli")


def test_the_memory_in_the_last_hour(start_fake: StartFake, tmp_path: Path) -> None:
    service = start_fake(start=False)
    asyncio.run(plant_memory(service.data_dir / "history.sqlite3", 7 << 20))
    service.start()
    with app_of(service, tmp_path) as terminal:
        carry_out(terminal, HOUR)
        terminal.wait_for(" at ", "7.00 MiB")


async def plant_memory(path: Path, used: int) -> None:
    """Write a history in which the machine has used so much memory for an hour."""
    now = datetime.now(UTC)
    history = History(path, now=lambda: now)
    await history.start()
    for number in range(60):
        at = start_of(now, MINUTE) - number * MINUTE
        point = TrendPoint(at=at, memory_used=used, memory_total=used * 2)
        history.add(Minute(at=at, point=to_json(point)))
    await history.stop()


def test_compare_two_models(service: ServiceProcess, tmp_path: Path) -> None:
    have_loaded(service, "demo", "second")
    with app_of(service, tmp_path) as terminal:
        carry_out(terminal, COMPARE, "Hello")
        both = re.compile(r"demo [\d.]+/s  ▸ second [\d.]+/s")
        eventually(lambda: both.search(terminal.screen()), what="the speeds of both")
    latest = service.get("/admin/requests?limit=2").json()
    assert {(one["model"], one["status"]) for one in latest} == {("demo", 200), ("second", 200)}


def test_another_machine(service: ServiceProcess, start_fake: StartFake, tmp_path: Path) -> None:
    other = start_fake({"elsewhere": {}})
    with (
        SshServer(tmp_path / "ssh") as server,
        app_of(service, tmp_path, PATH=server.path) as terminal,
    ):
        carry_out(terminal, HOST, f"ssh://box?port={other.port}")
        terminal.wait_for("attached", "▸ elsewhere")


def test_stop_everything(tmp_path: Path, llama_server: Path) -> None:
    home = Home(tmp_path, llama_server)
    try:
        with home.terminal("--demo", size=SIZE) as terminal:
            terminal.wait_for("▸ demo")
            load = f"{home.url}/admin/models/demo/load"
            httpx.post(load, json={}, timeout=LIMIT).raise_for_status()
            running = home.running_service()
            servers = running.children(recursive=True)
            assert servers
            carry_out(terminal, STOP)
            terminal.wait_for("ended with 0")
        eventually(lambda: not any(map(is_alive, (running, *servers))), what="the end of all")
    finally:
        home.end()
