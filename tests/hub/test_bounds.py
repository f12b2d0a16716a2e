"""The resources of a download are bounded: disk, memory, files."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.hub.transfer import Transfer, TransferContext, open_session
from cyber_inference_tui.records import DownloadStatus as Status

from .queue import models, queue
from .stand_in_hub import Fault, StandInHub
from .transfers import MIB, QUICK, endpoint_of, noise, origin_of


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=20)


async def test_a_download_that_does_not_fit_does_not_begin(
    hub: StandInHub, small_disk: Path
) -> None:
    hub.add("o/big", {"big.gguf": noise(9 * MIB)})
    async with queue(hub, small_disk) as world:
        added = await world.downloads.add("o/big")
        failed = await world.until(added.id, Status.FAILED)
    assert failed.error is not None
    assert "9.00 MiB are still to come" in failed.error
    assert "8.00 MiB free" in failed.error
    assert str(small_disk) in failed.error
    assert hub.asked == []


@pytest.mark.parametrize("sync_interval", [0.0, 1000.0])
async def test_a_disk_that_fills_up_keeps_the_bytes(
    hub: StandInHub, small_disk: Path, sync_interval: float
) -> None:
    hub.add("o/big", {"big.gguf": noise(6 * MIB)})
    stall = Fault("stall", MIB)
    hub.faults["big.gguf"].append(stall)
    pace = msgspec.structs.replace(QUICK, sync_interval=sync_interval)
    async with queue(hub, small_disk, pace=pace) as world:
        added = await world.downloads.add("o/big")
        assert await asyncio.to_thread(stall.reached.wait, 20)
        (small_disk / "filler").write_bytes(bytes(4 * MIB))
        stall.go.set()
        failed = await world.until(added.id, Status.FAILED)
        assert failed.error is not None
        assert "still to come" in failed.error
        assert "have arrived are kept" in failed.error
        assert failed.bytes_done >= MIB // 2
        (small_disk / "filler").unlink()
        await world.downloads.retry(added.id)
        await world.until(added.id, Status.DONE)
    assert models(small_disk) == {"o/big/big.gguf": hub.repos["o/big"].files["big.gguf"]}
    # Only the bytes in memory when the disk was full are fetched again.
    assert hub.sent["big.gguf"] < 12 * MIB


class SlowThreads(ThreadPoolExecutor):
    """Threads of a machine with a slow disk; ``most`` is the largest number of waiting jobs."""

    def __init__(self) -> None:
        super().__init__(4)
        self._lock = threading.Lock()
        self._waiting = 0
        self.most = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def slowly() -> Any:
            time.sleep(0.002)
            try:
                return fn(*args, **kwargs)
            finally:
                with self._lock:
                    self._waiting -= 1

        with self._lock:
            self._waiting += 1
            self.most = max(self.most, self._waiting)
        return super().submit(slowly)


async def test_memory_and_files_are_bounded_however_slow_the_disk(
    hub: StandInHub, tmp_path: Path
) -> None:
    size = 48 * MIB
    repo = hub.add("o/big", {"big.gguf": noise(size)})
    origin = origin_of(repo, "big.gguf")
    threads = SlowThreads()
    session = open_session(QUICK)
    endpoint = endpoint_of(hub)
    shared = TransferContext(
        session=session,
        endpoint=lambda: endpoint,
        executor=threads,
        environ={},
        boot="",
        pace=QUICK,
    )
    before = len(list(Path("/proc/self/fd").iterdir()))
    tracemalloc.start()
    try:
        await Transfer(shared, origin, tmp_path / "big.gguf").run()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await session.close()
        threads.shutdown()
    assert peak < 8 * MIB
    # One writes, another may just be ending; a sync runs beside them.
    assert threads.most <= 3
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4
    assert (tmp_path / "big.gguf").read_bytes() == repo.files["big.gguf"]
