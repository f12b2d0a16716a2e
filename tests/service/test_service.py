"""The service as a whole: a configuration that changes while it starts or after, its uptime."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.llama.log import LogRing
from cyber_inference_tui.service.service import Service, utc_now
from cyber_inference_tui.settings.load import load


def service_of(config: Path) -> Service:
    environ = {"HOME": str(config.parent), "PATH": ""}
    loaded = load(config=config, environ=environ, flags={"data_dir": str(config.parent / "data")})
    return Service(
        loaded,
        demo=False,
        environ=environ,
        flags={"data_dir": str(config.parent / "data")},
        service_log=LogRing(now=utc_now),
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
    async with service, asyncio.timeout(30):
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
