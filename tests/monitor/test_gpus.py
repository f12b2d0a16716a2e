"""NVIDIA and AMD cards that work, work in part, fail, disappear and return."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.monitor.sensors.amd import AmdSensor
from cyber_inference_tui.monitor.sensors.nvidia import NvidiaSensor
from cyber_inference_tui.records import GpuRecord, ThrottleReason
from tests.monitor import trees
from tests.monitor.clock import Clock
from tests.monitor.fake_nvml import (
    GIB,
    GPU_IS_LOST,
    NOT_SUPPORTED,
    UNINITIALIZED,
    UNKNOWN,
    FakeGpu,
    FakeNvml,
    functions,
)

WHOLE = GpuRecord(
    name="NVIDIA GeForce RTX 4090",
    utilization_percent=37.0,
    memory_total=24 * GIB,
    memory_used=5 * GIB,
    temperature_c=61.0,
    power_w=215.4,
    shared_memory=False,
    clock_hz=2_520_000_000,
    memory_clock_hz=10_501_000_000,
    max_clock_hz=3_105_000_000,
    power_limit_w=450.0,
    temperature_limit_c=100.0,
    fan_percent=30.0,
    processes={4321: 4 * GIB},
)
FIELD_OF = {
    "nvmlDeviceGetUtilizationRates": {"utilization_percent"},
    "nvmlDeviceGetMemoryInfo": {"memory_total", "memory_used", "shared_memory"},
    "nvmlDeviceGetTemperature": {"temperature_c"},
    "nvmlDeviceGetPowerUsage": {"power_w"},
    "nvmlDeviceGetClockInfo": {"clock_hz", "memory_clock_hz"},
    "nvmlDeviceGetMaxClockInfo": {"max_clock_hz"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w"},
    "nvmlDeviceGetTemperatureThreshold": {"temperature_limit_c"},
    "nvmlDeviceGetFanSpeed": {"fan_percent"},
    "nvmlDeviceGetComputeRunningProcesses": {"processes"},
    "nvmlDeviceGetName": {"name"},
}


def sensor(fake: FakeNvml, clock: Clock | None = None) -> NvidiaSensor:
    return NvidiaSensor(Nvml(load=lambda: fake, clock=clock or Clock()))


def test_the_stand_in_has_the_functions_of_the_library() -> None:
    pynvml = importlib.import_module("pynvml")
    for name in [*functions(), "NVMLError"]:
        assert callable(getattr(pynvml, name)), name
    for name in (
        "NVML_TEMPERATURE_GPU",
        "NVML_TEMPERATURE_THRESHOLD_SLOWDOWN",
        "NVML_CLOCK_GRAPHICS",
        "NVML_CLOCK_MEM",
    ):
        assert getattr(pynvml, name) == getattr(FakeNvml, name)
    for name, value in {
        "UNINITIALIZED": UNINITIALIZED,
        "NOT_SUPPORTED": NOT_SUPPORTED,
        "DRIVER_NOT_LOADED": 9,
        "GPU_IS_LOST": GPU_IS_LOST,
        "LIB_RM_VERSION_MISMATCH": 18,
        "UNKNOWN": UNKNOWN,
    }.items():
        assert getattr(pynvml, f"NVML_ERROR_{name}") == value
        assert pynvml.NVMLError(value).value == value


def test_the_library_itself_where_there_is_none() -> None:
    # With a driver on this machine its GPUs are listed; in no case does it raise.
    gpus = NvidiaSensor(Nvml()).read()
    assert gpus is None or all(isinstance(gpu, GpuRecord) for gpu in gpus)


@pytest.mark.parametrize("count", [0, 1, 8])
def test_counts(count: int) -> None:
    fake = FakeNvml(*(FakeGpu(name=f"GPU {number}") for number in range(count)))
    gpus = sensor(fake).read()
    assert [gpu.name for gpu in gpus or ()] == [f"GPU {number}" for number in range(count)]


@pytest.mark.parametrize("function", functions())
@pytest.mark.parametrize("error", [NOT_SUPPORTED, UNKNOWN, OSError("gone"), AttributeError("old")])
def test_every_call_may_fail(function: str, error: int | Exception) -> None:
    fake, clock = FakeNvml(FakeGpu()), Clock()
    cards = sensor(fake, clock)
    fake.fails[function] = error
    gpus = cards.read()
    if function in {"nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"}:
        assert gpus is None
    else:
        assert gpus is not None
        (gpu,) = gpus
        lacking = FIELD_OF.get(function, set())
        for field in GpuRecord.__struct_fields__:
            if field not in lacking:
                assert getattr(gpu, field) == getattr(WHOLE, field), field
            elif field == "name":
                assert gpu.name == "NVIDIA GPU"
            elif field == "shared_memory":
                assert gpu.shared_memory is (True if error == NOT_SUPPORTED else None)
            else:
                assert getattr(gpu, field) is None, field
    fake.fails.clear()
    clock.advance(31)
    assert cards.read() == (WHOLE,)


def test_a_driver_that_goes_away_and_comes_back() -> None:
    fake, clock = FakeNvml(FakeGpu()), Clock()
    cards = sensor(fake, clock)
    assert cards.read() == (WHOLE,)
    fake.driver = False
    cards.read()
    clock.advance(31)
    assert cards.read() is None
    clock.advance(31)
    assert cards.read() is None
    fake.driver = True
    clock.advance(31)
    assert cards.read() == (WHOLE,)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"utilization": 4_000_000_000}, "utilization_percent"),
        ({"temperature": 4_000_000}, "temperature_c"),
        ({"power": 4_000_000_000}, "power_w"),
        ({"clock": 4_000_000_000}, "clock_hz"),
        ({"used": 25 * GIB}, "memory_used"),
        ({"fan": 101}, "fan_percent"),
        ({"power_limit": 4_000_000_000}, "power_limit_w"),
    ],
)
def test_figures_that_cannot_be(change: dict[str, int], field: str) -> None:
    gpus = sensor(FakeNvml(FakeGpu(**change))).read()  # type: ignore[arg-type]
    assert gpus is not None
    assert getattr(gpus[0], field) is None


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x1, []),  # idle
        (0x2, []),  # its owner chose a clock
        (0x4, [ThrottleReason.POWER]),
        (0x8, [ThrottleReason.HARDWARE]),
        (0x48, [ThrottleReason.TEMPERATURE]),
        (0x24, [ThrottleReason.POWER, ThrottleReason.TEMPERATURE]),
        (0x88, [ThrottleReason.HARDWARE]),
    ],
)
def test_reasons_for_a_lower_clock(bits: int, reasons: list[ThrottleReason]) -> None:
    (gpu,) = sensor(FakeNvml(FakeGpu(throttle_reasons=bits))).read() or ()
    assert list(gpu.throttled_by) == reasons


def test_memory_of_processes_that_is_not_available() -> None:
    fake = FakeNvml(FakeGpu(compute={1: (1 << 64) - 1, 2: None, 3: 0}, graphics=None))
    gpus = sensor(fake).read()
    assert gpus is not None
    assert gpus[0].processes == {1: None, 2: None, 3: 0}


def test_a_jetson_whose_device_tree_is_hidden() -> None:
    fake = FakeNvml(FakeGpu(name="Orin (nvgpu)"), FakeGpu(name="NVIDIA Thor"))
    assert sensor(fake).read() == (
        GpuRecord(name="Orin (nvgpu)", shared_memory=True),
        GpuRecord(
            name="NVIDIA Thor",
            utilization_percent=37.0,
            shared_memory=True,
            processes={4321: 4 * GIB},
        ),
    )


def test_amd_that_sleeps_is_not_woken_up(tmp_path: Path) -> None:
    trees.amd_card(tmp_path)
    device = "sys/class/drm/card1/device"
    trees.write(tmp_path, {f"{device}/power/runtime_status": "suspended\n"})
    assert AmdSensor(tmp_path, Clock()).read() == (
        GpuRecord(
            name="AMD GPU 744c",
            memory_total=24 * GIB,
            memory_used=21 * GIB,
            shared_memory=False,
        ),
    )


def test_amd_with_a_name_and_a_card_that_is_plugged_in_later(tmp_path: Path) -> None:
    clock = Clock()
    sensor = AmdSensor(tmp_path, clock)
    assert sensor.read() is None
    trees.amd_card(tmp_path)
    trees.write(tmp_path, {"sys/class/drm/card1/device/product_name": "AMD Radeon PRO W7900\n"})
    assert sensor.read() is None
    clock.advance(31)
    gpus = sensor.read()
    assert gpus is not None
    assert gpus[0].name == "AMD Radeon PRO W7900"
