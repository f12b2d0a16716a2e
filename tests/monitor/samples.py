"""Samples of a tree: at once, and one second later with load on two cores."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.monitor.sampler import MachineSampler
from cyber_inference_tui.records import ResourceSample
from tests.monitor.clock import Clock
from tests.monitor.fake_nvml import FakeNvml

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def sampler(root: Path, fake: FakeNvml | None = None, clock: Clock | None = None) -> MachineSampler:
    clock = clock or Clock()
    nvml = Nvml(load=lambda: fake, clock=clock)
    return MachineSampler(root, nvml=nvml, container=root, clock=clock, now=lambda: AT)


def sample(root: Path, fake: FakeNvml | None = None) -> ResourceSample:
    return sampler(root, fake).sample()
