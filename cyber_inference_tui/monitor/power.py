"""Reads what measures the machine's power or energy, without root."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cyber_inference_tui.monitor.energy import Part
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.monitor.sensors.amd import AmdSensor
from cyber_inference_tui.monitor.sensors.nvidia import NvidiaSensor
from cyber_inference_tui.monitor.sensors.packages import PackageSensor
from cyber_inference_tui.monitor.sensors.rails import RailSensor


class PowerSensor:
    """Reads all parts of the machine. ``read`` blocks: call it in a thread, one call at a time.

    ``root`` contains ``sys/``; ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        nvml: Nvml | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rails = RailSensor(root, clock)
        self._nvidia = NvidiaSensor(nvml or Nvml())
        self._amd = AmdSensor(root, clock)
        self._packages = PackageSensor(root, clock)

    def read(self) -> tuple[Part, ...]:
        """Return the parts that can be read, none of which contains another one. Never raises."""
        rails = self._rails.read()
        packages = self._packages.read()
        parts = list(packages)
        if rails is not None and rails.total is not None:
            # The board's own processors and GPU are in it; cards have a supply of their own.
            parts = [Part("board", watts=rails.total)]
        parts += self._nvidia.read_energy()
        parts += [
            Part(gpu.name, watts=gpu.power_w)
            for gpu in self._amd.read() or ()
            # The GPU of an APU is in its package, and its power is that of the package.
            if gpu.power_w is not None and not (gpu.shared_memory and packages)
        ]
        return tuple(_numbered(parts))


def _numbered(parts: Iterable[Part]) -> list[Part]:
    """Number parts of the same name: ``CPU``, ``CPU 2``."""
    named: dict[str, Part] = {}
    for part in parts:
        name, number = part.name, 1
        while name in named:
            number += 1
            name = f"{part.name} {number}"
        named[name] = part._replace(name=name)
    return list(named.values())
