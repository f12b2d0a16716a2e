"""Main memory and its limits, GPUs with their own memory, and the memory of processes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from cyber_inference_tui.monitor.main_memory import MainMemoryReading, read_by_psutil, vm_stat
from cyber_inference_tui.monitor.memory_reader import MemoryReader
from cyber_inference_tui.monitor.memory_reading import GpuMemory, ProcessMemory
from cyber_inference_tui.monitor.nvml import Nvml, visible_gpus
from tests.monitor.clock import Clock
from tests.monitor.fake_nvml import (
    GIB,
    NOT_SUPPORTED,
    UNINITIALIZED,
    UNKNOWN,
    FakeGpu,
    FakeNvml,
    functions,
)

KIB = 1024
MIB = 1 << 20
MEMINFO = """\
MemTotal:        8000000 kB
MemFree:         1000000 kB
MemAvailable:    5000000 kB
Cached:          4500000 kB
Shmem:            300000 kB
SwapTotal:       4000000 kB
SwapFree:        4000000 kB
"""


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def no_nvml() -> Nvml:
    return Nvml(load=lambda: None)


def reader(root: Path) -> MemoryReader:
    return MemoryReader(root, no_nvml(), container=root)


def test_main_memory(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO})
    reading = reader(tmp_path).read()
    assert (reading.total, reading.available) == (8_000_000 * KIB, 5_000_000 * KIB)
    assert reading.gpus == ()
    assert reading.processes == {}


def test_swap_is_no_room_and_shared_memory_no_cache_on_old_kernels(tmp_path: Path) -> None:
    lines = [line for line in MEMINFO.splitlines() if "MemAvailable" not in line]
    write(tmp_path, {"proc/meminfo": "\n".join(lines) + "\n"})
    assert reader(tmp_path).read().available == (1_000_000 + 4_500_000 - 300_000) * KIB


def test_it_follows_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO})
    memory = reader(tmp_path)
    before = memory.read().available
    write(tmp_path, {"proc/meminfo": MEMINFO.replace("5000000", "4000000")})
    assert before - memory.read().available == 1_000_000 * KIB


V2 = "0::/system.slice/models.service\n"
V1 = "12:cpu,cpuacct:/\n4:memory:/docker/4f1\n0::/\n"
NO_LIMIT = "9223372036854771712\n"


@pytest.mark.parametrize(
    ("files", "total", "available"),
    [
        # A container: its group is the root of its visible groups.
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{1 * GIB}\n",
                "sys/fs/cgroup/memory.stat": f"anon 1\nactive_file 7\ninactive_file {MIB}\n",
            },
            2 * GIB,
            GIB + MIB + 7,
        ),
        # Weights that were read twice are active pages; locked pages are in neither list.
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{2 * GIB - MIB}\n",
                "sys/fs/cgroup/memory.stat": f"anon {100 * MIB}\nfile {1900 * MIB}\n"
                f"shmem {50 * MIB}\nfile_dirty {20 * MIB}\nfile_writeback {10 * MIB}\n"
                f"inactive_anon 0\ninactive_file {40 * MIB}\nactive_file {1700 * MIB}\n"
                f"unevictable {110 * MIB}\nslab_reclaimable {5 * MIB}\n",
            },
            2 * GIB,
            (1 + 40 + 1700 - 20 - 10 + 5) * MIB,
        ),
        # The lists contain more than the pages of files without shared memory.
        (
            {
                "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.stat": f"file {900 * MIB}\nshmem {300 * MIB}\n"
                f"active_file {900 * MIB}\n",
            },
            2 * GIB,
            600 * MIB,
        ),
        # Without the lists: all pages of files except shared memory.
        (
            {
                "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.stat": f"file {900 * MIB}\nshmem {300 * MIB}\n",
            },
            2 * GIB,
            600 * MIB,
        ),
        # A service of systemd with MemoryMax, and a smaller one on the slice above it.
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/system.slice/models.service/memory.max": f"{3 * GIB}\n",
                "sys/fs/cgroup/system.slice/models.service/memory.current": f"{MIB}\n",
                "sys/fs/cgroup/system.slice/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/system.slice/memory.current": f"{2 * MIB}\n",
            },
            2 * GIB,
            2 * GIB - 2 * MIB,
        ),
        # No limit, and a limit beyond the machine's memory.
        (
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"},
            8_000_000 * KIB,
            5_000_000 * KIB,
        ),
        (
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{64 * GIB}\n"},
            8_000_000 * KIB,
            5_000_000 * KIB,
        ),
        # The limit leaves more than the machine has free.
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{7 * GIB}\n",
                "sys/fs/cgroup/memory.current": "4096\n",
            },
            7 * GIB,
            5_000_000 * KIB,
        ),
        # Version 1, in a container that sees the host's path but not the host's directory.
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 5\ntotal_inactive_file 4096\n"
                f"active_file 6\ntotal_active_file {MIB}\ndirty 7\ntotal_dirty 1024\n",
            },
            2 * GIB,
            GIB + MIB + 3072,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT,
                "sys/fs/cgroup/memory/docker/4f1/memory.limit_in_bytes": f"{GIB}\n",
                "sys/fs/cgroup/memory/docker/4f1/memory.usage_in_bytes": f"{2 * MIB}\n",
            },
            GIB,
            GIB - 2 * MIB,
        ),
        # The use exceeds the limit; the use is unknown.
        (
            {
                "sys/fs/cgroup/memory.max": f"{GIB}\n",
                "sys/fs/cgroup/memory.current": f"{2 * GIB}\n",
            },
            GIB,
            0,
        ),
        ({"sys/fs/cgroup/memory.max": f"{GIB}\n"}, GIB, 0),
        # A path that leads out of the visible groups.
        (
            {"proc/self/cgroup": "0::/../../x\n", "sys/memory.max": "4096\n"},
            8_000_000 * KIB,
            5_000_000 * KIB,
        ),
    ],
)
def test_limits_of_groups(
    tmp_path: Path, files: dict[str, str], total: int, available: int
) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO, **files})
    reading = reader(tmp_path).read()
    assert (reading.total, reading.available) == (total, available)


def test_the_container_has_the_limit_and_the_host_the_memory(tmp_path: Path) -> None:
    host, container = tmp_path / "host", tmp_path / "container"
    write(host, {"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "4096\n"})
    write(
        container,
        {
            "proc/meminfo": "MemTotal: 1 kB\nMemAvailable: 1 kB\n",
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/memory.current": "0\n",
        },
    )
    reading = MemoryReader(host, no_nvml(), container=container).read()
    assert (reading.total, reading.available) == (GIB, GIB)


def test_caches_that_count_as_available_are_named(tmp_path: Path) -> None:
    arcstats = (
        "13 1 0x01 147 39984 5340 123\nname                            type data\n"
        f"c                               4    {2 * GIB}\n"
        f"c_min                           4    {GIB // 2}\n"
        f"size                            4    {2 * GIB}\n"
        "size_extra                      4    99\n"
    )
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/spl/kstat/zfs/arcstats": arcstats})
    reading = reader(tmp_path).read()
    assert reading.zfs_cache == 3 * GIB // 2
    assert reading.cache == 4_000_000 * KIB
    assert reading.available == 5_000_000 * KIB + reading.zfs_cache
    # Under a limit that leaves less, only the cache of the container counts.
    write(
        tmp_path,
        {
            "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory.current": f"{GIB}\n",
            "sys/fs/cgroup/memory.stat": f"inactive_file {MIB}\nactive_file {MIB}\n",
        },
    )
    limited = reader(tmp_path).read()
    assert (limited.available, limited.cache, limited.zfs_cache) == (GIB + 2 * MIB, 2 * MIB, 0)


@pytest.mark.parametrize("content", ["", "size 4 x\n", "size 4 5\nc_min 4 9\n", "c_min 4 1\n"])
def test_a_zfs_cache_that_is_small_or_unreadable_adds_nothing(tmp_path: Path, content: str) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/spl/kstat/zfs/arcstats": content})
    assert reader(tmp_path).read().available == 5_000_000 * KIB


ZONEINFO = """\
Node 0, zone   Normal
  pages free     4718592
        min      9001
        count    7
        managed  1998848
  pagesets
    cpu: 0
              count:    35490
              high:     35908
    cpu: 1
              count:    510
              high:     35908
"""


def test_free_pages_that_cores_keep_are_available(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/zoneinfo": ZONEINFO})
    reading = reader(tmp_path).read()
    assert reading.available == 5_000_000 * KIB + 36_000 * os.sysconf("SC_PAGE_SIZE")
    assert reading.cache == 4_000_000 * KIB
    # More than there is, in a damaged file.
    write(tmp_path, {"proc/zoneinfo": "              count:    999999999999\n"})
    assert reader(tmp_path).read().available == reader(tmp_path).read().total


def test_the_pages_of_another_machine_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, LXCFS replaces the file of the memory, and not that of the zones."""
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/zoneinfo": ZONEINFO})
    real = Path.stat

    def mounted(path: Path, **options: Any) -> os.stat_result:
        found = real(path, **options)
        if path.name != "meminfo":
            return found
        return os.stat_result([*found[:2], found.st_dev + 1, *found[3:10]])

    monkeypatch.setattr(Path, "stat", mounted)
    assert reader(tmp_path).read().available == 5_000_000 * KIB


def status(anon: int, file: int, shared: int = 0, locked: int = 0) -> str:
    return (
        f"Name:\tllama-server\nState:\tS (sleeping)\nVmLck:\t{locked:8} kB\n"
        f"VmRSS:\t{anon + file + shared:8} kB\n"
        f"RssAnon:\t{anon:8} kB\nRssFile:\t{file:8} kB\nRssShmem:\t{shared:8} kB\nThreads:\t3\n"
    )


def test_processes_with_their_descendants(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/100/status": status(1000, 20000, 50),
            "proc/100/task/100/children": "101 ",
            "proc/100/task/107/children": "102 103 ",
            "proc/101/status": status(10, 1),
            "proc/101/task/101/children": "104 100 101 ",  # a circle cannot be, and must not hang
            "proc/102/status": status(20, 2),
            "proc/102/task/102/children": "-1 0 x 1_0 " + "9" * 5000,
            "proc/104/status": status(40, 4),
            "proc/200/status": status(7, 8, locked=9),
            "proc/300/status": "Name:\tdone\nState:\tZ (zombie)\nThreads:\t1\n",
        },
    )
    assert reader(tmp_path).read([100, 200, 300, 400]).processes == {
        100: ProcessMemory(private=1120 * KIB, mapped=20007 * KIB),
        200: ProcessMemory(private=7 * KIB, mapped=8 * KIB, locked=8 * KIB),
    }


def test_this_machine() -> None:
    memory = psutil.virtual_memory()
    reading = MemoryReader(nvml=no_nvml()).read()
    assert 0 < reading.available <= reading.total <= memory.total
    if reading.total == memory.total:  # no limit of a container
        assert abs(reading.available - memory.available) < 0.1 * memory.total


def test_a_system_without_proc_is_asked_in_another_way(tmp_path: Path) -> None:
    reading = reader(tmp_path).read()
    assert reading.total == psutil.virtual_memory().total
    assert 0 < reading.available <= reading.total


# The output of macOS 14; other lines are event counts, not pages.
VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                                3857.
Pages active:                            446206.
Pages inactive:                          443760.
Pages speculative:                         1075.
Pages throttled:                              0.
Pages wired down:                        181483.
Pages purgeable:                          17340.
"Translation faults":                8667427138.
Pages copy-on-write:                  156847509.
File-backed pages:                       294894.
Anonymous pages:                         596147.
Pages occupied by compressor:            442179.
"""


def test_macos_frees_files_and_purgeable_pages_but_no_programs_data() -> None:
    reading = vm_stat(VM_STAT, 24 * GIB)
    assert reading is not None
    # psutil counts 3857 + 443760 pages: 2 GB more, mostly programs' own data.
    assert reading == MainMemoryReading(
        total=24 * GIB,
        available=(3857 + 294894 + 17340) * 16384,
        cache=(294894 + 17340) * 16384,
    )


def test_a_mac_with_other_pages_and_unknown_output() -> None:
    intel = VM_STAT.replace("16384", "4096")
    assert vm_stat(intel, 8 * GIB) == MainMemoryReading(
        total=8 * GIB, available=316091 * 4096, cache=312234 * 4096
    )
    few = vm_stat("(page size of 16384 bytes)\nPages free: 10.\n", GIB)
    assert few == MainMemoryReading(total=GIB, available=163840)
    more_than_there_is = vm_stat(VM_STAT, GIB)
    assert more_than_there_is == MainMemoryReading(total=GIB, available=GIB, cache=GIB)
    for damaged in ("", "Pages free: 10.\n", VM_STAT.replace("Pages free", "Seiten"), "\0" * 99):
        assert vm_stat(damaged, GIB) is None


def test_without_vm_stat_psutil_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setenv("PATH", str(tmp_path))
    memory = read_by_psutil()
    assert memory is not None
    assert memory.total == psutil.virtual_memory().total
    assert memory.available is not None
    assert 0 < memory.available <= memory.total


CHILD = """\
import mmap, subprocess, sys
block = b"x" * (int(sys.argv[1]) << 20)
shared = mmap.mmap(-1, 8 << 20)
shared.write(b"y" * len(shared))
child = int(sys.argv[2]) and subprocess.Popen(
    [sys.executable, "-c", sys.argv[3], "32", "0", ""], stdin=subprocess.PIPE, stdout=sys.stdout
)
print("ready", flush=True)
sys.stdin.read()
"""


def test_processes_of_this_machine() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, "64", "1", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        children = psutil.Process(process.pid).children()
        gone = 2**22 - 3
        memory = MemoryReader(nvml=no_nvml()).read([process.pid, gone]).processes
        rss = sum(psutil.Process(p).memory_info().rss for p in (process.pid, children[0].pid))
        process.stdin.close()
        process.wait(60)
    assert set(memory) == {process.pid}
    found = memory[process.pid]
    assert abs(found.private + found.mapped - rss) < 0.1 * rss
    # 64 and 32 MiB of their own, and 8 MiB of shared memory in each.
    assert 112 * MIB <= found.private < 112 * MIB + 40 * MIB
    assert found.mapped > 0


def gpus(fake: FakeNvml, visible: str | None = None, clock: Clock | None = None) -> MemoryReader:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    nvml = Nvml(load=lambda: fake, clock=clock or Clock())
    return MemoryReader(Path("/nonexistent"), nvml, environment=environment)


def uuid(number: int) -> str:
    return f"GPU-{number:08x}-aaaa-bbbb-cccc-dddddddddddd"


def eight() -> FakeNvml:
    return FakeNvml(*(FakeGpu(uuid=uuid(i), total=(i + 1) * GIB, used=i * MIB) for i in range(8)))


def gib(reader: MemoryReader) -> list[int]:
    return [gpu.total // GIB for gpu in reader.read().gpus]


def test_gpus_with_their_own_memory() -> None:
    assert gpus(FakeNvml()).read().gpus == ()
    assert gpus(FakeNvml(FakeGpu())).read().gpus == (
        GpuMemory(
            name="NVIDIA GeForce RTX 4090",
            total=24 * GIB,
            free=19 * GIB,
            uuid="GPU-00000000-0000-0000-0000-000000000000",
        ),
    )
    assert gib(gpus(eight())) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2", [3]),
        ("5, 1,1", [6, 2]),
        ("1,8,2", [2]),
        ("1,x,2", [2]),
        (uuid(3), [4]),
        (f"GPU-00000007,{uuid(0)}", [8, 1]),
        ("GPU-ffffffff,1", []),
        ("MIG-1", []),
    ],
)
def test_cuda_visible_devices(visible: str, expected: list[int]) -> None:
    assert gib(gpus(eight(), visible)) == expected


def test_a_model_with_a_variable_of_its_own_sees_other_cards() -> None:
    reading = gpus(eight(), "6,7").read(variables={"0", uuid(7), ""})
    assert [gpu.total // GIB for gpu in reading.gpus] == [7, 8]
    assert {
        variable: [gpu.total // GIB for gpu in seen]
        for variable, seen in reading.gpus_by_variable.items()
    } == {"0": [1], uuid(7): [8], "": []}


def test_no_entry_of_cuda_visible_devices_is_too_strange() -> None:
    assert visible_gpus("²") == []
    assert visible_gpus("1_0") == []
    assert visible_gpus("0" * 5000 + ",1") == []


@pytest.mark.parametrize(
    "gpu",
    [
        FakeGpu(name="Orin (nvgpu)", total=8 * GIB, used=GIB),  # figures that mean nothing
        FakeGpu(name="NVIDIA Thor", total=None, used=None),
        FakeGpu(name="NVIDIA GB10", total=None, used=None),
        FakeGpu(name=b"NVIDIA Tegra", total=1, used=0),
        FakeGpu(total=0, used=0),
        FakeGpu(total=None),
        FakeGpu(total=GIB, used=2 * GIB),
    ],
)
def test_gpus_that_share_memory_are_none(gpu: FakeGpu) -> None:
    other = FakeGpu(uuid=uuid(1), total=2 * GIB, used=0)
    assert gib(gpus(FakeNvml(gpu, other))) == [2]


def test_mig() -> None:
    parts = [FakeGpu(uuid=f"MIG-{i}", total=(10 + i) * GIB, used=0) for i in range(3)]
    whole = FakeGpu(name="NVIDIA H100", uuid=uuid(0), total=80 * GIB, instances=[*parts])
    other = FakeGpu(name="NVIDIA H100", uuid=uuid(1), total=81 * GIB, used=0, instances=[])
    fake = FakeNvml(whole, other)
    assert gib(gpus(fake)) == [10, 81]
    assert gib(gpus(fake, "MIG-2")) == [12]
    assert gib(gpus(fake, "MIG-1,MIG-9,1")) == [11]
    assert gib(gpus(fake, "1,0")) == [81, 10]


@pytest.mark.parametrize("function", functions())
@pytest.mark.parametrize(
    "error", [NOT_SUPPORTED, UNINITIALIZED, UNKNOWN, AttributeError("no such symbol")]
)
def test_every_call_may_fail(function: str, error: int | Exception) -> None:
    fake, clock = FakeNvml(FakeGpu(uuid=uuid(0), instances=[])), Clock()
    memory = gpus(fake, uuid(0), clock)
    fake.fails[function] = error
    for _ in range(3):
        assert len(memory.read().gpus) <= 1
        clock.advance(31)
    fake.fails.clear()
    clock.advance(31)
    memory.read()
    clock.advance(31)
    assert gib(memory) == [24]


def test_a_driver_that_goes_away_and_comes_back() -> None:
    fake, clock = FakeNvml(FakeGpu(), FakeGpu(uuid=uuid(1))), Clock()
    memory = gpus(fake, clock=clock)
    assert gib(memory) == [24, 24]
    fake.driver = False
    assert gib(memory) == []
    fake.driver = True
    assert gib(memory) == []  # it is not asked again at once
    clock.advance(30)
    assert gib(memory) == [24, 24]
    assert fake.starts == 2


def test_one_lost_gpu_of_two() -> None:
    fake, clock = FakeNvml(FakeGpu(), FakeGpu(uuid=uuid(1))), Clock()
    memory = gpus(fake, clock=clock)
    fake.gpus[0].lost = True
    assert gib(memory) == [24]
    clock.advance(31)
    assert gib(memory) == [24]
    fake.gpus[0].lost = False
    clock.advance(31)
    assert gib(memory) == [24, 24]


def test_the_driver_is_asked_for_at_most_every_30_seconds() -> None:
    clock = Clock()
    asked: list[float] = []
    nvml = Nvml(load=lambda: asked.append(clock.now), clock=clock)
    for _ in range(100):
        assert nvml.gpus() == ()
        clock.advance(1)
    assert asked == [1000, 1030, 1060, 1090]


def test_after_a_fork_it_starts_again() -> None:
    fake = FakeNvml(FakeGpu())
    nvml = Nvml(load=lambda: fake, clock=Clock())
    assert len(nvml.gpus()) == 1
    pid = os.fork()
    if pid == 0:
        nvml.gpus()
        nvml.gpus()
        os._exit(10 + fake.starts)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 12
    nvml.gpus()
    assert fake.starts == 1


def amd(root: Path, card: str, files: dict[str, str]) -> None:
    write(root, {f"sys/class/drm/{card}/device/{name}": text for name, text in files.items()})


def test_amd(tmp_path: Path) -> None:
    discrete = {
        "vendor": "0x1002\n",
        "device": "0x744c\n",
        "mem_info_vram_total": f"{24 * GIB}\n",
        "mem_info_vram_used": f"{2 * GIB}\n",
        "hwmon/hwmon4/freq2_input": "96000000\n",
    }
    carved = {
        "vendor": "0x1002\n",
        "device": "0x1586\n",
        "mem_info_vram_total": f"{GIB}\n",
        "mem_info_vram_used": f"{MIB}\n",
    }
    amd(tmp_path, "card1", discrete)
    amd(tmp_path, "card0", carved)
    amd(tmp_path, "card2", {"vendor": "0x8086\n"})
    amd(tmp_path, "card1-DP-1", {"vendor": "0x1002\n"})
    memory = reader(tmp_path)
    card = GpuMemory(name="AMD GPU 744c", total=24 * GIB, free=22 * GIB, uuid="amd-1")
    assert memory.read().gpus == (card,)
    # Most of the memory is reserved for an APU and hidden from the rest of the system.
    amd(tmp_path, "card0", {"mem_info_vram_total": f"{64 * GIB}\n"})
    assert [gpu.total // GIB for gpu in memory.read().gpus] == [64, 24]
