"""Reads the memory for models, and the part of it that our servers hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from cyber_inference_tui.monitor.gpu_memory import amd_memory, nvidia_memory
from cyber_inference_tui.monitor.main_memory import MainMemory, MainMemoryReading, read_by_psutil
from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.monitor.nvml import Nvml, visible_gpus
from cyber_inference_tui.monitor.processes import ProcessReader
from cyber_inference_tui.monitor.sensors.amd import AmdSensor

_MOST_PIDS = 1024


class MemoryReader:
    """Reads the present memory. ``read`` blocks: call it in a thread, one call at a time.

    ``root`` contains the machine's ``proc/`` and ``sys/``. ``container`` contains those of this
    process, with its pids and limits: they differ if ``root`` is a mount of the host's files in a
    container. ``environment`` is the environment of servers: its ``CUDA_VISIBLE_DEVICES`` selects
    their NVIDIA GPUs, by their order on the bus (see ``llama.command``).
    """

    def __init__(
        self,
        root: Path = Path("/"),
        nvml: Nvml | None = None,
        *,
        container: Path = Path("/"),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._main = MainMemory(root, container)
        self._processes = ProcessReader(container)
        self._amd = AmdSensor(root)
        self._nvml = nvml or Nvml()
        self._visible = visible_gpus(environment.get("CUDA_VISIBLE_DEVICES"))

    def read(self, pids: Collection[int] = (), variables: Collection[str] = ()) -> MemoryReading:
        """Return the memory of the machine, its GPUs, and those of ``pids`` that still run.

        ``variables`` are the values of ``CUDA_VISIBLE_DEVICES`` of single models. Raises nothing. A
        machine that does not report its memory has 0 bytes.
        """
        # Also for a mount of the host's files that is missing.
        main = self._main.read() or read_by_psutil() or MainMemoryReading(total=0, available=0)
        found = ((pid, self._processes.read(pid)) for pid in list(pids)[:_MOST_PIDS])
        amd = amd_memory(self._amd.read_memory())
        return MemoryReading(
            total=main.total,
            # If the use under a limit is unknown, all of it may be in use.
            available=main.available or 0,
            cache=main.cache,
            zfs_cache=main.zfs_cache,
            gpus=(*nvidia_memory(self._nvml, self._visible), *amd),
            gpus_by_variable={
                variable: (*nvidia_memory(self._nvml, visible_gpus(variable)), *amd)
                for variable in variables
            },
            processes={pid: memory for pid, memory in found if memory is not None},
        )
