"""Downloads in the service: settings, events, and the downloaded model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.errors import ShuttingDownError
from cyber_inference_tui.gguf.demo import write_demo
from cyber_inference_tui.library.catalog import Catalog
from cyber_inference_tui.library.library import Library
from cyber_inference_tui.records import DownloadRecord
from cyber_inference_tui.service.events import EventBus, Subscription
from cyber_inference_tui.service.hub import Hub
from cyber_inference_tui.settings.load import CurrentSettings, LoadedSettings
from cyber_inference_tui.settings.schema import Settings
from tests.hub.stand_in_hub import StandInHub
from tests.waiting import LIMIT


async def test_a_download_becomes_a_model_and_is_published(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo.gguf")
    events = EventBus(first_id=1)
    watching = events.subscribe({"download"})
    with StandInHub() as hub:
        repo = hub.add("o/n", {"Tiny-F16.gguf": (tmp_path / "demo.gguf").read_bytes()}, gated=True)
        repo.gated = True
        hub.tokens.add("hf_granted")
        settings = Settings(
            data_dir=tmp_path / "data",
            models_dir=tmp_path / "models",
            hf_endpoint=hub.url,
            hf_allowed_hosts=(hub.cdn,),
        )
        library = Library(models_dir=settings.models_dir)

        async def rescan() -> Catalog:
            return await asyncio.to_thread(library.scan)

        digests: dict[Path, str | None] = {}

        async def note(files: Mapping[Path, str | None]) -> None:
            digests.update(files)

        current = CurrentSettings(LoadedSettings(settings, {}, tmp_path / "config.toml"))
        room = Hub(
            current=current,
            environ={},
            events=events,
            now=lambda: datetime(2026, 1, 31, tzinfo=UTC),
            rescan=rescan,
            boxes=list,
            on_files=note,
        )
        with pytest.raises(ShuttingDownError):
            _ = room.downloads
        await room.start()
        try:
            added = await room.downloads.add("o/n")
            failed = await last(watching, added.id)
            assert failed.status == "failed"
            assert "Accept its licence at" in (failed.error or "")
            # A changed setting counts from the next try on.
            changed = msgspec.structs.replace(settings, hf_token="hf_granted")
            current.replace(msgspec.structs.replace(current.loaded, settings=changed))
            await room.downloads.retry(added.id)
            done = await last(watching, added.id)
            assert (done.status, done.model_id) == ("done", "Tiny-F16")
            place = settings.models_dir / "o/n/Tiny-F16.gguf"
            assert digests == {place: repo.sha256("Tiny-F16.gguf")}
            await room.downloads.cancel(added.id)
            assert [event.data for event in watching.take()][-1:] == [
                {"id": added.id, "status": None}
            ]
        finally:
            await room.stop()
        with pytest.raises(ShuttingDownError):
            _ = room.downloads


async def last(watching: Subscription, download_id: str) -> DownloadRecord:
    async with asyncio.timeout(LIMIT):
        async for batch in watching:
            for event in batch:
                record = event.data
                if isinstance(record, DownloadRecord) and record.status in {"done", "failed"}:
                    assert record.id == download_id
                    return record
    raise AssertionError("the events ended")
