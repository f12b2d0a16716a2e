"""The power rails of Jetsons: INA3221 and INA238 monitors on the I2C bus.

Sources: the kernel's ``hwmon/ina3221.rst`` and ``ina238.rst``, and the power sections of NVIDIA's
Jetson Linux developer guide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from cyber_inference_tui.monitor.kernel_files import KeptFile, entries, read_line

_PROBE_SECONDS = 30.0
_MOST_MONITORS = 16
_CHANNELS = (1, 2, 3)
"""An INA3221 measures three rails; ``in4`` to ``in7`` are shunt voltages and their sum."""
_NOT_CONNECTED = "NC"
_TOTAL = "VDD_IN"
# Boards without one rail for everything: all of these together are it.
_SUMMED = (
    frozenset({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}),  # AGX Orin
    frozenset({"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"}),  # AGX Xavier
)
_MOST_MILLIVOLTS = 100_000
_MOST_MILLIAMPERES = 100_000
_MOST_MICROWATTS = 1_000_000_000


class PowerReading(msgspec.Struct, frozen=True, kw_only=True):
    """W at one moment; ``None`` for what cannot be read."""

    rails: Mapping[str, float | None]
    total: float | None
    """The whole board; ``None`` where no monitor measures it."""


class RailSensor:
    """Reads the monitors below ``root``; they are looked for every 30 s of ``clock``."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._bus = root / "sys/bus/i2c/devices"
        self._clock = clock
        self._next_probe = float("-inf")
        self._rails: dict[str, tuple[KeptFile, KeptFile]] = {}
        self._board: KeptFile | None = None

    def read(self) -> PowerReading | None:
        """All rails, or ``None`` if there are no monitors."""
        if (now := self._clock()) >= self._next_probe:
            self._next_probe = now + _PROBE_SECONDS
            self._probe()
        rails = {
            label: _watts(voltage.number(), current.number())
            for label, (voltage, current) in self._rails.items()
        }
        if self._board is not None:
            power = self._board.number()
            told = power is not None and 0 <= power < _MOST_MICROWATTS
            total = power / 1e6 if power is not None and told else None
        elif not rails:
            return None
        else:
            total = total_power(rails)
        return PowerReading(rails=rails, total=total)

    def _probe(self) -> None:
        self._rails, self._board = {}, None
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


def total_power(rails: Mapping[str, float | None]) -> float | None:
    """The power of the whole board from that of its rails, in W."""
    if _TOTAL in rails:
        return rails[_TOTAL]
    # A rail that is not known might be part of another one: only known sets are summed.
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
