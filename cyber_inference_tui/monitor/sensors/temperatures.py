"""Reads temperatures.

Sources: ``driver-api/thermal/sysfs-api.rst``, ``hwmon/sysfs-interface.rst``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from cyber_inference_tui.monitor.kernel_files import (
    KeptFile,
    ProbeTimer,
    celsius,
    entries,
    read_bytes,
    read_line,
)

_MOST_SENSORS = 64
_SUFFIX = re.compile(r"[-_]therm(?:al)?$")
_INPUT = re.compile(r"temp([0-9]{1,3})_input")
# GPUs have another source, and reading a disk's sensor may keep it awake.
_OTHERS = frozenset({"amdgpu", "radeon", "nouveau", "i915", "xe", "drivetemp"})


class TemperatureSensor:
    """Reads the thermal zones and the monitoring chips below ``root``.

    It looks for new ones every 30 s of ``clock``.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._thermal = root / "sys/class/thermal"
        self._hwmon = root / "sys/class/hwmon"
        self._timer = ProbeTimer(clock)
        self._files: dict[str, KeptFile] = {}

    def read(self) -> dict[str, float | None] | None:
        """Return °C by name; ``None`` for a sensor that is off, and in total if there are none.

        A zone is named after its type, in lower case and without ``-therm`` or ``-thermal``
        (``cpu``, ``gpu``, ``tj``); a chip's sensor after the chip and its own label.
        """
        if self._timer.is_due():
            self._probe()
        return {name: celsius(file.number()) for name, file in self._files.items()} or None

    def _probe(self) -> None:
        self._files = {}
        for zone in entries(self._thermal):
            kind = read_line(self._thermal / zone / "type") if zone[:12] == "thermal_zone" else None
            if kind:
                self._add(_SUFFIX.sub("", kind.lower()), self._thermal / zone / "temp")
        for chip in entries(self._hwmon):
            folder = self._hwmon / chip
            name = read_line(folder / "name")
            # A zone is also listed as a chip, whose device is the zone.
            if not name or name in _OTHERS or read_bytes(folder / "device/type") is not None:
                continue
            for entry in entries(folder):
                if found := _INPUT.fullmatch(entry):
                    label = read_line(folder / f"temp{found[1]}_label") or f"temp{found[1]}"
                    self._add(f"{name} {label}", folder / entry)

    def _add(self, name: str, file: Path) -> None:
        if len(self._files) >= _MOST_SENSORS:
            return
        same, number = name, 1
        while name in self._files:
            number += 1
            name = f"{same} {number}"
        self._files[name] = KeptFile(file)
