"""Search, download and delete models from the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import tomli_w

from cyber_inference_tui.service.runtime import data_directory_holder, read_runtime_file
from cyber_inference_tui.units import count_text
from tests.cli.conftest import CommandLine, Spawn
from tests.cli.stand_in import StandIn
from tests.gguf.demo_file import demo_bytes
from tests.hub.stand_in_hub import Fault, Repo, StandInHub

FILE = "Tiny-Q4_K_M.gguf"


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as running:
        yield running


@pytest.fixture
def tiny(hub: StandInHub, config: Path) -> Repo:
    """A repository on the hub that the configuration names."""
    settings = {"hf_endpoint": hub.url, "hf_allowed_hosts": [hub.cdn], "port": 0}
    config.write_text(tomli_w.dumps(settings))
    return hub.add("owner/tiny", {FILE: demo_bytes(), "Tiny-Q8_0.gguf": b"GGUF" * 9, "README": b""})


@pytest.fixture
def models(environ: Mapping[str, str]) -> Path:
    return Path(environ["CYBER_INFERENCE_DATA_DIR"]) / "models"


def test_a_search_without_results_has_a_note(call: CommandLine, tiny: Repo) -> None:
    done = call("search-models", "huge")
    assert (done.code, done.out) == (0, "")
    assert done.err == "The hub has no GGUF models for 'huge': try fewer or other words.\n"
    done = call("search-models", "huge", "--json")
    assert (done.out, done.err) == ("[]\n", "")


def test_search_is_a_table(call: CommandLine, tiny: Repo) -> None:
    tiny.gated = True
    done = call("search-models", "tiny")
    assert done.code == 0, done.err
    heading, row = done.out.splitlines()
    assert heading.split() == [
        "REPO",
        "PARAMS",
        "ARCH",
        "DOWNLOADS",
        "LIKES",
        "UPDATED",
        "LICENCE",
        "GATED",
    ]
    assert row.split() == [
        "owner/tiny",
        "1.0K",
        "llama",
        "1,000",
        "10",
        "2026-01-31",
        "apache-2.0",
        "gated",
    ]


def test_search_as_json(call: CommandLine, tiny: Repo, hub: StandInHub) -> None:
    done = call("search-models", "tiny", "--sort", "likes", "--limit", "3", "--json")
    (record,) = json.loads(done.out)
    assert record["repo"] == "owner/tiny"
    assert "sort=likes&limit=3" in hub.api[-1][0]


def test_a_search_that_finds_nothing_is_no_failure(call: CommandLine, tiny: Repo) -> None:
    done = call("search-models", "nothing")
    assert (done.code, done.out) == (0, "")


def test_a_download_ends_with_a_model_and_no_service(
    call: CommandLine, tiny: Repo, data_dir: Path, models: Path
) -> None:
    done = call("download-model", "owner/tiny")
    assert done.code == 0, done.err
    assert done.out == "Tiny-Q4_K_M is here.\n"
    assert (models / "owner/tiny" / FILE).read_bytes() == demo_bytes()
    assert "running" in done.err
    assert data_directory_holder(data_dir) is None
    again = json.loads(call("list-models", "--json").out)
    assert [(one["id"], one["origin"]) for one in again] == [("Tiny-Q4_K_M", "models_dir")]


@pytest.fixture
def service(spawn: Spawn, tiny: Repo) -> None:
    """A service that runs in the foreground."""
    process = spawn("serve", stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"listening on")


@pytest.mark.usefixtures("service")
def test_a_service_that_runs_does_the_downloading(
    call: CommandLine, tiny: Repo, hub: StandInHub, data_dir: Path, models: Path
) -> None:
    for arguments, code, words in (
        (["owner/none"], 4, "private"),
        (["owner/tiny:Q2_K"], 4, "It has Q4_K_M, Q8_0"),
        (["owner/tiny", "--revision", "gone"], 4, "gone"),
        (["owner/tiny:Q8_0", "--filename", FILE], 2, "Say it once"),
        (["not a name"], 2, "ORG/NAME"),
        (["https://example.com/owner/tiny"], 2, "no address of the hub"),
    ):
        done = call("download-model", *arguments)
        assert (done.code, done.out) == (code, "")
        assert words in done.err
    for address in (
        "owner/tiny:q4_k_m",
        "hf.co/owner/tiny",
        f"{hub.url}/owner/tiny/blob/main/{FILE}",
    ):
        done = call("download-model", address, "--json")
        assert done.code == 0, done.err
        record = json.loads(done.out)
        assert (record["status"], record["model_id"]) == ("done", "Tiny-Q4_K_M")
        assert record["revision"] == tiny.sha
        assert (models / "owner/tiny" / FILE).read_bytes() == demo_bytes()
    tiny.gated = True
    done = call("download-model", "owner/tiny:Q8_0")
    assert done.code == 1
    assert done.err.count("Accept its licence") == 1
    assert data_directory_holder(data_dir) is not None


def test_a_dead_hub_is_one_sentence(call: CommandLine, config: Path, data_dir: Path) -> None:
    config.write_text('hf_endpoint = "http://127.0.0.1:1"\nport = 0\n')
    for command in ("search-models", "download-model"):
        done = call(command, "owner/tiny")
        assert (done.code, done.out) == (1, "")
        assert "cannot be reached" in done.err
        assert len(done.err.splitlines()) == 1
    assert data_directory_holder(data_dir) is None


Interrupted = Callable[[], str]


@pytest.fixture
def stalled(
    spawn: Spawn, tiny: Repo, hub: StandInHub, data_dir: Path, tmp_path: Path
) -> tuple[Fault, Interrupted]:
    """A download that stalls at 3 MB, and a function that sends Ctrl-C and returns its output."""
    fault = Fault("stall", 3_000_000)
    hub.faults[FILE].append(fault)
    errors = tmp_path / "errors"
    with errors.open("wb") as stream:
        process = spawn("download-model", "owner/tiny", stderr=stream)
    assert fault.reached.wait(60)
    # Some bytes have been written once the command shows that it is running.
    while b"running" not in errors.read_bytes():
        assert process.poll() is None
        os.sched_yield()

    def interrupt() -> str:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        return errors.read_text()

    return fault, interrupt


def test_ctrl_c_keeps_the_bytes_for_the_next_time(
    stalled: tuple[Fault, Interrupted],
    call: CommandLine,
    hub: StandInHub,
    data_dir: Path,
    models: Path,
) -> None:
    fault, interrupt = stalled
    assert "Stopped" in interrupt()
    assert data_directory_holder(data_dir) is None
    assert not (models / "owner").exists()
    fault.go.set()
    before = hub.sent[FILE]
    done = call("download-model", "owner/tiny")
    assert done.code == 0, done.err
    assert (models / "owner/tiny" / FILE).read_bytes() == demo_bytes()
    ranges = [headers.get("Range") for where, _, headers in hub.asked if where == "cdn"]
    assert ranges[0] is None
    assert ranges[-1] not in {None, "bytes=0-"}
    assert hub.sent[FILE] - before < len(demo_bytes())


def test_a_started_service_that_others_use_stays(
    stalled: tuple[Fault, Interrupted], call: CommandLine, data_dir: Path
) -> None:
    _, interrupt = stalled
    found = read_runtime_file(data_dir)
    assert found is not None
    url = urlsplit(found.url)
    with socket.create_connection((url.hostname or "", url.port or 0)):
        assert f"keeps running at {found.url}" in interrupt()
    assert data_directory_holder(data_dir) == found.pid
    assert call("service", "stop").code == 0


def test_a_service_that_answers_does_it(call: CommandLine, stand_in: StandIn, config: Path) -> None:
    config.write_text(f"host = '127.0.0.1'\nport = {stand_in.port}\n")
    path = "/admin/hub/search?q=x&limit=20"
    stand_in.answers["GET", path] = [{"repo": "o/n"}]
    record = {"id": "1", "repo": "o/n", "status": "paused"}
    stand_in.answers["POST", "/admin/downloads"] = record
    running = {"status": "running", "source": "workstation"}
    stand_in.answers["POST", "/admin/downloads/1/resume"] = record | running
    stand_in.answers["GET", "/admin/downloads"] = [record | {"status": "done", "model_id": "n"}]
    done = call("search-models", "x")
    assert done.out.splitlines()[1].split()[0] == "o/n", done.err
    done = call("download-model", "o/n:Q8_0", "--revision", "main")
    assert (done.code, done.out) == (0, "n is here.\n")
    assert "from the box workstation" in done.err
    (body,) = [
        body
        for method, path, _, body in stand_in.requests
        if path == "/admin/downloads" and method == "POST"
    ]
    assert json.loads(body) == {"repo": "o/n", "filename": "Q8_0", "revision": "main"}


def test_a_failure_in_the_service_fails_the_command(
    call: CommandLine, stand_in: StandIn, config: Path
) -> None:
    config.write_text(f"host = '127.0.0.1'\nport = {stand_in.port}\n")
    record = {"id": "1", "repo": "o/n", "status": "failed", "error": "The disk is full."}
    stand_in.answers["POST", "/admin/downloads"] = record
    done = call("download-model", "o/n")
    assert (done.code, done.out, done.err) == (1, "", "The disk is full.\n")


def test_deleting_needs_a_yes(
    call: CommandLine, config: Path, models: Path, data_dir: Path
) -> None:
    config.write_text("port = 1\n")
    (models / "owner/tiny").mkdir(parents=True)
    (models / "owner/tiny" / FILE).write_bytes(demo_bytes())
    done = call("delete-model", "tiny-q4_k_m")
    assert done.code == 2
    assert "--yes" in done.err
    assert (models / "owner/tiny" / FILE).exists()
    done = call("delete-model", "tiny-q4_k_m", "--yes")
    assert (done.code, done.out) == (0, "Tiny-Q4_K_M is deleted.\n")
    # The empty folder is removed, too.
    assert not (models / "owner").exists()
    event = json.loads((data_dir / "logs/audit.log").read_text())
    assert (event["event"], event["model"]) == ("model_deleted", "Tiny-Q4_K_M")
    assert event["by"] == f"command of user {os.getuid()}"


def test_a_model_is_deleted_although_the_audit_log_cannot_be_written(
    call: CommandLine, config: Path, models: Path, data_dir: Path
) -> None:
    config.write_text("port = 1\n")
    models.mkdir(parents=True, exist_ok=True)
    (models / FILE).write_bytes(demo_bytes())
    (data_dir / "logs").touch()
    done = call("delete-model", "tiny-q4_k_m", "--yes")
    assert (done.code, done.out) == (0, "Tiny-Q4_K_M is deleted.\n")
    assert "audit.log cannot be written" in done.err


def test_deleting_unknown_and_foreign_models_is_refused(
    call: CommandLine, config: Path, environ: Mapping[str, str]
) -> None:
    config.write_text("port = 1\n")
    done = call("delete-model", "nothing", "--yes")
    assert done.code == 4
    theirs = Path(environ["HOME"]) / ".lmstudio/models/maker/tiny/Tiny-Q8_0.gguf"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(demo_bytes())
    (listed,) = json.loads(call("list-models", "--json").out)
    assert listed["origin"] == "lm studio"
    done = call("delete-model", "Tiny-Q8_0", "--yes")
    assert done.code == 1
    assert "LM Studio" in done.err
    assert theirs.exists()
    config.write_text("port = 1\ndiscover = false\n")
    assert json.loads(call("list-models", "--json").out) == []


@pytest.mark.parametrize(
    ("number", "text"),
    [(999, "999"), (494_000_000, "494M"), (1_235_814_432, "1.2B"), (70_600_000_000, "71B")],
)
def test_parameters_as_people_count_them(number: int, text: str) -> None:
    assert count_text(number) == text
