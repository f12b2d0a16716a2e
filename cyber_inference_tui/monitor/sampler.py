"""Takes samples of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cyber_inference_tui.monitor.device import mac_gpus, read_device
from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.monitor.sample import compose
from cyber_inference_tui.monitor.sensors.amd import AmdSensor
from cyber_inference_tui.monitor.sensors.host import HostSensor
from cyber_inference_tui.monitor.sensors.nvidia import NvidiaSensor
from cyber_inference_tui.monitor.sensors.tegra import TegraSensor
from cyber_inference_tui.records import ResourceSample


class Sampler:
    """``sample`` reads everything once. It blocks: call it in a thread, one at a time.

    ``root`` is where the machine's ``proc/``, ``sys/``, ``etc/`` and ``var/`` are, ``container``
    where those of this process are, with its memory limits. ``disks`` are paths whose file systems
    are of interest. ``clock`` is monotonic, in seconds; ``now`` gives the time of day.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        disks: Sequence[Path] = (),
        nvml: Nvml | None = None,
        *,
        container: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._now = now
        self._device = read_device(root)
        self._mac_gpus = mac_gpus(self._device, root)
        self._host = HostSensor(root, disks, container=container, clock=clock)
        self._tegra = TegraSensor(root, clock)
        self._nvidia = NvidiaSensor(nvml or Nvml())
        self._amd = AmdSensor(root, clock)

    def sample(self) -> ResourceSample:
        """The machine now; percentages of processors and rates are since the sample before.

        It never raises. What the machine does not tell is ``None``.
        """
        return compose(
            at=self._now(),
            device=self._device,
            host=self._host.read(),
            tegra=self._tegra.read(),
            nvidia=self._nvidia.read() or (),
            others=(*(self._amd.read() or ()), *self._mac_gpus),
        )
