"""Reads the space and the traffic of the disks with our files.

Sources: ``admin-guide/iostats.rst``; ``type`` of a card in the kernel's ``drivers/mmc/core/bus.c``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cyber_inference_tui.errors import StorageError
from cyber_inference_tui.monitor.kernel_files import KeptFile, integer, read_line
from cyber_inference_tui.monitor.rates import Rate, percent
from cyber_inference_tui.records import DiskRecord
from cyber_inference_tui.storage import Storages

_SECTOR = 512
"""The bytes of a sector in ``diskstats``, whatever the device's own size."""
_MOST_PATHS = 16
_TIMEOUT = 0.5
"""Seconds to wait for a hanging disk; the next try follows when it answers."""


class DiskSensor:
    """Reads the file systems of ``paths``, and ``proc/diskstats`` below ``root``.

    The paths are this process's own. Devices that ``diskstats`` does not list (network file
    systems, a file system on several devices) have no traffic.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        paths: Sequence[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stats = KeptFile(root / "proc/diskstats")
        self._devices = root / "sys/dev/block"
        self._sd_cards: dict[int, bool] = {}
        self._clock = clock
        self._storages = Storages(most=1)
        self._paths = [(path, Rate(), Rate()) for path in paths[:_MOST_PATHS]]

    def read(self) -> tuple[DiskRecord, ...] | None:
        """Return a record for each path; ``None`` = there are no paths."""
        if not self._paths:
            return None
        traffic = disk_traffic(self._stats.read() or b"")
        now = self._clock()
        records = []
        for path, reads, writes in self._paths:
            try:
                device, room = self._storages.ask(path, partial(_status, path), _TIMEOUT)
            except (OSError, ValueError, RuntimeError, StorageError):
                reads.per_second(None, now)
                writes.per_second(None, now)
                records.append(DiskRecord(path=str(path)))
                continue
            read, written = traffic.get((os.major(device), os.minor(device)), (None, None))
            used = (room.f_blocks - room.f_bfree) * room.f_frsize
            available = room.f_bavail * room.f_frsize
            records.append(
                DiskRecord(
                    path=str(path),
                    total=room.f_blocks * room.f_frsize,
                    available=available,
                    used=used,
                    percent=percent(used, used + available),
                    read_bytes_per_second=reads.per_second(read, now),
                    write_bytes_per_second=writes.per_second(written, now),
                    sd_card=self._is_sd_card(device),
                )
            )
        return tuple(records)

    def _is_sd_card(self, device: int) -> bool:
        """Return whether a disk, or the disk of a partition, is an SD card."""
        if device not in self._sd_cards:
            folder = self._devices / f"{os.major(device)}:{os.minor(device)}"
            # The folder is a link, and a partition's is inside that of its disk.
            kinds = [read_line(folder / up / "device/type") for up in (".", "..")]
            self._sd_cards[device] = "SD" in kinds
        return self._sd_cards[device]


def _status(path: Path) -> tuple[int, os.statvfs_result]:
    """Return its device and its space."""
    return path.stat().st_dev, os.statvfs(path)


def disk_traffic(diskstats: bytes) -> dict[tuple[int, int], tuple[int, int]]:
    """Return bytes read and written since boot, by the device's major and minor number."""
    traffic = {}
    for line in diskstats.splitlines():
        words = line.split()[:10]
        numbers = [integer(word) for i, word in enumerate(words) if i in {0, 1, 5, 9}]
        if len(numbers) != 4:
            continue
        major, minor, read, written = numbers
        if major is None or minor is None or read is None or written is None:
            continue
        traffic[major, minor] = (read * _SECTOR, written * _SECTOR)
    return traffic
