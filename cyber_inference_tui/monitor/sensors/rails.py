"""Reads the power rails of Jetsons: INA3221 and INA238 monitors on the I2C bus.

Sources: the kernel's ``hwmon/ina3221.rst`` and ``ina238.rst``, and the power sections of NVIDIA's
Jetson Linux developer guide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from cyber_inference_tui.monitor.kernel_files import (
    KeptFile,
    ProbeTimer,
    entries,
    read_integer,
    read_line,
)

_MOST_MONITORS = 16
_CHANNELS = (1, 2, 3)
"""An INA3221 measures three rails; ``in4`` to ``in7`` are shunt voltages and their sum."""
_NOT_CONNECTED = "NC"
_TOTAL = "VDD_IN"
# Boards without a rail for everything: these sets add up to it.
_SUMMED = (
    frozenset({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}),  # AGX Orin
    frozenset({"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"}),  # AGX Xavier
)
_NO_LIMIT = 32_760
"""A monitor without a limit has its largest number, in mA."""
_MOST_MILLIVOLTS = 100_000
_MOST_MILLIAMPERES = 100_000
_MOST_MICROWATTS = 1_000_000_000


class PowerReading(msgspec.Struct, frozen=True, kw_only=True):
    """Power in W at one moment; ``None`` = it cannot be read."""

    rails: Mapping[str, float | None]
    total: float | None
    """The whole board; ``None`` = no monitor measures it."""
    limits: Mapping[str, float]
    """The rails whose monitors have a limit that means something, in W at the present voltage."""


class RailSensor:
    """Reads the monitors below ``root``; looks for them every 30 s of ``clock``."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._bus = root / "sys/bus/i2c/devices"
        self._timer = ProbeTimer(clock)
        self._rails: dict[str, tuple[KeptFile, KeptFile]] = {}
        self._limits: dict[str, int] = {}
        self._board: KeptFile | None = None

    def read(self) -> PowerReading | None:
        """Return all rails; ``None`` = there are no monitors."""
        if self._timer.is_due():
            self._probe()
        rails: dict[str, float | None] = {}
        limits: dict[str, float] = {}
        for label, (voltage_file, current_file) in self._rails.items():
            voltage = voltage_file.number()
            rails[label] = _watts(voltage, current_file.number())
            limit = _watts(voltage, self._limits.get(label))
            if limit:
                limits[label] = limit
        if self._board is not None:
            power = self._board.number()
            valid = power is not None and 0 <= power < _MOST_MICROWATTS
            total = power / 1e6 if power is not None and valid else None
        elif not rails:
            return None
        else:
            total = total_power(rails)
        return PowerReading(rails=rails, total=total, limits=limits)

    def _probe(self) -> None:
        self._rails, self._limits, self._board = {}, {}, None
        found = 0
        for device in entries(self._bus):
            name = read_line(self._bus / device / "name")
            if name not in {"ina3221", "ina238"} or found >= _MOST_MONITORS:
                continue
            found += 1
            folder = self._bus / device / "hwmon"
            for hwmon in entries(folder):
                if name == "ina238":
                    self._board = KeptFile(folder / hwmon / "power1_input")
                else:
                    self._add(folder / hwmon)

    def _add(self, monitor: Path) -> None:
        for channel in _CHANNELS:
            label = read_line(monitor / f"in{channel}_label", limit=64)
            if label and label != _NOT_CONNECTED and label not in self._rails:
                self._rails[label] = (
                    KeptFile(monitor / f"in{channel}_input"),
                    KeptFile(monitor / f"curr{channel}_input"),
                )
                limit = read_integer(monitor / f"curr{channel}_max")
                if limit is not None and 0 < limit < _NO_LIMIT:
                    self._limits[label] = limit


def total_power(rails: Mapping[str, float | None]) -> float | None:
    """Return the power of the whole board from the power of its rails, in W."""
    if _TOTAL in rails:
        return rails[_TOTAL]
    # An unknown rail may be a part of another one: only known sets are added up.
    if frozenset(rails) not in _SUMMED:
        return None
    watts = [power for power in rails.values() if power is not None]
    return round(sum(watts), 6) if len(watts) == len(rails) else None


def _watts(millivolts: int | None, milliamperes: int | None) -> float | None:
    if millivolts is None or milliamperes is None:
        return None
    if not (0 <= millivolts <= _MOST_MILLIVOLTS and 0 <= milliamperes <= _MOST_MILLIAMPERES):
        return None
    return millivolts * milliamperes / 1e6
