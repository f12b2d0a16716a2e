"""A process that downloads and can be killed: ``python -m tests.hub.program FOLDER``.

``FOLDER/task.json`` describes the task. With ``die_at`` the process kills itself by SIGKILL after
that many changes of directories: a file was renamed or removed, a directory made or removed.

With ``runs`` after the folder it reads one ``die_at`` a line, performs each run in a forked
process, and writes its exit code.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cyber_inference_tui.hub.download_plan import DownloadPlan
from cyber_inference_tui.hub.downloads import Downloads
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.records import DownloadRecord, DownloadStatus

from .transfers import QUICK, transport


class Task(msgspec.Struct, kw_only=True):
    url: str
    cdn: str
    plan: DownloadPlan
    die_at: int = -1


async def run(folder: Path, task: Task) -> None:
    async def resolve(repo: str, filename: str | None, revision: str | None) -> DownloadPlan:
        return task.plan

    async def done(record: DownloadRecord, digests: dict[Path, str | None]) -> str | None:
        return next(iter(digests)).stem

    news = asyncio.Event()
    pace = msgspec.structs.replace(QUICK, stall_timeout=60.0)
    endpoint = HubEndpoint(url=task.url, allowed_hosts=(task.cdn,))
    async with transport(endpoint, pace=pace) as shared:
        downloads = Downloads(
            journal=folder / "downloads.json",
            models_dir=lambda: folder / "models",
            transport=shared,
            resolve=resolve,
            now=lambda: datetime.now(UTC),
            on_change=lambda _: news.set(),
            on_done=done,
        )
        await downloads.start()
        if not downloads.records():
            await downloads.add(task.plan.repo)
        while (record := downloads.records()[0]).status is not DownloadStatus.DONE:
            if record.status is DownloadStatus.FAILED:
                sys.exit(record.error)
            news.clear()
            await news.wait()
        await downloads.stop()


CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def die_at(count: int) -> None:
    changes = 0

    def watch(event: str, _: object) -> None:
        nonlocal changes
        if event in CHANGES:
            changes += 1
            if changes > count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def main() -> None:
    folder = Path(sys.argv[1])
    task = msgspec.json.decode((folder / "task.json").read_bytes(), type=Task)
    if sys.argv[2:] != ["runs"]:
        live(folder, task)
        return
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            live(folder, msgspec.structs.replace(task, die_at=int(line)))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


def live(folder: Path, task: Task) -> None:
    if task.die_at >= 0:
        die_at(task.die_at)
    asyncio.run(run(folder, task))


if __name__ == "__main__":
    main()
