"""Helpers for tests of transfers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from cyber_inference_tui.hub.boxes import NearbyBox
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.partial import HubFile
from cyber_inference_tui.hub.transfer import TransferContext, TransferLimits, open_session

from .stand_in_hub import Repo, StandInHub

MIB = 1 << 20
QUICK = TransferLimits(
    connect_timeout=5.0,
    stall_timeout=10.0,
    tries=4,
    backoff=lambda tries: 0.001,
    sync_interval=0.0,
    disk_margin=0,
)


def noise(size: int, seed: int = 1) -> bytes:
    """Return random bytes without repetitions."""
    return random.Random(seed).randbytes(size)


def endpoint_of(hub: StandInHub, *, token: str = "") -> HubEndpoint:
    return HubEndpoint(url=hub.url, token=token, allowed_hosts=(hub.cdn,))


def origin_of(repo: Repo, path: str) -> HubFile:
    content = repo.files[path]
    large = repo.is_large(path)
    return HubFile(
        repo=repo.name,
        revision=repo.sha,
        path=path,
        size=len(content),
        sha256=repo.sha256(path) if large else None,
        git_sha1=None if large else repo.git_sha1(path),
    )


@asynccontextmanager
async def transport(
    endpoint: HubEndpoint,
    *,
    pace: TransferLimits = QUICK,
    environ: Mapping[str, str] | None = None,
    boot: str = "this",
    boxes: Callable[[], Sequence[NearbyBox]] = tuple,
) -> AsyncIterator[TransferContext]:
    executor = ThreadPoolExecutor(8)
    session = open_session(pace)
    try:
        yield TransferContext(
            session=session,
            endpoint=lambda: endpoint,
            executor=executor,
            environ=environ or {},
            boot=boot,
            pace=pace,
            boxes=boxes,
        )
    finally:
        await session.close()
        executor.shutdown()
