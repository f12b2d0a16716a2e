"""Samples of each kind of machine: exactly the content of its files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.records import (
    CpuRecord,
    DeviceKind,
    DeviceRecord,
    FanRecord,
    GpuRecord,
    MemoryRecord,
    NetworkRecord,
    ResourceSample,
    SwapRecord,
    ThrottleReason,
    to_json,
)
from tests.monitor import trees
from tests.monitor.clock import Clock
from tests.monitor.fake_nvml import FakeGpu, FakeNvml
from tests.monitor.samples import AT, sample, sampler

GIB = 1 << 30
MIB = 1 << 20
KIB = 1024

MEMORY = MemoryRecord(
    total=7_802_880 * KIB,
    available=4_268_000 * KIB,
    used=3_534_880 * KIB,
    percent=45.3,
)
SWAP = SwapRecord(total=4_194_304 * KIB, used=1024 * KIB, percent=0.0)
ZRAM = SwapRecord(total=1_950_720 * KIB, used=2048 * KIB, percent=0.1, memory=786_432)
CPU = CpuRecord(per_core=(None, None), count=2, load_average=(0.42, 0.37, 1.05))
HOST = ResourceSample(
    at=AT,
    device=DeviceRecord(),
    cpu=CPU,
    memory=MEMORY,
    swap=SWAP,
    zram=ZRAM,
    networks=(NetworkRecord(name="eth0"),),
    uptime_seconds=12345.67,
)


def expected(**changes: object) -> ResourceSample:
    return msgspec.structs.replace(HOST, **changes)


ORIN_NANO_TEMPERATURES = {
    "cpu": 47.25,
    "gpu": 46.5,
    "cv0": None,
    "cv1": None,
    "cv2": None,
    "soc0": 45.062,
    "soc1": 45.5,
    "soc2": 44.875,
    "tj": 47.25,
}
HOT = ThrottleReason.TEMPERATURE
ORIN_NANO_POWER = {
    "total": 4.82304,
    "VDD_IN": 4.82304,
    "VDD_CPU_GPU_CV": 0.517472,
    "VDD_SOC": 1.477056,
}


def test_orin_nano_jetpack5(tmp_path: Path) -> None:
    trees.orin_nano_jetpack5(tmp_path)
    assert sample(tmp_path) == expected(
        device=DeviceRecord(
            kind=DeviceKind.JETSON,
            name="NVIDIA Orin Nano Developer Kit",
            os="Ubuntu 20.04.6 LTS",
            kernel="5.10.104-tegra",
            chip="tegra234",
            l4t="35.3.1",
            jetpack="5.1.1",
            power_mode="15W",
            power_modes={0: "15W", 1: "7W"},
        ),
        cpu=msgspec.structs.replace(
            CPU,
            frequencies_hz=(1_510_400_000, 729_600_000),
            max_frequencies_hz=(1_510_400_000, 1_510_400_000),
            frequency_cores=((0, 1, 2, 3), (4, 5)),
        ),
        gpus=(
            GpuRecord(
                name="NVIDIA Orin",
                utilization_percent=63.0,
                temperature_c=46.5,
                shared_memory=True,
                clock_hz=624_750_000,
                max_clock_hz=1_020_000_000,
                throttled_by=(HOT,),
            ),
        ),
        temperatures=ORIN_NANO_TEMPERATURES,
        power=ORIN_NANO_POWER,
        power_limits={"VDD_IN": 25.12},
        throttling={"cpu": (HOT,)},
        fan=FanRecord(percent=34.9, rpm=2100),
        memory_clock_hz=2_133_000_000,
    )


def test_orin_nano_jetpack6(tmp_path: Path) -> None:
    trees.orin_nano_jetpack6(tmp_path)
    # NVML also lists the GPU there, with meaningless values.
    fake = FakeNvml(FakeGpu(name="Orin (nvgpu)", total=1, used=1, utilization=3))
    assert sample(tmp_path, fake) == expected(
        device=DeviceRecord(
            kind=DeviceKind.JETSON,
            name="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            os="Ubuntu 22.04.5 LTS",
            kernel="5.15.148-tegra",
            chip="tegra234",
            l4t="36.4.3",
            jetpack="6.2",
            power_mode="MAXN_SUPER",
            power_modes={2: "MAXN_SUPER"},
        ),
        gpus=(
            GpuRecord(
                name="NVIDIA Orin",
                utilization_percent=100.0,
                temperature_c=46.5,
                shared_memory=True,
                clock_hz=918_000_000,
                max_clock_hz=1_020_000_000,
            ),
        ),
        temperatures=ORIN_NANO_TEMPERATURES,
        power=ORIN_NANO_POWER,
        power_limits={"VDD_IN": 25.12},
        fan=FanRecord(percent=100.0, rpm=0),
    )


def test_agx_orin_with_a_card(tmp_path: Path) -> None:
    trees.agx_orin(tmp_path)
    fake = FakeNvml(
        FakeGpu(name="NVIDIA RTX 6000 Ada Generation", compute={77: None}), FakeGpu(name="Orin")
    )
    assert sample(tmp_path, fake) == expected(
        device=DeviceRecord(
            kind=DeviceKind.JETSON,
            name="NVIDIA Jetson AGX Orin Developer Kit",
            os="Ubuntu 20.04.6 LTS",
            kernel="5.10.104-tegra",
            chip="tegra234",
            l4t="36.3.0",
            jetpack="6.0",
            power_mode="3",
        ),
        gpus=(
            GpuRecord(
                name="NVIDIA Orin",
                utilization_percent=0.5,
                temperature_c=48.5,
                shared_memory=True,
                clock_hz=306_000_000,
                max_clock_hz=1_020_000_000,
            ),
            GpuRecord(
                name="NVIDIA RTX 6000 Ada Generation",
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
                processes={77: None},
            ),
        ),
        temperatures={"cpu": 50.0, "gpu": 48.5, "tj": 50.0},
        power={
            "total": 8.13,
            "VDD_GPU_SOC": 3.8,
            "VDD_CPU_CV": 0.76,
            "VIN_SYS_5V0": 3.0,
            "VDDQ_VDD2_1V8AO": 0.57,
        },
    )


def test_thor(tmp_path: Path) -> None:
    trees.thor(tmp_path)
    fake = FakeNvml(
        FakeGpu(
            name="NVIDIA Thor",
            total=None,
            utilization=71,
            power=None,
            clock=None,
            temperature=1,
            compute={5: GIB},
        )
    )
    assert sample(tmp_path, fake) == expected(
        device=DeviceRecord(
            kind=DeviceKind.JETSON,
            name="NVIDIA Jetson AGX Thor Developer Kit",
            os="Ubuntu 20.04.6 LTS",
            kernel="5.10.104-tegra",
            chip="tegra264",
            l4t="38.2.0",
            jetpack="7.0",
        ),
        memory=MemoryRecord(
            total=128_000_000 * KIB,
            available=120_000_000 * KIB,
            used=8_000_000 * KIB,
            percent=6.2,
        ),
        gpus=(
            GpuRecord(
                name="NVIDIA Thor",
                utilization_percent=71.0,
                temperature_c=41.5,
                power_w=6.0,
                shared_memory=True,
                clock_hz=1_575_000_000,
                processes={5: GIB},
            ),
        ),
        temperatures={"cpu": 42.0, "gpu": 41.5, "tj": 43.0},
        power={"total": 38.5, "VDD_GPU": 6.0},
    )


def test_xavier_nx(tmp_path: Path) -> None:
    trees.xavier_nx(tmp_path)
    assert sample(tmp_path) == expected(
        device=DeviceRecord(
            kind=DeviceKind.JETSON,
            name="NVIDIA Jetson Xavier NX Developer Kit",
            os="Ubuntu 20.04.6 LTS",
            kernel="5.10.104-tegra",
            chip="tegra194",
            l4t="35.4.1",
            jetpack="5.1.2",
            power_mode="MODE_20W_6CORE",
            power_modes={8: "MODE_20W_6CORE"},
        ),
        gpus=(
            GpuRecord(
                name="NVIDIA Xavier",
                utilization_percent=25.0,
                temperature_c=38.0,
                shared_memory=True,
                clock_hz=114_750_000,
                max_clock_hz=1_020_000_000,
            ),
        ),
        temperatures={"cpu": 39.5, "gpu": 38.0, "aux": 38.5, "ao": 39.0},
        power={"total": 4.936, "VDD_IN": 4.936, "VDD_CPU_GPU_CV": 1.234, "VDD_SOC": 0.617},
    )


PC = DeviceRecord(
    name="ASUS",
    processor="AMD Ryzen 9 7950X 16-Core Processor",
    os="Debian GNU/Linux 13 (trixie)",
    kernel="6.12.48+deb13-amd64",
)
PC_TEMPERATURES = {"k10temp Tctl": 55.125, "nvme Composite": 41.85}


def test_amd_card(tmp_path: Path) -> None:
    trees.amd_card(tmp_path)
    assert sample(tmp_path) == expected(
        device=PC,
        temperatures=PC_TEMPERATURES,
        gpus=(
            GpuRecord(
                name="AMD GPU 744c",
                utilization_percent=98.0,
                memory_total=24 * GIB,
                memory_used=21 * GIB,
                temperature_c=52.0,
                power_w=187.0,
                shared_memory=False,
                clock_hz=2_304_000_000,
                memory_clock_hz=1_249_000_000,
                power_limit_w=339.0,
                temperature_limit_c=100.0,
                fan_percent=40.0,
            ),
        ),
    )


def test_amd_apu(tmp_path: Path) -> None:
    trees.amd_apu(tmp_path)
    assert sample(tmp_path) == expected(
        device=PC,
        temperatures=PC_TEMPERATURES,
        gpus=(
            GpuRecord(
                name="AMD GPU 1586",
                utilization_percent=3.0,
                memory_total=4 * GIB + 512 * MIB,
                memory_used=150 * MIB,
                temperature_c=44.0,
                power_w=15.25,
                shared_memory=True,
                clock_hz=800_000_000,
            ),
        ),
    )


def test_raspberry_pi(tmp_path: Path) -> None:
    trees.raspberry_pi(tmp_path)
    assert sample(tmp_path) == expected(
        device=DeviceRecord(
            kind=DeviceKind.RASPBERRY_PI,
            name="Raspberry Pi 5 Model B Rev 1.0",
            os="Debian GNU/Linux 12 (bookworm)",
            kernel="6.6.31+rpt-rpi-2712",
        ),
        cpu=msgspec.structs.replace(CPU, frequencies_hz=(2_400_000_000,)),
        temperatures={"cpu": 48.85, "rp1_adc temp1": 47.0},
        throttling={"board": (ThrottleReason.VOLTAGE,)},
        fan=FanRecord(percent=20.0, rpm=2900),
    )


def test_bare_container(tmp_path: Path) -> None:
    trees.container(tmp_path)
    assert sample(tmp_path) == expected(
        device=DeviceRecord(
            name="Intel(R) Xeon(R) Processor",
            processor="Intel(R) Xeon(R) Processor",
            os="Alpine Linux v3.20",
            kernel="5.10.104-tegra",
        ),
        memory=MemoryRecord(
            total=2 * GIB, available=GIB + 256 * MIB, used=GIB - 256 * MIB, percent=37.5
        ),
        swap=SwapRecord(total=0, used=0),
        zram=None,
    )


def test_workstation(tmp_path: Path) -> None:
    trees.workstation(tmp_path)
    cards = [
        FakeGpu(),
        FakeGpu(
            name=b"NVIDIA H100 PCIe\x1b[31m",
            utilization=None,
            power=None,
            temperature=None,
            clock=None,
            memory_clock=None,
            max_clock=None,
            power_limit=None,
            slowdown_temperature=None,
            fan=None,
            throttle_reasons=None,
            compute=None,
            graphics=None,
            instances=[FakeGpu(total=10 * GIB)],
        ),
        FakeGpu(name="NVIDIA GB10", total=None, compute={1: GIB, 2: None}, graphics={2: 5, 3: 7}),
    ]
    ada = GpuRecord(
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
    divided = GpuRecord(
        name="NVIDIA H100 PCIe",
        memory_total=24 * GIB,
        memory_used=5 * GIB,
        shared_memory=False,
    )
    spark = msgspec.structs.replace(
        ada,
        name="NVIDIA GB10",
        memory_total=None,
        memory_used=None,
        shared_memory=True,
        processes={1: GIB, 2: 5, 3: 7},
    )
    assert sample(tmp_path, FakeNvml(*cards)) == expected(
        device=msgspec.structs.replace(PC, name="ASUS Pro WS"),
        temperatures=PC_TEMPERATURES,
        gpus=(ada, divided, spark),
    )


def test_nothing_at_all(tmp_path: Path) -> None:
    assert sample(tmp_path) == ResourceSample(
        at=AT,
        device=DeviceRecord(),
        cpu=CpuRecord(),
        memory=MemoryRecord(),
        swap=SwapRecord(),
    )


def test_changes_between_samples(tmp_path: Path) -> None:
    trees.orin_nano_jetpack5(tmp_path)
    clock = Clock()
    taker = sampler(tmp_path, clock=clock)
    first = taker.sample()
    clock.advance(2)
    network = trees.HOST["proc/net/dev"].replace("1000000", "1500000").replace("250000", "250100")
    trees.write(
        tmp_path,
        {
            "proc/stat": trees.STAT_LATER,
            "proc/net/dev": network,
            "sys/devices/17000000.ga10b/load": "125\n",
            "proc/uptime": "12347.67 23456.78\n",
        },
    )
    second = taker.sample()
    assert second == msgspec.structs.replace(
        first,
        cpu=msgspec.structs.replace(first.cpu, percent=37.5, per_core=(50.0, 25.0)),
        networks=(
            NetworkRecord(
                name="eth0", receive_bytes_per_second=250_000.0, send_bytes_per_second=50.0
            ),
        ),
        gpus=(msgspec.structs.replace(first.gpus[0], utilization_percent=12.5),),
        uptime_seconds=12347.67,
    )


@pytest.mark.parametrize("late", [31, 3600])
def test_late_devices_are_found(tmp_path: Path, late: float) -> None:
    whole, early = tmp_path / "whole", tmp_path / "early"
    trees.orin_nano_jetpack5(whole)
    trees.write(
        early, {"proc/device-tree/compatible": trees.ORIN_COMPATIBLE}
    )  # booting: nothing else is there yet
    clock = Clock()
    taker = sampler(early, clock=clock)
    before = taker.sample()
    assert before.gpus == (GpuRecord(name="NVIDIA Orin", shared_memory=True),)
    assert before.power == {}
    trees.orin_nano_jetpack5(early)
    clock.advance(late)
    assert msgspec.structs.replace(
        taker.sample(), device=DeviceRecord()
    ) == msgspec.structs.replace(sample(whole), device=DeviceRecord())


def test_the_record_on_the_wire(tmp_path: Path) -> None:
    trees.agx_orin(tmp_path)
    record = sample(tmp_path, FakeNvml(FakeGpu()))
    assert msgspec.json.decode(to_json(record), type=ResourceSample) == record
    wire = msgspec.json.decode(to_json(record))
    # The keys that scripts rely on.
    assert set(wire) >= {
        "at", "device", "cpu", "memory", "swap", "gpus", "temperatures", "power", "disks"
    }  # fmt: skip
    assert set(wire["device"]) >= {"kind", "name"}
    assert set(wire["cpu"]) >= {"percent", "per_core", "count"}
    assert set(wire["memory"]) == {"total", "available", "used", "percent"}
    assert set(wire["gpus"][0]) >= {
        "name", "utilization_percent", "memory_total", "memory_used", "temperature_c", "power_w",
        "shared_memory",
    }  # fmt: skip
    assert wire["at"] == "2026-01-02T03:04:05Z"
