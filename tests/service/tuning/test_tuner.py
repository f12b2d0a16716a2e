"""Tuning inside the service: what a measurement of a machine means for settings."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.records import CpuRecord, MemoryRecord, ModelUsage, ThrottleReason
from cyber_inference_tui.records.machine import ResourceSample
from cyber_inference_tui.records.tuning import Goal, TuneRequest
from cyber_inference_tui.rounds import Difference
from cyber_inference_tui.service.bench import measure
from cyber_inference_tui.service.bench.measure import Measurer
from cyber_inference_tui.service.bench.workload import LlamaClient
from cyber_inference_tui.service.service import Service
from cyber_inference_tui.service.tuning.answers import Step, distance
from cyber_inference_tui.service.tuning.search import Score
from cyber_inference_tui.service.tuning.tuner import ModelLab, fast_cores, figure, gain_text
from tests.fakes.service import SAMPLE
from tests.service.test_bench import service  # noqa: F401 - a fixture
from tests.waiting import LIMIT

REQUEST = TuneRequest(model="demo", prompt=8, tokens=4)


def lab_of(found: Service, sample: ResourceSample) -> ModelLab:
    async def read(_: float) -> ResourceSample:
        state = found.scheduler.state("demo")
        assert state is not None
        assert state.server is not None
        pid = state.server.pid
        usages = sample.models or (ModelUsage(id="demo", pid=pid),)
        models = tuple(msgspec.structs.replace(usage, pid=pid) for usage in usages)
        return msgspec.structs.replace(sample, models=models)

    measurer = Measurer(found.scheduler, read_machine=read, read_energy=found.energy.read)
    model = found.models.resolve("demo")
    return ModelLab(measurer, model, REQUEST, found.settings)


async def test_a_machine_that_slows_down_ends_the_tuning(service: Service) -> None:  # noqa: F811
    slow = {"cpu": (ThrottleReason.TEMPERATURE,)}
    async with service, asyncio.timeout(LIMIT):
        lab = lab_of(service, msgspec.structs.replace(SAMPLE, throttling=slow))
        with pytest.raises(ConflictError, match="while it was measured: cpu: temperature"):
            await lab.begin()


async def test_settings_that_fill_the_memory_are_too_much(service: Service) -> None:  # noqa: F811
    def sample(percent: float, used: int) -> ResourceSample:
        usage = ModelUsage(id="demo", pid=1, memory_private_bytes=used)
        memory = MemoryRecord(percent=percent)
        return msgspec.structs.replace(SAMPLE, memory=memory, models=(usage,))

    async with service, asyncio.timeout(LIMIT):
        model = service.models.resolve("demo")
        lab = lab_of(service, sample(79.0, 100))
        await lab.begin()
        for percent, used, exceeds in ((81.0, 200, True), (81.0, 90, False), (79.0, 200, False)):
            other = lab_of(service, sample(percent, used))
            other._present = lab._present
            score = await other.measure(model.settings, 0)
            assert isinstance(score, Score)
            assert (score.exceeds, score.memory) == (exceeds, used)
            # 8 tokens at 1000 tokens/s, and 4 at 100.
            assert score.speed == pytest.approx(12 / (0.008 + 0.04), rel=0.01)


async def test_settings_that_do_not_start_are_no_error(
    service: Service,  # noqa: F811
) -> None:
    async with service, asyncio.timeout(LIMIT):
        model = service.models.resolve("demo")
        lab = lab_of(service, SAMPLE)
        await lab.begin()
        wrong = msgspec.structs.replace(model.settings, args=("--no-such-option",))
        assert "--no-such-option" in str(await lab.measure(wrong, 0))
        assert isinstance(await lab.measure(model.settings, 0), Score)


async def test_both_sides_of_a_round_get_the_same_prompts(
    service: Service,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts: list[str] = []

    class Recording(LlamaClient):
        async def tokens_of(self, text: str) -> list[int]:
            texts.append(text)
            return await super().tokens_of(text)

    monkeypatch.setattr(measure, "LlamaClient", Recording)
    async with service, asyncio.timeout(LIMIT):
        lab = lab_of(service, SAMPLE)
        await lab.begin()
        model = service.models.resolve("demo")
        other = msgspec.structs.replace(model.settings, threads=5)
        sent = []
        for settings, number in ((model.settings, 1), (other, 1), (model.settings, 2)):
            await lab.measure(settings, number)
            # The last prompt; a new server gets another one before, which does not count.
            sent.append(texts[-2:])
    assert sent[0] == sent[1] != sent[2]


def test_the_distance_of_answers_is_that_of_the_chosen_tokens() -> None:
    reference = [Step((1,), {5: -0.1, 6: -3.0}), Step((1, 5), {7: -0.5, 8: -1.0})]
    assert distance(reference, reference) == 0.0
    other = [Step((1,), {6: -0.1, 5: -0.3}), Step((1, 5), {8: -0.9, 9: -2.5})]
    # 5 is 0.2 less likely; 7 is at most as likely as the last of the list.
    assert distance(reference, other) == pytest.approx((0.2 + 2.0) / 2)


def test_the_cores_with_the_highest_clock_are_counted() -> None:
    big_and_little = CpuRecord(
        frequency_cores=((0, 1, 2, 3), (4, 5)), max_frequencies_hz=(1_800_000, 2_400_000)
    )
    assert fast_cores(big_and_little) == 2
    alike = msgspec.structs.replace(big_and_little, max_frequencies_hz=(2_400_000, 2_400_000))
    assert fast_cores(alike) is None
    assert fast_cores(CpuRecord()) is None


def test_a_gain_is_said_in_the_words_of_its_goal() -> None:
    gain = Difference(0.25, 0.05)
    assert gain_text(gain, Goal.SPEED) == "25.0 % faster (± 5.0 %)"
    assert gain_text(gain, Goal.MEMORY) == "20.0 % less (± 3.2 %)"
    scores = [Score(20.0, 0.5, 1 << 30), Score(30.0, 0.7, 1 << 30), Score(25.0, 0.6, 1 << 30)]
    assert figure(scores, Goal.SPEED) == "25.0 tokens/s"
    assert figure(scores, Goal.ENERGY) == "0.60 J/token"
    assert figure(scores, Goal.MEMORY) == "1.00 GiB"
