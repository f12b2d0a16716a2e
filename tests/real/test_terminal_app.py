"""The terminal app as its users have it: in a terminal, on a real service and llama-server."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest
import tomli_w

from tests.real.terminal import Terminal
from tests.tools import tool
from tests.waiting import eventually, is_alive

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


class Home:
    """A user's machine: a configuration, a data directory, and the service started in it."""

    def __init__(self, folder: Path, llama_server: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.config = folder / "config.toml"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.config.write_text(
            "# my settings\n"
            + tomli_w.dumps(
                {
                    "port": self.port,
                    "llama_server_base_port": 0,
                    "llama_server_path": str(llama_server),
                    "llama_args": ["--threads", "1"],
                    "shutdown_timeout": 5,
                }
            )
        )

    def arguments(self, *more: str) -> list[str]:
        return [
            sys.executable, "-m", "cyber_inference_tui",
            "--config", str(self.config), "--data-dir", str(self.data_dir), *more,
        ]  # fmt: skip

    def terminal(self, *more: str, size: tuple[int, int] = (120, 40)) -> Terminal:
        return Terminal(self.arguments(*more), folder=self.folder, size=size)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def service(self) -> psutil.Process | None:
        """The running service."""
        try:
            record = msgspec.json.decode((self.data_dir / "service.json").read_bytes())
            process = psutil.Process(record["pid"])
        except (OSError, msgspec.DecodeError, psutil.NoSuchProcess):
            return None
        return process if process.status() != psutil.STATUS_ZOMBIE else None

    def running_service(self) -> psutil.Process:
        process = self.service()
        assert process is not None
        return process

    def app(self) -> psutil.Process:
        """The running app."""
        service = self.running_service()
        return next(
            one
            for one in psutil.process_iter(["cmdline"])
            if str(self.config) in (one.info["cmdline"] or ()) and one.pid != service.pid
        )

    def end(self) -> None:
        if (process := self.service()) is not None:
            process.terminate()
            try:
                process.wait(60)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(60)


@pytest.fixture
def home(tmp_path: Path, llama_server: Path) -> Iterator[Home]:
    home = Home(tmp_path, llama_server)
    yield home
    home.end()


def test_from_the_first_start_to_an_answer(home: Home) -> None:
    """Greeting, demo, load, chat, its log, a setting changed, the service stopped at the end."""
    with home.terminal() as terminal:
        terminal.wait_for("Welcome.", "a model", "tiny demo model")
        terminal.press("d")
        terminal.wait_for("demo", "MODEL", "unloaded")
        terminal.press("l")
        terminal.wait_for("● loaded")
        terminal.press("6")
        terminal.wait_for("Write to try a model.")
        terminal.press("Enter")
        terminal.wait_for("New line")
        terminal.type("Hello")
        terminal.press("Enter")
        terminal.wait_for("tok/s")
        terminal.press("Escape")
        terminal.wait_for("Write", "Quit")
        terminal.press("4")
        terminal.wait_for("LOG", "demo")
        terminal.press("b")
        terminal.wait_without("Follow")
        terminal.press("j")
        terminal.wait_for("▸ ●  demo")
        terminal.press("Enter")
        terminal.wait_for("all slots are idle")
        terminal.press("5")
        terminal.wait_for("chat", "127.0.0.1")
        terminal.press("7")
        terminal.wait_for("default_context_size")
        terminal.press("/")
        terminal.wait_for("setting's name or help")
        terminal.type("idle")
        terminal.wait_for("/idle", "▸   model_idle_timeout")
        terminal.press("Enter")
        terminal.wait_for("Edit")
        terminal.press("Enter")
        terminal.wait_for("enter saves")
        terminal.type("123")
        terminal.press("Enter")
        terminal.wait_for("Saved model_idle_timeout")
        text = home.config.read_text()
        assert "model_idle_timeout = 123" in text
        assert text.startswith("# my settings\n")
        terminal.press("q")
        terminal.wait_for("Stop the service as well?", "unloads 1 model")
        process = home.running_service()
        terminal.press("s")
        terminal.wait_for("ended with 0")
    eventually(lambda: not is_alive(process), what="the end of the service")


def test_a_hangup_ends_the_app_and_leaves_the_service(home: Home) -> None:
    with home.terminal("--demo") as terminal:
        terminal.wait_for("demo", "unloaded")
        process = home.running_service()
        app = home.app()
    # A zombie has ended: the one that has to look may be slow to.
    eventually(lambda: not is_alive(app), what="the end of the app")
    assert httpx.get(f"{home.url}/health").json() == {"status": "ok"}
    with home.terminal() as terminal:
        terminal.wait_for("demo", "unloaded")
        assert home.running_service().pid == process.pid
        terminal.press("q")  # it did not start this one: nothing is asked
        terminal.wait_for("ended with 0")
    assert process.is_running()


def test_it_waits_for_a_service_that_was_killed(home: Home) -> None:
    with home.terminal("--demo") as terminal:
        terminal.wait_for("demo", "unloaded")
        home.running_service().kill()
        terminal.wait_for("no connection", "demo")
        with Terminal(home.arguments("--no-ui", "--demo"), folder=home.folder) as other:
            other.wait_for("listening on")
            terminal.wait_for("started")
            terminal.wait_without("no connection")


def has_lines(path: Path, count: int) -> bool:
    return path.read_text().count("\n") >= count


@pytest.mark.parametrize("stop", [None, signal.SIGTSTP, signal.SIGSTOP])
def test_the_app_is_whole_after_a_stop(home: Home, stop: signal.Signals | None) -> None:
    prompts = home.folder / "prompts"
    shell = [
        *("env", f"PROMPT_COMMAND=echo >> {shlex.quote(str(prompts))}"),
        *(tool("bash"), "--norc", "--noprofile", "--noediting", "-i"),
    ]
    with Terminal(shell, folder=home.folder) as terminal:
        terminal.type(shlex.join(home.arguments("--demo")))
        terminal.press("Enter")
        before = terminal.wait_for("Dashboard", "demo", "unloaded", "EVENTS", "Help")
        app = home.app()
        started = app.num_threads()
        for count in (2, 4):
            if stop is None:
                terminal.press("C-z")
            else:
                app.send_signal(stop)
            eventually(lambda: app.status() == psutil.STATUS_STOPPED, what="the stop")
            # The shell has the terminal, and echoes. It discards what is typed before its prompt.
            eventually(partial(has_lines, prompts, count), what="the prompt")
            terminal.type("printf 'xyz%.0s' $(seq 900)")
            terminal.press("Enter")
            terminal.wait_for("xyzxyz")
            terminal.type("fg")
            terminal.press("Enter")
            terminal.wait_without("xyz")
            after = terminal.wait_for("Dashboard", "demo", "unloaded", "EVENTS", "Help")
            assert after.count("\n") == before.count("\n")
        assert app.num_threads() == started
        terminal.press("2")
        terminal.wait_for("FITS")
        terminal.press("q")
        terminal.wait_without("FITS")
        # As the shell had it before the app.
        terminal.type("stty -a | grep -o ' icanon'")
        terminal.press("Enter")
        terminal.wait_for(" icanon\n")


def test_every_size_has_its_say(home: Home) -> None:
    # Some programs leave these in the environment: the window has its own size all the same.
    environ = {"COLUMNS": "70", "LINES": "20"}
    app = Terminal(home.arguments("--demo"), folder=home.folder, environ=environ, size=(80, 24))
    with app as terminal:
        terminal.wait_for("demo", "unloaded")
        terminal.resize(50, 12)
        terminal.wait_for("too small")
        terminal.resize(160, 50)
        terminal.wait_for("demo", "unloaded")
        terminal.wait_without("too small")


def test_a_key_that_the_start_makes_is_known(home: Home) -> None:
    with home.terminal("--demo", "--host", "0.0.0.0") as terminal:
        terminal.wait_for("demo", "unloaded")
        terminal.press("C")
        terminal.wait_for("Connect a client", "••••", "None yet.")
        terminal.press("v")
        terminal.wait_for(tomllib.loads(home.config.read_text())["api_keys"][0])


def test_the_way_to_connect_is_told_at_every_size(home: Home) -> None:
    with home.terminal("--demo") as terminal:
        terminal.wait_for("demo", "unloaded")
        terminal.press("C")
        for size in ((120, 40), (80, 24), (60, 20)):
            terminal.resize(*size)
            terminal.wait_for(
                "Connect a client", f"{home.url}/v1", "none needed", "demo", "curl", "esc closes"
            )
        terminal.press("Escape")
        terminal.wait_without("Connect a client")


def test_sigterm_leaves_the_terminal_as_it_was(home: Home) -> None:
    with home.terminal("--demo") as terminal:
        terminal.wait_for("demo", "unloaded")
        service = home.running_service()
        app = next(
            one
            for one in psutil.process_iter(["cmdline"])
            if str(home.config) in (one.info["cmdline"] or ()) and one.pid != service.pid
        )
        os.kill(app.pid, signal.SIGTERM)
        shown = terminal.wait_for("ended with 0")
        assert "Dashboard" not in shown
        assert f"'kill {service.pid}' stops it" in shown.replace("\n", "")
    assert service.is_running()


def test_attached_to_a_service_with_a_password(home: Home) -> None:
    home.config.write_text(home.config.read_text() + 'admin_password = "open sesame"\n')
    with Terminal(home.arguments("--no-ui", "--demo"), folder=home.folder) as service:
        service.wait_for("listening on")
        elsewhere = home.folder / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "config.toml").touch()
        attach = [
            sys.executable, "-m", "cyber_inference_tui", "--attach", f"127.0.0.1:{home.port}",
            "--config", str(elsewhere / "config.toml"), "--data-dir", str(elsewhere / "data"),
        ]  # fmt: skip
        with Terminal(attach, folder=elsewhere) as terminal:
            terminal.wait_for("Admin password")
            terminal.type("wrong")
            terminal.press("Enter")
            terminal.wait_for("The admin password is wrong.")
            terminal.type("open sesame")
            terminal.wait_for("•" * len("open sesame"))
            terminal.press("Tab", "Space", "BTab", "Enter")
            terminal.wait_for("attached", "demo", "unloaded")
            terminal.press("q")
            terminal.wait_for("ended with 0")
        kept = elsewhere / "data" / "passwords.json"
        assert kept.stat().st_mode & 0o077 == 0
        with Terminal(attach, folder=elsewhere) as terminal:
            terminal.wait_for("attached", "demo", "unloaded")
