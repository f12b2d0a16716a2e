"""The app on services behind a real SSH server, in a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from tests.certificates import Pair
from tests.real.conftest import StartFake
from tests.real.terminal import Terminal
from tests.ssh_server import SshServer
from tests.waiting import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


def tunnels(folder: Path) -> list[psutil.Process]:
    """The processes of ``ssh`` with the configuration in ``folder``."""
    return [
        one
        for one in psutil.process_iter(["cmdline"])
        if f"{folder}/ssh_config" in (one.info["cmdline"] or [])
    ]


def test_hosts_are_switched_and_no_tunnel_is_left(start_fake: StartFake, tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    first, second = start_fake({"alpha": {}}, config=pair.settings), start_fake({"beta": {}})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.toml").touch()
    with SshServer(tmp_path / "ssh") as server:
        app = [
            sys.executable, "-m", "cyber_inference_tui",
            "--attach", f"ssh://box?port={first.port}&tls=yes",
            "--config", str(elsewhere / "config.toml"), "--data-dir", str(elsewhere / "data"),
        ]  # fmt: skip
        with Terminal(app, folder=elsewhere, environ={"PATH": server.path}) as terminal:
            terminal.wait_for(pair.fingerprint[:30], "Trust it")
            terminal.press("y", "Enter")
            terminal.wait_for("attached", "box", "alpha")
            terminal.press("H", "a")
            terminal.wait_for("Another machine")
            terminal.type(second.url)
            terminal.press("Enter")
            terminal.wait_for(f"▸ {second.url.removeprefix('http://')}", "nothing loaded")
            terminal.press("Enter")
            terminal.wait_for("attached", "beta")
            assert tunnels(server.folder) == []
            # A host that cannot be reached leaves the app where it was, with the reason.
            (server.folder / "user_key").rename(server.folder / "lost_key")
            terminal.press("H")
            terminal.wait_for("Hosts", "✖ no answer")
            terminal.press("Down", "Down")
            terminal.wait_for(f"▸ ssh://box?port={first.port}")
            terminal.press("Enter")
            terminal.wait_without("switches")
            terminal.wait_for("There is no tunnel to ssh://box", "beta")
            (server.folder / "lost_key").rename(server.folder / "user_key")
            # The keys are for rows that come after the first of them. The certificate is known.
            terminal.press("H", "Down", "Down", "Enter")
            terminal.wait_for("attached", "box", "alpha")
            # That of the list of hosts ends a moment later.
            eventually(lambda: len(tunnels(server.folder)) == 1, what="one tunnel")
        eventually(lambda: not tunnels(server.folder), what="the end of the tunnel")
