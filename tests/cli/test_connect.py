"""``connect`` on the command line: what it shows, asks, writes and takes back."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from cyber_inference_tui.gguf.demo import write_demo
from cyber_inference_tui.records import ModelRecord, ModelStatus
from tests.cli.conftest import CommandLine
from tests.cli.stand_in import StandIn


@pytest.fixture
def models(stand_in: StandIn) -> StandIn:
    """A service with a loaded model and another."""
    stand_in.models = {
        "qwen": ModelRecord(
            id="qwen", aliases=("coder",), context_length=8192, status=ModelStatus.LOADED
        ),
        "other": ModelRecord(id="other", context_length=65536),
    }
    return stand_in


@pytest.fixture
def connect(call: CommandLine, models: StandIn) -> CommandLine:
    return lambda *argv: call("connect", *argv, "--port", str(models.port))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """The settings of Claude Code, as a user has them."""
    path = tmp_path / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text('{\n  "env": {"EDITOR": "vi"}\n}\n')
    return path


def test_difference_settings_and_undo(
    connect: CommandLine, models: StandIn, settings: Path, config: Path
) -> None:
    config.write_text('api_keys = ["sk-secret-key"]\n')
    before = settings.read_text()
    done = connect("claude-code", "--yes")
    assert done.code == 0
    assert done.out == f"Claude Code uses qwen at {models.url}.\n"
    assert f'+    "ANTHROPIC_BASE_URL": "{models.url}",' in done.err.splitlines()
    assert "sk-secret-key" not in done.err
    assert f"chmod 600 {settings}" in done.err
    # The default context is too small for an agent.
    assert "8,192 tokens of context; Claude Code needs about 65,536" in done.err
    env = json.loads(settings.read_text())["env"]
    assert env["EDITOR"] == "vi"
    assert env["ANTHROPIC_AUTH_TOKEN"] == "sk-secret-key"
    # A second time there is nothing to show or to ask.
    again = connect("claude-code")
    assert again.code == 0
    assert "@@" not in again.err
    undone = connect("claude-code", "--undo", "--yes")
    assert (undone.code, undone.out) == (0, "Claude Code is as it was before.\n")
    assert settings.read_text() == before
    assert connect("claude-code", "--undo", "--yes").code == 4


def test_the_configuration_says_what_auto_means(
    connect: CommandLine, models: StandIn, config: Path
) -> None:
    config.write_text('default_model = "Other"\n[models.auto]\naliases = ["Best"]\n')
    models.models = {name: ModelRecord(id=name) for name in ("one", "other")}
    assert "OPENAI_MODEL=other\n" in connect("env").out
    assert "OPENAI_MODEL=Best\n" in connect("env", "--model", "best").out


def test_nothing_is_written_without_an_answer(connect: CommandLine, settings: Path) -> None:
    before = settings.read_text()
    done = connect("claude-code")
    assert done.code == 2
    assert "--yes" in done.err
    assert settings.read_text() == before
    settings.write_text("{ broken")
    done = connect("claude-code", "--yes")
    assert done.code == 1
    assert "settings.json cannot be changed: line 1" in done.err
    assert "--print" in done.err
    assert settings.read_text() == "{ broken"


def test_without_a_service_the_models_are_those_on_the_disk(
    call: CommandLine, data_dir: Path, tmp_path: Path
) -> None:
    write_demo(data_dir / "models" / "sub" / "tiny.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # it does not listen
        port = free.getsockname()[1]
        done = call("connect", "aider", "--yes", "--port", str(port))
    assert done.code == 0
    assert (
        f"openai-api-base: http://127.0.0.1:{port}/v1" in (tmp_path / ".aider.conf.yml").read_text()
    )
    sizes = json.loads((tmp_path / ".aider.model.metadata.json").read_text())
    assert sizes["openai/tiny"]["max_input_tokens"] > 0


def test_print_writes_nothing(connect: CommandLine, models: StandIn, tmp_path: Path) -> None:
    done = connect("codex", "--print", "--model", "CODER")
    assert done.code == 0
    assert 'model = "coder"' in done.out
    assert ".codex/config.toml:" in done.err
    assert not (tmp_path / ".codex").exists()
    (file,) = json.loads(connect("codex", "--print", "--json").out)
    assert file["path"] == str(tmp_path / ".codex/config.toml")
    shell = connect("env", "--yes")
    assert f"export OPENAI_BASE_URL={models.url}/v1" in shell.out.splitlines()
    assert shell.out == json.loads(connect("env", "--json").out)["text"]


def test_json_names_files_and_backups(connect: CommandLine, settings: Path, tmp_path: Path) -> None:
    facts = json.loads(connect("claude-code", "--yes", "--json", "--model", "other").out)
    backup = tmp_path / "data/connect/claude-code/0-settings.json"
    assert facts["model"] == "other"
    assert facts["files"] == [{"path": str(settings), "backup": str(backup)}]
    assert backup.is_file()
    undone = json.loads(connect("claude-code", "--undo", "--yes", "--json").out)
    assert undone == {"client": "claude-code", "files": [str(settings)]}


def test_list_shows_what_is_installed_and_connected(
    connect: CommandLine,
    call: CommandLine,
    models: StandIn,
    tmp_path: Path,
    environ: dict[str, str],
) -> None:
    program = tmp_path / "bin" / "codex"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    environ["PATH"] = str(program.parent)
    connect("pi", "--yes")
    (tmp_path / ".continue").mkdir()
    rows = {row["client"]: row for row in json.loads(call("connect", "--list", "--json").out)}
    assert rows["codex"]["installed"] is True
    assert rows["continue"]["installed"] is True
    assert rows["zed"]["installed"] is False
    assert rows["env"]["installed"] is None
    assert rows["pi"] == {
        "client": "pi",
        "title": "pi",
        "installed": False,
        "connected": True,
        "model": "qwen",
        "url": models.url,
    }
    lines = call("connect", "--list").out.splitlines()
    assert lines[0].split() == ["CLIENT", "NAME", "STATE"]
    assert any(f"connected to {models.url}, qwen" in line for line in lines)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ((), 2, "--list shows them"),
        (("claud-code",), 4, "Did you mean claude-code?"),
        (("codex", "--list"), 2, "--list goes without"),
        (("codex", "--undo", "--print"), 2, "--undo goes without"),
        (("codex", "--undo"), 4, "codex is not connected"),
        (("codex", "--model", "qwem"), 4, "Did you mean qwen?"),
    ],
)
def test_mistakes(connect: CommandLine, argv: tuple[str, ...], code: int, words: str) -> None:
    done = connect(*argv)
    assert done.code == code
    assert words in done.err


def test_doctor_without_clients(call: CommandLine) -> None:
    found = json.loads(call("doctor", "--offline", "--clients", "--json").out)
    (finding,) = [one for one in found if one["check"] == "clients"]
    assert (finding["level"], finding["message"]) == ("hint", "No client is connected.")
