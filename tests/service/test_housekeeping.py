"""Freeing the disk through the service: what it has in use stays, and only the shown plan is
carried out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.hub.download_plan import DownloadPlan, PlannedFile
from cyber_inference_tui.hub.journal import JournalEntry, encoded
from cyber_inference_tui.hub.staging import PathLock, Staging, abandoned
from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.records import DownloadStatus, RequestRecord
from cyber_inference_tui.records.gc import GcOrder, GcPlan, GcQuery, GcResult
from cyber_inference_tui.service.service import Service, utc_now
from cyber_inference_tui.settings.load import load
from tests.gguf.headers import write_gguf
from tests.waiting import LIMIT

DAY = 86400.0
UNUSED = GcQuery(unused_days=30)


class Box:
    """A home with a service whose clock is forty days ahead of its files."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.models = home / "data/models"
        self.config = home / "config.toml"
        self.config.touch()

    def service(self) -> Service:
        environ = {"HOME": str(self.home), "PATH": ""}
        flags = {"data_dir": str(self.home / "data")}
        loaded = load(config=self.config, environ=environ, flags=flags)
        service = Service(
            loaded, demo=False, environ=environ, flags=flags, service_log=Log(now=utc_now)
        )
        service.housekeeping._now = lambda: utc_now() + timedelta(days=40)
        return service

    def add(self, name: str, content: bytes = b"") -> Path:
        path = write_gguf(self.models / f"{name}.gguf", {"general.name": name})
        path.write_bytes(content or path.read_bytes())
        return path

    def stage(self, filename: str, *, days_ago: float = 2) -> Staging:
        """Leave a partial download."""
        staging = Staging(self.models, plan_of(filename))
        staging.root.mkdir(parents=True)
        part = staging.root / f"{filename}.part"
        part.write_bytes(b"x" * 9000)
        then = part.stat().st_mtime + (40 - days_ago) * DAY
        os.utime(part, (then, then))
        os.utime(staging.root, (then, then))
        return staging


def plan_of(filename: str) -> DownloadPlan:
    return DownloadPlan(
        repo="org/repo", revision="main", filename=filename, files=(PlannedFile(filename),)
    )


def names(plan: GcPlan) -> list[str]:
    return [item.name for item in plan.own.items]


async def carry_out(service: Service, query: GcQuery) -> GcResult:
    plan = await service.housekeeping.plan(query)
    order = GcOrder(
        unused_days=query.unused_days, room_bytes=query.room_bytes, token=plan.own.token
    )
    return await service.housekeeping.delete(order)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
async def service(box: Box) -> AsyncIterator[Service]:
    for name in ("a", "b"):
        box.add(name)
    async with box.service() as service:
        yield service


async def test_an_unused_model_goes_as_promised(service: Service, box: Box) -> None:
    plan = await service.housekeeping.plan(UNUSED)
    assert names(plan) == ["a", "b"]
    result = await carry_out(service, UNUSED)
    assert (result.freed_bytes, result.problems) == (plan.own.freed_bytes, ())
    assert [item.name for item in result.deleted] == ["a", "b"]
    assert not list(box.models.rglob("*.gguf"))
    assert service.models.records() == []
    log = (box.home / "data/logs/audit.log").read_text()
    assert '"event": "gc"' in log and '"deleted": ["a", "b"]' in log


async def test_a_model_used_within_the_time_stays(box: Box) -> None:
    box.add("a")
    box.add("b")
    async with box.service() as service:
        used = RequestRecord(at=utc_now(), model="a", path="/", status=200, duration_seconds=1)
        service.history.add(used)
        await service.history.flush()
    async with box.service() as service:
        assert service.models.record("a").last_used_at == used.at
        service.housekeeping._now = lambda: utc_now() + timedelta(days=29)
        assert names(await service.housekeeping.plan(UNUSED)) == []
        service.housekeeping._now = lambda: utc_now() + timedelta(days=40)
        plan = await service.housekeeping.plan(UNUSED)
        assert {item.name: item.last_used_at for item in plan.own.items}["a"] == used.at


async def test_a_pinned_model_stays(service: Service) -> None:
    await service.models.pin("a", True)
    assert names(await service.housekeeping.plan(UNUSED)) == ["b"]


async def test_a_model_that_is_pinned_meanwhile_stays(service: Service, box: Box) -> None:
    plan = await service.housekeeping.plan(UNUSED)
    await service.models.pin("a", True)
    with pytest.raises(ConflictError, match="have changed"):
        await service.housekeeping.delete(GcOrder(unused_days=30, token=plan.own.token))
    assert (box.models / "b.gguf").exists()


@pytest.mark.parametrize(
    "text",
    [
        'default_model = "a"',
        '[models.a]\naliases = ["x"]',
        '[models.other]\npath = "{a}"',
        '[models.b]\nargs = ["--model-draft", "{a}"]',
    ],
)
async def test_models_in_the_settings_stay(box: Box, text: str) -> None:
    path = box.add("a")
    box.add("c")
    box.config.write_text(text.replace("{a}", str(path)))
    async with box.service() as service:
        assert names(await service.housekeeping.plan(UNUSED)) == ["c"]


async def test_only_the_shown_plan_is_carried_out(service: Service, box: Box) -> None:
    plan = await service.housekeeping.plan(UNUSED)
    (box.models / "a.gguf").write_bytes(b"another file")
    with pytest.raises(ConflictError, match="have changed since this plan was made"):
        await service.housekeeping.delete(GcOrder(unused_days=30, token=plan.own.token))
    assert (box.models / "b.gguf").exists()


async def test_a_copy_is_found_by_its_digest(box: Box) -> None:
    content = box.add("a").read_bytes()
    box.add("copy", content)
    box.add("same-size", content[:-1] + b"!")
    async with box.service() as service:
        plan = await service.housekeeping.plan(GcQuery())
        assert (plan.hashing, names(plan)) == (3, [])
        await service.shared_files.settled()
        plan = await service.housekeeping.plan(GcQuery())
        assert plan.hashing == 0
        (item,) = plan.own.items
        assert {item.name, item.copy_of} == {"a", "copy"}


async def test_an_abandoned_download_goes(box: Box) -> None:
    wanted, abandoned = box.stage("wanted.gguf"), box.stage("abandoned.gguf")
    box.stage("just-written.gguf", days_ago=0.5)
    entry = JournalEntry(
        id="0123abcd",
        plan=plan_of("wanted.gguf"),
        models_dir=str(box.models),
        status=DownloadStatus.PAUSED,
        created_at=utc_now(),
    )
    (box.home / "data/downloads.json").write_bytes(encoded([entry]))
    async with box.service() as service:
        plan = await service.housekeeping.plan(GcQuery())
        assert [item.path for item in plan.own.items] == [
            str(abandoned.root / "abandoned.gguf.part")
        ]
        lock = PathLock()
        assert lock.acquire(abandoned.root)
        result = await carry_out(service, GcQuery())
        assert "another process downloads to it" in result.problems[0]
        lock.release()
        assert (await carry_out(service, GcQuery())).freed_bytes == plan.own.freed_bytes > 0
    assert not abandoned.root.exists()
    assert wanted.root.exists()


async def test_a_download_is_known_by_any_path_of_its_folder(box: Box) -> None:
    staging = box.stage("wanted.gguf")
    alias = box.home / "alias"
    alias.symlink_to(box.models)
    assert abandoned(alias, {staging.root}, before=1e12) == ()
    assert abandoned(alias, set(), before=1e12) == (alias / ".downloads" / staging.root.name,)


async def test_after_a_failure_the_rest_stays(
    service: Service, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first may need what the others share with it."""
    plan = await service.housekeeping.plan(UNUSED)
    delete = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "a.gguf":
            raise PermissionError(1, "Operation not permitted")
        delete(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    order = GcOrder(unused_days=30, token=plan.own.token)
    result = await service.housekeeping.delete(order)
    assert (result.freed_bytes, result.deleted) == (0, ())
    assert result.problems == (
        f"{box.models / 'a.gguf'} cannot be deleted: Operation not permitted.",
    )
    assert (box.models / "b.gguf").exists()


async def test_the_target_of_a_download_stays(box: Box) -> None:
    box.add("wanted")
    entry = JournalEntry(
        id="0123abcd",
        plan=plan_of("wanted.gguf"),
        models_dir=str(box.models),
        status=DownloadStatus.PAUSED,
        created_at=utc_now(),
    )
    target = Staging(box.models, entry.plan).final_path(entry.plan.files[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    (box.models / "wanted.gguf").rename(target)
    (box.home / "data/downloads.json").write_bytes(encoded([entry]))
    async with box.service() as service:
        assert names(await service.housekeeping.plan(UNUSED)) == []


async def test_room_is_made_by_the_least_recently_used(service: Service) -> None:
    now = utc_now()
    service.models.former_uses = {"a": now + timedelta(days=2), "b": now + timedelta(days=1)}
    free = (await service.housekeeping.plan(GcQuery())).free_bytes
    wished = free + (1 << 12)
    plan = await service.housekeeping.plan(GcQuery(room_bytes=wished))
    assert names(plan)[0] == "b"


async def test_two_orders_of_one_plan_delete_once(service: Service) -> None:
    plan = await service.housekeeping.plan(UNUSED)
    order = GcOrder(unused_days=30, token=plan.own.token)
    async with asyncio.timeout(LIMIT):
        done = await asyncio.gather(
            service.housekeeping.delete(order),
            service.housekeeping.delete(order),
            return_exceptions=True,
        )
    assert [type(one) for one in done] == [GcResult, ConflictError]
