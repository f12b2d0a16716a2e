"""Runs a program to its end: output as it comes, a time limit, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cyber_inference_tui.kernel import Ruleset
from cyber_inference_tui.llama.descendants import MARK, Family, marked, signal_group
from cyber_inference_tui.llama.guard import GUARD_SCRIPT, start_child

_POLL = 0.2
"""Seconds between two looks at whether the program has ended, or has to end."""
_TERM_GRACE = 0.2
"""Seconds between SIGTERM and SIGKILL: a compiler removes its unfinished file meanwhile."""
_KILL_TIMEOUT = 5.0
_MOST_OUTPUT = 1 << 20

_running: set[subprocess.Popen[bytes]] = set()


def run_program(
    command: Sequence[str | Path],
    *,
    environ: Mapping[str, str],
    time_limit: float,
    on_output: Callable[[bytes], None],
    folder: Path = Path("/"),
    stop: threading.Event | None = None,
    guarded: bool = False,
    umask: int = -1,
    ruleset: Ruleset | None = None,
) -> int:
    """Run a program and return its exit code; a negative code is the signal that killed it. Blocks.

    ``on_output`` gets stdout and stderr in chunks. ``stop`` ends the program early. A ``guarded``
    program and its process group also end when this process is killed, at the cost of a shell.
    ``umask`` is that of ``subprocess.Popen``; a ``ruleset`` confines the program. When this
    function returns or raises, all descendants of the program are gone.

    Raises ``TimeoutError`` after ``time_limit`` seconds, and another ``OSError`` if the program
    cannot be run.
    """
    deadline = time.monotonic() + time_limit
    environment = marked(environ)
    process = start_child(
        [str(word) for word in command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        umask=umask,
        ruleset=ruleset,
    )
    _running.add(process)
    family = Family(process.pid, environment[MARK])
    try:
        with _guard(process.pid) if guarded else contextlib.nullcontext():
            _pass_output(process, deadline, on_output, stop or threading.Event())
            return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{command[0]} did not end within {time_limit:g} s") from None
    finally:
        _running.discard(process)
        _end(process)
        family.end(_KILL_TIMEOUT)


def read_output(
    command: Sequence[str | Path],
    *,
    environ: Mapping[str, str],
    time_limit: float,
    folder: Path = Path("/"),
    stop: threading.Event | None = None,
    umask: int = -1,
    ruleset: Ruleset | None = None,
) -> tuple[int, str]:
    """Run a program and return its exit code and the first MiB of its output. Blocks.

    Parameters and errors are those of ``run_program``.
    """
    kept = bytearray()

    def keep(chunk: bytes) -> None:
        kept.extend(chunk[: _MOST_OUTPUT - len(kept)])

    code = run_program(
        command,
        environ=environ,
        time_limit=time_limit,
        on_output=keep,
        folder=folder,
        stop=stop,
        umask=umask,
        ruleset=ruleset,
    )
    return code, kept.decode("utf-8", "replace")


def last_line(output: str) -> str:
    """Return the last line of ``output`` that is not blank, or an empty text."""
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")


def kill_programs() -> None:
    """Kill the programs that other threads are running."""
    for process in tuple(_running):
        signal_group(process.pid, signal.SIGKILL)


def _pass_output(
    process: subprocess.Popen[bytes],
    deadline: float,
    on_output: Callable[[bytes], None],
    stop: threading.Event,
) -> None:
    """Return at the end of the output, or when the process ended and its output stays silent.

    A descendant may hold the output open.
    """
    assert process.stdout is not None  # noqa: S101 - it was asked for as a pipe
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not stop.is_set():
            if (left := deadline - time.monotonic()) <= 0:
                raise subprocess.TimeoutExpired(process.args, 0.0)
            ended = process.poll() is not None
            if selector.select(min(left, _POLL)):
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    return
                on_output(chunk)
            elif ended:
                return
    signal_group(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        # The group: a wrapper script has the real program as its child.
        signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TERM_GRACE)
        signal_group(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()
    # A process that hangs in the kernel does not die.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_TIMEOUT)


@contextlib.contextmanager
def _guard(group: int) -> Iterator[None]:
    """Start a shell that kills the process group if this process is killed meanwhile."""
    shell = subprocess.Popen(
        ["/bin/sh", "-c", GUARD_SCRIPT, "guard"],
        env={"PATH": os.defpath},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    pipe = shell.stdin
    assert pipe is not None  # noqa: S101 - it was asked for as a pipe

    def write(line: bytes) -> None:
        # A shell that was killed guards nothing; the program itself is not affected.
        with contextlib.suppress(OSError):
            pipe.write(line)
            pipe.flush()

    try:
        write(b"add %d\n" % group)
        yield
    finally:
        write(b"del %d\nend\n" % group)
        with contextlib.suppress(OSError):
            pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            shell.wait(_KILL_TIMEOUT)
