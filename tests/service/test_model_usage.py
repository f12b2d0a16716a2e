from __future__ import annotations

import asyncio
from pathlib import Path

from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.slots import Task
from cyber_inference_tui.monitor.memory_reading import ProcessMemory
from cyber_inference_tui.monitor.processes import ProcessUsage
from cyber_inference_tui.records import GpuRecord, ModelUsage
from cyber_inference_tui.service.model_usage import (
    LoadedModel,
    ProcessMeter,
    TokenMeters,
    compose_usage,
    gpu_bytes,
)
from tests.monitor.clock import Clock

STATUS = "VmRSS:\t6 kB\nRssAnon:\t{0} kB\nRssFile:\t2 kB\nRssShmem:\t1 kB\nThreads:\t{1}\n"
STAT = "{pid} (odd) name) S 1 1 1 0 -1 4194304 1 0 0 0 {user} {system} 9 9 20 0 1 0 100 1 1\n"


def put(
    root: Path, pid: int, *, user: int, system: int, children: str = "", threads: int = 1
) -> None:
    folder = root / "proc" / str(pid)
    task = folder / "task" / str(pid)
    task.mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text(STATUS.format(3, threads))
    (folder / "stat").write_text(STAT.format(pid=pid, user=user, system=system))
    (task / "children").write_text(children)


def loaded(
    *, in_flight: int = 0, finished: int = 0, device: int | None = None, has_slots: bool = True
) -> LoadedModel:
    return LoadedModel(
        id="m",
        pid=10,
        address=ServerAddress("127.0.0.1", 1, "server-key"),
        in_flight=in_flight,
        device_bytes=device,
        tokens_out=lambda: finished,
        has_slots=has_slots,
    )


def test_processor_time_is_that_of_all_descendants_since_the_last_call(tmp_path: Path) -> None:
    clock = Clock()
    meter = ProcessMeter(clock, tmp_path)
    put(tmp_path, 10, user=100, system=50, children="11 ")
    put(tmp_path, 11, user=10, system=0)
    ((usage, cpu),) = meter.read([10, 999]).values()
    assert usage.pids == (10, 11)
    assert usage.memory == ProcessMemory(private=8 * 1024, mapped=4 * 1024)
    assert cpu is None
    # Ticks are hundredths of a second on every Linux that Python runs on.
    put(tmp_path, 10, user=300, system=100, children="11 ")
    put(tmp_path, 11, user=60, system=0)
    clock.advance(2)
    assert meter.read([10])[10][1] == 150.0
    # The time of a descendant that has ended is lost; the result is not negative.
    put(tmp_path, 10, user=301, system=100)
    clock.advance(1)
    assert meter.read([10])[10][1] is None


def test_children_of_a_process_with_many_threads_are_looked_up_seldom(tmp_path: Path) -> None:
    clock = Clock()

    def first_seen(threads: int) -> int:
        """Return how many seconds after 400 without it a new child is seen."""
        meter = ProcessMeter(clock, tmp_path)
        put(tmp_path, 10, user=1, system=0, threads=threads)
        put(tmp_path, 11, user=1, system=0)
        for _ in range(400):
            assert meter.read([10])[10][0].pids == (10,)
            clock.advance(1)
        put(tmp_path, 10, user=1, system=0, threads=threads, children="11 ")
        for second in range(100):
            if meter.read([10])[10][0].pids == (10, 11):
                return second
            clock.advance(1)
        raise AssertionError("it is not seen")

    assert first_seen(1) == 0
    assert 1 < first_seen(270) <= 60


def test_a_new_process_is_looked_at_often(tmp_path: Path) -> None:
    clock = Clock()
    meter = ProcessMeter(clock, tmp_path)
    put(tmp_path, 10, user=1, system=0, threads=270)
    put(tmp_path, 11, user=1, system=0)
    for _ in range(8):
        meter.read([10])
        clock.advance(0.25)
    put(tmp_path, 10, user=1, system=0, threads=270, children="11 ")
    clock.advance(0.5)
    assert meter.read([10])[10][0].pids == (10, 11)


def test_damaged_or_missing_figures_are_none(tmp_path: Path) -> None:
    meter = ProcessMeter(Clock(), tmp_path)
    put(tmp_path, 10, user=1, system=1)
    for text in ("", "10 (x) S 1", "10 (x) " + "S " * 30, "no parenthesis at all", "10 (x"):
        (tmp_path / "proc/10/stat").write_text(text)
        assert meter.read([10])[10][0].cpu_ms is None
    assert meter.read([12]) == {}


def test_only_the_machines_own_pids_are_those_of_its_drivers(tmp_path: Path) -> None:
    assert not ProcessMeter(Clock(), tmp_path).sees_the_drivers_pids
    link = tmp_path / "proc/self/ns/pid"
    link.parent.mkdir(parents=True)
    for target, same in (("pid:[4026531836]", True), ("pid:[4026532201]", False)):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert ProcessMeter(Clock(), tmp_path).sees_the_drivers_pids is same


def test_gpu_memory_is_summed_over_gpus_and_descendants() -> None:
    first = GpuRecord(name="a", processes={10: 100, 11: 20, 99: 7})
    second = GpuRecord(name="b", processes={10: 3})
    mute = GpuRecord(name="c", processes=None)
    assert gpu_bytes([10, 11], [first, second, mute]) == 123
    assert gpu_bytes([12], [first, second]) is None
    assert gpu_bytes([10], [first, GpuRecord(name="d", processes={10: None})]) is None
    assert gpu_bytes([10], []) is None


def test_the_drivers_figure_wins_over_the_servers() -> None:
    usage = ProcessUsage(pids=(10,), memory=ProcessMemory(private=5, mapped=6), cpu_ms=1)
    gpus = [GpuRecord(name="a", processes={10: 100})]
    expected = ModelUsage(
        id="m",
        pid=10,
        cpu_percent=12.5,
        memory_private_bytes=5,
        memory_mapped_bytes=6,
        gpu_memory_bytes=100,
        in_flight=2,
        tokens_per_second=3.5,
    )
    model = loaded(in_flight=2, device=77)
    assert compose_usage([model], {10: (usage, 12.5)}, gpus, {"m": 3.5}) == (expected,)
    (without,) = compose_usage([model], {}, [], {})
    assert without == ModelUsage(id="m", pid=10, gpu_memory_bytes=77, in_flight=2)
    (unknown,) = compose_usage([loaded()], {}, [], {})
    assert unknown.gpu_memory_bytes is None


class Server:
    """Answers for a llama-server; ``asked`` counts the requests."""

    def __init__(self) -> None:
        self.asked = 0
        self.tasks: tuple[Task, ...] | None = ()
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, server: ServerAddress) -> tuple[Task, ...] | None:
        self.asked += 1
        await self.gate.wait()
        return self.tasks


async def test_only_a_busy_server_is_asked_and_about_once_a_second() -> None:
    clock, server = Clock(), Server()
    meters = TokenMeters(server.ask, clock)
    assert await meters.read([loaded()]) == {"m": None}
    clock.advance(1)
    assert await meters.read([loaded()]) == {"m": 0}
    assert await meters.read([loaded(in_flight=1, has_slots=False)]) == {}
    assert server.asked == 0
    for _ in range(10):
        clock.advance(0.2)
        server.tasks = (Task(0, 1, int((clock.now - 1000) * 50)),)
        rates = await meters.read([loaded(in_flight=1)])
    assert server.asked == 2
    assert rates == {"m": 50}
    await meters.close()


async def test_a_server_that_does_not_answer_delays_nobody_and_is_asked_once() -> None:
    clock, server = Clock(), Server()
    meters = TokenMeters(server.ask, clock)
    await meters.read([loaded()])
    clock.advance(1)
    await meters.read([loaded()])
    server.gate.clear()
    for _ in range(4):
        clock.advance(1)
        rates = await meters.read([loaded(in_flight=1)])
    assert (server.asked, rates) == (1, {"m": None})
    await meters.close()


async def test_a_new_server_of_a_model_starts_a_new_count() -> None:
    clock, server = Clock(), Server()
    meters = TokenMeters(server.ask, clock)
    await meters.read([loaded(finished=500)])
    clock.advance(1)
    assert await meters.read([loaded(finished=600)]) == {"m": 100}
    clock.advance(1)
    assert await meters.read([]) == {}
    clock.advance(1)
    assert await meters.read([loaded()]) == {"m": None}
