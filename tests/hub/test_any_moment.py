"""Interrupt downloads at any moment: no byte is lost, wrong or fetched twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyber_inference_tui.hub.partial import NOTE as NOTE_ENDING
from cyber_inference_tui.records import DownloadStatus as Status
from tests.waiting import LIMIT, eventually

from .program import Task
from .queue import REPO, SHARDS, RunningQueue, expected, models, plan_of, queue, sharded
from .stand_in_hub import Fault, StandInHub

MIB = 1 << 20
SIZES = {path: len(content) for path, content in sharded().items()}
PATHS = tuple(SIZES)
COSTLY = {"corrupt", "whole", "longer", "shift"}
"""Faults after which a file may have to be sent from its beginning."""


class PlannedFault(NamedTuple):
    """A fault of the hub: which file, what kind, and where (a share of its size)."""

    path: str
    kind: str
    place: float


class ServiceRun(NamedTuple):
    """One run of the service: the hub's faults, its end, and whether power or journal are lost with
    it.

    It ends that many turns of the event loop after a share of all bytes was sent.
    """

    blows: tuple[PlannedFault, ...]
    share: float
    turns: int
    power_cut: bool
    journal_lost: bool


BLOWS = st.builds(
    PlannedFault,
    st.sampled_from(PATHS),
    st.sampled_from(["cut", "reset", "corrupt", "whole", "shift", "longer", "expired", "status"]),
    st.floats(0, 0.99),
)
LIVES = st.lists(
    st.builds(
        ServiceRun,
        st.lists(BLOWS, max_size=4).map(tuple),
        st.one_of(st.just(0), st.floats(0, 1)),
        st.integers(0, 100),
        st.booleans(),
        st.booleans(),
    ),
    max_size=4,
)


def prepare(hub: StandInHub, blows: tuple[PlannedFault, ...]) -> int:
    """Set the faults, and return the bytes they may cost, beyond a MiB for each."""
    hub.faults.clear()
    for path, kind, place in blows:
        hub.faults[path].append(Fault(kind, int(SIZES[path] * place)))
    return sum(SIZES[path] for path, kind, _ in blows if kind in COSTLY) + MIB * len(blows)


def cut_the_power(folder: Path) -> None:
    """Replace bytes that were not synced by zeros."""
    for note in (folder / "models").rglob(f"*{NOTE_ENDING}"):
        part = note.with_name(note.name.removesuffix(".json"))
        forced = msgspec.json.decode(note.read_bytes())["synced_bytes"]
        if part.exists() and part.stat().st_size > forced:
            size = part.stat().st_size
            with part.open("r+b") as file:
                file.truncate(forced)
                file.truncate(size)


async def start(world: RunningQueue) -> str:
    """Return the download's id; retry it if it failed."""
    known = world.downloads.records()
    record = known[0] if known else await world.downloads.add(REPO)
    if record.status is Status.FAILED:
        assert record.error
        await world.downloads.retry(record.id)
    return record.id


async def live(
    hub: StandInHub, folder: Path, lives: list[ServiceRun], last: tuple[PlannedFault, ...]
) -> None:
    allowed = total = sum(SIZES.values())
    for number, life in enumerate(lives):
        allowed += prepare(hub, life.blows) + MIB
        before = sent(hub)
        async with queue(hub, folder, boot=f"boot {number}") as world:
            download = await start(world)
            # On a busy machine the kernel may hold more sent bytes than may be lost, and some
            # more is sent until it ends.
            while world.record(download).status in {Status.RUNNING, Status.VERIFYING} and (
                sent(hub) - before < life.share * total
                or sent(hub) - on_the_disk(folder) > allowed - total - MIB // 2
            ):
                await asyncio.sleep(0)
            for _ in range(life.turns):
                await asyncio.sleep(0)
        if life.power_cut:
            cut_the_power(folder)
        if life.journal_lost:
            (folder / "downloads.json").unlink(missing_ok=True)
        # At any moment each model is complete or not there.
        seen = {path for path in models(folder) if not path.startswith(".downloads")}
        assert seen in (set(), set(expected(hub)))
    allowed += prepare(hub, last)
    async with queue(hub, folder, boot="the last" if lives else "this") as world:
        download = await start(world)
        ended = await world.until(download, Status.DONE, Status.FAILED)
        if ended.status is Status.FAILED:
            assert ended.error
            hub.faults.clear()
            await world.downloads.retry(download)
            ended = await world.until(download, Status.DONE, Status.FAILED)
        assert ended.status is Status.DONE, ended.error
        assert ended.bytes_done == ended.bytes_total
    assert models(folder) == expected(hub)
    assert sent(hub) <= allowed


@settings(max_examples=settings().max_examples // 2)
@given(LIVES, st.lists(BLOWS, max_size=4).map(tuple))
def test_whatever_happens_in_the_end_it_is_right(
    lives: list[ServiceRun], last: tuple[PlannedFault, ...]
) -> None:
    with tempfile.TemporaryDirectory() as name, StandInHub() as hub:
        hub.add(REPO, sharded())
        asyncio.run(live(hub, Path(name), lives, last))


def spawn(hub: StandInHub, folder: Path, *how: str) -> subprocess.Popen[bytes]:
    task = Task(url=hub.url, cdn=hub.cdn, plan=plan_of(hub, REPO, None))
    (folder / "task.json").write_bytes(msgspec.json.encode(task))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.hub.program", str(folder), *how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # to be killed with its forked children
    )


@contextlib.contextmanager
def reaped(process: subprocess.Popen[bytes]):  # type: ignore[no-untyped-def]
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def on_the_disk(folder: Path) -> int:
    """Return the bytes on the disk; a file that is being renamed counts at the next look."""
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def sent(hub: StandInHub) -> int:
    return sum(hub.sent.values())


@settings(max_examples=3)
@given(st.lists(st.tuples(st.sampled_from(SHARDS), st.floats(0.01, 0.99)), min_size=1, max_size=3))
def test_killed_by_others(kills: list[tuple[str, float]]) -> None:
    with tempfile.TemporaryDirectory() as name, StandInHub() as hub:
        folder = Path(name)
        hub.add(REPO, sharded())
        # Each kill may cost a MiB, and the bytes sent between the last look and the kill.
        allowed = sum(SIZES.values())
        for path, place in kills:
            allowed += MIB
            fault = Fault("stall", int(SIZES[path] * place))
            hub.faults[path].append(fault)
            with reaped(spawn(hub, folder)) as process:
                while True:
                    looked = sent(hub)
                    lost = looked - on_the_disk(folder)
                    if fault.reached.wait(0.05) and lost <= allowed - sum(SIZES.values()):
                        break
                    if process.poll() is not None:
                        break  # that file existed already
            # What it sends into the closing connections counts, too.
            eventually(lambda: hub.streams == 0, what="the end of the answers")
            allowed += sent(hub) - looked
            hub.faults.clear()
        with reaped(spawn(hub, folder)) as process:
            assert process.wait(LIMIT) == 0
        assert models(folder) == expected(hub)
        assert sent(hub) <= allowed


def test_killed_between_any_two_steps(tmp_path: Path) -> None:
    """Kill the process after each change of a directory: every run gets a bit further."""
    with StandInHub() as hub, contextlib.ExitStack() as stack:
        hub.add(REPO, sharded((50_000, 40_000, 30_000)))
        lives = stack.enter_context(reaped(spawn(hub, tmp_path, "runs")))
        assert lives.stdin
        assert lives.stdout
        rounds = 0
        # The same directory each time: the crashes add up.
        for die_at in range(60):
            lives.stdin.write(f"{die_at}\n".encode())
            lives.stdin.flush()
            code = int(lives.stdout.readline())
            rounds += 1
            seen = {path for path in models(tmp_path) if not path.startswith(".downloads")}
            assert seen <= set(expected(hub))
            if code == 0:
                break
            assert code == -signal.SIGKILL
        else:
            pytest.fail("it never ended by itself")
        assert rounds > 3
        assert models(tmp_path) == expected(hub)
        shutil.rmtree(tmp_path)
