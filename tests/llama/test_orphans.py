"""Leftovers of a former service are killed; other processes with their pids are not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from cyber_inference_tui.llama.orphans import PidRecord, ServerPid
from tests.llama.children import wait_gone
from tests.waiting import eventually, is_alive


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    """A server of a former service: a shell with a child, leading its own group."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 1000 & echo $!; wait"],
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "servers.json"


def read(path: Path) -> list[ServerPid]:
    return msgspec.json.decode(path.read_bytes(), type=list[ServerPid])


def test_a_server_that_outlived_its_service_is_ended_with_its_children(
    server: subprocess.Popen[bytes], path: Path
) -> None:
    assert server.stdout is not None
    grandchild = psutil.Process(int(server.stdout.readline()))
    PidRecord(path).add(server.pid, "m")
    assert [(orphan.pid, orphan.name) for orphan in PidRecord(path).kill_orphans()] == [
        (server.pid, "the server of m")
    ]
    assert wait_gone(server.pid)
    eventually(lambda: not is_alive(grandchild), what="the end of the grandchild")
    assert not path.exists()
    assert PidRecord(path).kill_orphans() == []


def test_a_server_that_ended_with_its_service_is_not_named(
    server: subprocess.Popen[bytes], path: Path
) -> None:
    """It stays in the list of processes until its new parent has noticed."""
    PidRecord(path).add(server.pid, "m")
    server.kill()
    zombie = psutil.Process(server.pid)
    eventually(lambda: zombie.status() == psutil.STATUS_ZOMBIE, what="its end")
    assert PidRecord(path).kill_orphans() == []


def test_a_process_that_only_has_the_same_number_is_left_alone(
    server: subprocess.Popen[bytes], path: Path
) -> None:
    PidRecord(path).add(server.pid, "m")
    (known,) = msgspec.json.decode(path.read_bytes(), type=list[ServerPid])
    for other in (
        msgspec.structs.replace(known, started=known.started - 60),
        msgspec.structs.replace(known, boot="an earlier one"),
    ):
        path.write_bytes(msgspec.json.encode([other]))
        assert PidRecord(path).kill_orphans() == []
    assert server.poll() is None


@pytest.mark.parametrize("jump", [-1_700_000_000.0, 1_000_000_000.0])
def test_a_clock_that_is_set_hides_nothing(
    server: subprocess.Popen[bytes], path: Path, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    PidRecord(path).add(server.pid, "m")
    moved, boot = psutil.Process.create_time, psutil.boot_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: moved(process) + jump)
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + jump)
    assert len(PidRecord(path).kill_orphans()) == 1


def test_servers_that_ended_are_forgotten(server: subprocess.Popen[bytes], path: Path) -> None:
    record = PidRecord(path)
    record.add(server.pid, "m")
    record.add(os.getpid(), "n")
    assert [entry.model for entry in read(path)] == ["m", "n"]
    record.remove(server.pid)
    record.remove(server.pid)
    assert [entry.model for entry in read(path)] == ["n"]
    record.remove(os.getpid())
    assert read(path) == []


def test_a_number_that_is_nobodys_is_nothing(path: Path) -> None:
    record = PidRecord(path)
    record.add(2**22 + 1, "m")
    assert not path.exists()
    path.write_bytes(msgspec.json.encode([ServerPid(2**22 + 1, 0.0, "m")]))
    assert record.kill_orphans() == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'[{"pid":"x"}]', b"\xff\x00"])
def test_a_broken_record_is_said_and_does_not_stop_the_start(
    content: bytes, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    assert PidRecord(path).kill_orphans() == []
    assert "cannot read" in caplog.text


def test_a_record_that_cannot_be_written_is_only_said(
    server: subprocess.Popen[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    PidRecord(tmp_path / "missing" / "servers.json").add(server.pid, "m")
    assert "cannot write" in caplog.text
