"""The audit log: its lines, its rotation, and disks that take nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.llama.log_files import LogLimits, rename_former_files
from cyber_inference_tui.service.audit_log import AUDIT_FILE, AuditLog, Caller, acting

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
OWNER = Caller("login 0123", "192.0.2.7")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / AUDIT_FILE


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


async def test_an_event_is_one_line_with_who_and_where(path: Path) -> None:
    log = AuditLog(path, now=lambda: NOW)
    await log.note("model_deleted", OWNER, model="m")
    await log.note("logout")
    assert events(path) == [
        {
            "at": "2026-01-02T03:04:05.678Z",
            "event": "model_deleted",
            "by": "login 0123",
            "address": "192.0.2.7",
            "model": "m",
        },
        {"at": "2026-01-02T03:04:05.678Z", "event": "logout", "by": "service", "address": None},
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_task_acts_for_its_caller_and_so_do_those_that_it_starts(path: Path) -> None:
    log = AuditLog(path)

    async def act(caller: Caller) -> None:
        with acting(caller):
            await asyncio.create_task(log.note("key_created", name=caller.by))
        await log.note("afterwards")

    await asyncio.gather(*(act(Caller(f"login {number}")) for number in range(5)))
    for event in events(path):
        assert event["by"] == event.get("name", "service")


async def test_no_text_can_break_a_line_or_control_a_terminal(path: Path) -> None:
    log = AuditLog(path)
    hostile = "a\n\x1b[2J\x9b2J\u202e\u2028\ud800é"
    await log.note("model_deleted", OWNER, model=hostile)
    data = path.read_bytes()
    assert data.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in data.rstrip(b"\n"))
    assert events(path)[0]["model"] == hostile


async def test_a_long_value_is_cut(path: Path) -> None:
    await AuditLog(path).note("setting_changed", OWNER, value=["x" * 100] * 1_000)
    (event,) = events(path)
    assert event["value"].startswith('["xxx')
    assert path.stat().st_size < 3_000


@pytest.mark.parametrize("keep", [1, 2, 3])
async def test_old_files_go(path: Path, keep: int) -> None:
    limits = [LogLimits(max_size=1_000, keep=5)]
    log = AuditLog(path, limits=lambda: limits[-1])
    for number in range(60):
        await log.note("login", OWNER, number=number)
    assert len(list(path.parent.iterdir())) == 5
    limits.append(LogLimits(max_size=1_000, keep=keep))
    for number in range(60, 90):
        await log.note("login", OWNER, number=number)
    files = [path, *(path.with_name(f"{AUDIT_FILE}.{number}") for number in range(1, keep))]
    assert sorted(path.parent.iterdir()) == files
    assert all(file.stat().st_size <= 1_000 for file in files)
    numbers = [event["number"] for file in reversed(files) for event in events(file)]
    assert numbers == list(range(numbers[0], 90))


async def test_the_keeper_of_the_other_logs_leaves_it_alone(path: Path) -> None:
    log = AuditLog(path, limits=lambda: LogLimits(max_size=100, keep=3))
    for number in range(5):
        await log.note("login", OWNER, number=number)
    before = {file: file.read_text() for file in path.parent.iterdir()}
    rename_former_files(path.parent)
    assert {file: file.read_text() for file in path.parent.iterdir()} == before


async def test_a_line_that_a_power_cut_tore_costs_only_itself(path: Path) -> None:
    log = AuditLog(path)
    await log.note("login", OWNER)
    with path.open("a") as file:
        file.write('{"at": "20')
    await log.note("logout", OWNER)
    first, torn, last = path.read_text().splitlines()
    assert (json.loads(first)["event"], json.loads(last)["event"]) == ("login", "logout")
    assert torn == '{"at": "20'


async def test_what_the_disk_does_not_take_is_in_the_log_of_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("cyber_inference_tui"), "propagate", True)
    (tmp_path / "logs").touch()
    log = AuditLog(tmp_path / "logs" / AUDIT_FILE)
    await log.note("model_deleted", OWNER, model="m")
    assert "the audit log cannot be written" in caplog.text
    assert '"event": "model_deleted", "by": "login 0123"' in caplog.text
    with pytest.raises(OSError, match="File exists"):
        log.write("model_deleted", OWNER, model="m")
