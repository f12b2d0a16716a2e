"""Several downloads of one model: nothing is fetched twice, and versions are not mixed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.records import DownloadStatus as Status
from tests.waiting import LIMIT, until

from .queue import REPO, SHARDS, RunningQueue, expected, models, queue, sharded
from .stand_in_hub import Fault, StandInHub
from .transfers import MIB, noise

TOTAL = sum(map(len, sharded().values()))


@pytest.fixture
def folder(tmp_path: Path, hub: StandInHub) -> Path:
    hub.add(REPO, sharded())
    return tmp_path


async def reached(fault: Fault) -> None:
    assert await asyncio.to_thread(fault.reached.wait, LIMIT)


async def wait_reason(world: RunningQueue, download_id: str) -> str:
    """Return the reason that a download waits for."""
    return await until(lambda: world.record(download_id).error)


async def test_two_programs_at_once_fetch_it_once(hub: StandInHub, folder: Path) -> None:
    stall = Fault("stall", 100_000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as one, queue(hub, folder, journal="other.json") as other:
        first = await one.downloads.add(REPO)
        await reached(stall)
        second = await other.downloads.add(REPO)
        assert "Another process" in await wait_reason(other, second.id)
        stall.go.set()
        await one.until(first.id, Status.DONE)
        record = await other.until(second.id, Status.DONE)
    assert record.bytes_done == record.bytes_total
    assert models(folder) == expected(hub)
    assert sum(hub.sent.values()) == TOTAL


async def test_a_waiting_process_takes_over(hub: StandInHub, folder: Path) -> None:
    stall = Fault("stall", 100_000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder, journal="other.json") as other:
        async with queue(hub, folder) as one:
            await one.downloads.add(REPO)
            await reached(stall)
            second = await other.downloads.add(REPO)
            await wait_reason(other, second.id)
        await other.until(second.id, Status.DONE)
    assert models(folder) == expected(hub)
    assert sum(hub.sent.values()) <= TOTAL + MIB
    # The first queue finds that the download is complete.
    async with queue(hub, folder) as one:
        (record,) = one.downloads.records()
        await one.until(record.id, Status.DONE)
    assert models(folder) == expected(hub)
    assert sum(hub.sent.values()) <= TOTAL + MIB


async def test_cancelling_leaves_the_files_of_another_process(
    hub: StandInHub, folder: Path
) -> None:
    stall = Fault("stall", 100_000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as one, queue(hub, folder, journal="other.json") as other:
        first = await one.downloads.add(REPO)
        await reached(stall)
        second = await other.downloads.add(REPO)
        await wait_reason(other, second.id)
        await other.downloads.cancel(second.id)
        await other.downloads.cancel(second.id)
        assert other.downloads.records() == []
        stall.go.set()
        await one.until(first.id, Status.DONE)
    assert models(folder) == expected(hub)
    assert sum(hub.sent.values()) == TOTAL


async def test_a_lost_journal_loses_no_bytes(hub: StandInHub, folder: Path) -> None:
    stall = Fault("stall", 600_000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as world:
        download_id = (await world.downloads.add(REPO)).id
        await reached(stall)
        # The sent bytes have to be on the disk, too.
        saved = 500_000
        await until(lambda: world.record(download_id).bytes_done >= saved)
    (folder / "downloads.json").unlink()
    sent = sum(hub.sent.values())
    assert sent >= 600_000
    async with queue(hub, folder) as world:
        await world.until((await world.downloads.add(REPO)).id, Status.DONE)
    assert models(folder) == expected(hub)
    assert sum(hub.sent.values()) <= TOTAL + sent - saved


@pytest.mark.parametrize("lost", [False, True])
async def test_only_the_changed_files_of_a_new_version_are_fetched(
    hub: StandInHub, folder: Path, *, lost: bool
) -> None:
    """A shard that was quantized again has the same size, but other bytes."""
    stall = Fault("stall", 100_000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        await reached(stall)
        async with asyncio.timeout(LIMIT):
            while hub.sent[SHARDS[1]] < 500_000 or hub.sent[SHARDS[2]] < 300_000:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(LIMIT):
            while world.record(added.id).bytes_done < 900_000:
                await asyncio.sleep(0.01)
        await world.downloads.pause(added.id)
    files = sharded() | {SHARDS[1]: noise(500_000, 77), "Q4/notes.txt": b"others"}
    hub.add(REPO, files)
    if lost:
        (folder / "downloads.json").unlink()
    hub.sent.clear()
    async with queue(hub, folder) as world:
        again = await world.downloads.add(REPO)
        assert (again.id == added.id) != lost
        assert again.revision == hub.repos[REPO].sha
        if again.status is Status.PAUSED:
            await world.downloads.resume(again.id)
        await world.until(again.id, Status.DONE)
    assert models(folder) == expected(hub)
    assert hub.sent[SHARDS[1]] == 500_000
    assert SHARDS[2] not in hub.sent


async def test_files_that_a_new_version_lacks_are_removed(hub: StandInHub, folder: Path) -> None:
    async with queue(hub, folder) as world:
        stall = Fault("stall", 100_000)
        hub.faults[SHARDS[0]].append(stall)
        added = await world.downloads.add(REPO)
        await reached(stall)
        await world.downloads.pause(added.id)
        hub.add(REPO, {SHARDS[0]: sharded()[SHARDS[0]]})
        await world.downloads.add(REPO)
        await world.downloads.resume(added.id)
        await world.until(added.id, Status.DONE)
    assert models(folder) == expected(hub)


async def test_another_version_of_a_running_download_is_refused(
    hub: StandInHub, folder: Path
) -> None:
    stall = Fault("stall", 100_000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        await reached(stall)
        hub.add(REPO, sharded() | {SHARDS[1]: noise(500_000, 77)})
        with pytest.raises(ConflictError, match=f"on its way, {added.revision}"):
            await world.downloads.add(REPO)


async def test_removing_an_old_download_leaves_the_new_one_alone(
    hub: StandInHub, folder: Path
) -> None:
    async with queue(hub, folder) as world:
        old = await world.downloads.add(REPO)
        await world.until(old.id, Status.DONE)
        hub.add(REPO, sharded() | {SHARDS[0]: noise(700_000, 77)})
        stall = Fault("stall", 600_000)
        hub.faults[SHARDS[0]].append(stall)
        hub.sent.clear()
        new = await world.downloads.add(REPO)
        await reached(stall)
        await world.downloads.pause(new.id)
        await world.downloads.cancel(old.id)
        await world.downloads.resume(new.id)
        await world.until(new.id, Status.DONE)
    assert models(folder) == expected(hub)
    assert hub.sent[SHARDS[0]] < 1_000_000


@pytest.mark.parametrize("again", ["add", "retry"])
async def test_a_failed_download_moves_to_a_new_models_dir(
    hub: StandInHub, folder: Path, again: str
) -> None:
    """The way out of a full disk."""
    hub.faults[SHARDS[0]].extend([Fault("corrupt", 5), Fault("corrupt", 5)])
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        await world.until(added.id, Status.FAILED)
    (folder / "models").rename(folder / "moved")
    async with queue(hub, folder, models_dir="moved") as world:
        if again == "add":
            assert (await world.downloads.add(REPO)).id == added.id
        else:
            await world.downloads.retry(added.id)
        await world.until(added.id, Status.DONE)
    assert not (folder / "models").exists()
    (folder / "moved").rename(folder / "models")
    assert models(folder) == expected(hub)


async def test_a_cancelled_download_removes_no_files_of_others_later(
    hub: StandInHub, folder: Path
) -> None:
    stall = Fault("stall", 1000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as world:
        old = await world.downloads.add(REPO)
        await reached(stall)
        await world.downloads.cancel(old.id)
        async with asyncio.timeout(LIMIT):
            while (folder / "models/.downloads").exists():
                await asyncio.sleep(0.01)
    stall = Fault("stall", 600_000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder, journal="other.json") as other:
        added = await other.downloads.add(REPO)
        await reached(stall)
        await other.downloads.pause(added.id)
    hub.sent.clear()
    async with queue(hub, folder) as world:
        assert world.record(old.id).status is Status.CANCELLED
        await world.downloads.cancel(old.id)
        assert world.downloads.records() == []
    async with queue(hub, folder, journal="other.json") as other:
        await other.downloads.resume(added.id)
        await other.until(added.id, Status.DONE)
    assert hub.sent[SHARDS[0]] < 400_000
    assert models(folder) == expected(hub)
