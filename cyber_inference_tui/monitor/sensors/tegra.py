"""Reads the GPU, the memory clock, the power and the power mode of a Jetson, without root.

The places of the files differ between JetPacks; the comments give the known ones.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from cyber_inference_tui.monitor.device import device_tree, tegra_chip
from cyber_inference_tui.monitor.kernel_files import (
    KeptFile,
    ProbeTimer,
    entries,
    read_bytes,
    read_line,
)
from cyber_inference_tui.monitor.sensors.rails import PowerReading, RailSensor

_GPU_NODES = frozenset({"gv11b", "gp10b", "ga10b", "gb10b", "gpu"})
"""Names of the GPU in the device tree: Xavier, TX2, Orin, Thor; ``gpu`` since JetPack 6."""
# Places of the load if devfreq has none: Xavier and JetPack 5, then Orin since JetPack 6.
_LOADS = (
    "sys/devices/gpu.0/load",
    "sys/devices/platform/gpu.0/load",
    "sys/devices/17000000.gv11b/load",
    "sys/devices/17000000.ga10b/load",
    "sys/devices/platform/bus@0/17000000.gpu/load",
)
_THOR_GPU = "gpu-gpc-0"
"""Thor's clock in devfreq. That node has no link to the device tree, and no load."""
# They need root on most systems.
_MEMORY_CLOCKS = (
    "sys/kernel/debug/bpmp/debug/clk/emc/rate",
    "sys/kernel/debug/clk/emc/clk_rate",
)
_MODE = re.compile(rb"pmode:([0-9]{1,4})\s*\Z")
_MODE_NAME = re.compile(rb"<\s*POWER_MODEL\s+ID=([0-9]{1,4})\s+NAME=([^\s>]{1,64})\s*>")
_FAMILIES = {
    "tegra210": "NVIDIA Tegra X1",
    "tegra186": "NVIDIA Tegra X2",
    "tegra194": "NVIDIA Xavier",
    "tegra234": "NVIDIA Orin",
    "tegra264": "NVIDIA Thor",
}


class TegraReading(msgspec.Struct, frozen=True, kw_only=True):
    """A Jetson at one moment, in percent, Hz and W; ``None`` = a value cannot be read."""

    chip: str
    gpu_name: str
    gpu_percent: float | None
    gpu_clock_hz: int | None
    memory_clock_hz: int | None
    power: PowerReading | None
    power_mode: str | None
    power_modes: dict[int, str]
    gpu_max_clock_hz: int | None


class TegraSensor:
    """Reads a Jetson below ``root``; finds files that appear later within 30 s of ``clock``."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._timer = ProbeTimer(clock)
        self._chip = tegra_chip(device_tree(root, "compatible"))
        self._rails = RailSensor(root, clock)
        self._load: KeptFile | None = None
        self._gpu_clock: KeptFile | None = None
        self._memory_clock: KeptFile | None = None
        self._mode: str | None = None
        self._modes: dict[int, str] = {}
        self._gpu_max_clock: KeptFile | None = None

    def read(self) -> TegraReading | None:
        """Return a reading; ``None`` = this is no Jetson."""
        if self._chip is None:
            return None
        if self._timer.is_due():
            self._probe()
        load = self._load.number() if self._load else None
        return TegraReading(
            chip=self._chip,
            gpu_name=_FAMILIES.get(self._chip, "NVIDIA Tegra"),
            # The unit is a tenth of a percent.
            gpu_percent=load / 10 if load is not None and 0 <= load <= 1000 else None,
            gpu_clock_hz=_hertz(self._gpu_clock),
            memory_clock_hz=_hertz(self._memory_clock),
            power=self._rails.read(),
            power_mode=self._mode,
            power_modes=self._modes,
            gpu_max_clock_hz=_hertz(self._gpu_max_clock),
        )

    def _probe(self) -> None:
        configuration = read_bytes(self._root / "etc/nvpmodel.conf") or b""
        status = read_bytes(self._root / "var/lib/nvpmodel/status") or b""
        self._mode = power_mode(status, configuration)
        self._modes = power_modes(configuration)
        devfreq = self._root / "sys/class/devfreq"
        nodes = entries(devfreq)
        gpu = next(
            (
                devfreq / node
                for node in nodes
                if read_line(devfreq / node / "device/of_node/name") in _GPU_NODES
            ),
            None,
        )
        loads = [gpu / "device/load"] if gpu else []
        loads += [self._root / load for load in _LOADS]
        self._load = _first(loads)
        if gpu is None and _THOR_GPU in nodes:
            gpu = devfreq / _THOR_GPU
        self._gpu_clock = KeptFile(gpu / "cur_freq") if gpu else None
        self._gpu_max_clock = KeptFile(gpu / "max_freq") if gpu else None
        self._memory_clock = _first([self._root / clock for clock in _MEMORY_CLOCKS])


def power_mode(status: bytes, configuration: bytes) -> str | None:
    """Return the name of the power mode, or its number if the configuration has no name for it.

    Sources: ``/var/lib/nvpmodel/status`` and ``/etc/nvpmodel.conf``, in the format of ``nvpmodel``.
    """
    found = _MODE.match(status)
    if found is None:
        return None
    mode = int(found[1])
    return power_modes(configuration).get(mode, str(mode))


def power_modes(configuration: bytes) -> dict[int, str]:
    """Return the names of all power modes in ``/etc/nvpmodel.conf``, by their numbers."""
    return {
        int(number): name.decode("ascii", "replace")
        for number, name in _MODE_NAME.findall(configuration)
    }


def _first(files: list[Path]) -> KeptFile | None:
    """Return the first file that can be read."""
    kept = (KeptFile(file) for file in files)
    return next((file for file in kept if file.read() is not None), None)


def _hertz(file: KeptFile | None) -> int | None:
    hertz = file.number() if file else None
    return hertz if hertz is not None and 0 <= hertz < 100_000_000_000 else None
