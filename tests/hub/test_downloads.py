"""The queue of downloads, also over restarts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.errors import (
    ConflictError,
    HubNotFoundError,
    NotFoundError,
    ShuttingDownError,
)
from cyber_inference_tui.hub import downloads as module
from cyber_inference_tui.hub.staging import Staging
from cyber_inference_tui.library.library import Library
from cyber_inference_tui.library.scan import find_files
from cyber_inference_tui.records import DownloadStatus as Status
from tests.waiting import LIMIT

from .queue import (
    NOTE,
    PROJECTOR,
    REPO,
    SHARDS,
    RunningQueue,
    expected,
    models,
    plan_of,
    queue,
    sharded,
)
from .stand_in_hub import Fault, StandInHub
from .transfers import QUICK, noise


@pytest.fixture
def folder(tmp_path: Path, hub: StandInHub) -> Path:
    hub.add(REPO, sharded())
    return tmp_path


async def reached(fault: Fault) -> None:
    assert await asyncio.to_thread(fault.reached.wait, 20)


async def arrived(world: RunningQueue, download_id: str, count: int) -> None:
    """Wait until ``count`` bytes are on the disk."""
    async with asyncio.timeout(LIMIT):
        while world.record(download_id).bytes_done < count:
            await asyncio.sleep(0.005)


async def test_a_model_appears_when_it_is_complete(hub: StandInHub, folder: Path) -> None:
    stall = Fault("stall", 100_000)
    hub.faults[SHARDS[2]].append(stall)
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        assert (added.status, added.filename) == (Status.RUNNING, SHARDS[0])
        assert added.bytes_total == sum(map(len, sharded().values()))
        assert added.quantization == "Q4_K_M"
        await reached(stall)
        # Other files may be complete, but the library sees none of them.
        assert find_files([folder / "models"]).files == ()
        assert not (folder / "models" / "owner").exists()
        stall.go.set()
        record = await world.until(added.id, Status.DONE)
    assert models(folder) == expected(hub)
    assert record.bytes_done == record.bytes_total
    assert record.model_id == "Tiny-Q4_K_M-00001-of-00003"
    assert (record.error, record.seconds_left) == (None, None)
    place = folder / "models" / "owner" / "tiny" / "Q4"
    assert world.done == [tuple(place / Path(path).name for path in (*SHARDS, PROJECTOR, NOTE))]
    assert not (folder / "models" / ".downloads").exists()
    assert 2 <= hub.most_streams <= 3
    statuses = list(dict.fromkeys(record.status for record in world.published))
    assert statuses[0] is Status.RUNNING
    assert statuses[-1] is Status.DONE


async def test_the_same_model_twice_is_one_download(hub: StandInHub, folder: Path) -> None:
    stall = Fault("stall", 100_000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as world:
        first, second = await asyncio.gather(
            world.downloads.add(REPO), world.downloads.add(REPO, SHARDS[0])
        )
        assert first.id == second.id
        stall.go.set()
        await world.until(first.id, Status.DONE)
        again = await world.downloads.add(REPO)
        assert again.id != first.id
        await world.until(again.id, Status.DONE)
    # Files at their final paths are not fetched again.
    assert hub.sent == {path: len(content) for path, content in sharded().items()}


async def test_a_file_in_place_that_is_another_is_replaced(hub: StandInHub, folder: Path) -> None:
    place = folder / "models" / "owner" / "tiny" / "Q4"
    place.mkdir(parents=True)
    (place / Path(SHARDS[0]).name).write_bytes(noise(700_000, 77))
    (place / Path(SHARDS[1]).name).write_bytes(b"short")
    (place / Path(SHARDS[2]).name).write_bytes(sharded()[SHARDS[2]])
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        await world.until(added.id, Status.DONE)
    assert models(folder) == expected(hub)
    assert SHARDS[2] not in hub.sent


async def test_a_few_at_once_the_others_wait(hub: StandInHub, folder: Path) -> None:
    stalls = []
    for number in range(4):
        path = f"m{number}.gguf"
        hub.add(f"o/m{number}", {path: noise(50_000, number)})
        stalls.append(Fault("stall", 10_000))
        hub.faults[path].append(stalls[-1])
    async with queue(hub, folder) as world:
        added = [await world.downloads.add(f"o/m{number}") for number in range(4)]
        assert [one.status for one in added] == [Status.RUNNING] * 2 + [Status.QUEUED] * 2
        await reached(stalls[0])
        await reached(stalls[1])
        # A paused download lets the next one start.
        await world.downloads.pause(added[0].id)
        await world.until(added[2].id, Status.RUNNING)
        assert world.record(added[3].id).status is Status.QUEUED
        for stall in stalls:
            stall.go.set()
        for one in added[1:]:
            await world.until(one.id, Status.DONE)
        assert world.record(added[0].id).status is Status.PAUSED
        await world.downloads.resume(added[0].id)
        await world.until(added[0].id, Status.DONE)
        assert [one.id for one in world.downloads.records()] == [one.id for one in added]


async def test_a_pause_and_its_bytes_survive_a_restart(hub: StandInHub, folder: Path) -> None:
    stall = Fault("stall", 400_000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        await arrived(world, added.id, 300_000)
        paused = await world.downloads.pause(added.id)
        assert paused.status is Status.PAUSED
        assert paused.bytes_per_second is None
        assert (await world.downloads.pause(added.id)).status is Status.PAUSED
    async with queue(hub, folder) as world:
        record = world.record(added.id)
        assert record.status is Status.PAUSED
        assert record.bytes_done >= 300_000
        assert world.published == []
        await world.downloads.resume(added.id)
        await world.until(added.id, Status.DONE)
    assert models(folder) == expected(hub)
    # Bytes in flight at the pause are sent again, for three files at once.
    assert sum(hub.sent.values()) - sum(map(len, sharded().values())) < 1 << 20


async def test_a_running_download_continues_after_a_restart(hub: StandInHub, folder: Path) -> None:
    for _ in range(2):
        stall = Fault("stall", 200_000)
        hub.faults[SHARDS[0]].append(stall)
        async with queue(hub, folder) as world:
            if not world.downloads.records():
                await world.downloads.add(REPO)
            await reached(stall)
    async with queue(hub, folder) as world:
        (record,) = world.downloads.records()
        await world.until(record.id, Status.DONE)
    assert models(folder) == expected(hub)
    async with queue(hub, folder) as world:
        (record,) = world.downloads.records()
        assert record.status is Status.DONE
        assert record.model_id is not None
        assert record.bytes_done == record.bytes_total


@pytest.mark.parametrize("keep", [False, True])
async def test_cancel_is_quick_and_keeps_the_bytes_only_on_request(
    hub: StandInHub, folder: Path, *, keep: bool
) -> None:
    stall = Fault("stall", 400_000)
    hub.faults[SHARDS[0]].append(stall)
    staging = folder / "models" / ".downloads"
    pace = msgspec.structs.replace(QUICK, stall_timeout=2 * LIMIT)
    async with queue(hub, folder, pace=pace) as world:
        added = await world.downloads.add(REPO)
        await arrived(world, added.id, 300_000)
        # It does not wait for a hub that sends nothing.
        async with asyncio.timeout(LIMIT):
            cancelled = await world.downloads.cancel(added.id, keep=keep)
        assert cancelled.status is Status.CANCELLED
        async with asyncio.timeout(LIMIT):
            # A slow removal does not delay the answer to a cancellation.
            while not keep and staging.exists():
                await asyncio.sleep(0.01)
        assert staging.exists() == keep
        async with asyncio.timeout(LIMIT):
            while (world.record(added.id).bytes_done > 0) != keep:
                await asyncio.sleep(0.01)
    async with queue(hub, folder) as world:
        assert world.record(added.id).status is Status.CANCELLED
        kept = world.record(added.id).bytes_done
        sent = sum(hub.sent.values())
        # A new request continues with the bytes on the disk, under the same id.
        again = await world.downloads.add(REPO)
        assert again.id == added.id
        await world.until(added.id, Status.DONE)
        total = sum(map(len, sharded().values()))
        fetched = sum(hub.sent.values()) - sent
        assert kept >= 300_000 if keep else kept == 0
        assert fetched <= total - kept if keep else fetched >= total - 600
        # A second cancellation removes it from the list; the model stays.
        await world.downloads.cancel(added.id)
        assert world.downloads.records() == []
        assert world.removed == [added.id]
        with pytest.raises(NotFoundError, match="no download"):
            await world.downloads.cancel(added.id)
    assert models(folder) == expected(hub)


async def test_a_failure_has_a_reason_and_can_be_retried(hub: StandInHub, folder: Path) -> None:
    hub.faults[SHARDS[1]].extend([Fault("corrupt", 5), Fault("corrupt", 7)])
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        failed = await world.until(added.id, Status.FAILED)
        assert failed.error is not None
        assert "damaged twice" in failed.error
        assert not (folder / "models" / "owner").exists()
    async with queue(hub, folder) as world:
        # It is not retried without a request.
        assert world.record(added.id).error == failed.error
        retried = await world.downloads.retry(added.id)
        assert (retried.status, retried.error) == (Status.RUNNING, None)
        await world.until(added.id, Status.DONE)
    assert models(folder) == expected(hub)


async def test_a_waiting_download_has_a_reason(hub: StandInHub, folder: Path) -> None:
    hub.refusals.extend([(429, {"Retry-After": "600"})] * 3)
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        async with asyncio.timeout(LIMIT):
            while world.record(added.id).error is None:
                await asyncio.sleep(0.01)
        record = world.record(added.id)
        assert record.status is Status.RUNNING
        assert "again in 10 min" in (record.error or "")
        await world.downloads.pause(added.id)
        assert world.record(added.id).error is None


async def test_actions_that_do_not_fit_the_state_are_refused(hub: StandInHub, folder: Path) -> None:
    stall = Fault("stall", 1000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as world:
        with pytest.raises(HubNotFoundError):
            await world.downloads.add("owner/none")
        assert world.downloads.records() == []
        added = await world.downloads.add(REPO)
        assert (await world.downloads.resume(added.id)).status is Status.RUNNING
        assert (await world.downloads.retry(added.id)).status is Status.RUNNING
        await world.downloads.pause(added.id)
        with pytest.raises(ConflictError, match="is paused: it cannot be tried again"):
            await world.downloads.retry(added.id)
        await world.downloads.cancel(added.id)
        for act in (world.downloads.pause, world.downloads.resume):
            with pytest.raises(ConflictError, match="is cancelled"):
                await act(added.id)
        with pytest.raises(NotFoundError, match="no download x"):
            await world.downloads.pause("x\x1b[31m")
        downloads = world.downloads
    with pytest.raises(ShuttingDownError):
        await downloads.add(REPO)


async def test_a_crash_between_two_moves_is_made_good(hub: StandInHub, folder: Path) -> None:
    stall = Fault("stall", 1000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        await reached(stall)
    journal = folder / "downloads.json"
    files = list(expected(hub).items())
    for moved in range(len(files) + 1):
        # The journal while files are moved, and the disk after ``moved`` of them.
        content = msgspec.json.decode(journal.read_bytes())
        content["downloads"][0] |= {"status": "queued", "placing": True, "begun": True}
        journal.write_bytes(msgspec.json.encode(content))
        staging = Staging(folder / "models", plan_of(hub, REPO, None)).root
        for number, (path, data) in enumerate(files):
            place, staged_path = folder / "models" / path, staging / path
            (place if number < moved else staged_path).parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            (place if number < moved else staged_path).write_bytes(data)
        asked = len(hub.asked)
        async with queue(hub, folder) as world:
            await world.until(added.id, Status.DONE)
            assert len(world.done) == 1
        assert models(folder) == expected(hub)
        assert len(hub.asked) == asked


async def test_a_disk_that_is_not_there_is_not_filled_elsewhere(
    hub: StandInHub, folder: Path
) -> None:
    stall = Fault("stall", 1000)
    hub.faults[SHARDS[0]].append(stall)
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        await reached(stall)
    (folder / "models").rename(folder / "taken out")
    async with queue(hub, folder) as world:
        failed = await world.until(added.id, Status.FAILED)
        assert "are gone" in (failed.error or "")
        assert not (folder / "models").exists()
        (folder / "taken out").rename(folder / "models")
        await world.downloads.retry(added.id)
        await world.until(added.id, Status.DONE)
    assert models(folder) == expected(hub)


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 1, "downloads": [{"id": "../x"}]}'])
async def test_a_journal_that_makes_no_sense_is_set_aside(
    hub: StandInHub, folder: Path, content: bytes
) -> None:
    (folder / "downloads.json").write_bytes(content)
    async with queue(hub, folder) as world:
        assert world.downloads.records() == []
        added = await world.downloads.add(REPO)
        await world.until(added.id, Status.DONE)
    assert (folder / "downloads.json.damaged").read_bytes() == content


async def test_a_journal_cannot_name_other_directories(hub: StandInHub, folder: Path) -> None:
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        await world.until(added.id, Status.DONE)
    content = (folder / "downloads.json").read_bytes()
    for bad in (added.id, REPO, SHARDS[0]):
        changed = content.replace(bad.encode(), b"../../x")
        (folder / "downloads.json").write_bytes(changed)
        async with queue(hub, folder) as world:
            assert world.downloads.records() == []


async def test_finished_downloads_are_kept_up_to_a_limit(
    hub: StandInHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FINISHED", 2)
    async with queue(hub, folder) as world:
        ids = []
        for number in range(4):
            hub.add(f"o/m{number}", {f"m{number}.gguf": noise(1000, number)})
            ids.append((await world.downloads.add(f"o/m{number}")).id)
            await world.until(ids[-1], Status.DONE)
        async with asyncio.timeout(LIMIT):
            while len(world.removed) < 2:
                await asyncio.sleep(0.01)
        assert world.removed == ids[:2]
        assert [one.id for one in world.downloads.records()] == ids[2:]


async def test_a_link_in_the_way_does_not_lead_out(hub: StandInHub, folder: Path) -> None:
    (folder / "models" / "owner").mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    (folder / "models" / "owner" / "tiny").symlink_to(folder / "elsewhere")
    async with queue(hub, folder) as world:
        added = await world.downloads.add(REPO)
        failed = await world.until(added.id, Status.FAILED)
        assert "leads out of" in (failed.error or "")
    assert list((folder / "elsewhere").rglob("*.gguf")) == []


async def test_progress_is_published_a_few_times_a_second(hub: StandInHub, folder: Path) -> None:
    hub.add("o/big", {"big.gguf": noise(12 << 20)})
    async with queue(hub, folder) as world:
        added = await world.downloads.add("o/big")
        began = time.monotonic()
        await world.until(added.id, Status.DONE)
        took = time.monotonic() - began
    progress = [record for record in world.published if record.status is Status.RUNNING]
    assert len(progress) <= took / module.TICK + 2
    done = [record.bytes_done for record in world.published]
    assert done == sorted(done)
    for record in progress:
        if record.bytes_per_second is not None:
            assert record.bytes_per_second > 0
            assert record.seconds_left is not None


async def test_the_library_finds_a_downloaded_model(hub: StandInHub, folder: Path) -> None:
    from cyber_inference_tui.gguf.demo import write_demo

    write_demo(folder / "demo.gguf")
    content = (folder / "demo.gguf").read_bytes()
    hub.add("o/one", {"Same-F16.gguf": content})
    hub.add("o/two", {"Same-F16.gguf": content + b"\0"})
    async with queue(hub, folder) as world:
        for name in ("o/one", "o/two"):
            await world.until((await world.downloads.add(name)).id, Status.DONE)
    catalog = Library(models_dir=folder / "models").scan()
    assert sorted(catalog.models) == ["o/one/Same-F16", "o/two/Same-F16"]
    assert catalog.problems == ()
