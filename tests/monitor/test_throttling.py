"""Parts that are slowed down: cooling devices, counters of events, a Raspberry Pi's firmware."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.monitor.sensors.throttling import ThrottleSensor, raspberry_pi
from cyber_inference_tui.records import ThrottleReason
from tests.monitor import trees
from tests.monitor.clock import Clock

HOT, CURRENT, VOLTAGE = (
    ThrottleReason.TEMPERATURE,
    ThrottleReason.CURRENT,
    ThrottleReason.VOLTAGE,
)


def test_cooling_devices_that_work(tmp_path: Path) -> None:
    quiet = {"pwm-fan": 3, "cpu-throttle-alert": 0, "GPU-throttle-alert": 0, "cpufreq-cpu0": 0}
    trees.write(tmp_path, trees.cooling(quiet))
    sensor = ThrottleSensor(tmp_path, Clock())
    assert sensor.read() == {}
    trees.write(tmp_path, trees.cooling({**quiet, "GPU-throttle-alert": 1, "cpufreq-cpu0": 4}))
    assert sensor.read() == {"cpu": (HOT,), "gpu": (HOT,)}
    trees.write(tmp_path, trees.cooling(quiet))
    assert sensor.read() == {}


def test_events_count_when_they_come(tmp_path: Path) -> None:
    intel = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    trees.write(tmp_path, trees.OVER_CURRENT_FILES, {intel: "7\n"})
    clock = Clock()
    sensor = ThrottleSensor(tmp_path, clock)
    # What was before the service started is over.
    assert sensor.read() == {}
    trees.write(tmp_path, {f"{trees.OVER_CURRENT}/oc3_event_cnt": "38\n"})
    assert sensor.read() == {"board": (CURRENT,)}
    assert sensor.read() == {}
    # The sensor looks for its files again, and goes on counting.
    clock.advance(31)
    trees.write(tmp_path, {f"{trees.OVER_CURRENT}/oc1_event_cnt": "1\n", intel: "9\n"})
    assert sensor.read() == {"board": (VOLTAGE,), "cpu": (HOT,)}


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("0", []),
        (None, []),
        ("no number", []),
        ("50000", []),  # it was slow once
        ("50005", [("board", VOLTAGE)]),
        ("0x4", [("cpu", HOT)]),
        ("8", [("cpu", HOT)]),
        ("9", [("board", VOLTAGE), ("cpu", HOT)]),
    ],
)
def test_the_firmware_of_a_raspberry_pi(
    word: str | None, found: list[tuple[str, ThrottleReason]]
) -> None:
    assert list(raspberry_pi(word)) == found
