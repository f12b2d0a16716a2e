"""``keys``: with a running service, and on the file."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cyber_inference_tui.records import CreatedKey, KeyRecord, Priority
from cyber_inference_tui.service.key_file import KEYS_FILE, read_keys
from cyber_inference_tui.service.runtime import DataDirectoryLock
from tests.cli.conftest import CommandLine
from tests.cli.stand_in import StandIn

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def nowhere() -> list[str]:
    """Options for a port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return ["--port", str(probe.getsockname()[1])]


@pytest.fixture
def at(stand_in: StandIn) -> list[str]:
    """Options for the stand-in."""
    return ["--port", str(stand_in.port)]


def test_without_a_service_the_file_is_changed(
    call: CommandLine, nowhere: list[str], data_dir: Path
) -> None:
    outcome = call("keys", "add", "alice", "--models", "a, b", "--expires", "2999-01-31", *nowhere)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("sk-")
    assert outcome.out.count("\n") == 1
    assert outcome.out.strip() not in (data_dir / KEYS_FILE).read_text("utf-8")
    made = json.loads(call("keys", "add", "bob", "--priority", "low", "--json", *nowhere).out)
    assert set(made) == set(CreatedKey.__struct_fields__)
    lines = call("keys", "list", *nowhere).out.splitlines()
    assert lines[0].split() == [
        "NAME",
        "LAST",
        "USE",
        "REQUESTS",
        "TODAY",
        "TOKENS",
        "TODAY",
        "LIMITS",
    ]
    assert lines[1].endswith("-             -  until 2999-01-31, only a, b")
    assert lines[2].endswith("low priority")
    assert call("keys", "remove", "alise", *nowhere).code == 4
    outcome = call("keys", "remove", "alice", *nowhere)
    assert (outcome.code, outcome.out, outcome.err) == (0, "alice is removed.\n", "")
    outcome = call("keys", "remove", "bob", *nowhere)
    assert "no key is left" in outcome.err
    assert read_keys(data_dir) == ()
    lines = (data_dir / "logs" / "audit.log").read_text("utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["key_created"] * 2 + [
        "key_removed"
    ] * 2


def test_a_service_that_does_not_answer_keeps_its_file(
    call: CommandLine, nowhere: list[str], data_dir: Path
) -> None:
    with DataDirectoryLock(data_dir):
        outcome = call("keys", "add", "a", *nowhere)
    assert (outcome.code, outcome.out) == (1, "")
    assert "does not answer here" in outcome.err
    assert read_keys(data_dir) == ()


def test_a_service_is_asked(call: CommandLine, at: list[str], stand_in: StandIn) -> None:
    record = KeyRecord(
        name="zoë",
        created_at=WHEN,
        last_used_at=WHEN,
        requests_today=1234,
        tokens_today=56,
        requests_per_minute=20,
        tokens_per_day=100_000,
        priority=Priority.HIGH,
        expired=True,
    )
    stand_in.answers["GET", "/admin/keys"] = [record]
    header, line = call("keys", "list", *at).out.splitlines()
    assert header.split()[0] == "NAME"
    assert f"{WHEN.astimezone():%Y-%m-%d %H:%M}" in line
    assert "1,234" in line
    assert line.endswith("expired, 20 requests/min, 100,000 tokens/day, high priority")
    (row,) = json.loads(call("keys", "list", "--json", *at).out)
    assert set(row) == set(KeyRecord.__struct_fields__)
    assert "key" not in row
    stand_in.answers["POST", "/admin/keys"] = CreatedKey(name="n", created_at=WHEN, key="sk-1")
    outcome = call("keys", "add", "n", "--requests-per-minute", "5", *at)
    assert (outcome.code, outcome.out) == (0, "sk-1\n")
    _, _, _, body = stand_in.requests[-1]
    assert json.loads(body)["requests_per_minute"] == 5
    stand_in.answers["DELETE", "/admin/keys/zo%C3%AB"] = record
    outcome = call("keys", "remove", "zoë", *at)
    assert (outcome.code, outcome.out, outcome.err) == (0, "zoë is removed.\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        ("add",),
        ("add", ""),
        ("add", "2"),
        ("add", "a", "--expires", "soon"),
        ("add", "a", "--expires", "2020-01-31"),
        ("add", "a", "--tokens-per-day", "0"),
        ("add", "a", "--priority", "top"),
        ("remove",),
    ],
)
def test_wrong_usage_changes_nothing(
    call: CommandLine, nowhere: list[str], data_dir: Path, argv: tuple[str, ...]
) -> None:
    outcome = call("keys", *argv, *nowhere)
    assert (outcome.code, outcome.out) == (2, "")
    assert not (data_dir / KEYS_FILE).exists()
