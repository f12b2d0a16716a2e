"""The values of every Linux machine: processors, swap, disks, networks, temperatures."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cyber_inference_tui.monitor.rates import Rate, percent
from cyber_inference_tui.monitor.sensors.cpu import CpuSensor, cpu_times, load_average
from cyber_inference_tui.monitor.sensors.disks import DiskSensor, disk_traffic
from cyber_inference_tui.monitor.sensors.fan import FanSensor
from cyber_inference_tui.monitor.sensors.network import network_traffic
from cyber_inference_tui.monitor.sensors.swap import SwapSensor
from cyber_inference_tui.monitor.sensors.temperatures import TemperatureSensor
from cyber_inference_tui.records import CpuRecord, DiskRecord, FanRecord, SwapRecord
from tests.monitor.clock import Clock
from tests.monitor.trees import OFF, write, zones

KIB = 1024


@pytest.mark.parametrize(
    ("stat", "times"),
    [
        (b"cpu  10 1 5 80 4 0 0 0 0 0\n", {-1: (16, 100)}),
        (b"cpu0 10 1 5 80\n", {0: (16, 96)}),  # as old kernels had it
        (b"cpu0 10 0 5 80 5 1 2 3 9 9\n", {0: (21, 106)}),  # guests are counted as users already
        (b"cpu0 10 1 5\n", {}),
        (b"cpu0 10 1 x 80 4 0 0 0\n", {}),
        (b"cpu0 10 1 5 80 4 0 0 0.5\n", {}),
        (b"cpu0 -10 1 5 80 4 0 0 0\n", {}),
        (b"cpu0 99999999999999999999 1 5 80 4 0 0 0\n", {}),
        (b"cpu5000 1 1 5 80 4 0 0 0\n", {}),
        (b"intr 10 1 5 80 4 0 0 0\n", {}),
        (b"", {}),
    ],
)
def test_cpu_times(stat: bytes, times: dict[int, tuple[int, int]]) -> None:
    assert cpu_times(stat) == times


def test_a_core_that_is_switched_off(tmp_path: Path) -> None:
    sensor = CpuSensor(tmp_path, Clock())
    write(tmp_path, {"proc/stat": "cpu  4 0 0 4\ncpu0 1 0 0 1\ncpu1 1 0 0 1\ncpu3 2 0 0 2\n"})
    assert sensor.read() == CpuRecord(per_core=(None,) * 4, count=3)
    write(tmp_path, {"proc/stat": "cpu  8 0 0 6\ncpu0 1 0 0 3\ncpu2 1 0 0 1\ncpu3 5 0 0 3\n"})
    assert sensor.read() == CpuRecord(percent=66.7, per_core=(0.0, None, None, 75.0), count=3)


def test_processors_without_ticks_or_with_fewer_than_before(tmp_path: Path) -> None:
    sensor = CpuSensor(tmp_path, Clock())
    write(tmp_path, {"proc/stat": "cpu  4 0 0 40 5\ncpu0 4 0 0 40 5\n"})
    sensor.read()
    assert sensor.read() == CpuRecord(per_core=(None,), count=1)
    write(tmp_path, {"proc/stat": "cpu  5 0 0 43 1\ncpu0 1 0 0 1 0\n"})
    # The waiting time went back by 4 ticks, so the total did not change.
    assert sensor.read() == CpuRecord(per_core=(None,), count=1)
    write(tmp_path, {"proc/stat": "cpu  6 0 0 44 1\ncpu0 2 0 0 1 0\n"})
    assert sensor.read() == CpuRecord(percent=50.0, per_core=(100.0,), count=1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"0.00 12.50 100.25 1/234 567\n", (0.0, 12.5, 100.25)),
        (b"0.00 12.50 100.25", None),
        (b"nan 0.00 0.00 1/1 1", None),
        (b"", None),
    ],
)
def test_load_average(content: bytes, expected: tuple[float, float, float] | None) -> None:
    assert load_average(content) == expected


SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


@pytest.mark.parametrize(
    ("lines", "disk", "zram"),
    [
        ("", SwapRecord(total=0, used=0), None),
        (
            "/dev/zram0 partition 1000 500 5\n/dev/zram1 partition 1000 0 5\n",
            SwapRecord(total=0, used=0),
            SwapRecord(total=2000 * KIB, used=500 * KIB, percent=25.0, memory=30),
        ),
        (
            "/dev/zram0 partition 1000 500 5\n/dev/zram7 partition 1000 0 5\n",
            SwapRecord(total=0, used=0),
            SwapRecord(total=2000 * KIB, used=500 * KIB, percent=25.0),
        ),
        (
            "/swap\\040file file 100 50 -2\n/dev/sda3\tpartition\t300\t50\t-3\n",
            SwapRecord(total=400 * KIB, used=100 * KIB, percent=25.0),
            None,
        ),
    ],
)
def test_swap(tmp_path: Path, lines: str, disk: SwapRecord, zram: SwapRecord | None) -> None:
    write(
        tmp_path,
        {
            "proc/swaps": SWAPS + lines,
            "sys/block/zram0/mm_stat": "1 2 10 4 5\n",
            "sys/block/zram1/mm_stat": "1 2 20 4 5\n",
        },
    )
    reading = SwapSensor(tmp_path).read()
    assert reading is not None
    assert (reading.disk, reading.zram) == (disk, zram)


@pytest.mark.parametrize(
    "content", ["", "x", SWAPS + "/swap file 10\n", SWAPS + "/swap file a b 1"]
)
def test_unknown_swap(tmp_path: Path, content: str) -> None:
    write(tmp_path, {"proc/swaps": content})
    assert SwapSensor(tmp_path).read() is None


def test_disks(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    line = f"{os.major(device):4} {os.minor(device):7} vda {{}} 5 {{}} 3 200 1 {{}} 9 0 0 0\n"
    write(tmp_path, {"proc/diskstats": line.format(10, 1000, 500)})
    clock = Clock()
    gone = tmp_path / "gone"
    sensor = DiskSensor(tmp_path, [tmp_path, gone, Path("/proc")], clock)
    room = os.statvfs(tmp_path)
    first = sensor.read()
    assert first is not None
    disk, missing, virtual = first
    assert disk.path == str(tmp_path)
    assert disk.total == room.f_blocks * room.f_frsize
    assert disk.used is not None
    assert disk.available is not None
    assert 0 < disk.used + disk.available <= disk.total
    assert disk.percent == round(100 * disk.used / (disk.used + disk.available), 1)
    assert (disk.read_bytes_per_second, disk.write_bytes_per_second) == (None, None)
    assert missing == DiskRecord(path=str(gone))
    assert (virtual.total, virtual.percent, virtual.read_bytes_per_second) == (0, None, None)
    write(tmp_path, {"proc/diskstats": line.format(12, 1010, 540)})
    clock.advance(2)
    second = sensor.read()
    assert second is not None
    assert second[0].read_bytes_per_second == 10 * 512 / 2
    assert second[0].write_bytes_per_second == 40 * 512 / 2
    assert DiskSensor(tmp_path).read() is None


@pytest.mark.parametrize(("kind", "place"), [("SD", "mmcblk0"), ("SD", ""), ("MMC", "")])
def test_an_sd_card_is_known_by_its_disk_or_partition(
    tmp_path: Path, kind: str, place: str
) -> None:
    device = tmp_path.stat().st_dev
    disk = tmp_path / "sys/devices/mmc_host/block/mmcblk0"
    write(tmp_path, {"sys/devices/mmc_host/block/mmcblk0/device/type": f"{kind}\n"})
    (disk / "mmcblk0p1").mkdir()
    link = tmp_path / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(disk if place else disk / "mmcblk0p1")
    (record,) = DiskSensor(tmp_path, [tmp_path]).read() or ()
    assert record.sd_card == (kind == "SD")


def test_disk_traffic() -> None:
    lines = [
        "   8  0 sda 1 2 10 4 5 6 20 8",
        "   8  1 sda1 1 2 x 4 5 6 7",
        "   8 2 sda2 1",
        "",
        "259 3 n 1 2 3 4 5 6 7",
    ]
    assert disk_traffic("\n".join(lines).encode()) == {
        (8, 0): (10 * 512, 20 * 512),
        (259, 3): (3 * 512, 7 * 512),
    }


def test_network_traffic() -> None:
    lines = (
        b"  eth0:12 1 2 3 4 5 6 7 34 1 1\nwlp2s0: 5 1 2 3 4 5 6 7 6 1\n  bad: 1 2 3\n a b: 1 1 1\n"
    )
    assert network_traffic(lines) == [("eth0", 12, 34), ("wlp2s0", 5, 6)]


def test_rates() -> None:
    rate = Rate()
    values = [(100, 1.0), (300, 3.0), (300, 3.0), (None, 4.0), (500, 5.0), (400, 6.0), (401, 6.5)]
    assert [rate.per_second(*value) for value in values] == [
        None,
        100.0,
        None,
        None,
        None,
        None,
        2.0,
    ]


def test_percent() -> None:
    assert percent(1, 8) == 12.5
    assert percent(1, 3) == 33.3
    assert [percent(1, 0), percent(2, 1), percent(None, 1), percent(1, None)] == [None] * 4


def test_temperatures_of_the_same_name(tmp_path: Path) -> None:
    write(tmp_path, zones({"acpitz": 27_800}), {"sys/class/thermal/cooling_device0/type": "fan\n"})
    write(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone1/type": "acpitz\n",
            "sys/class/thermal/thermal_zone1/temp": "29800\n",
            "sys/class/thermal/thermal_zone2/type": "x86_pkg_temp\n",
            "sys/class/thermal/thermal_zone2/temp": OFF,
        },
    )
    assert TemperatureSensor(tmp_path, Clock()).read() == {
        "acpitz": 27.8,
        "acpitz 2": 29.8,
        "x86_pkg_temp": None,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("-256000", None), ("-5000", -5.0), ("0", 0.0), ("250000", None), ("47.5", None), ("", None)],
)
def test_temperatures_that_cannot_be(tmp_path: Path, text: str, value: float | None) -> None:
    write(tmp_path, zones({"tj-thermal": 1}), {"sys/class/thermal/thermal_zone0/temp": text})
    assert TemperatureSensor(tmp_path, Clock()).read() == {"tj": value}


def test_a_zone_that_is_switched_on_and_off(tmp_path: Path) -> None:
    write(tmp_path, zones({"cv0-thermal": None}))
    sensor = TemperatureSensor(tmp_path, Clock())
    zone = tmp_path / "sys/class/thermal/thermal_zone0/temp"
    assert sensor.read() == {"cv0": None}
    zone.rmdir()
    zone.write_text("41000\n")
    assert sensor.read() == {"cv0": 41.0}
    zone.write_text("")
    assert sensor.read() == {"cv0": None}
    zone.write_text("42000\n")
    assert sensor.read() == {"cv0": 42.0}


def test_fans(tmp_path: Path) -> None:
    assert FanSensor(tmp_path, Clock()).read() is None
    write(
        tmp_path,
        {"sys/class/hwmon/hwmon0/name": "pwm_tach\n", "sys/class/hwmon/hwmon0/fan1_input": "900\n"},
    )
    clock = Clock()
    sensor = FanSensor(tmp_path, clock)
    assert sensor.read() == FanRecord(rpm=900)
    write(tmp_path, {"sys/class/hwmon/hwmon1/name": "pwmfan\n"})
    write(tmp_path, {"sys/class/hwmon/hwmon1/pwm1": "256\n"})
    clock.advance(31)
    assert sensor.read() == FanRecord(rpm=900)
    write(tmp_path, {"sys/class/hwmon/hwmon1/pwm1": "51\n"})
    assert sensor.read() == FanRecord(percent=20.0, rpm=900)


def test_a_disk_that_hangs_leaves_the_others_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, began = threading.Event(), []
    ask = os.statvfs

    def statvfs(path: Path) -> os.statvfs_result:
        if path == Path("/proc"):
            began.append(path)
            answer.wait(30)
        return ask(path)

    monkeypatch.setattr(os, "statvfs", statvfs)
    sensor = DiskSensor(tmp_path, [Path("/proc"), tmp_path])
    try:
        for _ in range(3):
            hanging, good = sensor.read() or ()
            assert hanging.total is None
            assert good.total
        assert len(began) == 1
    finally:
        answer.set()
