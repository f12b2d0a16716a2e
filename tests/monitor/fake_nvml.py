"""A stand-in for the module ``pynvml`` with switches for the behaviour of drivers."""

# ruff: noqa: N802 - the names are pynvml's.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GIB = 1 << 30

UNINITIALIZED, NOT_SUPPORTED, DRIVER_NOT_LOADED, GPU_IS_LOST, UNKNOWN = 1, 3, 9, 15, 999


class FakeNvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


@dataclass
class FakeGpu:
    """The values of a GPU; ``None`` = not supported."""

    name: str | bytes = "NVIDIA GeForce RTX 4090"
    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    total: int | None = 24 * GIB
    used: int | None = 5 * GIB
    utilization: int | None = 37
    temperature: int | None = 61
    power: int | None = 215_400
    energy: int | None = 3_600_000
    """In mJ, since the driver was loaded."""
    clock: int | None = 2520
    memory_clock: int | None = 10501
    max_clock: int | None = 3105
    power_limit: int | None = 450_000
    slowdown_temperature: int | None = 100
    fan: int | None = 30
    throttle_reasons: int | None = 0
    compute: Mapping[int, int | None] | None = field(default_factory=lambda: {4321: 4 * GIB})
    graphics: Mapping[int, int | None] | None = field(default_factory=dict)
    instances: list[FakeGpu] | None = None
    """MIG instances; ``None`` = it cannot be divided."""
    lost: bool = False


class FakeNvml:
    """The functions that we call. ``fails`` maps their names to error numbers."""

    NVMLError = FakeNvmlError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_GRAPHICS = 0
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = list(gpus)
        self.fails: dict[str, int | Exception] = {}
        self.driver = True
        self.starts = 0
        self.calls: list[str] = []
        self._running = False
        self._broken: set[int] = set()

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return self._guarded(name, value) if name.startswith("nvml") else value

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            failure = self.fails.get(name)
            if isinstance(failure, Exception):
                raise failure
            if failure is not None:
                raise FakeNvmlError(failure)
            if name not in {"nvmlInit", "nvmlShutdown"}:
                if not self.driver:
                    self._running = False
                if not self._running:
                    raise FakeNvmlError(UNINITIALIZED)
                if arguments and isinstance(arguments[0], FakeGpu) and arguments[0].lost:
                    raise FakeNvmlError(GPU_IS_LOST)
            return function(*arguments)

        return call

    def nvmlInit(self) -> None:
        if not self.driver:
            raise FakeNvmlError(DRIVER_NOT_LOADED)
        self.starts += 1
        self._running = True

    def nvmlShutdown(self) -> None:
        self._running = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self.gpus[index]

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str | bytes:
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:
        total, used = supported(gpu.total), supported(gpu.used)
        return SimpleNamespace(total=total, used=used, free=total - used)

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> Any:
        return SimpleNamespace(gpu=supported(gpu.utilization), memory=0)

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return supported(gpu.temperature)

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:
        return supported(gpu.power)

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: FakeGpu) -> int:
        return supported(gpu.energy)

    def nvmlDeviceGetClockInfo(self, gpu: FakeGpu, clock: int) -> int:
        return supported({0: gpu.clock, 2: gpu.memory_clock}[clock])

    def nvmlDeviceGetMaxClockInfo(self, gpu: FakeGpu, clock: int) -> int:
        assert clock == self.NVML_CLOCK_GRAPHICS
        return supported(gpu.max_clock)

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: FakeGpu) -> int:
        return supported(gpu.power_limit)

    def nvmlDeviceGetTemperatureThreshold(self, gpu: FakeGpu, threshold: int) -> int:
        assert threshold == self.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        return supported(gpu.slowdown_temperature)

    def nvmlDeviceGetFanSpeed(self, gpu: FakeGpu) -> int:
        return supported(gpu.fan)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: FakeGpu) -> int:
        return supported(gpu.throttle_reasons)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[Any]:
        return self._processes(gpu.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: FakeGpu) -> list[Any]:
        return self._processes(gpu.graphics)

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        if gpu.instances is None:
            raise FakeNvmlError(NOT_SUPPORTED)
        return [int(bool(gpu.instances)), 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:
        if gpu.instances is None or index >= len(gpu.instances):
            raise FakeNvmlError(6)
        return gpu.instances[index]

    def _processes(self, processes: Mapping[int, int | None] | None) -> list[Any]:
        if processes is None:
            raise FakeNvmlError(NOT_SUPPORTED)
        return [SimpleNamespace(pid=p, usedGpuMemory=used) for p, used in processes.items()]


def supported(value: int | None) -> int:
    if value is None:
        raise FakeNvmlError(NOT_SUPPORTED)
    return value


def functions() -> list[str]:
    """Return the names of all functions of the stand-in."""
    return [name for name in vars(FakeNvml) if name.startswith("nvml")]
