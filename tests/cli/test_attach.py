"""Commands with ``--attach``: they talk to a service elsewhere, and nothing here replaces it."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from cyber_inference_tui.cli.main import COMMANDS, run
from cyber_inference_tui.records import ModelRecord, ModelStatus
from tests.cli.conftest import CommandLine
from tests.cli.stand_in import StandIn
from tests.ssh_server import SshServer

HERE = {
    *("serve", "config", "init", "connect", "doctor", "service", "tls", "install-llama"),
    "completion",
}
"""The commands for this machine."""


@pytest.mark.usefixtures("config")
def test_commands_through_ssh(
    tmp_path: Path,
    environ: Mapping[str, str],
    stand_in: StandIn,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stand_in.models["tiny"] = ModelRecord(id="tiny")
    stand_in.logs["tiny"] = "a line\n"
    address = f"ssh://box?port={stand_in.port}"
    with SshServer(tmp_path / "ssh") as server:
        there = {**environ, "PATH": server.path}
        assert run(["status", "--json", "--attach", address], there) == 0
        assert json.loads(capfd.readouterr().out)["url"] == address
        assert run(["--attach", address, "load", "tiny"], there) == 0
        assert stand_in.models["tiny"].status is ModelStatus.LOADED
        capfd.readouterr()
        assert run(["logs", "tiny", "--attach", address], there) == 0
        assert capfd.readouterr().out == "a line\n"
        (server.folder / "known_hosts").write_text("")
        assert run(["status", "--attach", address], there) == 3
        errors = capfd.readouterr().err
        assert errors.startswith(f"There is no tunnel to {address} (Host key verification failed).")


def test_nothing_here_replaces_a_service_that_does_not_answer(
    call: CommandLine, data_dir: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for command in (
        ["list-models"], ["delete-model", "demo", "--yes"], ["search-models", "qwen"],
        ["download-model", "org/name"], ["logs", "service"], ["keys", "list"],
        ["keys", "add", "ann"], ["keys", "remove", "ann"], ["status"],
    ):  # fmt: skip
        outcome = call(*command, "--attach", closed)
        assert (outcome.code, outcome.out) == (3, ""), command
        assert outcome.err.startswith(f"No service answers at {closed}"), command
    assert not data_dir.exists()


def test_the_password_of_this_machines_service_is_not_sent_elsewhere(
    call: CommandLine, stand_in: StandIn, config: Path, environ: dict[str, str]
) -> None:
    config.write_text('admin_password = "mine"\n')
    stand_in.password = "theirs"
    outcome = call("status", "--attach", stand_in.url)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"The service at {stand_in.url} needs its admin password.")
    assert not any(b"mine" in body for *_, body in stand_in.requests)
    environ["CYBER_INFERENCE_ADMIN_PASSWORD"] = "theirs"
    assert call("status", "--attach", stand_in.url).code == 0


def test_commands_for_this_machine_go_without_attach(call: CommandLine) -> None:
    assert {name for name, place in COMMANDS.items() if not place.attaches} == HERE
    outcome = call("--attach", "http://x", "doctor")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("doctor is for this machine and goes without --attach.")
    assert call("doctor", "--attach", "http://x").code == 2
    assert call("--attach", "ssh://-oProxyCommand=x", "status").code == 2
