"""Measuring inside the service: other settings for a while, and energy."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.gguf.demo import write_demo
from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.records import (
    EnergyRecord,
    GpuRecord,
    ModelStatus,
    ModelUsage,
    ResourceSample,
    ThrottleReason,
)
from cyber_inference_tui.service.bench.measure import Machine, Measurer
from cyber_inference_tui.service.bench.texts import BEGINNINGS
from cyber_inference_tui.service.bench.workload import Answer, LlamaClient, Workload, speeds_of
from cyber_inference_tui.service.service import Service, utc_now
from cyber_inference_tui.settings.load import load
from tests.fakes.launcher import write_fake_llama
from tests.fakes.service import SAMPLE
from tests.waiting import LIMIT, until

WORKLOAD = Workload(prompt=8, tokens=4)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    switches = {"demo": {"speeds": {"prompt": 1000.0, "generation": 100.0}}}
    program = write_fake_llama(tmp_path / "fake/llama-server", switches=switches)
    (tmp_path / "data/models").mkdir(parents=True)
    write_demo(tmp_path / "data/models/demo.gguf")
    (tmp_path / "config.toml").write_text(
        f"llama_server_path = '{program}'\nllama_server_base_port = 0\n[models.demo]\nthreads = 2\n"
    )
    environ = {"HOME": str(tmp_path), "PATH": ""}
    flags = {"data_dir": str(tmp_path / "data")}
    return Service(
        load(config=tmp_path / "config.toml", environ=environ, flags=flags),
        demo=False,
        environ=environ,
        flags=flags,
        service_log=Log(now=utc_now),
    )


def threads(service: Service) -> str:
    state = service.scheduler.state("demo")
    assert state is not None
    assert state.server is not None
    argv = state.server.argv
    return argv[argv.index("--threads") + 1]


async def test_a_model_is_measured_with_other_settings_and_returns_to_its_own(
    service: Service, tmp_path: Path
) -> None:
    written = (tmp_path / "config.toml").read_text()
    async with service, asyncio.timeout(LIMIT):
        model = service.models.resolve("demo")
        own = await service.measurer.measure(model, WORKLOAD)
        assert (own.spec.threads, threads(service)) == (2, "2")

        other = msgspec.structs.replace(
            model, settings=msgspec.structs.replace(model.settings, threads=5)
        )
        sample = await service.measurer.measure(other, WORKLOAD)
        assert (sample.spec.threads, threads(service)) == (5, "5")
        assert sample.speeds.generation == pytest.approx(100.0, rel=0.01)

        service.measurer.restore(model)
        await service.models.load("demo", wait=True)
        assert threads(service) == "2"
    assert (tmp_path / "config.toml").read_text() == written


async def test_a_model_that_somebody_changes_meanwhile_is_not_measured(service: Service) -> None:
    async with service, asyncio.timeout(LIMIT):
        model = service.models.resolve("demo")
        other = msgspec.structs.replace(
            model, settings=msgspec.structs.replace(model.settings, threads=5)
        )
        measuring = asyncio.create_task(service.measurer.measure(other, WORKLOAD))
        await until(lambda: service.models.record("demo").status is ModelStatus.LOADING)
        service.scheduler.refresh(model)
        with pytest.raises(ConflictError, match="settings of demo were changed"):
            await measuring


async def test_energy_is_divided_by_all_tokens_of_the_measurement(service: Service) -> None:
    readings = iter([100.0, 124.0])

    async def read() -> EnergyRecord:
        return EnergyRecord(joules=next(readings), seconds=1.0, covers=("board",))

    async with service, asyncio.timeout(LIMIT):
        measurer = Measurer(
            service.scheduler,
            read_machine=service.monitoring.latest,
            read_energy=read,
        )
        # Read twice only: the run before, which does not count, is not metered.
        sample = await measurer.measure(service.models.resolve("demo"), WORKLOAD)
    assert sample.joules_per_token == 24.0 / (8 + 4)


async def test_a_short_measurement_has_a_sample_of_its_server(service: Service) -> None:
    """The samples before are older than the server, which was started for it."""

    async def read(max_age: float) -> ResourceSample:
        state = service.scheduler.state("demo")
        assert state is not None
        assert state.server is not None
        pid = state.server.pid if max_age == 0 else 1
        used = 70 if max_age == 0 else 900
        usage = ModelUsage(id="demo", pid=pid, memory_private_bytes=used)
        return msgspec.structs.replace(SAMPLE, models=(usage,))

    async with service, asyncio.timeout(LIMIT):
        measurer = Measurer(service.scheduler, read_machine=read, read_energy=service.energy.read)
        sample = await measurer.measure(service.models.resolve("demo"), WORKLOAD)
    assert sample.machine.memory_bytes == 70


class Letters(LlamaClient):
    """The client of a server with one token for each letter."""

    def __init__(self) -> None:
        """Open no connection."""

    async def tokens_of(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def text_of(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


async def test_prompts_end_with_the_beginning_of_a_text_and_begin_in_different_ways() -> None:
    client, chance = Letters(), random.Random(3)
    prompts = [text_of(await client.prompt(2000, chance)) for _ in range(32)]
    assert {len(prompt) for prompt in prompts} == {2000}
    assert len({prompt[:8] for prompt in prompts}) == 32
    assert {prompt.partition("\n\n")[2] for prompt in prompts} == set(BEGINNINGS)
    # All that is measured in one round gets the same prompt.
    again = random.Random(3)
    assert [text_of(await client.prompt(2000, again)) for _ in range(32)] == prompts
    # Half of a short prompt is the end of such a beginning.
    short = text_of(await client.prompt(9, chance))
    assert len(short) == 9
    assert short[-4:] in {text[-4:] for text in BEGINNINGS}
    assert len(await client.prompt(1, chance)) == 1


def test_the_speed_of_requests_at_once_is_that_of_all() -> None:
    first = Answer(sent=0.0, first=1.0, last=3.0, prompt_speed=500.0, speed=50.0)
    second = Answer(sent=0.0, first=2.0, last=4.0, prompt_speed=500.0, speed=50.0)
    workload = Workload(prompt=100, tokens=31, parallel=2)
    speeds = speeds_of([first, second], workload)
    assert speeds.prompt == 200 / 2.0
    assert speeds.generation == 60 / 3.0
    assert speeds.first_token == 1.5
    # Alone, the server's own times count; without these the clock's.
    assert speeds_of([first], workload)[:2] == (500.0, 50.0)
    assert speeds_of([first._replace(speed=None)], workload)[:2] == (100.0, 15.0)


def test_the_most_that_was_seen_of_the_machine_counts() -> None:
    machine = Machine()
    for memory, degrees, gpu_degrees in ((100, 50.0, None), (300, None, 71.0), (200, 60.0, None)):
        usage = ModelUsage(
            id="m", pid=1, memory_private_bytes=memory, memory_mapped_bytes=7, gpu_memory_bytes=None
        )
        sample = msgspec.structs.replace(
            SAMPLE,
            models=(usage, ModelUsage(id="other", pid=2, memory_private_bytes=1 << 40)),
            temperatures={"cpu": degrees},
            gpus=(GpuRecord(name="g", temperature_c=gpu_degrees),),
        )
        machine.look(sample, 1)
    assert (machine.memory_bytes, machine.temperature_c) == (307, 71.0)
    assert machine.throttled == set()
    hot = ThrottleReason.TEMPERATURE
    slow = msgspec.structs.replace(
        sample, throttling={"cpu": (hot,)}, gpus=(GpuRecord(name="g", throttled_by=(hot,)),)
    )
    # A sample of the model's former server.
    machine.look(slow, 3)
    assert machine.throttled == set()
    machine.look(slow, 1)
    assert machine.throttled == {"cpu: temperature", "g: temperature"}
