"""A server process from start to exit: small scripts with every fault, on both kinds of loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.descendants import KillResult
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.launch_plan import LaunchPlan
from cyber_inference_tui.llama.log_lines import MAX_LINE_BYTES
from cyber_inference_tui.llama.ports import PortPool
from cyber_inference_tui.llama.prompts import ServerPrompts
from cyber_inference_tui.llama.server import ServerExitedError, ServerProcess
from tests.llama.children import (
    ENVIRONMENT,
    HOST,
    LOOPS,
    STATE,
    Child,
    Run,
    runner_on,
    spawn,
    spawn_python,
    spawn_shell,
    wait_gone,
)
from tests.waiting import is_alive

READY = f"""echo '{STATE}{{"state":"ready"}}'"""
OBEYS = "while read -r word; do case $word in *:exit) exit 0;; esac; done; exit 1"


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    return runner_on(request.param)


# Starts


def test_a_process_that_nobody_can_wait_for_does_not_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(OSError, match="no thread can be started"):
            await spawn_shell(f"echo $$ >{tmp_path}/pid; exec sleep 1000")
        monkeypatch.undo()
        if (tmp_path / "pid").exists() and (pid := (tmp_path / "pid").read_text()):
            assert not is_alive(int(pid))

    run(main())


# Readiness


def test_ready_and_progress_come_by_the_protocol_and_not_into_the_log(run: Run) -> None:
    async def main() -> None:
        child = await spawn_shell(
            f"""
            echo a log line
            echo '{STATE}{{"state":"loading"}}'
            echo '{STATE}{{"state":"loading","payload":{{"stages":["text_model"],"value":0.4}}}}'
            echo '{STATE}{{"state":"loading","payload":{{"stages":["text_model"],"value":0.4}}}}'
            echo '{STATE}{{"state":"loading","payload":{{"value":7}}}}'
            echo 'cmd_child_to_router:info:{{}}'
            echo '{STATE}not json'
            echo '{STATE}{{"state":[1]}}'
            {READY}
            {OBEYS}
            """
        )
        await child.server.wait_ready()
        assert child.progress == [None, 0.4, 1.0]
        assert await child.server.stop(20) == 0
        assert child.lines == ["a log line"]

    run(main())


LISTENS = """
import socket, sys
listener = socket.create_server(("127.0.0.1", PORT))
print('STATE{"state":"loading"}', flush=True)
print('STATE{"state":"ready"}', flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("by_script", [False, True])
def test_only_a_script_is_searched_for_the_processes_of_a_server(
    run: Run, *, by_script: bool
) -> None:
    async def main() -> None:
        port = PortPool(HOST).take(0)
        program = LISTENS.replace("PORT", str(port)).replace("STATE", STATE)
        python = (sys.executable, "-I", "-S", "-c", program)
        script = ("/bin/sh", "-c", '"$@" <&3 3<&- & wait', "sh", *python)
        argv = ("/bin/sh", "-c", 'exec "$@" 3<&0', "sh", *(script if by_script else python))
        child = await spawn(*argv, port=port)
        await child.server.wait_ready()
        assert child.server._child is not None
        # The processes of a script are known now, others a moment later.
        assert child.server._child.family.loads is not by_script
        assert await child.server.roots() == (child.server.pid,)
        await child.server.stop(0.5)

    run(main())


def test_the_progress_of_several_stages_is_one(run: Run) -> None:
    async def main() -> None:
        stages = '"stages":["text_model","mmproj_model"]'
        payloads = [
            f'{{{stages},"current":"{stage}","value":{value}}}'
            for stage, value in [("text_model", 0.5), ("text_model", 1), ("mmproj_model", 0.5)]
        ]
        lines = "\n".join(
            f"""echo '{STATE}{{"state":"loading","payload":{payload}}}'""" for payload in payloads
        )
        child = await spawn_shell(f"{lines}\n{READY}\n{OBEYS}")
        await child.server.wait_ready()
        assert child.progress == [0.25, 0.5, 0.75]
        await child.server.stop(20)

    run(main())


def test_a_ready_line_that_was_cut_for_its_length_still_counts(run: Run) -> None:
    async def main() -> None:
        child = await spawn_python(
            f"""
import sys
facts = "x" * {2 * MAX_LINE_BYTES}
print('{STATE}{{"state":"ready","payload":{{"x":"' + facts + '"}}}}', flush=True)
sys.stdin.readline()
"""
        )
        await child.server.wait_ready()
        assert await child.server.stop(20) == 0

    run(main())


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_without_the_protocol_health_is_asked_until_it_says_yes(run: Run, status: str) -> None:
    async def main() -> None:
        port = PortPool(HOST).take(0)
        child = await spawn_python(
            f"""
import socket
server = socket.create_server(("{HOST}", {port}))
for status in ["503 Service Unavailable", "x" * 10_000, "", "{status}"]:
    connection, _ = server.accept()
    print(connection.recv(4096).split(b"\\r\\n")[0].decode(), flush=True)
    connection.sendall(f"HTTP/1.1 {{status}}\\r\\n\\r\\n".encode() if status else b"")
    connection.close()
    print("listening on", flush=True)
server.accept()
""",
            port=port,
            protocol=False,
        )
        await child.server.wait_ready()
        assert child.lines.count("GET /health HTTP/1.1") == 4
        assert await child.server.stop(20) == -signal.SIGTERM

    run(main())


@pytest.mark.parametrize("protocol", [True, False])
def test_an_exit_before_ready_is_reported_with_code_and_last_lines(
    run: Run, protocol: bool
) -> None:
    async def main() -> None:
        child = await spawn_shell(
            "printf 'E failed: no end of line' >&2; exit 7", protocol=protocol
        )
        with pytest.raises(ServerExitedError) as error:
            await child.server.wait_ready()
        assert error.value.returncode == 7
        assert child.server.exit_reason() == (
            "its server exited with code 7: E failed: no end of line",
            ("E failed: no end of line",),
        )
        assert await child.server.stop(20) == 7

    run(main())


def test_an_obituary_finds_the_reason_before_a_long_trace_and_not_in_an_earlier_run(
    run: Run,
) -> None:
    async def main() -> None:
        child = await spawn_shell(
            "echo 'x.cpp:1: GGML_ASSERT(x) failed'; seq -f '#%g 0x0 in f ()' 50; kill -ABRT $$"
        )
        await child.server.exited
        why, tail = child.server.exit_reason()
        assert why == (
            "it stopped itself on an internal error"
            " (its server was killed by SIGABRT: x.cpp:1: GGML_ASSERT(x) failed)"
        )
        assert len(tail) == 12
        later = await ServerProcess.spawn(
            LaunchPlan(
                name="m",
                argv=("/bin/sh", "-c", "echo calm; exit 3"),
                environment=ENVIRONMENT,
                address=ServerAddress(HOST, 1, "server-key"),
                speaks_protocol=False,
            ),
            log=child.log,
            progress=child.progress.append,
        )
        await later.exited
        assert later.exit_reason() == ("its server exited with code 3", ("calm",))

    run(main())


def test_a_program_that_cannot_be_run_is_an_os_error(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await spawn(str(tmp_path / "missing"))
        (tmp_path / "plain").write_text("text")
        with pytest.raises(PermissionError):
            await spawn(str(tmp_path / "plain"))

    run(main())


# The child's environment


SHOWS_ITSELF = """
import os, sys
print("env", sorted(os.environ))
print("sid", os.getsid(0))
links = {fd: f"/proc/self/fd/{fd}" for fd in range(200)}
files = {fd: os.readlink(link) for fd, link in links.items() if os.path.exists(link)}
print("files", sorted(set(files.values()) - {files[0], files[1], files[2], "/dev/null"}))
"""


def test_the_child_has_exactly_the_given_environment_its_own_session_and_no_files_of_ours(
    run: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        environment = {"ONLY": "this", "LC_ALL": "C.UTF-8"}
        with (tmp_path / "ours").open("w"):
            # With a second child: if it inherited the pipes, the end of the first would go
            # unnoticed.
            other = await spawn_shell(OBEYS)
            child = await spawn(
                *(sys.executable, "-I", "-S", "-c", SHOWS_ITSELF), environment=environment
            )
            assert await asyncio.wait_for(child.server.exited, 30) == 0
            await other.server.stop(30)
        assert child.lines == [
            "env ['CYBER_CHILD_OF', 'LC_ALL', 'ONLY']",
            f"sid {child.server.pid}",
            "files []",
        ]

    run(main())


# Stopping


def test_a_server_that_hears_neither_stdin_nor_sigterm_is_killed(run: Run) -> None:
    async def main() -> None:
        child = await spawn_shell(f"trap '' TERM; {READY}; while :; do sleep 1; done")
        await child.server.wait_ready()
        assert await child.server.stop(0.05) == -signal.SIGKILL
        assert not is_alive(child.server.pid)

    run(main())


def test_a_stop_during_the_load_ends_it_with_sigterm(run: Run) -> None:
    async def main() -> None:
        child = await spawn_shell("echo up; exec sleep 1000")
        await child.line_after("up")
        assert await child.server.stop(30) == -signal.SIGTERM

    run(main())


class _Prompts(ServerPrompts):
    """Prompts that are saved when ``done`` says so, or at the end of their time."""

    def __init__(self) -> None:
        self.server: ServerProcess
        self.done = asyncio.Event()
        self.drops = 0
        self.limits: list[float] = []
        self.was_alive: list[bool] = []

    def drop(self) -> None:
        self.drops += 1

    async def save(self, server: ServerAddress, limit: float) -> None:
        self.limits.append(limit)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.done.wait(), limit)
        self.was_alive.append(is_alive(self.server.pid))


def test_a_server_saves_its_prompts_before_it_stops(run: Run) -> None:
    async def main() -> None:
        prompts = _Prompts()
        child = await spawn("/bin/sh", "-c", f"{READY}; {OBEYS}", prompts=prompts)
        prompts.server = child.server
        await child.server.wait_ready()
        stopping = asyncio.ensure_future(child.server.stop(60))
        asyncio.get_running_loop().call_soon(prompts.done.set)
        assert await stopping == 0
        assert (prompts.limits, prompts.was_alive) == ([30], [True])

    run(main())


def test_a_server_does_not_save_prompts_that_nobody_can_use(run: Run) -> None:
    async def main() -> None:
        prompts = _Prompts()
        prompts.done.set()
        child = await spawn("/bin/sh", "-c", f"{READY}; {OBEYS}", prompts=prompts)
        prompts.server = child.server
        await child.server.wait_ready()
        assert await child.server.stop(60, keep_prompts=False) == 0
        assert prompts.limits == []

    run(main())


def test_a_server_that_dies_drops_what_it_restored(run: Run) -> None:
    async def main() -> None:
        for script, drops in ((f"{READY}; exit 1", 1), (f"{READY}; {OBEYS}", 0)):
            prompts = _Prompts()
            prompts.done.set()
            child = await spawn("/bin/sh", "-c", script, prompts=prompts)
            prompts.server = child.server
            if drops:
                await child.server.exited
            else:
                await child.server.wait_ready()
            await child.server.stop(60)
            assert prompts.drops == drops

    run(main())


def test_a_save_that_hangs_takes_half_of_the_time_to_stop(run: Run) -> None:
    async def main() -> None:
        prompts = _Prompts()
        deaf = f"trap '' TERM; {READY}; while :; do sleep 1; done"
        child = await spawn("/bin/sh", "-c", deaf, prompts=prompts)
        prompts.server = child.server
        await child.server.wait_ready()
        assert await child.server.stop(0.1) == -signal.SIGKILL
        assert prompts.limits == [0.05]

    run(main())


def test_a_server_without_time_is_killed_with_its_prompts(run: Run) -> None:
    async def main() -> None:
        prompts = _Prompts()
        child = await spawn("/bin/sh", "-c", f"{READY}; {OBEYS}", prompts=prompts)
        prompts.server = child.server
        await child.server.wait_ready()
        await child.server.stop(0)
        assert prompts.limits == []

    run(main())


def test_descendants_of_a_server_end_with_it(run: Run) -> None:
    async def main() -> None:
        child = await spawn_shell(f"sleep 1000 & echo child $!; {READY}; {OBEYS}")
        grandchild = int(await child.line_after("child "))
        await child.server.wait_ready()
        assert await child.server.stop(30) == 0
        assert wait_gone(grandchild)

    run(main())


def test_an_exit_is_noticed_although_a_child_of_its_own_holds_its_output(run: Run) -> None:
    async def main() -> None:
        child = await spawn_shell("sleep 1000 & echo child $!; exit 3")
        grandchild = int(await child.line_after("child "))
        with pytest.raises(ServerExitedError):
            await child.server.wait_ready()
        # It has ended when all its processes have.
        assert not is_alive(grandchild)
        assert await child.server.stop(30) == 3

    run(main())


def test_stops_at_once_from_several_sides_agree(run: Run) -> None:
    async def main() -> None:
        child = await spawn_shell(f"{READY}; {OBEYS}")
        await child.server.wait_ready()
        assert await asyncio.gather(*(child.server.stop(30) for _ in range(3))) == [0, 0, 0]

    run(main())


def test_a_process_group_that_is_gone_is_not_killed_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        child = await spawn_shell("exit 0")
        await child.server.exited
        await child.server.stop(0)
        killed: list[int] = []
        monkeypatch.setattr(os, "killpg", lambda group, _: killed.append(group))
        # By now the number may belong to another process.
        await child.server.stop(0)
        child.server.kill()
        assert killed == []

    run(main())


# Output


@pytest.mark.parametrize(
    "block",
    [b"\xff\xfe\x00\x80\n", b"\x1b]0;owned\x07\x1b[2J\n", b"x" * 9000, b"\r", b"\n" * 500],
    ids=["binary", "escapes", "no line end", "returns", "empty lines"],
)
def test_a_flood_of_any_bytes_is_bounded_and_does_not_hold_up_a_stop(
    run: Run, block: bytes
) -> None:
    async def main() -> None:
        child = await spawn_python(
            f"import os\nwhile True: os.write(1, {block!r} * 10); os.write(2, {block!r})"
        )
        while not child.lines:
            await asyncio.sleep(0.01)
        assert await child.server.stop(30) == -signal.SIGTERM
        assert sum(len(span.data) for span in child.log.memory()) < 4 << 20
        for line in child.lines:
            assert len(line) < 5000
            assert not set(line) & {*map(chr, range(32)), *map(chr, range(127, 160))}

    run(main())


def test_no_line_of_a_flood_is_lost(run: Run) -> None:
    async def main() -> None:
        child = await spawn_python(
            "import os\nfor n in range(0, 100_000, 1_000):\n"
            "    data = ''.join(f'line {m}\\n' for m in range(n, n + 1_000)).encode()\n"
            "    while data: data = data[os.write(2, data):]"
        )
        async with asyncio.timeout(60):
            assert await child.server.exited == 0
        assert child.log.end == 100_000
        last = child.lines
        assert last == [f"line {n}" for n in range(100_000 - len(last), 100_000)]

    run(main())


@given(st.lists(st.binary(max_size=80), max_size=10), st.booleans())
def test_any_output_in_place_of_the_protocol_harms_nothing(
    chunks: list[bytes], prefixed: bool
) -> None:
    async def main() -> None:
        child = Child()
        launch = LaunchPlan(
            name="m",
            argv=("x",),
            environment={},
            address=ServerAddress(HOST, 1, "server-key"),
            speaks_protocol=True,
        )
        server = ServerProcess(launch, log=child.log, progress=child.progress.append)
        for chunk in chunks:
            server.received(1, (STATE.encode() if prefixed else b"") + chunk + b"\n")
        server.ended(0, KillResult())
        assert server.exited.result() == 0

    asyncio.run(main())


# The parent's end

PARENT = """
import asyncio, sys
from tests.llama.children import LOOPS, spawn_shell

async def main():
    # It ignores its stdin and signals: only the kernel ends it.
    child = await spawn_shell("trap '' TERM INT HUP; echo up; exec sleep 1000")
    await child.line_after("up")
    print(child.server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]).run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("kind", sorted(LOOPS))
def test_a_parent_that_is_killed_takes_its_server_along(kind: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, kind],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    assert wait_gone(pid)
