"""Takes samples of the machine, composed of the readings of its sensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cyber_inference_tui.monitor.device import mac_gpus, read_device
from cyber_inference_tui.monitor.gpu_memory import is_tegra
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.monitor.sensors.amd import AmdSensor
from cyber_inference_tui.monitor.sensors.host import HostReading, HostSensor
from cyber_inference_tui.monitor.sensors.nvidia import NvidiaSensor
from cyber_inference_tui.monitor.sensors.tegra import TegraReading, TegraSensor
from cyber_inference_tui.records import (
    CpuRecord,
    DeviceRecord,
    GpuRecord,
    MemoryRecord,
    ResourceSample,
    SwapRecord,
    ThrottleReason,
)

_TOTAL = "total"
_GPU_ZONE = "gpu"
_GPU_RAILS = ("VDD_GPU", "GPU")
"""Rails that feed only the GPU."""


class MachineSampler:
    """Samples the machine. ``sample`` blocks: call it in a thread, one call at a time.

    ``root`` contains the machine's ``proc/``, ``sys/``, ``etc/`` and ``var/``, ``container`` those
    of this process, with its memory limits. ``disks`` are paths whose file systems are sampled.
    ``clock`` is monotonic, in seconds; ``now`` returns the time of day.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        disks: Sequence[Path] = (),
        nvml: Nvml | None = None,
        *,
        container: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._now = now
        self._device = read_device(root)
        self._mac_gpus = mac_gpus(self._device, root)
        self._host = HostSensor(root, disks, container=container, clock=clock)
        self._tegra = TegraSensor(root, clock)
        self._nvidia = NvidiaSensor(nvml or Nvml())
        self._amd = AmdSensor(root, clock)

    def sample(self) -> ResourceSample:
        """Return a sample; percentages of processors and rates are since the last sample.

        Never raises. Values that the machine does not report are ``None``.
        """
        return _compose(
            at=self._now(),
            device=self._device,
            host=self._host.read(),
            tegra=self._tegra.read(),
            nvidia=self._nvidia.read() or (),
            others=(*(self._amd.read() or ()), *self._mac_gpus),
        )


def _compose(
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
    power_limits: dict[str, float] = {}
    throttling = dict(host.throttling)
    gpus = [*nvidia, *others]
    if tegra is not None:
        device = msgspec.structs.replace(
            device, power_mode=tegra.power_mode, power_modes=tegra.power_modes
        )
        if tegra.power is not None:
            power = {_TOTAL: tegra.power.total, **tegra.power.rails}
            power_limits = dict(tegra.power.limits)
        # NVML lists a Jetson's own GPU as well as cards that are plugged in.
        own = next((gpu for gpu in nvidia if is_tegra(gpu.name)), None)
        cards = [gpu for gpu in gpus if not is_tegra(gpu.name)]
        heat = temperatures.get(_GPU_ZONE)
        slowed = throttling.pop(_GPU_ZONE, ())
        gpus = [_jetson_gpu(tegra, own, heat, power, slowed), *cards]
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
        power_limits=power_limits,
        throttling=throttling,
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
    throttled_by: tuple[ThrottleReason, ...],
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
        max_clock_hz=tegra.gpu_max_clock_hz,
        throttled_by=throttled_by,
        processes=nvml.processes if nvml else None,
    )
