"""Reads the energy counters of processor packages (RAPL, of Intel and AMD).

Source: the kernel's ``power/powercap/powercap.rst``. Most systems let only root read a counter; a
package without a readable counter is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cyber_inference_tui.monitor.energy import Part
from cyber_inference_tui.monitor.kernel_files import (
    LARGEST,
    KeptFile,
    ProbeTimer,
    entries,
    read_integer,
    read_line,
)

_MOST_ZONES = 64
# The zones below a package are parts of it, except for "dram" on servers; "psys" contains it.
_ZONE, _PACKAGE = "intel-rapl:", "package-"
_NAME = "CPU"


class PackageSensor:
    """Reads all packages below ``root``; looks for them every 30 s of ``clock``."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._zones = root / "sys/class/powercap"
        self._timer = ProbeTimer(clock)
        self._packages: list[tuple[KeptFile, int | None]] = []

    def read(self) -> tuple[Part, ...]:
        """Return the counter of each package; all have the same name."""
        if self._timer.is_due():
            self._probe()
        found = []
        for file, largest in self._packages:
            microjoules = file.number()
            if microjoules is not None and 0 <= microjoules < LARGEST:
                wraps = None if largest is None else largest / 1e6
                found.append(Part(_NAME, counter_j=microjoules / 1e6, wraps_at_j=wraps))
        return tuple(found)

    def _probe(self) -> None:
        zones = [name for name in entries(self._zones) if name.startswith(_ZONE)][:_MOST_ZONES]
        self._packages = [
            (
                KeptFile(self._zones / zone / "energy_uj"),
                read_integer(self._zones / zone / "max_energy_range_uj"),
            )
            for zone in zones
            if (read_line(self._zones / zone / "name") or "").startswith(_PACKAGE)
        ]
