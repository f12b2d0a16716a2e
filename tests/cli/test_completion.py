"""Completion in real shells, and the program's answers to them."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.cli import completion_values, main
from cyber_inference_tui.cli.completion import SHELLS, typed_line
from cyber_inference_tui.service.runtime import RuntimeRecord, write_runtime_file
from tests.cli.conftest import CommandLine, Spawn
from tests.cli.stand_in import StandIn

Complete = Callable[..., list[str]]
ODD_IDS = ("my model", "org/tiny:q4", "org/tiny:q8", "it's", 'say "$HOME"', "模型 q8", "Plain-Q4")
LIMIT = 40.0
BREAKS = " \t\n\"'><=;|&(:"
"""bash's COMP_WORDBREAKS, as it is by default."""


@pytest.fixture
def ids(stand_in: StandIn) -> StandIn:
    """A service with models of odd names; "Plain-Q4" is loaded."""
    stand_in.answers["GET", "/v1/models"] = {
        "data": [
            {"id": one, "state": "loaded" if one == "Plain-Q4" else "unloaded"} for one in ODD_IDS
        ]
    }
    return stand_in


@pytest.fixture
def shell_environ(environ: Mapping[str, str], config: Path, ids: StandIn) -> dict[str, str]:
    """Both names of the program on PATH, and settings for the stand-in."""
    config.write_text(f"port = {ids.port}\n")
    folder = config.parent / "bin"
    folder.mkdir()
    for name in ("cyber-inference-tui", "citui"):
        program = folder / name
        program.write_text(
            f"#!{sys.executable}\n"
            "from cyber_inference_tui.cli import main, completion_values\n"
            f"completion_values.ANSWER_LIMIT = completion_values.WHOLE_LIMIT = {LIMIT}\n"
            "main.main()\n"
        )
        program.chmod(0o755)
    return {
        **environ,
        "PATH": f"{folder}:{environ['PATH']}",
        "PYTHONPATH": str(Path(main.__file__).parents[2]),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
        "PS1": "$ ",
    }


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def read_all(terminal: int) -> str:
    """Return the output on the terminal until its program ends."""
    output = b""
    deadline = time.monotonic() + LIMIT
    while select.select([terminal], [], [], deadline - time.monotonic())[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: no process has it open any more
            piece = b""
        if not piece:
            return output.decode()
        output += piece
    pytest.fail(f"the shell did not end; it printed {output.decode()!r}")


def words_after_tab(
    command: Sequence[str], environ: Mapping[str, str], setup: str, lines: Sequence[str]
) -> list[str]:
    """Return the words that a shell reads from each line after TAB was typed at its end.

    The line is not run but given to printf, which the key Ctrl-A puts before it.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.execve(command[0], list(command), dict(environ))
    keys = "".join(f"{line}\t\x01printf '<%s>' BEGIN \x05 END\r" for line in lines)
    os.write(terminal, f"{setup}\r{keys}exit\r".encode())
    try:
        output = read_all(terminal)
    finally:
        os.close(terminal)
        os.waitpid(process, 0)
    return re.findall(r"<BEGIN>(.*?)<END>", output)


def test_bash(shell_environ: dict[str, str]) -> None:
    words = words_after_tab(
        [shell("bash"), "--norc", "-i"],
        shell_environ,
        'eval "$(citui completion bash)"',
        [
            "citui loa",
            "cyber-inference-tui load my",
            "citui load org/tiny:q4",
            "citui load org/t",
            'citui load "say',
            "citui load 'it",
            "citui load 模",
            "citui --log-level=de",
            "citui --config=/etc/hostn",
        ],
    )
    assert words == [
        "<citui><load>",
        "<cyber-inference-tui><load><my model>",
        "<citui><load><org/tiny:q4>",
        "<citui><load><org/tiny:q>",
        '<citui><load><say "$HOME">',
        "<citui><load><it's>",
        "<citui><load><模型 q8>",
        "<citui><--log-level=debug>",
        "<citui><--config=/etc/hostname>",
    ]


def test_bash_without_a_line(shell_environ: dict[str, str]) -> None:
    """Called by another function, which sets only the words."""
    done = subprocess.run(
        [
            shell("bash"),
            "-c",
            'eval "$(citui completion bash)"; set -u; COMP_WORDS=(citui load Pl); COMP_CWORD=2\n'
            '_cyber_inference_tui citui; printf "%s\\n" "${COMPREPLY[@]}"; complete -p citui',
        ],
        env=shell_environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
    )
    assert done.stdout.splitlines()[0] == "Plain-Q4"
    assert done.stderr == ""


def test_zsh_with_eval(shell_environ: dict[str, str]) -> None:
    setup = 'autoload -Uz compinit; compinit -D -u; eval "$(citui completion zsh)"'
    words = words_after_tab([shell("zsh"), "-f", "-i"], shell_environ, setup, ["citui loa"])
    assert words == ["<citui><load>"]


def test_zsh(shell_environ: dict[str, str], call: CommandLine, tmp_path: Path) -> None:
    """With the script in ``$fpath``, which the first TAB loads."""
    (tmp_path / "_cyber-inference-tui").write_text(call("completion", "zsh").out)
    words = words_after_tab(
        [shell("zsh"), "-f", "-i"],
        shell_environ,
        f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -D -u",
        [
            "citui loa",
            "cyber-inference-tui load my",
            "citui load org/tiny:q4",
            'citui load "say',
            "citui load 模",
            "citui --log-level=de",
            "citui --config=/etc/hostn",
        ],
    )
    assert words == [
        "<citui><load>",
        "<cyber-inference-tui><load><my model>",
        "<citui><load><org/tiny:q4>",
        '<citui><load><say "$HOME">',
        "<citui><load><模型 q8>",
        "<citui><--log-level=debug>",
        "<citui><--config=/etc/hostname>",
    ]


def test_fish(shell_environ: dict[str, str]) -> None:
    lines = [
        "citui loa",
        "cyber-inference-tui load my",
        "citui load org/tiny:q4",
        "citui load 'it",
        "citui load 模",
        "citui --log-level=de",
        "citui --config /etc/hostn",
    ]
    quoted = " ".join("'" + line.replace("'", "\\'") + "'" for line in lines)
    done = subprocess.run(
        [
            shell("fish"),
            "--no-config",
            "-c",
            f"citui completion fish | source; for line in {quoted}; complete -C $line; end",
        ],
        env=shell_environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "load\tLoad a model and wait until it is ready.",
        "my model\tunloaded",
        "org/tiny:q4\tunloaded",
        "it's\tunloaded",
        "模型 q8\tunloaded",
        "--log-level=debug",
        "/etc/hostname",
    ]


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_is_right_by_the_shell_itself(call: CommandLine, name: str) -> None:
    script = call("completion", name).out
    assert "citui" in script
    checked = subprocess.run(
        [shell(name), "-n"], input=script, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_an_unknown_shell_is_wrong_usage(call: CommandLine) -> None:
    for words in (["completion", "tcsh"], ["completion"]):
        outcome = call(*words)
        assert (outcome.code, outcome.out) == (2, "")
        assert "bash" in outcome.err
        assert outcome.err.count("\n") == 1


# The program's answers


@pytest.fixture
def complete(
    environ: Mapping[str, str],
    config: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Complete:
    """The values that may replace the last word."""
    for name in ("ANSWER_LIMIT", "WHOLE_LIMIT"):
        monkeypatch.setattr(completion_values, name, LIMIT)

    def complete(*words: str) -> list[str]:
        code = main.run(words, {**environ, main.COMPLETION: "zsh"})
        captured = capfd.readouterr()
        assert captured.err == ""
        assert code in {0, 1}
        return [line.split("\t")[1] for line in captured.out.splitlines()]

    return complete


def test_commands_come_in_their_order_and_global_options_with_them(complete: Complete) -> None:
    assert complete("") == list(main.COMMANDS)
    assert complete("un") == ["unload"]
    assert complete("--da") == ["--data-dir"]
    assert complete("config", "") == ["check", "get", "path", "set", "show"]
    assert complete("logs", "--fo") == ["--follow"]
    assert complete("search-models", "--sort", "t") == ["trending"]


def test_ids_come_from_the_service_of_the_options(
    complete: Complete, ids: StandIn, config: Path
) -> None:
    assert complete("load", "") == [], "nothing answers at the usual port"
    port = f"{ids.port}"
    assert complete("--port", port, "load", "") == list(ODD_IDS)
    assert complete("load", "--port", port, "ORG") == ["org/tiny:q4", "org/tiny:q8"]
    assert complete("unload", f"--port={port}", "") == ["Plain-Q4"]
    assert complete("logs", "--port", port, "-n", "5", "s") == ['say "$HOME"', "service"]
    assert complete("--attach", ids.url, "load", "my") == ["my model"]
    assert complete("--attach", ids.url.replace("http", "https"), "load", "my") == []
    other = config.with_name("other.toml")
    other.write_text(f"port = {port}\napi_keys = ['sk-1']\n")
    assert complete("--config", str(other), "delete-model", "Pl") == ["Plain-Q4"]
    assert ids.requests[-1][2]["Authorization"] == "Bearer sk-1"


def test_ids_come_from_a_real_service(complete: Complete, spawn: Spawn) -> None:
    """The stand-in's answer only shows what these tests expect from a service."""
    service = spawn("serve", "--demo", "--port", "0", stdout=subprocess.PIPE)
    assert service.stdout is not None
    assert service.stdout.readline().startswith(b"listening on ")
    assert complete("--port", "0", "load", "") == ["demo"]
    assert complete("--port", "0", "unload", "") == []
    assert complete("--port", "0", "config", "set", 'models."demo".pin') == ['models."demo".pinned']


def test_the_port_of_a_data_directory_is_found(
    complete: Complete, ids: StandIn, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    record = RuntimeRecord(pid=1, url=ids.url, version="1", started_at=datetime.now(UTC))
    write_runtime_file(folder, record)
    assert complete("--data-dir", str(folder), "--port", "0", "load", "Pl") == ["Plain-Q4"]


def test_settings(complete: Complete, ids: StandIn) -> None:
    assert complete("config", "get", "llama_server_") == [
        "llama_server_path",
        "llama_server_base_port",
    ]
    assert complete("config", "set", "discover", "") == ["true", "false"]
    assert complete("config", "set", "log_level", "w") == ["warning"]
    assert complete("config", "set", "models.a.context_size", "") == ["auto"]
    assert complete("config", "set", "port", "") == []
    assert complete("config", "set", "nonsense", "") == []
    ids.answers["GET", "/v1/models"]["data"].append(
        {"id": "Plain-Q4:long", "state": "loaded", "preset_of": "Plain-Q4"}
    )
    found = complete("--port", str(ids.port), "config", "set", 'models."Plain-Q4".presets.long.pi')
    assert found == ['models."Plain-Q4".presets.long.pinned']
    found = complete("--port", str(ids.port), "config", "set", 'models."Plain-Q4".pi')
    assert found == ['models."Plain-Q4".pinned']


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--config", "x"], "file"),
        (["status", "--config", "x"], "file"),
        (["--models-dir", "x"], "dir"),
        (["config", "set", "models_dir", "x"], "file"),
        (["config", "set", "llama_server_path", ""], "file"),
    ],
)
def test_paths_are_left_to_the_shell(
    environ: Mapping[str, str], capfd: pytest.CaptureFixture[str], words: list[str], kind: str
) -> None:
    assert main.run(words, {**environ, main.COMPLETION: "zsh"}) == 0
    assert capfd.readouterr().out.split("\t")[0] == kind


def test_errors_give_no_completions(
    complete: Complete,
    environ: Mapping[str, str],
    config: Path,
    ids: StandIn,
    capfd: pytest.CaptureFixture[str],
) -> None:
    port = str(ids.port)
    assert complete("--port", "many", "load", "") == []
    assert complete("--version", "load", "--port", port, "Pl") == ["Plain-Q4"]
    for body in (b"[]", b"{", b'{"data": [{"id": 1}]}'):
        ids.answers["GET", "/v1/models"] = msgspec.Raw(body)
        assert complete("--port", port, "load", "") == []
    config.write_text("port = 'many'\n")
    assert complete("load", "") == []
    for words in ([], ["citui load "]):
        assert main.run(words, {**environ, main.COMPLETION: "bash"}) == 1
    assert capfd.readouterr() == ("", "")


def test_a_silent_service_does_not_delay_completion(
    complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion_values, "ANSWER_LIMIT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert complete("--port", str(silent.getsockname()[1]), "load", "") == []


def test_completion_imports_no_client_and_no_server(environ: Mapping[str, str]) -> None:
    """The user waits for each of these imports, at every TAB."""
    heavy = (
        "asyncio",
        "ssl",
        "email",
        "concurrent",
        "httpx",
        "aiohttp",
        "uvloop",
        "textual",
        "tomlkit",
        "huggingface_hub",
    )
    code = (
        "import sys; from cyber_inference_tui.cli.main import run\n"
        f"run(['load', ''], {{**__import__('os').environ, {main.COMPLETION!r}: 'zsh'}})\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(environ), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("line", "words", "quote", "kept"),
    [
        ("citui ", ["citui", ""], "", 0),
        ("citui  load  a", ["citui", "load", "a"], "", 0),
        ("citui a\\ b", ["citui", "a b"], "", 0),
        ("citui 'a b", ["citui", "a b"], "'", 0),
        ("citui 'a b' c", ["citui", "a b", "c"], "", 0),
        ('citui "a\\"b\\c', ["citui", 'a"b\\c'], '"', 0),
        ("citui x/a:b", ["citui", "x/a:b"], "", 4),
        ("citui x\\:b", ["citui", "x:b"], "", 0),
        ("citui --o='a b", ["citui", "--o=a b"], "'", 4),
        ("citui --o='a'b", ["citui", "--o=ab"], "", 4),
        ("citui '' ", ["citui", "", ""], "", 0),
        ("citui a\\", ["citui", "a"], "", 0),
    ],
)
def test_a_line_of_bash_is_split_as_bash_does(
    line: str, words: list[str], quote: str, kept: int
) -> None:
    assert typed_line(line, BREAKS) == (words, quote, kept)
