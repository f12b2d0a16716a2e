"""Files from other boxes: which box is asked, what follows a failure, and what is never kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from cyber_inference_tui.errors import DamagedDownloadError, HubUnreachableError
from cyber_inference_tui.hub.boxes import NearbyBox
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.transfer import Transfer, TransferContext, TransferLimits
from cyber_inference_tui.records import DownloadStatus
from tests.waiting import LIMIT, until

from .queue import REPO, expected, models, queue, sharded
from .stand_in_hub import Fault, Repo, StandInHub
from .transfers import MIB, QUICK, endpoint_of, noise, origin_of, transport

PATH = "Tiny-Q8_0.gguf"
SIZE = 4 * MIB + 3
PACE = msgspec.structs.replace(QUICK, box_interval=0.002)


class StandInBox:
    """A box with files by SHA-256. ``cuts`` are the bytes after which its next answers end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.status = 0
        """The status of each answer, if it is not 0."""
        self.asked: list[tuple[str, str | None]] = []
        """Method and range of each request."""
        self.port = 0
        self.on_lost: set[Callable[[], None]] = set()
        self.frozen: asyncio.Event | None = None
        """Set once it has sent the half of a file, and sends no more; ``None`` = it does not."""

    @property
    def gets(self) -> list[str | None]:
        return [asked for method, asked in self.asked if method == "GET"]

    @property
    def here(self) -> NearbyBox:
        return NearbyBox(self.name, "127.0.0.1", self.port, "key", None, self.on_lost)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.headers.get("Range")))
        assert request.headers["Authorization"] == "Bearer key"
        if self.status:
            return web.Response(status=self.status)
        content = self.files.get(request.match_info["sha256"])
        if content is None or len(content) != int(request.query["size"]):
            return web.Response(status=404)
        start = request.http_range.start or 0
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(content) - start
        if start:
            total = len(content)
            response.headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        await response.prepare(request)
        if request.method == "GET":
            if self.frozen is not None:
                await response.write(content[start : len(content) // 2])
                self.frozen.set()
                await asyncio.Event().wait()
            cut = self.cuts.pop(0) if self.cuts else None
            await response.write(content[start : None if cut is None else start + cut])
            if cut is not None:
                assert request.transport is not None
                request.transport.close()
        return response


@asynccontextmanager
async def boxes(*names: str) -> AsyncIterator[list[StandInBox]]:
    async with AsyncExitStack() as stack:
        running = []
        for name in names:
            box = StandInBox(name)
            app = web.Application()
            app.router.add_route("*", "/peers/files/{sha256}", box.answer)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            box.port = runner.addresses[0][1]
            running.append(box)
        yield running


@pytest.fixture
def repo(hub: StandInHub) -> Repo:
    return hub.add("owner/tiny", {PATH: noise(SIZE)})


@asynccontextmanager
async def near(
    endpoint: HubEndpoint, find: Callable[[], list[StandInBox]], *, pace: TransferLimits = PACE
) -> AsyncIterator[TransferContext]:
    def present() -> list[NearbyBox]:
        return [box.here for box in find()]

    async with transport(endpoint, pace=pace, boxes=present) as shared:
        yield shared


async def bring(hub: StandInHub, repo: Repo, target: Path, *running: StandInBox) -> Transfer:
    async with near(endpoint_of(hub), lambda: list(running)) as shared:
        transfer = Transfer(shared, origin_of(repo, PATH), target)
        await transfer.run()
    assert target.read_bytes() == repo.files[PATH]
    assert transfer.received >= SIZE
    return transfer


async def test_the_box_that_has_a_file_sends_it(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    async with boxes("one", "two") as (one, two):
        two.files[repo.sha256(PATH)] = repo.files[PATH]
        transfer = await bring(hub, repo, tmp_path / "a", one, two)
        assert (transfer.source, transfer.received) == ("two", SIZE)
        assert one.asked == [("HEAD", None)]
        assert two.asked == [("HEAD", None), ("GET", None)]
    assert hub.asked == []


async def test_a_box_that_is_lost_in_a_copy_is_not_awaited(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    patient = msgspec.structs.replace(PACE, stall_timeout=10 * LIMIT)
    async with boxes("one", "two") as (one, two):
        for box in (one, two):
            box.files[repo.sha256(PATH)] = repo.files[PATH]
        one.frozen = asyncio.Event()
        present = [one, two]
        async with near(endpoint_of(hub), lambda: present, pace=patient) as shared:
            transfer = Transfer(shared, origin_of(repo, PATH), tmp_path / "a")
            copying = asyncio.create_task(transfer.run())
            async with asyncio.timeout(LIMIT):
                await one.frozen.wait()
                await until(lambda: transfer.done, what="a part of the file")
                present.remove(one)
                for call in list(one.on_lost):
                    call()
                await copying
        assert (transfer.source, transfer.received) == ("two", SIZE)
        assert two.gets != [None]
        assert not one.on_lost
    assert (tmp_path / "a").read_bytes() == repo.files[PATH]


async def test_without_a_digest_no_box_is_asked(hub: StandInHub, tmp_path: Path) -> None:
    repo = hub.add("owner/words", {"notes.txt": b"words"})
    async with boxes("one") as (one,), near(endpoint_of(hub), lambda: [one]) as shared:
        await Transfer(shared, origin_of(repo, "notes.txt"), tmp_path / "a").run()
        assert one.asked == []


async def test_what_is_missing_comes_from_the_next_box_and_then_from_the_hub(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    async with boxes("one", "two") as (one, two):
        for box in (one, two):
            box.files[repo.sha256(PATH)] = repo.files[PATH]
            box.cuts = [MIB]

        def present() -> list[StandInBox]:
            # A box that has broken off is gone.
            return [box for box in (one, two) if not box.gets]

        async with near(endpoint_of(hub), present) as shared:
            transfer = Transfer(shared, origin_of(repo, PATH), tmp_path / "a")
            await transfer.run()
        assert (one.gets, two.gets) == ([None], [f"bytes={MIB}-"])
    assert (tmp_path / "a").read_bytes() == repo.files[PATH]
    assert [headers.get("Range") for _, _, headers in hub.asked] == [f"bytes={2 * MIB}-"] * 2
    assert transfer.source is None
    # No byte came twice.
    assert transfer.received == SIZE
    assert hub.sent[PATH] == SIZE - 2 * MIB


async def test_a_box_that_is_ready_later_takes_over_from_the_hub(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    stall = Fault("stall", 2 * MIB)
    hub.faults[PATH].append(stall)
    async with boxes("one") as (one,):
        one.status = 503
        one.files[repo.sha256(PATH)] = repo.files[PATH]
        async with near(endpoint_of(hub), lambda: [one]) as shared:
            transfer = Transfer(shared, origin_of(repo, PATH), tmp_path / "a")
            running = asyncio.create_task(transfer.run())
            assert await asyncio.to_thread(stall.reached.wait, 20)
            assert one.gets == []
            one.status = 0
            async with asyncio.timeout(LIMIT):
                await transfer._boxes.ready.wait()
            stall.go.set()
            await running
        assert transfer.source == "one"
        assert len(one.gets) == 1
        start = int((one.gets[0] or "").removeprefix("bytes=").removesuffix("-"))
        assert 2 * MIB <= start < SIZE
    assert (tmp_path / "a").read_bytes() == repo.files[PATH]
    assert transfer.received == SIZE


async def test_a_box_that_comes_back_continues_while_there_is_no_hub(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    present: list[StandInBox] = []
    waits: list[object] = []
    # The pause after a failure of the hub is long: the box ends it.
    pace = msgspec.structs.replace(PACE, backoff=lambda tries: LIMIT)
    async with boxes("one") as (one,):
        one.files[repo.sha256(PATH)] = repo.files[PATH]
        one.cuts = [MIB]
        present.append(one)

        def note(error: object) -> None:
            waits.append(error)
            if isinstance(error, HubUnreachableError):
                assert transfer.done >= MIB
                asyncio.get_running_loop().call_soon(present.append, one)

        def find() -> list[StandInBox]:
            if one.gets and not any(waits):
                present.clear()
            return present

        async with near(HubEndpoint(url="http://127.0.0.1:1"), find, pace=pace) as shared:
            transfer = Transfer(shared, origin_of(repo, PATH), tmp_path / "a", on_wait=note)
            await transfer.run()
        assert one.gets == [None, f"bytes={MIB}-"]
    assert (tmp_path / "a").read_bytes() == repo.files[PATH]
    assert transfer.received == SIZE


async def test_a_wrong_file_is_discarded_and_its_box_not_asked_again(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    wrong = bytearray(repo.files[PATH])
    wrong[MIB] ^= 1
    async with (
        boxes("bad", "good") as (bad, good),
        near(endpoint_of(hub), lambda: [bad, good]) as shared,
    ):
        bad.files[repo.sha256(PATH)] = bytes(wrong)
        for name in ("a", "b"):
            await Transfer(shared, origin_of(repo, PATH), tmp_path / name).run()
            assert (tmp_path / name).read_bytes() == repo.files[PATH]
        assert bad.gets == [None]
        assert hub.sent[PATH] == 2 * SIZE
        # A hub that is wrong as well is not blamed on a box.
        hub.faults[PATH].extend([Fault("corrupt", 5), Fault("corrupt", 5)])
        good.files[repo.sha256(PATH)] = bytes(wrong)
        with pytest.raises(DamagedDownloadError):
            await Transfer(shared, origin_of(repo, PATH), tmp_path / "c").run()
        assert not list(tmp_path.glob("c*"))


async def test_a_box_of_another_version_or_that_lies_about_the_size(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    async with boxes("old", "odd") as (old, odd):
        old.status = 404
        odd.status = 302
        transfer = await bring(hub, repo, tmp_path / "a", old, odd)
        assert transfer.source is None
        assert old.asked == [("HEAD", None)]
        assert odd.gets == []
    assert hub.sent[PATH] == SIZE


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_fails_the_file_is_right_in_the_end(
    hub: StandInHub, repo: Repo, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    kinds = ("cut", "reset", "none")
    hub.faults[PATH].extend(Fault(chance.choice(kinds), chance.randrange(SIZE)) for _ in range(3))
    async with boxes("one", "two", "three") as running:
        for box in running:
            content = bytearray(repo.files[PATH])
            if chance.random() < 0.3:
                content[chance.randrange(SIZE)] ^= 1
            box.files[repo.sha256(PATH)] = bytes(content)
            box.cuts = [chance.randrange(SIZE) for _ in range(chance.randrange(4))]

        def present() -> list[StandInBox]:
            for box in running:
                box.status = chance.choice((0, 0, 0, 503))
            return [box for box in running if chance.random() < 0.7]

        async with near(endpoint_of(hub), present) as shared:
            while not (tmp_path / "a").exists():
                transfer = Transfer(shared, origin_of(repo, PATH), tmp_path / "a")
                # The service may end at any moment, too.
                with suppress(TimeoutError):
                    async with asyncio.timeout(chance.choice((0.02, 0.05, LIMIT))):
                        await transfer.run()
    assert (tmp_path / "a").read_bytes() == repo.files[PATH]


async def test_a_download_says_where_its_files_come_from(hub: StandInHub, tmp_path: Path) -> None:
    hub.add(REPO, sharded())
    async with boxes("one") as (one,), queue(hub, tmp_path, boxes=lambda: [one.here]) as world:
        repo = hub.repos[REPO]
        one.files = {repo.sha256(path): content for path, content in repo.files.items()}
        added = await world.downloads.add(REPO)
        record = await world.until(added.id, DownloadStatus.DONE)
        assert record.source == "one"
        assert {record.source for record in world.published} >= {"one"}
    assert models(tmp_path) == expected(hub)
    # The digests of all large files are known afterwards.
    assert [digest is not None for digest in world.digests.values()] == [True] * 4 + [False]
    assert set(hub.sent) == {"Q4/notes.txt"}
