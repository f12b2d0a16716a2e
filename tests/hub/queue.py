"""Start a queue of downloads in a directory, as often as a test needs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from cyber_inference_tui.errors import HubNotFoundError
from cyber_inference_tui.hub.boxes import NearbyBox
from cyber_inference_tui.hub.download_plan import DownloadPlan, PlannedFile
from cyber_inference_tui.hub.downloads import Downloads
from cyber_inference_tui.hub.transfer import TransferLimits
from cyber_inference_tui.records import DownloadRecord, DownloadStatus
from tests.waiting import LIMIT

from .stand_in_hub import StandInHub
from .transfers import QUICK, endpoint_of, noise, transport

REPO = "owner/tiny"
SHARDS = tuple(f"Q4/Tiny-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 2, 3))
PROJECTOR = "mmproj-F16.gguf"
NOTE = "Q4/notes.txt"


def sharded(sizes: tuple[int, ...] = (700_000, 500_000, 300_000)) -> dict[str, bytes]:
    """Return a model of three shards with a projector and a file that is not large (no LFS)."""
    files = {SHARDS[number]: noise(size, number) for number, size in enumerate(sizes)}
    return files | {PROJECTOR: noise(200_000, 9), NOTE: b"words\n" * 100}


def plan_of(hub: StandInHub, name: str, filename: str | None) -> DownloadPlan:
    """Return the plan for the model at ``filename``: its shards and the repository's other
    files."""
    repo = hub.repos.get(name)
    if repo is None or (filename is not None and filename not in repo.files):
        raise HubNotFoundError(f"There is no {filename or name}.")
    first = filename or sorted(repo.files, key=lambda path: (not path.endswith("gguf"), path))[0]
    shards = re.compile(re.escape(first).replace(r"00001\-of", r"\d{5}\-of"))
    chosen = [p for p in repo.files if shards.fullmatch(p) or not re.search(r"Q\d_", p)]
    files = tuple(
        PlannedFile(
            path,
            len(repo.files[path]),
            repo.sha256(path) if repo.is_large(path) else None,
            None if repo.is_large(path) else repo.git_sha1(path),
        )
        for path in chosen
    )
    return DownloadPlan(
        repo=name, revision=repo.sha, files=files, quantization="Q4_K_M", filename=first
    )


class RunningQueue:
    """A running queue, and the records and ids that it has published."""

    def __init__(self) -> None:
        self.downloads: Downloads
        self.published: list[DownloadRecord] = []
        self.removed: list[str] = []
        self.done: list[tuple[Path, ...]] = []
        self.digests: dict[Path, str | None] = {}
        """Of all files that have arrived."""
        self._notifier = asyncio.Event()

    def note(self, record: DownloadRecord) -> None:
        self.published.append(record)
        self._notifier.set()

    def mark_removed(self, download_id: str) -> None:
        self.removed.append(download_id)
        self._notifier.set()

    async def note_done(
        self, record: DownloadRecord, digests: dict[Path, str | None]
    ) -> str | None:
        self.done.append(tuple(digests))
        self.digests |= digests
        return next(iter(digests)).stem

    def record(self, download_id: str) -> DownloadRecord:
        return next(one for one in self.downloads.records() if one.id == download_id)

    async def until(self, download_id: str, *wanted: DownloadStatus) -> DownloadRecord:
        async with asyncio.timeout(LIMIT):
            while (record := self.record(download_id)).status not in wanted:
                self._notifier.clear()
                await self._notifier.wait()
        return record


@asynccontextmanager
async def queue(
    hub: StandInHub,
    folder: Path,
    *,
    pace: TransferLimits = QUICK,
    boot: str = "this",
    journal: str = "downloads.json",
    models_dir: str = "models",
    boxes: Callable[[], Sequence[NearbyBox]] = tuple,
) -> AsyncIterator[RunningQueue]:
    """Run downloads of ``hub`` into ``folder``, and stop them at the end as a service does."""
    world = RunningQueue()

    async def resolve(repo: str, filename: str | None, revision: str | None) -> DownloadPlan:
        return plan_of(hub, repo, filename)

    async with transport(endpoint_of(hub), pace=pace, boot=boot, boxes=boxes) as shared:
        world.downloads = Downloads(
            journal=folder / journal,
            models_dir=lambda: folder / models_dir,
            transport=shared,
            resolve=resolve,
            now=lambda: datetime(2026, 1, 31, tzinfo=UTC),
            on_change=world.note,
            on_removed=world.mark_removed,
            on_done=world.note_done,
        )
        await world.downloads.start()
        try:
            yield world
        finally:
            await world.downloads.stop()


def models(folder: Path) -> dict[str, bytes]:
    """Return all files in the models directory, including hidden ones."""
    root = folder / "models"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def expected(hub: StandInHub, name: str = REPO) -> dict[str, bytes]:
    """Return the files of the complete sharded model."""
    files = hub.repos[name].files
    return {
        f"{name}/{'Q4/' + path if path == PROJECTOR else path}": content
        for path, content in sorted(files.items())
    }
