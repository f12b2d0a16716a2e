"""The service as a whole: a configuration that changes while it starts or after, its uptime."""

from __future__ import annotations

import asyncio
import logging
import resource
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.records import ServiceEvent
from cyber_inference_tui.service.service import Service, utc_now
from cyber_inference_tui.settings.load import load
from tests.gguf.headers import write_gguf
from tests.waiting import LIMIT


def service_of(config: Path) -> Service:
    environ = {"HOME": str(config.parent), "PATH": ""}
    loaded = load(config=config, environ=environ, flags={"data_dir": str(config.parent / "data")})
    return Service(
        loaded,
        demo=False,
        environ=environ,
        flags={"data_dir": str(config.parent / "data")},
        service_log=Log(now=utc_now),
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("max_queue = 1\n")
    return path


async def test_the_uptime_does_not_follow_the_time_of_day(config: Path) -> None:
    async with service_of(config) as service:
        service.started_at = datetime(1970, 1, 1, tzinfo=UTC)
        assert service.status().uptime_seconds < 3600


async def test_an_edit_between_reading_and_watching_is_seen(config: Path) -> None:
    service = service_of(config)
    config.write_text("max_queue = 222\n")
    subscription = service.events.subscribe(frozenset({"config"}), None)
    async with service, asyncio.timeout(LIMIT):
        (event,) = await anext(subscription)
        assert event.data == {"error": None}
        assert service.settings.max_queue == 222


@pytest.mark.parametrize("value", [[], "", ",", "[]"])
async def test_a_guard_cannot_be_emptied_while_others_reach_it(config: Path, value: object) -> None:
    config.write_text("host = '0.0.0.0'\napi_keys = ['k']\nadmin_password = 'p'\n")
    before = config.read_text()
    async with service_of(config) as service:
        with pytest.raises(ConfigError, match="cannot be empty"):
            await service.configuration.set("api_keys", value)
        assert service.settings.api_keys == ("k",)
        assert config.read_text() == before
        await service.configuration.set("api_keys", ["other"])
        assert service.settings.api_keys == ("other",)


async def test_unusable_files_are_logged_once_and_listed(
    config: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = config.parent / "data" / "models"
    write_gguf(models / "x.gguf")
    write_gguf(models / "lora.gguf", {"general.type": "adapter"})
    (models / "empty.gguf").touch()
    monkeypatch.setattr(logging.getLogger("cyber_inference_tui"), "propagate", True)
    caplog.set_level(logging.INFO, "cyber_inference_tui")

    def logged(part: str) -> int:
        return sum(part in message for message in caplog.messages)

    async with service_of(config) as service, asyncio.timeout(LIMIT):
        for _ in range(3):
            await service.models.rescan()
        assert [one.where for one in service.models.problems()] == [str(models / "lora.gguf")]
        assert logged("it is an adapter") == 1
        assert logged("empty: it is not a GGUF file") == 1
        subscription = service.events.subscribe(frozenset({"service"}), None)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            for _ in range(3):
                await service.models.rescan()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert set(service.models.catalog.models) == {"empty", "x"}
        assert logged("it cannot be read: Too many open files") == 1
        assert ServiceEvent(state="problems") in [one.data for one in await anext(subscription)]
        for _ in range(2):
            await service.models.rescan()
        assert logged("it can be read again") == 1
        assert logged("it is an adapter") == 1
