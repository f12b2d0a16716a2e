"""All descendants of a server's command end with the server, however they hide."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.binary import ask_program
from cyber_inference_tui.llama.descendants import (
    MARK,
    KnownProcess,
    adopt_orphans,
    marked,
    run_mark,
    start_of,
    sweep,
)
from cyber_inference_tui.llama.orphans import PidRecord
from cyber_inference_tui.settings.schema import ModelSettings
from tests.fakes.launcher import SCRIPT
from tests.llama.children import LOOPS, Run, runner_on, spawn_shell, wait_gone
from tests.llama.test_launcher import Room, fake_binary
from tests.llama.test_server import OBEYS, READY
from tests.waiting import LIMIT, is_alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it tries what Linux has")

ROOT = Path(__file__).parents[2]
LOST = "no mark, no session, no parent"
# Those in the foreground continue when the parent of the stray program has exited.
ESCAPES = {
    "background job": "STRAY &",
    "nohup": "nohup STRAY > /dev/null 2>&1 &",
    "session": "setsid STRAY &",
    "job control": "bash -c 'set -m; STRAY & wait' &",
    "daemon": "setsid sh -c 'STRAY > /dev/null 2>&1 < /dev/null & exit'",
    "deaf": "setsid sh -c \"trap '' TERM INT HUP; STRAY\" &",
    "no mark": "env -i setsid STRAY &",
    LOST: "env -i setsid sh -c 'STRAY > /dev/null 2>&1 & exit'",
}


class Stray:
    """A program that a server's script starts, and that writes down its pid."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "stray"
        self._note = folder / "stray.pid"
        self._program.write_text(
            f"#!/bin/sh\nPATH={os.defpath}\necho $$ > {self._note}.new\n"
            f"mv {self._note}.new {self._note}\nexec sleep 1000\n"
        )
        self._program.chmod(0o755)

    def script(self, escape: str) -> str:
        """Return shell commands that start it in this way, and continue when it runs."""
        started = ESCAPES[escape].replace("STRAY", str(self._program))
        return f"{started}\nwhile [ ! -s {self._note} ]; do sleep 0.02; done"

    @property
    def pid(self) -> int:
        return int(self._note.read_text())

    def end(self) -> None:
        """Kill it if it still runs."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def stray(tmp_path: Path) -> Iterator[Stray]:
    made = Stray(tmp_path)
    yield made
    made.end()


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    return runner_on(request.param)


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("end", ["stop", "death"])
def test_it_ends_with_its_server(run: Run, stray: Stray, escape: str, end: str) -> None:
    async def main() -> None:
        adopt_orphans()
        child = await spawn_shell(f"{stray.script(escape)}\n{READY}; {OBEYS}")
        await child.server.wait_ready()
        assert is_alive(stray.pid)
        if end == "stop":
            assert await child.server.stop(20) == 0
        else:
            os.kill(child.server.pid, signal.SIGKILL)
            async with asyncio.timeout(LIMIT):
                assert await child.server.exited == -signal.SIGKILL
        assert not is_alive(stray.pid)

    run(main())


async def test_a_stranger_that_begins_beside_a_loaded_server_is_left_alone() -> None:
    adopt_orphans()
    child = await spawn_shell(f"{READY}; {OBEYS}")
    await child.server.wait_ready()
    with subprocess.Popen(
        ["sleep", "1000"], env={"PATH": os.defpath, MARK: "x/y/z"}, start_new_session=True
    ) as stranger:
        await child.server.processes()
        assert child.server.strays == ()
        await child.server.stop(20)
        assert stranger.poll() is None
        stranger.kill()


async def test_a_process_that_hides_after_the_load_ends_with_the_last_possible_parent(
    stray: Stray, tmp_path: Path
) -> None:
    adopt_orphans()
    before = await spawn_shell(f"{READY}; {OBEYS}")
    go = tmp_path / "go"
    script = f"(while [ ! -e {go} ]; do sleep 0.02; done; {stray.script(LOST)}; echo hidden) &"
    child = await spawn_shell(f"{script}\n{READY}; {OBEYS}")
    for one in (before, child):
        await one.server.wait_ready()
    go.touch()
    await child.line_after("hidden")
    after = await spawn_shell(f"{READY}; {OBEYS}")
    await after.server.wait_ready()
    await before.server.stop(20)
    assert is_alive(stray.pid)
    # A guard cannot find out its origin either, so it has to kill it.
    await child.server.processes()
    assert stray.pid in {one.pid for one in child.server.strays}
    await child.server.stop(20)
    assert not is_alive(stray.pid)
    assert await after.server.stop(20) == 0


# Commands that exit while their server runs


def wrapper(folder: Path, script: str) -> LocalModel:
    """A model whose server is a shell script."""
    program = folder / "wrapper"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    return LocalModel(
        id="m",
        path=folder / "m.gguf",
        settings=ModelSettings(command=(str(program), "{host}", "{port}"), env=OUTLIVES),
    )


# It would exit with its script.
OUTLIVES = {"FAKE_LLAMA": '{"outlive_parent": 100}'}
SERVER = f'{sys.executable} -I -S {SCRIPT} --host "$1" --port "$2"'


@pytest.mark.parametrize(
    "script",
    [
        "SERVER & exit 0",
        "nohup SERVER > /dev/null 2>&1 & exit 0",
        "setsid SERVER > /dev/null 2>&1 < /dev/null & exit 7",
        "(setsid SERVER &) & exit 0",
    ],
)
async def test_a_command_that_leaves_its_server_in_the_background_is_a_failed_load(
    tmp_path: Path, script: str
) -> None:
    room = Room(tmp_path, lambda: fake_binary(tmp_path))
    await room.launcher.start()
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    message = r"went on in the background: .*`exec`.*`wait`"
    with pytest.raises(ModelLoadError, match=message) as error:
        await room.launch(wrapper(tmp_path, script.replace("SERVER", SERVER)))
    assert not error.value.out_of_memory
    left = [one.pid for one in psutil.Process().children(recursive=True)]
    assert not [pid for pid in left if pid not in before and is_alive(pid)]
    await room.launcher.close()


async def test_a_command_that_leaves_its_loaded_server_ends_the_model_with_that_reason(
    tmp_path: Path,
) -> None:
    room = Room(tmp_path, lambda: fake_binary(tmp_path))
    go = tmp_path / "go"
    script = f"setsid {SERVER} & echo child $!; while [ ! -e {go} ]; do sleep 0.02; done"
    server = await room.launch(wrapper(tmp_path, script))
    child = int(room.text().partition("child ")[2].split()[0])
    assert is_alive(child)
    go.touch()
    async with asyncio.timeout(LIMIT):
        assert await server.exited == 0
    assert not is_alive(child)
    assert "went on in the background" in server.exit_reason()[0]


async def test_a_failure_in_its_log_counts_more(tmp_path: Path, stray: Stray) -> None:
    room = Room(tmp_path, lambda: fake_binary(tmp_path))
    script = f"{stray.script('session')}; echo 'error: invalid argument: --nope' >&2; exit 1"
    with pytest.raises(ModelLoadError, match="wrong argument"):
        await room.launch(wrapper(tmp_path, script))
    assert not is_alive(stray.pid)


# The end of the service

SERVICE = """
import asyncio, sys
from pathlib import Path
from tests.llama.test_launcher import Room, fake_binary
from tests.llama.test_descendants import wrapper

async def main():
    folder = Path(sys.argv[1])
    room = Room(folder, lambda: fake_binary(folder))
    await room.launcher.start()
    server = await room.launch(wrapper(folder, sys.argv[2]))
    print(server.pid, room.launcher.guard._process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def service(folder: Path, script: str) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Start a process with a launcher and a server; return it and the pids of server and guard."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(folder), script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        server, guard = map(int, process.stdout.readline().split())
        yield process, server, guard
        process.kill()


@pytest.fixture
def all_strays(tmp_path: Path) -> Iterator[dict[str, Stray]]:
    """Return a stray process for each way to hide."""
    made = {}
    for number, escape in enumerate(ESCAPES):
        (folder := tmp_path / f"stray{number}").mkdir()
        made[escape] = Stray(folder)
    yield made
    for stray in made.values():
        stray.end()


def hide_all(strays: dict[str, Stray]) -> str:
    """Return a server's script that first starts all stray processes."""
    return "\n".join(
        [*(stray.script(escape) for escape, stray in strays.items()), f"exec {SERVER}"]
    )


def test_they_end_when_the_service_is_killed(tmp_path: Path, all_strays: dict[str, Stray]) -> None:
    with service(tmp_path, hide_all(all_strays)) as (process, server, _):
        assert all(is_alive(stray.pid) for stray in all_strays.values())
        process.kill()
    assert wait_gone(server)
    for escape, stray in all_strays.items():
        assert wait_gone(stray.pid), escape


async def test_the_next_start_ends_them_when_the_guard_was_killed_too(
    tmp_path: Path, all_strays: dict[str, Stray], caplog: pytest.LogCaptureFixture
) -> None:
    with service(tmp_path, hide_all(all_strays)) as (process, server, guard):
        # It would start a new guard.
        process.send_signal(signal.SIGSTOP)
        os.kill(guard, signal.SIGKILL)
        process.kill()
    assert wait_gone(server)
    assert all(is_alive(stray.pid) for stray in all_strays.values())
    room = Room(tmp_path, lambda: fake_binary(tmp_path))
    await room.launcher.start()
    for escape, stray in all_strays.items():
        assert wait_gone(stray.pid, 0), escape
    assert "left by an earlier run" in caplog.text
    await room.launcher.close()


async def test_a_killed_guard_is_replaced_with_the_same_knowledge(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    room = Room(tmp_path, lambda: fake_binary(tmp_path))
    guard = room.launcher.guard
    await guard.start()
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as watched:
        guard.add(watched.pid)
        first = guard._process
        assert first is not None
        first.kill()
        async with asyncio.timeout(LIMIT):
            while guard._process is None or guard._process is first:
                await asyncio.sleep(0.01)
        assert f"guard (pid {first.pid})" in caplog.text
        await guard.stop()
        assert watched.wait(20) == -signal.SIGKILL


# Marks and start times


async def test_only_processes_with_the_mark_and_the_start_time_are_killed(tmp_path: Path) -> None:
    mine, other = run_mark(tmp_path), run_mark(tmp_path.parent)
    with contextlib.ExitStack() as stack:

        def sleeper(mark: str) -> subprocess.Popen[bytes]:
            child = subprocess.Popen(["sleep", "1000"], env={"PATH": os.defpath, MARK: mark})
            stack.callback(child.wait)
            stack.callback(child.kill)
            return child

        inside, outside = sleeper(f"{mine}/1/2"), sleeper(f"{other}/1")
        alike, known = sleeper(f"{mine}1/1"), sleeper("")
        reused = sleeper("")
        started = start_of(psutil.Process(known.pid))
        seen = [KnownProcess(known.pid, started), KnownProcess(reused.pid, started - 60)]
        swept = await asyncio.to_thread(sweep, mine, seen, 20)
        assert {one.pid for one in swept.found} == {inside.pid, known.pid}
        assert swept.left == ()
        assert [child.poll() for child in (outside, alike, reused)] == [None] * 3


def test_every_child_has_a_mark_of_its_own_below_that_of_its_service(tmp_path: Path) -> None:
    environ = PidRecord(tmp_path / "servers.json").marked({"PATH": "x", MARK: "inherited"})
    first, second = marked(environ)[MARK], marked(environ)[MARK]
    assert first != second
    assert first.startswith(f"{environ[MARK]}/")
    assert second.startswith(f"{environ[MARK]}/")
    assert "inherited" not in first


# Zombies

ADOPTER = """
import os, subprocess, sys, time
import psutil
from cyber_inference_tui.llama.descendants import adopt_orphans, reap

def zombies():
    return [one.pid for one in psutil.Process().children() if one.status() == "zombie"]

adopt_orphans()
own = subprocess.Popen(["true"])
subprocess.run(["sh", "-c", "setsid sleep 0.01 &"])
while len(zombies()) < 2:
    time.sleep(0.01)
ended = reap(frozenset())
assert len(zombies()) == 2, "the first look takes nobody's"
assert own.wait() == 0
reap(ended)
assert zombies() == [], zombies()
print("reaped")
"""


def test_adopted_processes_that_ended_are_waited_for_and_ours_are_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ADOPTER], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("reaped\n", "")


async def test_a_launcher_waits_for_adopted_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyber_inference_tui.llama.launcher._REAP_INTERVAL", 0.05)
    room = Room(tmp_path, lambda: fake_binary(tmp_path))
    await room.launcher.start()
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", "setsid sh -c 'echo $$; read -r word' &"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    adopted = int(await process.stdout.readline())
    process.stdin.close()
    async with asyncio.timeout(LIMIT):
        while is_alive(adopted):
            await asyncio.sleep(0.01)
        await process.wait()
    await room.launcher.close()


# Short programs


@pytest.mark.parametrize("escape", ["background job", "session", "daemon"])
def test_a_program_that_is_only_asked_leaves_nothing_either(
    tmp_path: Path, stray: Stray, escape: str
) -> None:
    program = tmp_path / "llama-server"
    program.write_text(f"#!/bin/bash\n{stray.script(escape)}\necho version: 1\n")
    program.chmod(0o755)
    assert "version: 1" in ask_program(program, "--version", environ=os.environ, timeout=20)
    assert not is_alive(stray.pid)


async def test_a_server_is_killed_for_want_of_memory_before_its_service() -> None:
    child = await spawn_shell(f"{READY}; {OBEYS}")
    await child.server.wait_ready()
    own = int(Path("/proc/self/oom_score_adj").read_text())
    score = int(Path(f"/proc/{child.server.pid}/oom_score_adj").read_text())
    assert score == min(1000, own + 200)
    await child.server.stop(20)
