"""Samples of the machine that runs the tests, compared with other tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cyber_inference_tui.monitor.nvml import Nvml
from cyber_inference_tui.monitor.sampler import MachineSampler

BUSY = """\
import time
print("ready", flush=True)
end = time.process_time() + 0.5
while time.process_time() < end:
    pass
print("done", flush=True)
"""


def taker(*disks: Path) -> MachineSampler:
    return MachineSampler(disks=disks, nvml=Nvml(load=lambda: None))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_disks_and_cores(tmp_path: Path) -> None:
    sample = taker(tmp_path).sample()
    memory = psutil.virtual_memory()
    assert sample.memory.total is not None
    assert sample.memory.available is not None
    assert sample.memory.total <= memory.total
    if sample.memory.total == memory.total:  # no limit of a container
        assert abs(sample.memory.available - memory.available) < 0.1 * memory.total
    assert sample.cpu.count == psutil.cpu_count()
    assert sample.cpu.percent is None
    assert sample.swap.total is not None
    disk, usage = sample.disks[0], psutil.disk_usage(str(tmp_path))
    assert disk.total == usage.total
    assert disk.percent is not None
    assert abs(disk.percent - usage.percent) < 2
    assert sample.uptime_seconds is not None
    assert sample.uptime_seconds > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processors_that_have_something_to_do() -> None:
    sampler = taker()
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == "ready\n"
        sampler.sample()
        before = psutil.cpu_times()
        assert busy.stdout.readline() == "done\n"
        sample = sampler.sample()
        after = psutil.cpu_times()
    total = sum(after) - sum(before) - (after.guest - before.guest)
    idle = after.idle - before.idle + after.iowait - before.iowait
    assert sample.cpu.percent is not None
    # The process used half a second of processor time, so the load is not 0.
    assert sample.cpu.percent > 0
    # Some core is at least as busy as the average; each value is rounded on its own.
    assert max(core or 0 for core in sample.cpu.per_core) >= sample.cpu.percent - 1
    assert abs(sample.cpu.percent - 100 * (total - idle) / total) < 15


def test_the_library_for_gpus_is_loaded_only_where_it_is_asked_for() -> None:
    program = (
        "import sys\n"
        "import cyber_inference_tui.monitor.memory_reader as reader\n"
        "import cyber_inference_tui.monitor.sampler as sampler\n"
        "reader.MemoryReader(), sampler.MachineSampler()\n"
        "sys.exit('pynvml' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_sampler_keeps_no_more_files_open_with_time(tmp_path: Path) -> None:
    sampler = taker(tmp_path)
    sampler.sample()
    process = psutil.Process()
    before = process.num_fds()
    for _ in range(50):
        sampler.sample()
    assert process.num_fds() == before
