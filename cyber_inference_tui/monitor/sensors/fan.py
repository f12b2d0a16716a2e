"""Reads the fan of a small board: the kernel's ``pwm-fan``, and NVIDIA's tachometer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cyber_inference_tui.monitor.kernel_files import KeptFile, ProbeTimer, entries, read_line
from cyber_inference_tui.monitor.rates import percent
from cyber_inference_tui.records import FanRecord

_MOST_RPM = 100_000


class FanSensor:
    """Reads the hwmon devices ``pwmfan`` and ``pwm_tach`` below ``root``.

    It looks for them every 30 s of ``clock``.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._hwmon = root / "sys/class/hwmon"
        self._timer = ProbeTimer(clock)
        self._pwm: KeptFile | None = None
        self._tachometers: list[KeptFile] = []

    def read(self) -> FanRecord | None:
        """Return the fan; ``None`` = there is none with values."""
        if self._timer.is_due():
            self._probe()
        turns = (file.number() for file in self._tachometers)
        record = FanRecord(
            percent=percent(self._pwm.number(), 255) if self._pwm else None,
            rpm=next((rpm for rpm in turns if rpm is not None and 0 <= rpm < _MOST_RPM), None),
        )
        return None if record == FanRecord() else record

    def _probe(self) -> None:
        self._pwm, self._tachometers = None, []
        for chip in entries(self._hwmon):
            folder = self._hwmon / chip
            name = read_line(folder / "name")
            if name == "pwmfan":
                self._pwm = KeptFile(folder / "pwm1")
                self._tachometers.append(KeptFile(folder / "fan1_input"))
            elif name == "pwm_tach":
                self._tachometers += [KeptFile(folder / "rpm"), KeptFile(folder / "fan1_input")]
