"""``doctor`` from the outside: exit codes, JSON, text, and the holder of the port."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from cyber_inference_tui import __version__
from cyber_inference_tui.cli.doctor_command import finding_lines
from cyber_inference_tui.doctor.records import Finding, Level
from cyber_inference_tui.terminal.charset import ASCII
from cyber_inference_tui.terminal.stream import Terminal
from tests.cli.conftest import CommandLine, Outcome, Spawn
from tests.fakes.launcher import write_fake_llama
from tests.gguf.headers import write_gguf


@pytest.fixture
def usable(tmp_path: Path, config: Path) -> Path:
    """A valid configuration; the kernel chooses its ports."""
    program = write_fake_llama(tmp_path / "bin/llama-server")
    config.write_text(
        f"llama_server_path = '{program}'\nport = 0\nllama_server_base_port = 0\n"
        f"system_root = '{tmp_path}'\n"
    )
    return config


@pytest.fixture
def hub() -> Iterator[str]:
    """A model hub that answers every HEAD."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def findings(outcome: Outcome, check: str) -> list[dict[str, str]]:
    return [one for one in json.loads(outcome.out) if one["check"] == check]


def test_a_machine_without_errors(call: CommandLine, usable: Path, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    outcome = call("doctor", "--offline", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert all(set(one) == {"check", "level", "message", "fix"} for one in found)
    assert {one["level"] for one in found} <= {"ok", "hint", "warning"}
    assert all(one["fix"] for one in found if one["level"] != "ok")
    assert all(one["fix"] is None for one in found if one["level"] == "ok")
    assert {"machine", "gpu", "memory", "llama-server", "configuration", "directories"} <= {
        one["check"] for one in found
    }
    assert "hub" not in {one["check"] for one in found}
    assert set(tmp_path.rglob("*")) == before


def test_no_llama_server_is_6(call: CommandLine, usable: Path, tmp_path: Path) -> None:
    usable.write_text(usable.read_text() + f"model_dirs = ['{tmp_path}']\n")
    (tmp_path / "bin/llama-server").unlink()
    outcome = call("doctor", "--offline", "--json")
    assert outcome.code == 6
    (found,) = findings(outcome, "llama-server")
    assert found["level"] == "error"
    assert found["fix"] == "Correct it, or remove it to use the installed one."


def test_a_llama_server_that_does_not_run_is_6(
    call: CommandLine, usable: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin/llama-server").write_text("#!/bin/sh\necho 'no libcuda.so.1' >&2\nexit 127\n")
    outcome = call("doctor", "--offline", "--json")
    assert outcome.code == 6
    (found,) = findings(outcome, "llama-server")
    assert "no libcuda.so.1" in found["message"]
    assert found["fix"].startswith("Set llama_server_path to one that runs here")


def test_a_broken_configuration_is_5_and_names_its_lines(call: CommandLine, config: Path) -> None:
    config.write_text("host = '127.0.0.1'\nprot = 1\nport = 'x'\n")
    outcome = call("doctor", "--offline", "--json")
    assert outcome.code == 5
    first, second = findings(outcome, "configuration")
    assert first["message"].startswith(f"{config}:2: prot: unknown setting")
    assert second["message"].startswith(f"{config}:3: port:")
    # Checks that need no settings are made all the same.
    assert findings(outcome, "machine")
    assert not findings(outcome, "directories")


def test_a_configuration_file_that_is_not_there(call: CommandLine, config: Path) -> None:
    outcome = call("doctor", "--offline", "--json", "--config", f"{config}.none")
    assert outcome.code == 5
    assert "no such file" in findings(outcome, "configuration")[0]["message"]


def test_a_foreign_program_on_the_port_is_1(call: CommandLine, usable: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        thread = threading.Thread(target=_answer_rubbish, args=(other,), daemon=True)
        thread.start()
        outcome = call("doctor", "--offline", "--json", "--port", str(port))
        other.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert outcome.code == 1
    (found,) = [one for one in findings(outcome, "ports") if one["level"] == "error"]
    assert found["message"] == f"Port {port} on 127.0.0.1 is held by another program."
    assert "Set port to another" in found["fix"]


def _answer_rubbish(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(1024)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def test_a_running_service_holds_its_port(
    call: CommandLine, spawn: Spawn, usable: Path, tmp_path: Path
) -> None:
    service = spawn("serve", "--port", "0", stdout=subprocess.PIPE)
    assert service.stdout is not None
    url = service.stdout.readline().decode().split()[-1]
    port = url.rpartition(":")[2]
    ours = call("doctor", "--offline", "--json", "--port", port)
    assert ours.code == 0
    assert findings(ours, "ports")[0]["message"].endswith("is held by the running service.")
    (found,) = findings(ours, "service")
    assert (found["level"], found["message"]) == ("ok", f"A service answers at {url}.")
    # The kernel's port is found through the data directory.
    assert url in findings(call("doctor", "--offline", "--json"), "service")[0]["message"]

    record = tmp_path / "data/service.json"
    other = tmp_path / "elsewhere"
    arguments = ("--port", port, "--data-dir", str(other))
    foreign = call("doctor", "--offline", "--json", *arguments)
    assert foreign.code == 1
    assert "another data directory" in findings(foreign, "ports")[0]["message"]
    assert json.loads(record.read_bytes())["version"] == __version__

    service.terminate()
    assert service.wait(60) == 0
    after = call("doctor", "--offline", "--json", "--port", port)
    assert findings(after, "service")[0]["message"] == "No service runs."


def test_a_service_that_was_killed_leaves_nothing_to_repair(
    call: CommandLine, spawn: Spawn, usable: Path, tmp_path: Path
) -> None:
    service = spawn("serve", "--port", "0", stdout=subprocess.PIPE)
    assert service.stdout is not None
    service.stdout.readline()
    service.kill()
    service.wait(60)
    assert (tmp_path / "data/service.json").exists()
    outcome = call("doctor", "--offline", "--json")
    assert outcome.code == 0
    assert findings(outcome, "service")[0]["message"] == "No service runs."


def test_a_service_that_hangs_is_an_error(call: CommandLine, usable: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        record = {
            "pid": os.getpid(),
            "url": f"http://127.0.0.1:{port}",
            "version": "1",
            "started_at": "2100-01-01T00:00:00Z",
        }
        (tmp_path / "data").mkdir()
        (tmp_path / "data/service.json").write_text(json.dumps(record))
        outcome = call("doctor", "--offline", "--json", "--port", str(port))
        # A later process with the same pid is not the service.
        record["started_at"] = "2001-01-01T00:00:00Z"
        (tmp_path / "data/service.json").write_text(json.dumps(record))
        reused = call("doctor", "--offline", "--json", "--port", str(port))
    assert outcome.code == 1
    (found,) = findings(outcome, "service")
    assert f"A service (pid {os.getpid()})" in found["message"]
    assert "another program" in findings(reused, "ports")[0]["message"]


def test_an_extra_port_that_is_taken_is_a_warning(call: CommandLine, usable: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        usable.write_text(usable.read_text() + f"extra_ports = [{port}]\n")
        outcome = call("doctor", "--offline", "--json")
    assert outcome.code == 0
    (found,) = [one for one in findings(outcome, "ports") if one["level"] == "warning"]
    assert (
        f"Port {port} of extra_ports cannot be opened: Address already in use."
        in (found["message"])
    )


def test_a_range_without_ports(call: CommandLine, usable: Path) -> None:
    usable.write_text(usable.read_text().replace("base_port = 0", "base_port = 65535"))
    with contextlib.ExitStack() as held:
        # If another program has the port, it is not free either.
        with contextlib.suppress(OSError):
            held.enter_context(socket.create_server(("127.0.0.1", 65535)))
        outcome = call("doctor", "--offline", "--json")
    assert outcome.code == 1
    found = findings(outcome, "ports")[-1]
    assert (found["level"], "no port free" in found["message"]) == ("error", True)


def test_the_hub(call: CommandLine, usable: Path, hub: str) -> None:
    usable.write_text(usable.read_text() + f"hf_endpoint = '{hub}'\n")
    (found,) = findings(call("doctor", "--json"), "hub")
    assert (found["level"], found["message"]) == ("ok", f"{hub} answers.")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        usable.write_text(usable.read_text().replace(hub, away))
        outcome = call("doctor", "--json")
    assert outcome.code == 0
    (found,) = findings(outcome, "hub")
    assert found["level"] == "hint"
    assert "downloads will not work; local models do" in found["message"]


def test_the_hub_of_the_hubs_own_variable(
    call: CommandLine, environ: dict[str, str], usable: Path, hub: str
) -> None:
    environ["HF_ENDPOINT"] = f"{hub}/"
    (found,) = findings(call("doctor", "--json"), "hub")
    assert (found["level"], found["message"]) == ("ok", f"{hub} answers.")


def test_models_of_other_programs_count_as_for_the_service(
    call: CommandLine, usable: Path, tmp_path: Path
) -> None:
    write_gguf(tmp_path / ".lmstudio/models/Someone/Some-GGUF/Some-Q4_K_M.gguf")
    (found,) = findings(call("doctor", "--offline", "--json"), "models")
    assert found["message"] == "1 local model, 1 of them kept by other programs."
    usable.write_text(usable.read_text() + "discover = false\n")
    (found,) = findings(call("doctor", "--offline", "--json"), "models")
    assert found["message"] == "There is no local model yet."


def test_text_in_a_pipe_is_plain_and_whole(call: CommandLine, usable: Path) -> None:
    outcome = call("doctor", "--offline")
    assert outcome.code == 0
    assert "\x1b" not in outcome.out
    lines = outcome.out.splitlines()
    assert lines[0] == "machine"
    assert lines[1].startswith("  ok     ")
    assert "  hint   There is no local model yet." in lines
    assert lines[lines.index("  hint   There is no local model yet.") + 1].startswith(
        "         Fix: Put GGUF files into "
    )


FINDINGS = (
    Finding(check="ports", level=Level.OK, message="Free."),
    Finding(check="hub", level=Level.HINT, message="Away.", fix="Wait."),
    Finding(
        check="ports",
        level=Level.ERROR,
        message="Port 8337 on 127.0.0.1 is held by another\x1b[31m program.",
        fix="Set port to another, or end it.",
    ),
    Finding(check="disk", level=Level.WARNING, message="Full.", fix="Empty it."),
)


def test_wide_text_is_wrapped_by_its_cells() -> None:
    found = Finding(check="disk", level=Level.OK, message="模型 " * 12, fix=None)
    lines = finding_lines([found], Terminal(width=40))
    assert all(cell_len(line) <= 40 for line in lines)
    assert [line.count("模型") for line in lines[1:4]] == [6, 6, 0]


def test_text_is_grouped_and_wrapped_and_readable_without_colour() -> None:
    plain = finding_lines(FINDINGS, Terminal(width=40))
    assert plain == [
        "ports",
        "  ✔ ok     Free.",
        "  ✖ error  Port 8337 on 127.0.0.1 is",
        "           held by another program.",
        "           Fix: Set port to another, or",
        "           end it.",
        "hub",
        "  ● hint   Away.",
        "           Fix: Wait.",
        "disk",
        "  ▲ warn   Full.",
        "           Fix: Empty it.",
        "",
        "1 error, 1 warning, 1 hint.",
    ]
    ascii_only = finding_lines(FINDINGS, Terminal(width=40, charset=ASCII))
    assert ascii_only[2].startswith("  x error  ")
    colour = finding_lines(FINDINGS, Terminal(width=40, color=True))
    assert colour[2].startswith("  \x1b[31m✖ error\x1b[0m  Port")
    assert finding_lines(FINDINGS[:1], Terminal())[-1] == "Nothing is wrong."
