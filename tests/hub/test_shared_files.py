"""A file that several downloads need, such as a projector, is fetched once."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.hub import download as module
from cyber_inference_tui.records import DownloadStatus as Status
from tests.waiting import LIMIT, until

from .queue import PROJECTOR, REPO, RunningQueue, models, queue
from .stand_in_hub import Fault, StandInHub
from .transfers import MIB, QUICK, noise

Q4, Q8 = "Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf"
FILES = {Q4: noise(300_000, 4), Q8: noise(500_000, 8), PROJECTOR: noise(2 * MIB, 9)}
HALF = MIB


@pytest.fixture
def folder(tmp_path: Path, hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_LOCK_POLL", 0.01)
    hub.add(REPO, FILES)
    return tmp_path


def placed() -> dict[str, bytes]:
    return {f"{REPO}/{path}": content for path, content in sorted(FILES.items())}


async def reached(fault: Fault) -> None:
    assert await asyncio.to_thread(fault.reached.wait, LIMIT)


async def both_at_half(
    hub: StandInHub, one: RunningQueue, other: RunningQueue
) -> tuple[str, str, Fault]:
    """The first has half of the projector; the second has its weights and waits for the
    projector."""
    stall = Fault("stall", HALF)
    hub.faults[PROJECTOR].append(stall)
    first = (await one.downloads.add(REPO, Q4)).id
    await reached(stall)
    second = (await other.downloads.add(REPO, Q8)).id
    await until(lambda: other.record(second).bytes_done >= len(FILES[Q8]) + HALF // 2)
    return first, second, stall


async def test_both_are_whole_and_it_came_once(hub: StandInHub, folder: Path) -> None:
    async with queue(hub, folder) as world:
        first, second, stall = await both_at_half(hub, world, world)
        await until(lambda: world.record(second).error is not None)
        waiting = world.record(second)
        assert waiting.status is Status.RUNNING
        assert waiting.bytes_total == len(FILES[Q8]) + len(FILES[PROJECTOR])
        assert waiting.error == f"Another download is fetching {PROJECTOR}."
        stall.go.set()
        for download_id in (first, second):
            record = await world.until(download_id, Status.DONE)
            assert record.bytes_done == record.bytes_total
            assert record.error is None
    assert hub.sent[PROJECTOR] == len(FILES[PROJECTOR])
    assert models(folder) == placed()


async def test_bytes_of_another_download_count_for_the_rate(hub: StandInHub, folder: Path) -> None:
    async with queue(hub, folder) as world:
        _, second, stall = await both_at_half(hub, world, world)
        stall.go.set()
        await world.until(second, Status.DONE)
    published = [record for record in world.published if record.id == second]
    done = [record.bytes_done for record in published]
    assert done == sorted(done)
    assert all(record.bytes_done <= (record.bytes_total or 0) for record in published)


async def test_two_programs_at_once(hub: StandInHub, folder: Path) -> None:
    async with queue(hub, folder) as one, queue(hub, folder, journal="other.json") as other:
        first, second, stall = await both_at_half(hub, one, other)
        stall.go.set()
        await one.until(first, Status.DONE)
        await other.until(second, Status.DONE)
    assert hub.sent[PROJECTOR] == len(FILES[PROJECTOR])
    assert models(folder) == placed()


@pytest.mark.parametrize("act", ["cancel", "pause"])
async def test_a_waiting_download_continues_when_the_other_stops(
    hub: StandInHub, folder: Path, act: str
) -> None:
    async with queue(hub, folder) as world:
        first, second, _ = await both_at_half(hub, world, world)
        await getattr(world.downloads, act)(first)
        await world.until(second, Status.DONE)
        files = placed()
        del files[f"{REPO}/{Q4}"]
        if act == "pause":
            # The first one's bytes were reused.
            assert hub.sent[PROJECTOR] <= len(FILES[PROJECTOR]) + MIB // 4
        else:
            await until(lambda: models(folder) == files)
        sent = hub.sent[PROJECTOR]
        await (world.downloads.resume if act == "pause" else world.downloads.retry)(first)
        await world.until(first, Status.DONE)
    assert hub.sent[PROJECTOR] == sent
    assert models(folder) == placed()


@pytest.mark.parametrize("act", ["cancel", "pause"])
async def test_a_fetching_download_continues_when_the_other_stops(
    hub: StandInHub, folder: Path, act: str
) -> None:
    async with queue(hub, folder) as world:
        first, second, stall = await both_at_half(hub, world, world)
        await getattr(world.downloads, act)(second)
        stall.go.set()
        await world.until(first, Status.DONE)
        await (world.downloads.resume if act == "pause" else world.downloads.retry)(second)
        await world.until(second, Status.DONE)
    assert hub.sent[PROJECTOR] == len(FILES[PROJECTOR])
    assert models(folder) == placed()


async def test_a_failure_is_not_passed_on(hub: StandInHub, folder: Path) -> None:
    pace = msgspec.structs.replace(QUICK, stall_timeout=0.3)
    stall = Fault("stall", HALF)
    # The first one gets no more bytes, until it gives up.
    hub.faults[PROJECTOR].extend([stall, *(Fault("stall") for _ in range(QUICK.tries))])
    async with queue(hub, folder, pace=pace) as world:
        first = await world.downloads.add(REPO, Q4)
        await reached(stall)
        second = await world.downloads.add(REPO, Q8)
        failed = await world.until(first.id, Status.FAILED)
        assert "no byte has arrived" in (failed.error or "")
        await world.until(second.id, Status.DONE)
        await world.downloads.retry(first.id)
        await world.until(first.id, Status.DONE)
    assert hub.sent[PROJECTOR] <= len(FILES[PROJECTOR]) + MIB // 4
    assert models(folder) == placed()


async def test_after_a_restart_in_the_middle(hub: StandInHub, folder: Path) -> None:
    async with queue(hub, folder) as world:
        first, second, _ = await both_at_half(hub, world, world)
    async with queue(hub, folder, boot="another") as world:
        await world.until(first, Status.DONE)
        await world.until(second, Status.DONE)
    assert hub.sent[PROJECTOR] <= len(FILES[PROJECTOR]) + MIB // 4
    assert models(folder) == placed()


async def test_in_folders_of_their_own_each_has_it(hub: StandInHub, folder: Path) -> None:
    files = {f"Q4_K_M/{Q4}": FILES[Q4], f"Q8_0/{Q8}": FILES[Q8], PROJECTOR: FILES[PROJECTOR]}
    hub.add(REPO, files)
    stall = Fault("stall", HALF)
    hub.faults[PROJECTOR].append(stall)
    async with queue(hub, folder) as world:
        first = await world.downloads.add(REPO, f"Q4_K_M/{Q4}")
        await reached(stall)
        second = await world.downloads.add(REPO, f"Q8_0/{Q8}")
        stall.go.set()
        await world.until(first.id, Status.DONE)
        await world.until(second.id, Status.DONE)
    assert hub.sent[PROJECTOR] == len(FILES[PROJECTOR])
    places = [folder / "models" / REPO / quantization for quantization in ("Q4_K_M", "Q8_0")]
    inodes = {(place / PROJECTOR).stat().st_ino for place in places}
    # The library would take two names of one file for one model.
    assert len(inodes) == 2
    assert {(place / PROJECTOR).read_bytes() for place in places} == {FILES[PROJECTOR]}


async def test_without_links_it_is_copied(
    hub: StandInHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")  # as FAT does

    monkeypatch.setattr(os, "link", refuse)
    async with queue(hub, folder) as world:
        first, second, stall = await both_at_half(hub, world, world)
        stall.go.set()
        await world.until(first, Status.DONE)
        await world.until(second, Status.DONE)
    assert hub.sent[PROJECTOR] == len(FILES[PROJECTOR])
    assert models(folder) == placed()


async def test_deleting_a_model_leaves_the_projector_of_others(
    hub: StandInHub, folder: Path
) -> None:
    stall = Fault("stall", 1000)
    async with queue(hub, folder) as world:
        first = await world.downloads.add(REPO, Q4)
        await world.until(first.id, Status.DONE)
        hub.faults[Q8].append(stall)
        second = await world.downloads.add(REPO, Q8)
        await reached(stall)
        for name in (Q4, PROJECTOR):
            (folder / "models" / REPO / name).unlink()
        stall.go.set()
        await world.until(second.id, Status.DONE)
    assert hub.sent[PROJECTOR] == len(FILES[PROJECTOR])
    files = placed()
    del files[f"{REPO}/{Q4}"]
    assert models(folder) == files


async def test_the_disk_needs_room_for_it_once(
    hub: StandInHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(module, "require_space", lambda _, needed, margin: asked.append(needed))
    stall = Fault("stall", 0)
    hub.faults[PROJECTOR].append(stall)
    hub.faults[Q4].append(Fault("stall", 0))
    async with queue(hub, folder) as world:
        await world.downloads.add(REPO, Q4)
        await reached(stall)
        await until(lambda: len(asked) >= 1)
        await world.downloads.add(REPO, Q8)
        await until(lambda: len(asked) >= 2)
    assert asked[1] == sum(map(len, FILES.values()))


async def test_a_file_of_another_model_is_not_fetched(hub: StandInHub, folder: Path) -> None:
    hub.add("other/copy", {"Renamed-Q4_K_M.gguf": FILES[Q4]})
    async with queue(hub, folder) as world:
        for name in (REPO, "other/copy"):
            await world.until((await world.downloads.add(name)).id, Status.DONE)
    assert hub.sent[Q4] == len(FILES[Q4])
    assert "Renamed-Q4_K_M.gguf" not in hub.sent
    assert (folder / "models/other/copy/Renamed-Q4_K_M.gguf").read_bytes() == FILES[Q4]


async def test_a_file_with_other_content_is_fetched(hub: StandInHub, folder: Path) -> None:
    other = folder / "models/other"
    other.mkdir(parents=True)
    (other / PROJECTOR).write_bytes(noise(len(FILES[PROJECTOR]), 77))
    (other / "link.gguf").symlink_to(other / PROJECTOR)
    async with queue(hub, folder) as world:
        await world.until((await world.downloads.add(REPO, Q4)).id, Status.DONE)
    assert hub.sent[PROJECTOR] == len(FILES[PROJECTOR])
    assert (folder / "models" / REPO / PROJECTOR).read_bytes() == FILES[PROJECTOR]


async def test_a_link_in_the_place_of_a_file_stays(hub: StandInHub, folder: Path) -> None:
    elsewhere, place = folder / "another disk", folder / "models" / REPO / PROJECTOR
    elsewhere.write_bytes(FILES[PROJECTOR])
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)
    async with queue(hub, folder) as world:
        await world.until((await world.downloads.add(REPO, Q4)).id, Status.DONE)
    assert PROJECTOR not in hub.sent
    assert place.readlink() == elsewhere


async def test_locks_of_killed_programs_go(hub: StandInHub, folder: Path) -> None:
    staging = folder / "models/.downloads"
    staging.mkdir(parents=True)
    (staging / f"{hub.repos[REPO].sha256(PROJECTOR)}.lock").touch()
    (staging / f"{'0' * 64}.lock").touch()
    async with queue(hub, folder) as world:
        for name in (Q4, Q8):
            await world.until((await world.downloads.add(REPO, name)).id, Status.DONE)
    assert models(folder) == placed()


async def test_a_folder_that_another_download_removes_is_no_failure(
    hub: StandInHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = folder / "models/.downloads/other"
    walk, removed = os.walk, []

    def losing(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, names in walk(root):
            yield place, folders, names
            # As the other one does between two looks.
            if Path(place) == other:
                removed.append(place)
                shutil.rmtree(place)

    async with queue(hub, folder) as world:
        (other / "owner/repo").mkdir(parents=True)
        monkeypatch.setattr(os, "walk", losing)
        added = await world.downloads.add(REPO, Q4)
        await world.until(added.id, Status.DONE)
    assert removed
