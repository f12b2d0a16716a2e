"""Prompts that are kept from one start of a server to the next: what is used, and what never is."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama import prompt_files, prompts
from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.prompt_rules import obstacle
from cyber_inference_tui.llama.prompts import PromptStore, ServerPrompts
from cyber_inference_tui.llama.spec import ServerSpec, resolve
from cyber_inference_tui.records import KeptPromptsRecord
from cyber_inference_tui.settings.schema import ModelSettings, Settings
from tests.fakes.slot_server import SlotServer

LONG = list(range(1, 1501))
OTHER = list(range(5000, 5800))
SHORT = list(range(100))
NO_LIMIT = 60.0
"""Seconds; only a test that fails ever waits so long."""


class Desk:
    """A store below a folder, for one model, and the clock that it reads."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "prompts"
        self.model = folder / "m.gguf"
        self.model.write_bytes(b"weights")
        self.program = folder / "llama-server"
        self.program.write_bytes(b"program")
        self.now = time.time()
        self.enabled = True
        self.version = "1"
        self.settings = Settings()
        self.store = PromptStore(self.root, enabled=lambda: self.enabled, now=lambda: self.now)

    @property
    def folder(self) -> Path:
        return self.store.folder("m")

    @property
    def spec(self) -> ServerSpec:
        model = LocalModel(id="m", path=self.model, shards=(self.model,), size_bytes=7)
        return resolve(model, self.settings)

    @property
    def binary(self) -> LlamaBinary:
        flags = frozenset({"--slot-save-path"})
        return LlamaBinary(path=self.program, version=self.version, flags=flags)

    async def open(self) -> ServerPrompts | None:
        return await self.store.open(self.spec, self.binary, [self.model])

    async def record(self) -> KeptPromptsRecord:
        return await self.store.record(self.spec, self.binary, [self.model])

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    async def session(
        self, used: dict[int, list[int]], *, limit: float = NO_LIMIT, **faults: object
    ) -> SlotServer:
        """Start a server, have it read these prompts, and stop it; return it."""
        server = SlotServer(self.folder)
        for name, value in faults.items():
            setattr(server, name, value)
        kept = await self.open()
        if kept is None:
            return server
        async with server.running() as address:
            await kept.restore(address)
            server.prompts |= used
            server.used |= set(used)
            await kept.save(address, limit)
            await self.settle()
        return server

    async def settle(self) -> None:
        """Wait for the work on the files."""
        await self.store.close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    one = Desk(tmp_path)
    yield one
    await one.settle()


async def test_a_long_prompt_is_there_after_the_next_start(desk: Desk) -> None:
    first = await desk.session({2: LONG, 3: SHORT})
    assert first.asked == ["save 2", "ask 2", "save 2", "erase 2", "restore 2", "ask 2"]
    second = await desk.session({})
    assert second.asked == ["restore 2"]
    assert second.prompts == {2: LONG}
    record = await desk.record()
    assert (record.works, record.prompts, record.tokens) == (True, 1, len(LONG))
    assert record.size_bytes == (desk.folder / "slot-2").stat().st_size


async def test_what_is_proven_is_not_proven_again(desk: Desk) -> None:
    await desk.session({0: LONG})
    server = await desk.session({0: OTHER, 1: LONG})
    # The longest first: there may not be time for all.
    assert server.asked == ["restore 0", "save 1", "save 0"]
    third = await desk.session({})
    assert third.prompts == {0: OTHER, 1: LONG}


async def test_a_prompt_that_nobody_used_is_not_written_again(desk: Desk) -> None:
    await desk.session({0: LONG})
    before = (desk.folder / "slot-0").stat().st_mtime_ns
    for _ in range(2):
        assert (await desk.session({})).asked == ["restore 0"]
    assert (desk.folder / "slot-0").stat().st_mtime_ns == before


@pytest.mark.parametrize(("new", "is_saved"), [(0, False), (59, False), (60, True), (None, True)])
async def test_a_prompt_with_a_few_new_tokens_is_not_written_again(
    desk: Desk, new: int | None, *, is_saved: bool
) -> None:
    await desk.session({0: LONG})
    longer = [*LONG, *SHORT]
    server = await desk.session({0: longer}, new_tokens=new)
    assert server.asked == ["restore 0", *(["save 0"] if is_saved else [])]
    assert (await desk.session({})).prompts == {0: longer if is_saved else LONG}


async def test_only_this_user_can_read_what_people_wrote(desk: Desk) -> None:
    await desk.session({0: LONG})
    for path in (desk.root, desk.folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in desk.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_model_that_reads_a_restored_prompt_again_is_left_alone(desk: Desk) -> None:
    await desk.session({0: LONG}, forgets=True)
    assert desk.names() == {"kept.json"}
    record = await desk.record()
    assert record == KeptPromptsRecord(
        works=False, reason="it reads 100 % of a restored prompt again"
    )
    assert await desk.open() is None
    # Another build may be able to do it.
    desk.version = "2"
    await desk.session({0: LONG})
    assert (await desk.record()).works is True


# What is never used


def _other_build(desk: Desk) -> None:
    desk.version = "2"


def _another_program(desk: Desk) -> None:
    desk.program.write_bytes(b"another")


def _other_settings(desk: Desk) -> None:
    desk.settings = Settings(llama_args=("--cache-type-k", "q8_0"))


def _other_context(desk: Desk) -> None:
    desk.settings = Settings(default_context_size=1024)


def _other_weights(desk: Desk) -> None:
    os.utime(desk.model, ns=(1, 1))


def _a_week_later(desk: Desk) -> None:
    desk.now += prompt_files.MOST_AGE


def _a_clock_set_back(desk: Desk) -> None:
    desk.now -= 1


@pytest.mark.parametrize(
    "change",
    [
        *(_other_build, _another_program, _other_settings, _other_context, _other_weights),
        *(_a_week_later, _a_clock_set_back),
    ],
)
async def test_a_file_of_other_circumstances_is_deleted(
    desk: Desk, change: Callable[[Desk], None]
) -> None:
    await desk.session({0: LONG})
    change(desk)
    assert await desk.open() is not None
    assert desk.names() <= {"kept.json"}
    assert (await desk.session({})).asked == []


def _one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _swap_for_a_link(path: Path) -> None:
    other = path.with_name("elsewhere")
    path.rename(other)
    path.symlink_to(other)


@pytest.mark.parametrize("harm", [_one_bit, _truncate, _lengthen, Path.unlink, _swap_for_a_link])
async def test_a_damaged_file_is_never_offered(desk: Desk, harm: Callable[[Path], None]) -> None:
    await desk.session({0: LONG, 1: OTHER})
    harm(desk.folder / "slot-0")
    server = await desk.session({})
    assert server.asked == ["restore 1"]
    assert desk.names() == {"kept.json", "slot-1"}


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[" * 10_000, b'{"server": 1}', b'{"server":"x","prompts":[{}]}']
)
async def test_a_damaged_note_deletes_its_files(desk: Desk, text: bytes) -> None:
    await desk.session({0: LONG})
    (desk.folder / "kept.json").write_bytes(text)
    assert (await desk.session({})).asked == []
    assert "slot-0" not in desk.names()


async def test_a_file_that_was_not_finished_is_not_used(desk: Desk) -> None:
    await desk.session({0: LONG})
    (desk.folder / "slot-0.new").write_bytes(b"half")
    (desk.folder / "slot-1").write_bytes(b"never noted")
    server = await desk.session({})
    assert server.prompts == {0: LONG}
    assert desk.names() == {"kept.json", "slot-0"}


# Servers that fail


async def test_a_restore_that_fails_deletes_the_files(desk: Desk) -> None:
    await desk.session({0: LONG})
    server = await desk.session({}, refuses={"restore": "No\x1b[31m space"})
    assert server.asked == ["restore 0"]
    assert desk.names() == {"kept.json"}
    assert await desk.record() == KeptPromptsRecord(reason="it answered: No space")
    # The next unload proves it again.
    assert "ask 0" in (await desk.session({0: LONG})).asked
    assert (await desk.record()).works is True


async def test_a_server_that_dies_while_it_restores_does_not_get_the_file_again(
    desk: Desk,
) -> None:
    await desk.session({0: LONG})
    server = SlotServer(desk.folder)
    server.drops = {"restore"}
    kept = await desk.open()
    assert kept is not None
    async with server.running() as address:
        await kept.restore(address)
    assert (await desk.session({})).asked == []


async def test_after_a_crash_nothing_is_restored(desk: Desk) -> None:
    await desk.session({0: LONG})
    server = SlotServer(desk.folder)
    kept = await desk.open()
    assert kept is not None
    async with server.running() as address:
        await kept.restore(address)
    kept.drop()
    assert (await desk.session({})).asked == []
    record = await desk.record()
    assert (record.works, record.prompts) == (None, 0)
    assert "stopped after" in record.reason


async def test_what_fails_again_and_again_is_given_up(desk: Desk) -> None:
    for failures in range(1, 4):
        await desk.session({0: LONG})
        assert (await desk.record()).works is True
        await desk.session({}, refuses={"restore": "no"})
        assert (await desk.record()).works is (None if failures < 3 else False)
    assert await desk.open() is None


async def test_a_session_that_ends_well_forgives_failures(desk: Desk) -> None:
    for _ in range(4):
        await desk.session({0: LONG})
        await desk.session({})
        await desk.session({}, refuses={"restore": "no"})
    assert (await desk.record()).works is None


async def test_a_save_that_hangs_leaves_no_part_of_a_file(desk: Desk) -> None:
    await desk.session({0: LONG})
    server = SlotServer(desk.folder)
    server.hangs = {"save"}
    kept = await desk.open()
    assert kept is not None
    async with server.running() as address:
        await kept.restore(address)
        server.used = {0}
        (desk.folder / "slot-0.new").write_bytes(b"half")
        await kept.save(address, 0.05)
        await desk.settle()
    assert desk.names() == {"kept.json", "slot-0"}


async def test_a_save_that_hangs_is_given_up(desk: Desk) -> None:
    for failures in range(1, 4):
        server = await desk.session({0: LONG}, limit=0.5, hangs={"save"})
        assert server.asked == ["save 0"]
        assert desk.names() == {"kept.json"}
        record = await desk.record()
        assert "took more than 0.5 s" in record.reason
        assert record.works is (None if failures < 3 else False)
    assert await desk.open() is None


async def test_a_restore_that_hangs_is_given_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.session({0: LONG})
    monkeypatch.setattr(prompts, "RESTORE_LIMIT", 0.05)
    await desk.session({}, hangs={"restore"})
    assert desk.names() == {"kept.json"}


async def test_a_failed_save_leaves_what_was_kept(desk: Desk) -> None:
    await desk.session({0: LONG})
    await desk.session({0: OTHER}, refuses={"save": "disk full"})
    assert (await desk.session({})).prompts == {0: LONG}


async def test_a_start_waits_for_the_files_of_the_last_stop(desk: Desk) -> None:
    server = SlotServer(desk.folder)
    kept = await desk.open()
    assert kept is not None
    async with server.running() as address:
        await kept.restore(address)
        server.prompts, server.used = {0: LONG}, {0}
        await kept.save(address, NO_LIMIT)
        again = await desk.open()
        assert again is not None
        await again.restore(address)
    assert server.asked[-1] == "restore 0"


# Room and wishes


async def test_nothing_is_kept_if_nobody_wants_it(desk: Desk) -> None:
    await desk.session({0: LONG})
    desk.enabled = False
    await desk.store.tidy()
    assert not desk.root.exists()
    assert await desk.open() is None
    assert not desk.root.exists()
    assert await desk.record() == KeptPromptsRecord(works=False, reason="keep_prompts is off")


async def test_a_wish_counts_for_servers_that_run_already(desk: Desk) -> None:
    server = SlotServer(desk.folder, {0: LONG})
    kept = await desk.open()
    assert kept is not None
    async with server.running() as address:
        await kept.restore(address)
        desk.enabled = False
        await desk.store.tidy()
        await kept.save(address, NO_LIMIT)
    assert server.asked == []
    assert not desk.root.exists()


async def test_without_room_on_the_disk_nothing_is_saved(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_files, "FREE_BYTES", 1 << 62)
    assert (await desk.session({0: LONG})).asked == []


async def test_a_day_has_a_limit_of_writes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "MOST_WRITTEN", 8_000)
    for _ in range(2):
        assert "save 0" in (await desk.session({0: LONG})).asked
    assert "save 0" not in (await desk.session({0: LONG})).asked
    desk.now += 86_400
    assert "save 0" in (await desk.session({0: LONG})).asked


async def test_the_oldest_files_go_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        folder = desk.root / f"model{number}"
        folder.mkdir(parents=True)
        (folder / "kept.json").write_bytes(b"{}")
        (folder / "slot-0").write_bytes(b"x" * 100)
        os.utime(folder / "slot-0", (desk.now - number * 10, desk.now - number * 10))
    os.utime(desk.root / "model0" / "slot-0", (1, 1))
    monkeypatch.setattr(prompt_files, "MOST_BYTES", 250)
    await desk.store.tidy()
    left = {path.parent.name for path in desk.root.glob("*/slot-0")}
    assert left == {"model1", "model2"}
    assert len(list(desk.root.glob("*/kept.json"))) == 4


async def test_a_deleted_model_takes_its_prompts_along(desk: Desk) -> None:
    await desk.session({0: LONG})
    await desk.store.forget("m")
    assert not desk.folder.exists()
    assert desk.root.exists()


# Which servers


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({}, ""),
        ({"args": ("--slot-save-path", "/x")}, "--slot-save-path of their own"),
        ({"env": {"LLAMA_ARG_SLOT_SAVE_PATH": "/x"}}, "--slot-save-path of their own"),
        ({"args": ("--lora", "a.gguf")}, "LoRA"),
        ({"args": ("--lora-scaled", "a.gguf:0.5")}, "LoRA"),
        ({"env": {"LLAMA_ARG_LORA": "a.gguf"}}, "LoRA"),
        ({"args": ("--embedding",)}, "writes no text"),
        ({"args": ("--reranking",)}, "writes no text"),
    ],
)
def test_a_server_with_other_wishes_keeps_none(own: dict[str, Any], reason: str) -> None:
    settings = ModelSettings(**own)
    spec = resolve(LocalModel(id="m", path=Path("m.gguf"), settings=settings), Settings())
    binary = LlamaBinary(path=Path("x"), version="1", flags=frozenset({"--slot-save-path"}))
    found = obstacle(spec, binary)
    assert reason in found
    assert bool(reason) == bool(found)
    old = msgspec.structs.replace(binary, flags=frozenset())
    assert obstacle(spec, old) == "this llama-server cannot save them"


async def test_a_disk_that_cannot_be_written_keeps_none(desk: Desk) -> None:
    desk.root.write_bytes(b"a file")
    assert await desk.open() is None
    assert (await desk.record()).prompts == 0
