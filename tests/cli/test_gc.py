"""``gc`` without a service, and through one."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cyber_inference_tui.records import RequestRecord
from cyber_inference_tui.service.history import HISTORY_FILE, History
from cyber_inference_tui.service.runtime import DataDirectoryLock
from tests.cli.conftest import CommandLine, Spawn
from tests.cli.test_process import read_terminal
from tests.gguf.headers import write_gguf
from tests.library.test_stores import HubCache

DAY = 86400.0
PORT = ("--port", "1")


@pytest.fixture
def models(environ: Mapping[str, str]) -> Path:
    """A models directory with two equal models, so that one of them may go."""
    folder = Path(environ["CYBER_INFERENCE_DATA_DIR"]) / "models"
    for name in ("one", "two"):
        write_gguf(folder / f"{name}.gguf")
    return folder


@pytest.fixture
def blob(environ: Mapping[str, str]) -> Path:
    """An unfinished file of the Hugging Face tools, which they have not written to for two days."""
    cache = HubCache(Path(environ["HOME"]) / ".cache/huggingface/hub")
    model = cache.add("org/a", "c0ffee", "a.gguf").resolve()
    model.write_bytes(model.read_bytes() + b"no copy")
    blob = model.with_name("12.incomplete")
    blob.write_bytes(b"x" * 9000)
    then = blob.stat().st_mtime - 2 * DAY
    os.utime(blob, (then, then))
    return blob


def test_without_a_models_directory_it_says_so(call: CommandLine, tmp_path: Path) -> None:
    done = call("gc", *PORT)
    folder = tmp_path / "data" / "models"
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"{folder} cannot be read: No such file or directory.")


def test_a_dry_run_deletes_nothing(call: CommandLine, models: Path) -> None:
    done = call("gc", "--dry-run", *PORT)
    assert done.code == 0
    heading, row, total = done.out.splitlines()
    assert heading.split() == ["NAME", "WHY", "ORIGIN", "USED", "FREES"]
    assert row.split()[:4] == ["one", "duplicate", "of", "two"]
    assert total.startswith("These are ")
    plan = json.loads(call("gc", "--dry-run", "--json", *PORT).out)
    assert [item["name"] for item in plan["own"]["items"]] == ["one"]
    assert len(list(models.iterdir())) == 2


def test_it_deletes_what_it_showed(call: CommandLine, models: Path) -> None:
    plan = json.loads(call("gc", "--dry-run", "--json", *PORT).out)
    done = json.loads(call("gc", "--yes", "--json", *PORT).out)
    assert done["freed_bytes"] == plan["own"]["freed_bytes"] > 0
    assert [path.name for path in models.iterdir()] == ["two.gguf"]
    done_again = call("gc", "--yes", *PORT)
    assert (done_again.code, done_again.err) == (0, "There is nothing to delete.\n")


def test_without_a_terminal_it_does_not_ask(call: CommandLine, models: Path) -> None:
    done = call("gc", *PORT)
    assert (done.code, "give --yes" in done.err) == (2, True)
    assert len(list(models.iterdir())) == 2


def test_other_programs_have_a_question_of_their_own(
    spawn: Spawn, models: Path, blob: Path, environ: Mapping[str, str]
) -> None:
    master, slave = pty.openpty()
    process = spawn("gc", *PORT, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.write(master, b"y\nn\n")
    text = read_terminal(master)
    assert process.wait(60) == 130
    assert text.index("Delete 1 item, which frees") < text.index("Delete 1 item of other programs")
    assert [path.name for path in models.iterdir()] == ["two.gguf"]
    assert blob.exists()


def test_a_script_has_to_name_other_programs(call: CommandLine, models: Path, blob: Path) -> None:
    assert "--others goes with --yes" in call("gc", "--others", *PORT).err
    assert call("gc", "--yes", *PORT).code == 0
    assert blob.exists()
    assert call("gc", "--yes", *PORT).out.startswith("FILES OF OTHER PROGRAMS\n")
    assert blob.exists()
    assert call("gc", "--yes", "--others", *PORT).code == 0
    assert not blob.exists()


def test_room_that_cannot_be_made_is_said(call: CommandLine, models: Path) -> None:
    done = call("gc", "--room", "900TB", "--dry-run", *PORT)
    assert [line.split()[0] for line in done.out.splitlines()[1:3]] == ["one", "two"]
    assert "would still be missing" in done.err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("--unused", "soon"), "'soon' is not a number of days"),
        (("--unused", "9999w"), "is not a number of days"),
        (("--room", "12 apples"), "'12 apples' is not a size"),
    ],
)
def test_a_wrong_amount_is_a_sentence(call: CommandLine, argv: tuple[str, ...], text: str) -> None:
    done = call("gc", *argv, *PORT)
    assert (done.code, text in done.err) == (2, True)


def test_nothing_is_deleted_behind_a_service_that_does_not_answer(
    call: CommandLine, models: Path, tmp_path: Path
) -> None:
    with DataDirectoryLock(tmp_path / "data"):
        done = call("gc", "--yes", *PORT)
    assert done.code == 1
    assert f"A service runs in {tmp_path / 'data'}" in done.err
    assert len(list(models.iterdir())) == 2


def test_the_list_shows_the_last_use_without_a_service(
    call: CommandLine, models: Path, tmp_path: Path
) -> None:
    used = RequestRecord(
        at=datetime.now(UTC) - timedelta(days=3),
        model="one",
        path="/",
        status=200,
        duration_seconds=1,
    )

    async def use() -> None:
        history = History(tmp_path / "data" / HISTORY_FILE, now=lambda: datetime.now(UTC))
        await history.start()
        history.add(used)
        await history.stop()

    asyncio.run(use())
    one, two = call("list-models", *PORT).out.splitlines()[1:]
    assert (one.endswith("3 d ago"), two.endswith("-")) == (True, True)
    plan = json.loads(call("gc", "--dry-run", "--room", "900TB", "--json", *PORT).out)
    at = {item["name"]: item["last_used_at"] for item in plan["own"]["items"]}
    assert at["two"] is None
    assert datetime.fromisoformat(at["one"]) == used.at
