"""Launches of servers, and every way that they end: with the stand-in and the real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import ModelLoadError, NoLlamaServerError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.binary import LlamaBinary, find_llama_server
from cyber_inference_tui.llama.health import DEFAULT_LIMITS, HealthLimits, ask_health
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.launcher import Launcher
from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.llama.needs import Footprint, LoadWatch
from cyber_inference_tui.llama.orphans import PidRecord, ServerPid
from cyber_inference_tui.llama.server import ServerProcess
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.llama.standstill import StandstillLimits, look_at
from cyber_inference_tui.settings.schema import ModelSettings, Settings
from tests.fakes.launcher import SCRIPT, write_fake_llama
from tests.llama.children import HOST, wait_gone
from tests.llama.demo import write_demo
from tests.tools import tool
from tests.waiting import LIMIT, is_alive, until

REAL = "CYBER_TEST_LLAMA_SERVER"
DEADLOCK = Path(__file__).parent.parent / "fakes/deadlock.c"


class Room:
    """A launcher with all its arguments."""

    def __init__(
        self,
        folder: Path,
        find: Callable[[], LlamaBinary],
        *,
        health: HealthLimits = DEFAULT_LIMITS,
        runs_in: Path = Path("/"),
    ) -> None:
        self.folder = folder
        self.logs: dict[str, Log] = {}
        self.progress: list[float | None] = []
        self.pids_path = folder / "servers.json"
        self.launcher = Launcher(
            find_binary=find,
            log_for=self.log_for,
            pids=PidRecord(self.pids_path),
            environ={"PATH": os.defpath, "HF_TOKEN": "secret"},
            health=health,
            folder=runs_in,
        )

    def log_for(self, model_id: str) -> Log:
        return self.logs.setdefault(model_id, Log(now=lambda: datetime.now(UTC)))

    def text(self, model_id: str = "m") -> str:
        return "\n".join(line.text for line in self.log_for(model_id).tail(10**6))

    async def launch(
        self,
        model: LocalModel,
        *,
        context_limit: int | None = None,
        measure: bool = True,
        busy: Callable[[], bool] = lambda: False,
        watch: LoadWatch | None = None,
        **general: Any,
    ) -> ServerProcess:
        settings = Settings(**{"llama_server_base_port": 0, **general})
        spec = resolve(model, settings)
        return await self.launcher.launch(
            spec if context_limit is None else spec.with_context(context_limit),
            settings,
            self.progress.append,
            measure=measure,
            busy=busy,
            watch=watch,
        )

    def recorded(self) -> list[int]:
        """Return the recorded pids."""
        if not self.pids_path.exists():
            return []
        known = msgspec.json.decode(self.pids_path.read_bytes(), type=list[ServerPid])
        return [server.pid for server in known]

    def starts(self) -> list[dict[str, Any]]:
        """Return every start of a stand-in that keeps a state file."""
        path = self.folder / "state"
        if not path.exists():
            return []  # it was ended before it came so far
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        return [entry for entry in entries if entry["what"] == "start"]

    def assert_nothing_left(self) -> None:
        assert self.recorded() == []
        assert not any(is_alive(start["pid"]) for start in self.starts())


def fake_binary(folder: Path, *, router_child: bool = True) -> LlamaBinary:
    path = write_fake_llama(folder / "bin" / "llama-server", router_child=router_child)
    return LlamaBinary(
        path=path,
        version="fake",
        flags=frozenset({"--cache-ram", "--threads-http", "--offline", "--verbosity"}),
        trace_level=4,
        router_child=router_child,
    )


@pytest.fixture(params=[True, False], ids=["protocol", "health"])
async def room(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Room]:
    """Return a launcher of stand-ins, as builds with and without the protocol."""
    binary = fake_binary(tmp_path, router_child=request.param)
    made = Room(tmp_path, lambda: binary)
    await made.launcher.start()
    yield made
    await made.launcher.close()


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., LocalModel]:
    """Return a function that makes the model ``m`` with switches for its server."""

    def make(**switches: Any) -> LocalModel:
        switches.setdefault("state", str(tmp_path / "state"))
        return LocalModel(
            id="m",
            path=tmp_path / "m.gguf",
            settings=ModelSettings(env={"FAKE_LLAMA": json.dumps(switches)}),
        )

    return make


Make = Callable[..., LocalModel]


async def get(server: ServerAddress, path: str) -> bytes:
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection(*server[:2])
        head = b"GET %b HTTP/1.1\r\n%bConnection: close\r\n\r\n"
        writer.write(head % (path.encode(), server.headers))
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        assert length is not None
        answer += await reader.readexactly(int(length[1]))
        writer.close()
        await writer.wait_closed()
    return answer


async def test_a_launched_server_answers_and_is_on_record_until_it_is_gone(
    room: Room, model: Make
) -> None:
    server = await room.launch(model())
    assert (await get(server.address, "/health")).startswith(b"HTTP/1.1 200")
    assert room.recorded() == [server.pid]
    assert "--- starting: " in room.text()
    assert await server.stop(30) == 0
    room.assert_nothing_left()


async def test_each_start_of_a_server_is_a_run_of_the_log(room: Room, model: Make) -> None:
    log = room.log_for("m")
    log.add(["before"])
    firsts, pids = [], []
    for _ in range(2):
        firsts.append(log.end)
        server = await room.launch(model())
        pids.append(server.pid)
        assert log.running
        await server.stop(30)
        assert not log.running
    runs = log.kept_runs()
    assert [(run.first, run.pid) for run in runs] == list(zip(firsts, pids, strict=True))
    starts = [n for n, line in enumerate(log.tail(10**6)) if line.text.startswith("--- starting")]
    assert starts == firsts


async def test_a_server_that_dies_in_its_load_is_an_error_with_reason_and_last_lines(
    room: Room, model: Make
) -> None:
    line = "0.00.002.000 E cudaMalloc failed: out of memory"
    with pytest.raises(ModelLoadError) as error:
        await room.launch(model(die={"stderr": [line]}))
    assert error.value.message == (
        "m could not be loaded: out of GPU memory (its server exited with code 1: "
        "cudaMalloc failed: out of memory)."
    )
    assert error.value.log_tail[-1] == line
    assert error.value.out_of_memory
    room.assert_nothing_left()


async def test_a_load_that_the_kernel_kills_was_out_of_memory(room: Room, model: Make) -> None:
    with pytest.raises(ModelLoadError, match="the kernel does that") as error:
        await room.launch(model(die={"stderr": ["I loading"], "signal": "SIGKILL"}))
    assert error.value.out_of_memory


async def test_the_reason_is_looked_for_in_this_loads_lines_only(room: Room, model: Make) -> None:
    with pytest.raises(ModelLoadError):
        await room.launch(model(die={"stderr": ["E cudaMalloc failed: out of memory"]}))
    with pytest.raises(ModelLoadError, match="does not know the architecture") as error:
        await room.launch(model(die={"stderr": ["E unknown model architecture: 'new'"]}))
    assert not any("cudaMalloc" in line for line in error.value.log_tail)


async def test_a_load_that_hangs_is_given_up_after_load_timeout(room: Room, model: Make) -> None:
    with pytest.raises(ModelLoadError, match=r"no progress for 0\.5 s") as error:
        await room.launch(model(hang_load=True), load_timeout=0.5, stop_timeout=10)
    assert "load_timeout" in error.value.hint
    room.assert_nothing_left()


@pytest.mark.parametrize("cancels", [1, 3])
async def test_a_cancelled_launch_returns_only_when_the_process_is_gone(
    room: Room, model: Make, cancels: int
) -> None:
    heard = asyncio.Event()
    room.log_for("m").listeners.append(
        lambda batch: heard.set() if b"loading model" in batch.data else None
    )
    # It ignores SIGTERM, so the stop takes long enough for the further cancels.
    launch = asyncio.ensure_future(
        room.launch(model(hang_load=True, ignore_sigterm=True), stop_timeout=0.3)
    )
    await heard.wait()
    for _ in range(cancels):
        launch.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await launch
    room.assert_nothing_left()
    assert [task for task in asyncio.all_tasks() if not task.get_name().startswith("keep ")] == [
        asyncio.current_task()
    ]


async def test_a_port_that_somebody_took_in_the_meantime_is_stepped_over(
    room: Room, model: Make
) -> None:
    taken = {"stderr": ["E srv start: couldn't bind HTTP server socket"]}
    server = await room.launch(model(die=taken, die_first=1))
    starts = room.starts()
    ports = [start["argv"][start["argv"].index("--port") + 1] for start in starts]
    assert len(set(ports)) == len(ports) == 2
    assert str(server.address.port) == ports[1]
    await server.stop(30)
    room.assert_nothing_left()


async def test_ports_that_stay_taken_end_the_tries(room: Room, model: Make) -> None:
    taken = {"stderr": ["E srv start: couldn't bind HTTP server socket"]}
    with pytest.raises(ModelLoadError, match="its port is taken"):
        await room.launch(model(die=taken))
    assert len(room.starts()) == 3
    room.assert_nothing_left()


async def test_a_port_in_use_is_stepped_over_and_given_back_after_the_end(
    room: Room, model: Make
) -> None:
    with closing(socket.create_server((HOST, 0))) as listener:
        base = listener.getsockname()[1]
        first = await room.launch(model(), llama_server_base_port=base)
        second = await room.launch(model(), llama_server_base_port=base)
        assert base < first.address.port < second.address.port
        await first.stop(30)
        third = await room.launch(model(), llama_server_base_port=base)
        assert third.address.port < second.address.port
        for server in (second, third):
            await server.stop(30)
    room.assert_nothing_left()


async def test_progress_is_passed_on_if_the_build_reports_it(room: Room, model: Make) -> None:
    server = await room.launch(model(load_seconds=0.5))
    values = [value for value in room.progress if value is not None]
    assert values == sorted(values)
    assert bool(values) == server._launch.speaks_protocol
    await server.stop(30)


def reading_model(tmp_path: Path, **switches: Any) -> LocalModel:
    """Make a model of 40 MiB whose server reads a file without the protocol."""
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(4 << 20))
    switches = {"state": str(tmp_path / "state"), "protocol": False, **switches}
    return LocalModel(
        id="m",
        path=path,
        size_bytes=40 << 20,
        settings=ModelSettings(env={"FAKE_LLAMA": json.dumps(switches)}),
    )


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
async def test_a_server_without_reports_is_watched_reading(room: Room, tmp_path: Path) -> None:
    read = {"path": str(tmp_path / "m.gguf"), "mib": 25}
    model = reading_model(tmp_path, read=read, hang_load=True)
    launch = asyncio.ensure_future(room.launch(model))
    async with asyncio.timeout(LIMIT):
        while not room.progress or (room.progress[-1] or 0) < 0.5:
            await asyncio.sleep(0.05)
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch
    values = [value for value in room.progress if value is not None]
    assert values == sorted(values)
    assert values[-1] <= 0.99


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("room", [False], ids=["health"], indirect=True)
async def test_a_server_that_reads_on_has_time_without_end(room: Room, tmp_path: Path) -> None:
    # It reads longer than load_timeout, and a busy machine may hold up each step for seconds.
    read = {"path": str(tmp_path / "m.gguf"), "mib": 22, "step_seconds": 0.25}
    server = await room.launch(reading_model(tmp_path, read=read), load_timeout=5)
    await server.stop(30)


@pytest.mark.parametrize("room", [False], ids=["health"], indirect=True)
async def test_a_server_that_only_floods_its_log_is_given_up(room: Room, tmp_path: Path) -> None:
    model = reading_model(tmp_path, flood={"rate": 500}, hang_load=True)
    with pytest.raises(ModelLoadError, match=r"no progress for 3 s"):
        await room.launch(model, load_timeout=3)
    assert "flood: a plain line" in room.text()
    room.assert_nothing_left()


# Its memory


async def test_a_server_reports_its_context_and_its_memory(room: Room, model: Make) -> None:
    lines = [
        "0.00.024.243 I load_tensors:   CPU_Mapped model buffer size =     2.00 MiB",
        "0.00.024.243 I load_tensors:        CUDA0 model buffer size =     1.00 MiB",
    ]
    server = await room.launch(model(load_lines=lines), context_limit=1000)
    assert server.context_size == 1000
    assert server.footprint() == Footprint(mapped=2 << 20, device=1 << 20)
    argv = room.starts()[0]["argv"]
    assert argv[argv.index("--verbosity") + 1] == "4"
    assert argv[argv.index("--ctx-size") + 1] == "1000"
    await server.stop(30)


async def test_a_server_that_was_measured_before_is_not_asked_again(
    room: Room, model: Make
) -> None:
    server = await room.launch(model(), measure=False)
    assert "--verbosity" not in room.starts()[0]["argv"]
    assert server.footprint() is None
    await server.stop(30)


# Servers that hang


async def ended(server: ServerProcess) -> int:
    async with asyncio.timeout(60):
        return await asyncio.shield(server.exited)


QUICK = HealthLimits(interval=0.05, timeout=1.0, strikes=2)


async def test_a_server_that_hangs_is_killed_and_said_to_have_hung(
    tmp_path: Path, model: Make
) -> None:
    room = Room(tmp_path, lambda: fake_binary(tmp_path), health=QUICK)
    # Also while it has requests: llama-server still answers.
    server = await room.launch(model(), busy=lambda: True)
    os.kill(server.pid, signal.SIGSTOP)
    assert await ended(server) == -signal.SIGKILL
    why, tail = server.exit_reason()
    assert why == "it stopped answering /health (hung)"
    assert tail[-1] == f"--- killed: {why}"
    await server.stop(30)
    room.assert_nothing_left()
    assert [task for task in asyncio.all_tasks() if not task.get_name().startswith("keep ")] == [
        asyncio.current_task()
    ]


def is_locked_up(pid: int) -> bool:
    look = look_at(pid)
    return look is not None and b"futex" in look.waits_in


async def stands_still(room: Room, model: LocalModel, **general: Any) -> None:
    """Launch a server, lock its main thread up, and see it killed as soon as it has requests."""
    busy = False
    server = await room.launch(model, busy=lambda: busy, **general)
    os.kill(server.pid, signal.SIGUSR1)
    await until(lambda: is_locked_up(server.pid))
    assert await ask_health(server.address, 30) == 200
    busy = True
    assert await ended(server) == -signal.SIGKILL
    assert server.exit_reason()[0] == "it stopped working on its requests (hung)"
    await server.stop(30)


IMPATIENT = HealthLimits(standstill=StandstillLimits(interval=0.2, looks=2, timeout=0.5, strikes=2))


async def test_a_server_whose_main_thread_waits_for_itself_is_killed(
    tmp_path: Path, model: Make
) -> None:
    room = Room(tmp_path, lambda: fake_binary(tmp_path), health=IMPATIENT)
    await stands_still(room, model())


async def test_another_programs_server_may_be_silent_while_it_works(
    tmp_path: Path, model: Make
) -> None:
    room = Room(tmp_path, lambda: fake_binary(tmp_path), health=QUICK)
    words = (sys.executable, "-I", "-S", str(SCRIPT), "--host", "{host}", "--port", "{port}")
    own = msgspec.structs.replace(model().settings, command=words)
    looks = 0
    enough = asyncio.Event()

    def busy() -> bool:
        nonlocal looks
        looks += 1
        if looks == 10:
            enough.set()
        return not done

    done = False
    server = await room.launch(LocalModel(id="m", settings=own), busy=busy)
    os.kill(server.pid, signal.SIGSTOP)
    async with asyncio.timeout(LIMIT):
        await enough.wait()
    assert not server.exited.done()
    done = True
    assert await ended(server) == -signal.SIGKILL
    await server.stop(30)


async def test_a_server_can_be_declared_hung(room: Room, model: Make) -> None:
    server = await room.launch(model())
    server.declare_hung("its slots stopped (hung)")
    server.declare_hung("another reason")
    assert await ended(server) == -signal.SIGKILL
    assert server.exit_reason()[0] == "its slots stopped (hung)"
    # A server that ended in another way did not hang.
    other = await room.launch(model())
    assert await other.stop(30) == 0
    other.declare_hung("too late")
    assert other.exit_reason()[0] == "its server exited with code 0"


async def test_no_watch_is_left_when_a_server_exits(
    room: Room, model: Make, tmp_path: Path
) -> None:
    server = await room.launch(model(exit_when=str(tmp_path / "now")))
    (tmp_path / "now").touch()
    await ended(server)

    def left() -> list[asyncio.Task[Any]]:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        return [task for task in tasks if not task.get_name().startswith("keep ")]

    await until(lambda: not left(), what="the end of its tasks")


# Plans of launches


async def test_a_model_with_a_command_of_its_own_needs_no_llama_server(tmp_path: Path) -> None:
    def find() -> LlamaBinary:
        raise AssertionError("not needed")

    room = Room(tmp_path, find)
    words = (sys.executable, "-I", "-S", str(SCRIPT), "--host", "{host}", "--port", "{port}")
    model = LocalModel(id="own", settings=ModelSettings(command=(*words, "--alias", "{id}")))
    server = await room.launch(model)
    assert (await get(server.address, "/health")).startswith(b"HTTP/1.1 200")
    assert server.context_size is None
    await server.stop(30)
    assert "--alias own" in room.text("own")


@pytest.mark.parametrize("exists", [True, False])
async def test_servers_run_where_their_relative_paths_start(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "settings"
    if exists:
        (folder / "bin").mkdir(parents=True)
        (folder / "bin/python").symlink_to(sys.executable)
    room = Room(tmp_path, lambda: fake_binary(tmp_path), runs_in=folder)
    program = "bin/python" if exists else sys.executable
    words = (program, "-I", "-S", str(SCRIPT), "--host", "{host}", "--port", "{port}")
    own = LocalModel(id="own", settings=ModelSettings(command=words))
    other = LocalModel(id="m", settings=ModelSettings(), path=tmp_path / "m.gguf")
    for one in (own, other):
        server = await room.launch(one)
        assert Path(f"/proc/{server.pid}/cwd").readlink() == (folder if exists else Path("/"))
        await server.stop(30)


@pytest.mark.parametrize("program", ["missing-program", "nul\0byte", "/etc/hostname"])
async def test_a_program_that_cannot_be_run_is_said(tmp_path: Path, program: str) -> None:
    room = Room(tmp_path, lambda: fake_binary(tmp_path))
    model = LocalModel(id="own", settings=ModelSettings(command=(program,)))
    with pytest.raises(ModelLoadError, match="cannot run"):
        await room.launch(model)
    assert room.recorded() == []


async def test_a_model_with_a_problem_is_refused_and_nothing_is_started(tmp_path: Path) -> None:
    room = Room(tmp_path, lambda: fake_binary(tmp_path))
    with pytest.raises(ModelLoadError, match=r"m cannot be loaded: shard 2 of 3 is missing"):
        await room.launch(LocalModel(id="m", problem="shard 2 of 3 is missing"))
    assert room.logs == {}


async def test_without_a_llama_server_there_is_a_hint(tmp_path: Path) -> None:
    def find() -> LlamaBinary:
        raise NoLlamaServerError("No llama-server was found.", hint="Run install-llama.")

    room = Room(tmp_path, find)
    with pytest.raises(NoLlamaServerError, match="install-llama"):
        await room.launch(LocalModel(id="m", path=tmp_path / "m.gguf"))


async def test_a_start_kills_leftovers_of_a_former_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as orphan:
        room = Room(tmp_path, lambda: fake_binary(tmp_path))
        PidRecord(room.pids_path).add(orphan.pid, "old")
        await room.launcher.start()
        assert wait_gone(orphan.pid)
        await room.launcher.close()
    assert f"killed the server of old (pid {orphan.pid})" in caplog.text


async def test_a_watch_that_gives_a_reason_ends_the_load_at_once(room: Room, model: Make) -> None:
    given: list[tuple[int, ...]] = []

    async def watch(processes: Callable[[], Awaitable[tuple[int, ...]]]) -> ModelLoadError:
        while not room.text().count("loading model"):
            await asyncio.sleep(0.01)
        given.append(await processes())
        return ModelLoadError("it takes too much")

    hanging = model(hang_load=True, ignore_sigterm=True, ignore_stdin=True)
    with pytest.raises(ModelLoadError, match="too much") as error:
        await room.launch(hanging, watch=watch, stop_timeout=600.0)
    assert given == [(room.starts()[0]["pid"],)]
    assert any("loading model" in line for line in error.value.log_tail)
    room.assert_nothing_left()


async def test_a_watch_that_cannot_watch_holds_up_nothing(room: Room, model: Make) -> None:
    async def watch(processes: Callable[[], Awaitable[tuple[int, ...]]]) -> None:
        await processes()

    server = await room.launch(model(load_seconds=0.3), watch=watch)
    assert await server.stop(20) == 0


# The end of the service

SERVICE = """
import asyncio, sys
from pathlib import Path
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.settings.schema import ModelSettings
from tests.llama.test_launcher import Room, fake_binary

async def main():
    folder = Path(sys.argv[1])
    binary = fake_binary(folder)
    room = Room(folder, lambda: binary)
    await room.launcher.start()
    model = LocalModel(
        id="m", path=folder / "m.gguf", settings=ModelSettings(env={"FAKE_LLAMA": sys.argv[2]})
    )
    server = await room.launch(model)
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"ignore_stdin": True, "ignore_sigterm": True, "outlive_parent": 100},
        # Only the guard can kill this one.
        {"ignore_stdin": True, "clear_pdeathsig": True, "outlive_parent": 100},
    ],
    ids=["obedient", "deaf", "deaf and unknown to the kernel"],
)
def test_a_service_that_is_killed_leaves_no_server(
    tmp_path: Path, switches: dict[str, Any]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(tmp_path), json.dumps(switches)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        assert is_alive(pid)
        service.kill()
    assert wait_gone(pid)


# The real one


@pytest.mark.real
@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no llama-server")
async def test_the_real_llama_server_loads_the_demo_answers_and_stops(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo.gguf")
    room = Room(
        tmp_path,
        lambda: find_llama_server(setting=os.environ[REAL], data_dir=tmp_path, environ=os.environ),
    )
    await room.launcher.start()
    server = await room.launch(LocalModel(id="demo", path=tmp_path / "demo.gguf"))
    assert b'"demo"' in await get(server.address, "/v1/models")
    assert server.context_size == 8192
    took = server.footprint()
    assert took is not None
    # 5.2 MiB of weights from the file, 20 MiB of KV cache and compute buffers.
    assert 5 << 20 < took.mapped < 6 << 20
    assert 20 << 20 < took.host < 100 << 20
    assert took.device == 0
    assert "secret" not in Path(f"/proc/{server.pid}/environ").read_text()
    assert await server.stop(30) == 0

    await room.launcher.close()


REAL_FAILURES: dict[str, tuple[tuple[str, ...], str]] = {
    "cut": ((), "the model file is damaged or incomplete"),
    "garbage": ((), "the model file is damaged or incomplete"),
    "unknown": ((), "does not know the architecture"),
    "missing": ((), "a file is missing"),
    "whole": (("--no-such-flag",), r"a wrong argument .*--no-such-flag"),
}


@pytest.mark.real
@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no llama-server")
@pytest.mark.parametrize("kind", REAL_FAILURES)
async def test_the_real_llama_servers_failures_are_understood(tmp_path: Path, kind: str) -> None:
    write_demo(tmp_path / "whole.gguf")
    whole = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:100_000])
    (tmp_path / "garbage.gguf").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "unknown.gguf").write_bytes(whole.replace(b"llama", b"zzzzz"))
    arguments, reason = REAL_FAILURES[kind]
    room = Room(
        tmp_path,
        lambda: find_llama_server(setting=os.environ[REAL], data_dir=tmp_path, environ=os.environ),
    )
    model = LocalModel(
        id="m", path=tmp_path / f"{kind}.gguf", settings=ModelSettings(args=arguments)
    )
    with pytest.raises(ModelLoadError, match=reason) as error:
        await room.launch(model)
    assert not error.value.out_of_memory
    assert room.recorded() == []


@pytest.mark.real
@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no llama-server")
async def test_a_stopped_real_llama_server_is_noticed(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo.gguf")
    room = Room(
        tmp_path,
        lambda: find_llama_server(setting=os.environ[REAL], data_dir=tmp_path, environ=os.environ),
        health=QUICK,
    )
    server = await room.launch(LocalModel(id="demo", path=tmp_path / "demo.gguf"))
    os.kill(server.pid, signal.SIGSTOP)
    await ended(server)
    assert server.exit_reason()[0] == "it stopped answering /health (hung)"
    await server.stop(30)


@pytest.mark.real
@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no llama-server")
async def test_a_deadlock_of_a_real_llama_server_is_noticed(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo.gguf")
    library = tmp_path / "deadlock.so"
    command = [tool("cc"), "-shared", "-fPIC", "-o", str(library), str(DEADLOCK)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("the library that makes a deadlock is for Linux with glibc")
    room = Room(
        tmp_path,
        lambda: find_llama_server(setting=os.environ[REAL], data_dir=tmp_path, environ=os.environ),
        health=IMPATIENT,
    )
    settings = ModelSettings(env={"LD_PRELOAD": str(library)})
    model = LocalModel(id="demo", path=tmp_path / "demo.gguf", settings=settings)
    await stands_still(room, model, confine_servers=False)


@pytest.mark.real
@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no llama-server")
async def test_the_real_llama_server_out_of_memory_is_understood(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo.gguf")
    room = Room(tmp_path, lambda: fake_binary(tmp_path))
    # 2.4 GB of KV cache in 0.9 GB of address space.
    words = f'ulimit -v 900000; exec "{os.environ[REAL]}" --model "{tmp_path}/demo.gguf"'
    rest = "--host {host} --port {port} --ctx-size 1000000 --cache-ram 0"
    model = LocalModel(id="m", settings=ModelSettings(command=("/bin/sh", "-c", f"{words} {rest}")))
    with pytest.raises(ModelLoadError, match=r"out of memory .*insufficient memory") as error:
        await room.launch(model)
    assert error.value.out_of_memory


@pytest.mark.real
@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no llama-server")
async def test_the_real_llama_server_without_its_libraries_is_understood(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    shutil.copyfile(Path(os.environ[REAL]).resolve(), program)
    program.chmod(0o755)
    room = Room(tmp_path, lambda: fake_binary(tmp_path))
    with pytest.raises(ModelLoadError, match="a shared library is missing"):
        await room.launch(LocalModel(id="m", settings=ModelSettings(command=(str(program),))))
