"""Reads which parts of the machine are slowed down now, and why; GPUs' drivers report their own.

Sources: ``driver-api/thermal/sysfs-api.rst`` and ``ABI/testing/sysfs-devices-system-cpu`` of the
kernel, NVIDIA's guide to the electrical management of Jetson Orin, and ``vcgencmd get_throttled``
of Raspberry Pi OS.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from cyber_inference_tui.monitor.kernel_files import KeptFile, ProbeTimer, entries, read_line
from cyber_inference_tui.records import ThrottleReason

BOARD, CPU = "board", "cpu"

_MOST_DEVICES = 64
# NVIDIA's firmware switches these on while a part is too hot: ``cpu-throttle-alert``.
_ALERT = re.compile(r"([a-z0-9]{1,16})-throttle-alert", re.IGNORECASE)
_CPU_COOLING = re.compile(r"(?:thermal-)?cpufreq-.*")
_OVER_CURRENT: dict[str, ThrottleReason] = {
    "oc1_event_cnt": ThrottleReason.VOLTAGE,
    "oc2_event_cnt": ThrottleReason.CURRENT,
    "oc3_event_cnt": ThrottleReason.CURRENT,
}
_PI = "sys/devices/platform/soc/soc:firmware/get_throttled"
_PI_LOW_VOLTAGE, _PI_SLOW, _PI_HOT = 0b1, 0b110, 0b1000


class ThrottleSensor:
    """Reads cooling devices and counters of events below ``root``.

    It looks for new ones every 30 s of ``clock``.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._thermal = root / "sys/class/thermal"
        self._hwmon = root / "sys/class/hwmon"
        self._cpu = root / "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
        self._pi = KeptFile(root / _PI)
        self._timer = ProbeTimer(clock)
        self._cooling: list[tuple[str, KeptFile]] = []
        self._counters: dict[Path, _Counter] = {}

    def read(self) -> dict[str, tuple[ThrottleReason, ...]]:
        """Return the reasons by part (``cpu``, ``gpu``, ``board`` …) since the last call."""
        if self._timer.is_due():
            self._probe()
        found: dict[str, set[ThrottleReason]] = {}
        for part, state in self._cooling:
            if (state.number() or 0) > 0:
                found.setdefault(part, set()).add(ThrottleReason.TEMPERATURE)
        for counter in self._counters.values():
            if counter.has_risen():
                found.setdefault(counter.part, set()).add(counter.reason)
        for part, reason in raspberry_pi(self._pi.text()):
            found.setdefault(part, set()).add(reason)
        return {part: tuple(sorted(found[part])) for part in sorted(found)}

    def _probe(self) -> None:
        self._cooling = []
        for device in entries(self._thermal):
            if not device.startswith("cooling_device") or len(self._cooling) >= _MOST_DEVICES:
                continue
            kind = read_line(self._thermal / device / "type") or ""
            alert = _ALERT.fullmatch(kind)
            part = alert[1].lower() if alert else CPU if _CPU_COOLING.fullmatch(kind) else None
            if part is not None:
                self._cooling.append((part, KeptFile(self._thermal / device / "cur_state")))
        counters = {self._cpu: (CPU, ThrottleReason.TEMPERATURE)}
        for chip in entries(self._hwmon):
            if read_line(self._hwmon / chip / "name") == "soctherm_oc":
                for name, reason in _OVER_CURRENT.items():
                    counters[self._hwmon / chip / name] = BOARD, reason
        self._counters = {
            path: self._counters.get(path) or _Counter(path, *meaning)
            for path, meaning in counters.items()
        }


class _Counter:
    """A number of events since the machine started."""

    def __init__(self, path: Path, part: str, reason: ThrottleReason) -> None:
        self.part = part
        self.reason = reason
        self._file = KeptFile(path)
        self._before: int | None = None

    def has_risen(self) -> bool:
        """Return whether there were events since the last call."""
        before, self._before = self._before, self._file.number()
        return before is not None and self._before is not None and self._before > before


def raspberry_pi(word: str | None) -> tuple[tuple[str, ThrottleReason], ...]:
    """Return the parts and reasons in the firmware's bits, a hexadecimal number."""
    try:
        bits = int(word or "0", 16)
    except ValueError:
        return ()
    found = []
    if bits & _PI_LOW_VOLTAGE:
        found.append((BOARD, ThrottleReason.VOLTAGE))
    # A low voltage slows the processor down, too.
    if bits & _PI_HOT or (bits & _PI_SLOW and not found):
        found.append((CPU, ThrottleReason.TEMPERATURE))
    return tuple(found)
