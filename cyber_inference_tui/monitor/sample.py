"""Composes a sample of the machine from the readings of the sensors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from cyber_inference_tui.monitor.gpu_memory import is_tegra
from cyber_inference_tui.monitor.sensors.host import HostReading
from cyber_inference_tui.monitor.sensors.tegra import TegraReading
from cyber_inference_tui.records import (
    CpuRecord,
    DeviceRecord,
    GpuRecord,
    MemoryRecord,
    ResourceSample,
    SwapRecord,
)

_TOTAL = "total"
_GPU_ZONE = "gpu"
_GPU_RAILS = ("VDD_GPU", "GPU")
"""Rails that feed only the GPU."""


def compose(
    *,
    at: datetime,
    device: DeviceRecord,
    host: HostReading,
    tegra: TegraReading | None,
    nvidia: Sequence[GpuRecord],
    others: Sequence[GpuRecord],
) -> ResourceSample:
    """Return the sample taken at ``at``."""
    temperatures = host.temperatures or {}
    power: dict[str, float | None] = {}
    gpus = [*nvidia, *others]
    if tegra is not None:
        device = msgspec.structs.replace(device, power_mode=tegra.power_mode)
        if tegra.power is not None:
            power = {_TOTAL: tegra.power.total, **tegra.power.rails}
        # NVML lists a Jetson's own GPU as well as cards that are plugged in.
        own = next((gpu for gpu in nvidia if is_tegra(gpu.name)), None)
        cards = [gpu for gpu in gpus if not is_tegra(gpu.name)]
        gpus = [_jetson_gpu(tegra, own, temperatures.get(_GPU_ZONE), power), *cards]
    return ResourceSample(
        at=at,
        device=device,
        cpu=host.cpu or CpuRecord(),
        memory=host.memory or MemoryRecord(),
        swap=host.swap.disk if host.swap else SwapRecord(),
        zram=host.swap.zram if host.swap else None,
        gpus=tuple(gpus),
        temperatures=temperatures,
        power=power,
        fan=host.fan,
        disks=host.disks or (),
        networks=host.networks or (),
        memory_clock_hz=tegra.memory_clock_hz if tegra else None,
        uptime_seconds=host.uptime_seconds,
    )


def _jetson_gpu(
    tegra: TegraReading,
    nvml: GpuRecord | None,
    temperature: float | None,
    power: dict[str, float | None],
) -> GpuRecord:
    # Thor's driver has no file with the load; NVML reports it.
    load = tegra.gpu_percent
    return GpuRecord(
        name=tegra.gpu_name,
        utilization_percent=nvml.utilization_percent if load is None and nvml else load,
        temperature_c=temperature,
        power_w=next((power[rail] for rail in _GPU_RAILS if rail in power), None),
        shared_memory=True,
        clock_hz=tegra.gpu_clock_hz,
        processes=nvml.processes if nvml else None,
    )
