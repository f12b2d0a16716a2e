"""Reads the values that every machine reports."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import psutil

from cyber_inference_tui.monitor.kernel_files import KeptFile
from cyber_inference_tui.monitor.main_memory import MainMemory
from cyber_inference_tui.monitor.rates import percent
from cyber_inference_tui.monitor.sensors.cpu import CpuSensor
from cyber_inference_tui.monitor.sensors.disks import DiskSensor
from cyber_inference_tui.monitor.sensors.fan import FanSensor
from cyber_inference_tui.monitor.sensors.network import NetworkSensor
from cyber_inference_tui.monitor.sensors.swap import SwapReading, SwapSensor
from cyber_inference_tui.monitor.sensors.temperatures import TemperatureSensor
from cyber_inference_tui.monitor.sensors.throttling import ThrottleSensor
from cyber_inference_tui.records import (
    CpuRecord,
    DiskRecord,
    FanRecord,
    MemoryRecord,
    NetworkRecord,
    ThrottleReason,
)

_UPTIME = re.compile(rb"([0-9]{1,12}\.[0-9]{2}) ")


class HostReading(msgspec.Struct, frozen=True, kw_only=True):
    """All values at one moment; ``None`` = a value cannot be read."""

    cpu: CpuRecord | None
    memory: MemoryRecord | None
    swap: SwapReading | None
    disks: tuple[DiskRecord, ...] | None
    networks: tuple[NetworkRecord, ...] | None
    temperatures: dict[str, float | None] | None
    fan: FanRecord | None
    throttling: dict[str, tuple[ThrottleReason, ...]]
    uptime_seconds: float | None


class HostSensor:
    """Reads ``proc/`` and ``sys/`` below ``root``; ``container`` is as for ``MainMemory``."""

    def __init__(
        self,
        root: Path = Path("/"),
        disks: Sequence[Path] = (),
        *,
        container: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cpu = CpuSensor(root, clock)
        self._memory = MainMemory(root, container)
        self._swap = SwapSensor(root)
        self._disks = DiskSensor(root, disks, clock)
        self._networks = NetworkSensor(root, clock)
        self._temperatures = TemperatureSensor(root, clock)
        self._fan = FanSensor(root, clock)
        self._throttling = ThrottleSensor(root, clock)
        self._is_this_machine = root == Path("/")
        self._uptime = KeptFile(root / "proc/uptime")

    def read(self) -> HostReading:
        """Return a reading; percentages and rates are since the last call."""
        return HostReading(
            cpu=self._cpu.read(),
            memory=self._read_memory(),
            swap=self._swap.read(),
            disks=self._disks.read(),
            networks=self._networks.read(),
            temperatures=self._temperatures.read(),
            fan=self._fan.read(),
            throttling=self._throttling.read(),
            uptime_seconds=self._read_uptime(),
        )

    def _read_uptime(self) -> float | None:
        if uptime := _UPTIME.match(self._uptime.read() or b""):
            return float(uptime[1])
        return time.time() - psutil.boot_time() if self._is_this_machine else None

    def _read_memory(self) -> MemoryRecord | None:
        main = self._memory.read()
        if main is None:
            return None
        used = main.total - main.available if main.available is not None else None
        return MemoryRecord(
            total=main.total,
            available=main.available,
            used=used,
            percent=percent(used, main.total),
        )
