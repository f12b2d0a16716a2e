"""Identification of machines, and of Jetsons in particular."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.monitor.device import jetpack, l4t_release, read_device, tegra_chip
from cyber_inference_tui.monitor.sensors.rails import total_power
from cyber_inference_tui.monitor.sensors.tegra import TegraSensor, power_mode
from cyber_inference_tui.records import DeviceKind
from tests.monitor.clock import Clock
from tests.monitor.trees import ORIN_COMPATIBLE, write


@pytest.mark.parametrize(
    ("files", "kind", "name"),
    [
        ({}, DeviceKind.COMPUTER, None),
        (
            {"proc/device-tree/compatible": ORIN_COMPATIBLE, "proc/device-tree/model": "Orin\0"},
            DeviceKind.JETSON,
            "Orin",
        ),
        # A mount of the host's files, where the link in /proc is broken.
        (
            {
                "sys/firmware/devicetree/base/compatible": ORIN_COMPATIBLE,
                "sys/firmware/devicetree/base/model": "Orin\0",
            },
            DeviceKind.JETSON,
            "Orin",
        ),
        (
            {"proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0"},
            DeviceKind.RASPBERRY_PI,
            None,
        ),
        (
            {
                "proc/device-tree/compatible": "radxa,rock-5b\0rockchip,rk3588\0",
                "proc/device-tree/model": "Radxa ROCK 5B\0",
            },
            DeviceKind.BOARD,
            "Radxa ROCK 5B",
        ),
        (
            {
                "sys/class/dmi/id/sys_vendor": "Dell Inc.\n",
                "sys/class/dmi/id/product_name": "Precision 7960\n",
            },
            DeviceKind.COMPUTER,
            "Dell Inc. Precision 7960",
        ),
        (
            {
                "sys/class/dmi/id/sys_vendor": "To Be Filled By O.E.M.\n",
                "sys/class/dmi/id/product_name": "Default string\n",
                "proc/cpuinfo": "model name\t: Some \x1b[31mCPU\n",
            },
            DeviceKind.COMPUTER,
            "Some CPU",
        ),
    ],
)
def test_kinds(tmp_path: Path, files: dict[str, str], kind: DeviceKind, name: str | None) -> None:
    write(tmp_path, files)
    machine = read_device(tmp_path)
    assert (machine.kind, machine.name) == (kind, name)


@pytest.mark.parametrize(
    ("compatible", "chip"),
    [
        (ORIN_COMPATIBLE.encode(), "tegra234"),
        (b"nvidia,p3450-0000\0nvidia,jetson-nano\0nvidia,tegra210\0", "tegra210"),
        (b"nvidia,p3768-0000\0nvidia,tegra23x\0", None),
        (b"acme,nvidia,tegra234\0", None),
        (b"\xff\xff", None),
        (None, None),
    ],
)
def test_chips(compatible: bytes | None, chip: str | None) -> None:
    assert tegra_chip(compatible) == chip


@pytest.mark.parametrize(
    ("content", "release", "named"),
    [
        (b"# R35 (release), REVISION: 3.1, GCID: 1, BOARD: t186ref\n", "35.3.1", "5.1.1"),
        (b"# R36 (release), REVISION: 3.0, GCID: 1\n", "36.3.0", "6.0"),
        (b"# R36 (release), REVISION: 4.7, GCID: 1\n", "36.4.7", "6.2.1"),
        (b"# R36 (release), REVISION: 5.0, GCID: 1\n", "36.5.0", "6.2.2"),
        (b"# R38 (release), REVISION: 2.0, GCID: 1\n", "38.2.0", "7.0"),
        (b"# R39 (release), REVISION: 2.0, GCID: 1\n", "39.2.0", "7.2"),
        (b"# R36 (release), REVISION: 9.1, GCID: 1\n", "36.9.1", "6"),
        (b"# R99 (release), REVISION: 1.0, GCID: 1\n", "99.1.0", None),
    ],
)
def test_releases(content: bytes, release: str, named: str | None) -> None:
    assert l4t_release(content) == release
    assert jetpack(release) == named


@pytest.mark.parametrize(
    "content", [b"", b"# R35 (release), REVISION: 3", b"R35", b"# Rx (release), REVISION: 1.0,"]
)
def test_unknown_releases(content: bytes) -> None:
    assert l4t_release(content) is None


MODES = b"<POWER_MODEL ID=0 NAME=MAXN>\n< POWER_MODEL ID=12 NAME=15W >\n"


@pytest.mark.parametrize(
    ("status", "configuration", "mode"),
    [
        (b"pmode:0000", MODES, "MAXN"),
        (b"pmode:0012\n", MODES, "15W"),
        (b"pmode:0002\n", MODES, "2"),
        (b"pmode:0002\n", b"\xff", "2"),
        (b"pmode:", MODES, None),
        (b"pmode:0000 fmode:quiet", MODES, None),
        (b"", MODES, None),
    ],
)
def test_power_modes(status: bytes, configuration: bytes, mode: str | None) -> None:
    assert power_mode(status, configuration) == mode


@pytest.mark.parametrize(
    ("rails", "total"),
    [
        ({"VDD_IN": 5.0, "VDD_SOC": 1.0}, 5.0),
        ({"VDD_IN": None, "VDD_SOC": 1.0}, None),
        ({"GPU": 1.0, "CPU": 1.5, "SOC": 2.0, "CV": 0.5, "VDDRQ": 0.25, "SYS5V": 1.0}, 6.25),
        ({"GPU": 1.0, "CPU": None, "SOC": 2.0, "CV": 0.5, "VDDRQ": 0.25, "SYS5V": 1.0}, None),
        ({"VDD_GPU_SOC": 4.0, "VDD_CPU_CV": 1.0, "VIN_SYS_5V0": 3.0}, None),
        ({"VIN_SYS_5V0": 3.0}, None),
        ({}, None),
    ],
)
def test_total_power(rails: dict[str, float | None], total: float | None) -> None:
    assert total_power(rails) == total


@pytest.mark.parametrize(
    "load",
    ["devices/gpu.0/load", "devices/platform/gpu.0/load", "devices/17000000.gv11b/load",
     "devices/17000000.ga10b/load", "devices/platform/bus@0/17000000.gpu/load"],
)  # fmt: skip
def test_the_load_without_devfreq(tmp_path: Path, load: str) -> None:
    write(tmp_path, {"proc/device-tree/compatible": ORIN_COMPATIBLE, f"sys/{load}": "555\n"})
    reading = TegraSensor(tmp_path, Clock()).read()
    assert reading is not None
    assert reading.gpu_percent == 55.5


def test_other_machines_have_no_tegra(tmp_path: Path) -> None:
    write(tmp_path, {"sys/devices/gpu.0/load": "555\n"})
    assert TegraSensor(tmp_path, Clock()).read() is None
