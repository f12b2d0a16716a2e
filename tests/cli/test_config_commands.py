from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from cyber_inference_tui.cli.config_commands import config as config_group
from cyber_inference_tui.cli.options import GlobalOptions
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.settings.example import render
from cyber_inference_tui.settings.password_hash import matches
from cyber_inference_tui.settings.schema import KEYS, MASK
from tests.cli.conftest import CommandLine


def test_init_makes_everything_once(call: CommandLine, config: Path, tmp_path: Path) -> None:
    config.unlink()
    outcome = call("init")
    assert outcome.code == 0
    assert config.read_text("utf-8") == render()
    *_, offer, command = outcome.out.splitlines()
    assert "port 11434 (Ollama) and 8080 (llama.cpp)" in offer
    assert command == "  cyber-inference-tui config set extra_ports 11434,8080"
    assert call(*command.split()[1:]).code == 0
    assert "11434" not in call("init").out
    assert (tmp_path / "data" / "models").is_dir()
    config.write_text("port = 1\n")
    again = call("init", "--json")
    assert json.loads(again.out) == {
        "config": str(config),
        "created": False,
        "data_dir": str(tmp_path / "data"),
        "models_dir": str(tmp_path / "data" / "models"),
    }
    assert config.read_text() == "port = 1\n"


def test_init_without_write_permission(call: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = call("init", "--config", str(tmp_path / "file" / "config.toml"))
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) == 1
    assert "Choose other places" in outcome.err


def test_init_on_a_full_disk_leaves_no_part_of_a_file(
    call: CommandLine, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.unlink()

    def refuse() -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cyber_inference_tui.settings.edit.render", refuse)
    outcome = call("init")
    assert outcome.code == 1
    assert f"Cannot create {config}: No space left on device." in outcome.err
    assert not config.exists()


def test_path(call: CommandLine, config: Path, tmp_path: Path) -> None:
    assert call("config", "path").out == f"{config}\n"
    other = tmp_path / "other.toml"
    outcome = call("config", "path", "--json", "--config", str(other))
    assert json.loads(outcome.out) == {"path": str(other), "exists": False}


def test_show_has_every_key_its_source_and_no_secret(call: CommandLine, config: Path) -> None:
    config.write_text("api_keys = ['hunter2']\nport = 1\n[models.x]\nenv = {T = 'hunter2'}\n")
    outcome = call("config", "show", "--json", "--host", "::1")
    records = {record["key"]: record for record in json.loads(outcome.out)}
    assert set(KEYS) <= set(records)
    assert records["port"]["value"] == 1
    assert records["port"]["source"] == "file"
    assert records["host"]["source"] == "flag"
    assert records["data_dir"]["source"] == "env"
    assert records["api_keys"]["value"] == MASK
    assert records['models."x".env']["value"] == {"T": MASK}
    table = call("config", "show")
    for out in (outcome.out, table.out):
        assert "hunter2" not in out
    assert any(line.split() == ["port", "1", "file"] for line in table.out.splitlines())


def test_get_prints_the_bare_value(call: CommandLine, config: Path) -> None:
    config.write_text("llama_args = ['-a', 'b c']\nhf_token = 'hunter2'\n[models.x]\nthreads = 3\n")
    assert call("config", "get", "llama_args").out == "-a\nb c\n"
    assert call("config", "get", "model_idle_timeout").out == "300\n"
    assert call("config", "get", "insecure_no_auth").out == "false\n"
    assert call("config", "get", "hf_token").out == f"{MASK}\n"
    assert call("config", "get", "hf_token", "--reveal").out == "hunter2\n"
    assert call("config", "get", 'models."x".threads').out == "3\n"
    assert call("config", "get", "models.x.parallel").out == "\n"
    record = json.loads(call("config", "get", "port", "--json").out)
    assert (record["value"], record["source"]) == (8337, "default")


def test_a_models_environment_is_a_secret(call: CommandLine, config: Path) -> None:
    config.write_text("[models.x]\nenv = {T = 'hunter2'}\n")
    assert "hunter2" not in call("config", "get", "models.x.env").out
    assert "hunter2" not in call("config", "get", "models.x.env", "--json").out
    assert "hunter2" in call("config", "get", "models.x.env", "--reveal").out


@pytest.mark.parametrize("command", [["get"], ["set", "1"]])
def test_an_unknown_key_is_4_with_the_nearest(call: CommandLine, command: list[str]) -> None:
    outcome = call("config", command[0], "model_idle_timout", *command[1:])
    assert outcome.code == 4
    assert "did you mean model_idle_timeout?" in outcome.err


def test_set_keeps_comments(call: CommandLine, config: Path) -> None:
    config.write_text("# mine\nport = 1 # low\n")
    assert call("config", "set", "port", "2").code == 0
    assert call("config", "set", "api_keys", "a,b").code == 0
    assert call("config", "set", 'models."x/y".context_size', "4096").code == 0
    assert config.read_text().startswith("# mine\nport = 2 # low\n")
    assert tomllib.loads(config.read_text()) == {
        "port": 2,
        "api_keys": ["a", "b"],
        "models": {"x/y": {"context_size": 4096}},
    }


def test_a_table_is_the_models_whatever_its_case(call: CommandLine, config: Path) -> None:
    config.write_text("[models.Tiny]\nthreads = 2\n")
    assert call("config", "get", "models.tiny.threads").out == "2\n"
    assert call("config", "set", "models.tiny.parallel", "3").code == 0
    assert tomllib.loads(config.read_text()) == {"models": {"Tiny": {"threads": 2, "parallel": 3}}}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("api_keys", "api_keys = ['sk-1', 'sk-2']"),
        ("admin_password", "admin_password = 'pass'"),
        ("llama_args", "llama_args = ['--hf-token', 'sk-1', '--x=1', '-hft=t']"),
        ("models.m.env", "[models.m]\nenv = {A = 'x', B = 'y'}"),
        ("models.m.args", "[models.m]\nargs = ['--hf-token=t']"),
    ],
)
def test_setting_a_mask_keeps_the_secret(
    call: CommandLine, config: Path, key: str, text: str
) -> None:
    config.write_text(text + "\n")
    record = json.loads(call("config", "get", key, "--json").out)
    shown = record["value"]
    assert "********" in json.dumps(shown)
    outcome = call("config", "set", key, shown if isinstance(shown, str) else json.dumps(shown))
    assert outcome.code == 0
    written = tomllib.loads(config.read_text())
    if key == "admin_password":
        assert matches("pass", written["admin_password"])
    else:
        assert written == tomllib.loads(text)


def test_a_mask_that_hides_nothing_is_no_value(
    call: CommandLine, environ: dict[str, str], config: Path
) -> None:
    # Values from the environment are not copied into the file.
    environ["CYBER_INFERENCE_HF_TOKEN"] = "hf_x"
    for key in ("hf_token", "api_keys", "models.m.env", "llama_args"):
        value = {"models.m.env": '{A = "********"}', "llama_args": '["--hf-token", "********"]'}
        outcome = call("config", "set", key, value.get(key, "********"))
        assert outcome.code == 5
        assert "this mask replaces no secret. Give the value itself." in outcome.err
    assert config.read_text() == ""


@pytest.mark.parametrize("value", ["many", "70000", "true", "1.5", ""])
def test_an_invalid_value_is_5_and_changes_nothing(
    call: CommandLine, config: Path, value: str
) -> None:
    config.write_text("port = 1\n")
    outcome = call("config", "set", "port", value)
    assert outcome.code == 5
    assert outcome.err.startswith("port: expected a whole number")
    assert config.read_text() == "port = 1\n"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("hf_token", "hf_secret\n", "hf_secret"),
        ("hf_token", "hf_secret\r\n", "hf_secret"),
        ("api_keys", "sk-1,sk-2", ["sk-1", "sk-2"]),
        ("api_keys", '["sk-1"]\n', ["sk-1"]),
        ("llama_gpu_layers", "-1\n", -1),
    ],
)
def test_a_value_is_read_from_standard_input(
    runner: Callable[..., click.testing.Result], config: Path, key: str, text: str, value: Any
) -> None:
    for word in ("-", "--stdin"):
        config.unlink(missing_ok=True)
        done = runner("set", key, word, input=text)
        assert done.exit_code == 0, done.output
        assert done.output == f"{config}: {key} is set\n"
        assert tomllib.loads(config.read_text()) == {key: value}


@pytest.mark.parametrize("text", ["", "\n", b"\xff\n"])
def test_standard_input_without_a_value_sets_nothing(
    runner: Callable[..., click.testing.Result], config: Path, text: str | bytes
) -> None:
    config.write_text("admin_password = 'sesame'\n")
    failed = runner("set", "admin_password", "-", input=text)
    assert isinstance(failed.exception, CyberError)
    assert failed.exception.exit_code == 5
    assert config.read_text() == "admin_password = 'sesame'\n"


@pytest.mark.parametrize("words", [[], ["--stdin", "x"]])
def test_a_value_comes_from_one_place(
    runner: Callable[..., click.testing.Result], words: list[str]
) -> None:
    failed = runner("set", "hf_token", *words, input="x")
    assert (failed.exit_code, "Give either VALUE or --stdin." in failed.output) == (2, True)


def test_a_terminal_asks_for_a_secret_without_showing_it(
    environ: Mapping[str, str], config: Path
) -> None:
    command = [sys.executable, "-m", "cyber_inference_tui", "config", "set", "admin_password", "-"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, dict(environ))
    shown = b""
    for prompt in (b"admin_password: ", b"confirmation: "):
        while not shown.endswith(prompt):
            shown += os.read(terminal, 4096)
        os.write(terminal, b"sesame\n")
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(terminal, 4096):
            shown += data
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert b"sesame" not in shown
    assert matches("sesame", tomllib.loads(config.read_text())["admin_password"])


@pytest.mark.parametrize("words", [["-1"], ["--", "-1"]])
def test_a_negative_number_is_a_value(call: CommandLine, config: Path, words: list[str]) -> None:
    assert call("config", "set", "llama_gpu_layers", *words).code == 0
    assert tomllib.loads(config.read_text()) == {"llama_gpu_layers": -1}


def test_set_resolves_paths_from_the_working_directory(
    call: CommandLine, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    call("config", "set", "models_dir", "models")
    call("config", "set", "model_dirs", "a,~/b,/c")
    call("config", "set", "llama_server_path", "./llama-server")
    assert tomllib.loads(config.read_text()) == {
        "models_dir": str(here / "models"),
        "model_dirs": [str(here / "a"), "~/b", "/c"],
        "llama_server_path": str(here / "llama-server"),
    }


def test_set_warns_of_a_variable_that_overrides_it(call: CommandLine, config: Path) -> None:
    outcome = call("config", "set", "data_dir", "/elsewhere")
    assert "CYBER_INFERENCE_DATA_DIR is also set" in outcome.err
    config.chmod(0o644)
    assert "others may read this secret" in call("config", "set", "admin_password", "x").err
    config.chmod(0o600)
    assert "warning" not in call("config", "set", "admin_password", "x").err


def test_check_names_every_mistake(call: CommandLine, config: Path) -> None:
    config.write_text("prot = 1\n\n[models.x]\nthreads = 'all'\n")
    outcome = call("config", "check")
    assert outcome.code == 5
    first, second = outcome.err.splitlines()
    assert first == f"{config}:1: prot: unknown setting; did you mean port?"
    assert second.startswith(f'{config}:4: models."x".threads: expected a whole number')
    as_json = call("config", "check", "--json")
    assert as_json.code == 5
    assert json.loads(as_json.out)["mistakes"] == [first, second]


def test_a_mistake_in_the_file_can_be_set_right(call: CommandLine, config: Path) -> None:
    config.write_text("port = 'many'\n")
    assert call("config", "set", "host", "h").code == 5
    assert call("config", "set", "port", "8080").code == 0
    assert config.read_text() == "port = 8080\n"


def test_check_of_a_good_file(call: CommandLine, config: Path) -> None:
    config.write_text("port = 1\n")
    outcome = call("config", "check")
    assert (outcome.code, outcome.out) == (0, f"{config}: no mistakes\n")
    assert json.loads(call("config", "check", "--json").out)["mistakes"] == []


@pytest.fixture
def runner(config: Path, tmp_path: Path) -> Callable[..., click.testing.Result]:
    options = GlobalOptions(config=config, environ={"HOME": str(tmp_path)})
    return lambda *argv, **more: CliRunner().invoke(config_group, argv, obj=options, **more)


def test_the_group_alone(runner: Callable[..., click.testing.Result], config: Path) -> None:
    assert runner("path").output == f"{config}\n"
    assert runner("get", "port").output == "8337\n"
    failed = runner("set", "port", "x")
    assert isinstance(failed.exception, CyberError)
    assert failed.exception.exit_code == 5
