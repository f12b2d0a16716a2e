"""The command line as a process: start-up, terminals, pipes and signals."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cyber_inference_tui.records import ModelRecord, ModelStatus
from tests.cli.conftest import Spawn
from tests.cli.stand_in import StandIn

HEAVY = ("httpx", "msgspec", "aiohttp", "uvloop", "asyncio", "platformdirs", "tomlkit")


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["lod"], ["load", "--help"]])
def test_help_imports_nothing_but_click(argv: list[str], environ: Mapping[str, str]) -> None:
    code = (
        "import sys; from cyber_inference_tui.cli.main import run\n"
        f"run({argv!r}, {{}})\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(environ), capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_service_reports_to_systemd(spawn: Spawn, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)
        watched = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "200000"}
        process = spawn("serve", "--port", "0", stdout=subprocess.PIPE, environ=watched)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline().startswith(b"listening on")
        heard = [manager.recv(100) for _ in range(3)]
        assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        process.terminate()
        while manager.recv(100) != b"STOPPING=1":
            pass
        assert process.wait(60) == 0


def read_terminal(master: int) -> str:
    """Return everything written to a terminal until its last writer closed it."""
    parts = bytearray()
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux gives EIO where others give an end of file
            break
        if not chunk:
            break
        parts += chunk
    os.close(master)
    return parts.decode().replace("\r\n", "\n")


def on_terminal(
    spawn: Spawn, *argv: str, environ: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command line with standard output and error on a terminal of 60 columns."""
    master, slave = pty.openpty()
    more = {"COLUMNS": "60", "TERM": "xterm", **(environ or {})}
    process = spawn(*argv, stdout=slave, stderr=slave, environ=more)
    os.close(slave)
    text = read_terminal(master)
    return process.wait(60), text


def test_a_terminal_gets_signs_and_colour(spawn: Spawn, stand_in: StandIn) -> None:
    stand_in.models["tiny"] = ModelRecord(id="tiny", status=ModelStatus.LOADED)
    argv = ["list-models", "--port", str(stand_in.port)]
    code, text = on_terminal(spawn, *argv)
    assert code == 0
    assert "\x1b[32m● loaded\x1b[0m" in text
    code, text = on_terminal(spawn, *argv, environ={"NO_COLOR": "1"})
    assert "● loaded" in text
    assert "\x1b" not in text
    for plain in ("linux", "dumb", "vt100"):
        code, text = on_terminal(spawn, *argv, environ={"TERM": plain, "NO_COLOR": "1"})
        assert "* loaded" in text
    code, text = on_terminal(
        spawn, *argv, environ={"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    )
    assert "* loaded" in text


def test_a_load_shows_its_progress_and_leaves_none_behind(spawn: Spawn, stand_in: StandIn) -> None:
    record = ModelRecord(id="tiny", status=ModelStatus.LOADING, progress=0.42)
    stand_in.models["tiny"] = record

    def publish_progress() -> None:
        stand_in.publish("model", {"id": "another", "status": None})
        stand_in.publish("model", record)

    stand_in.on_events = publish_progress
    stand_in.load_after_events = 2
    code, text = on_terminal(spawn, "load", "tiny", "--port", str(stand_in.port))
    assert code == 0
    assert "loading tiny 42%" in text
    assert text.rsplit("\r\x1b[K", 1)[1] == "tiny is loaded\x1b[2m on port 8338\x1b[0m.\n"


def test_only_a_clear_yes_deletes(spawn: Spawn, stand_in: StandIn) -> None:
    stand_in.models["tiny"] = ModelRecord(id="tiny", size_bytes=5 << 20)
    for typed in (b"maybe\n", b"\n", b"n\n"):
        master, slave = pty.openpty()
        argv = ("delete-model", "tiny", "--port", str(stand_in.port))
        process = spawn(*argv, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        os.write(master, typed)
        assert "Delete tiny (5.00 MiB)? [y/N]: " in read_terminal(master)
        assert process.wait(60) == 130
        assert "DELETE" not in [method for method, *_ in stand_in.requests]


def test_a_reader_that_goes_away_ends_it_quietly(spawn: Spawn, stand_in: StandIn) -> None:
    stand_in.logs["service"] = "a long line of log\n" * 100_000
    process = spawn(
        *("logs", "service", "-n", "100000", "--port", str(stand_in.port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "argv",
    [["--help"], ["--version"], ["status"], ["list-models", "--json"], ["logs", "service", "-f"]],
)
def test_a_full_disk_as_output_is_one_sentence(
    spawn: Spawn, stand_in: StandIn, argv: list[str], unbuffered: str
) -> None:
    stand_in.logs["service"] = "a line\n"
    if argv[0] != "--version":
        argv = [*argv, "--port", str(stand_in.port)]
    environ = {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        process = spawn(*argv, stdout=full, stderr=subprocess.PIPE, environ=environ)
        _, said = process.communicate(timeout=60)
        assert said == b"Standard output: No space left on device.\n"
        assert process.returncode == 1
        assert spawn(*argv, stdout=full, stderr=full, environ=environ).wait(60) == 1


def test_notes_that_cannot_be_written_change_nothing(spawn: Spawn, stand_in: StandIn) -> None:
    stand_in.models.clear()
    argv = ("list-models", "--port", str(stand_in.port))
    with Path("/dev/full").open("wb") as full:
        process = spawn(*argv, stdout=subprocess.PIPE, stderr=full)
        assert process.communicate(timeout=60)[0] == b""
        assert process.returncode == 0
        assert spawn("lod", stdout=subprocess.DEVNULL, stderr=full).wait(60) == 2


def test_ctrl_c_ends_following_quietly(spawn: Spawn, stand_in: StandIn) -> None:
    stand_in.logs["service"] = "a line\n"
    process = spawn(
        *("logs", "service", "-f", "--port", str(stand_in.port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"a line\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read() == b""


def test_closed_standard_streams_are_survived(
    stand_in: StandIn, environ: Mapping[str, str], config: Path
) -> None:
    command = f"{sys.executable} -m cyber_inference_tui status --port {stand_in.port} >&- 2>&-"
    done = subprocess.run(["/bin/sh", "-c", command], env=dict(environ), check=False)
    assert done.returncode == 0


def test_names_that_the_encoding_lacks_are_no_reason_to_fail(
    spawn: Spawn, stand_in: StandIn
) -> None:
    stand_in.models["m"] = ModelRecord(id="模型", status=ModelStatus.LOADED)
    process = spawn(
        *("list-models", "--port", str(stand_in.port)),
        stdout=subprocess.PIPE,
        environ={"PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"},
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"??" in output


def test_the_package_runs_as_a_module(spawn: Spawn, tmp_path: Path) -> None:
    process = spawn("--version", stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=60)
    assert output.startswith(b"cyber-inference-tui ")
