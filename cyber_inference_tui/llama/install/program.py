"""Running one program of an installation: its lines as they come, a time limit, a sure end.

The program leads a process group of its own. A tiny shell kills that group when we die, however
that happens: it waits at a pipe whose other end only we hold.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.log_lines import LineSplitter
from cyber_inference_tui.text import clean_line

_LINES_KEPT = 400
_TERM_GRACE = 0.2

# It gets the group's number, then "done", or the end of its input when we are gone.
_SENTINEL = """
trap '' INT TERM HUP
read -r group || exit 0
read -r word
[ "$word" = done ] && exit 0
kill -s KILL -- "-$group"
"""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended."""

    code: int
    """As ``subprocess`` has it: negative = killed by that signal."""
    head: tuple[str, ...]
    """Its first lines, made harmless."""
    tail: tuple[str, ...]
    """The last ones after those."""

    @property
    def lines(self) -> tuple[str, ...]:
        """What is kept of its output."""
        return (*self.head, *self.tail)


def run_program(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    time_limit: float,
    folder: Path = Path("/"),
    on_line: Callable[[str], bool] = lambda _: True,
) -> Ended:
    """Run it to its end. ``on_line`` gets each line of its output and says whether to keep it.

    ``time_limit`` is in seconds. Raises ``InstallError`` when it cannot be run or takes longer.
    Whatever ends this call, no process of the group is left.
    """
    with _sentinel() as watch:
        try:
            process = subprocess.Popen(
                list(command),
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            raise InstallError(f"{command[0]} cannot be run: {error.strerror}.") from error
        watch(process.pid)
        return _follow(process, command[0], time_limit, on_line)


def _follow(
    process: subprocess.Popen[bytes],
    name: str,
    time_limit: float,
    on_line: Callable[[str], bool],
) -> Ended:
    head: list[str] = []
    tail: deque[str] = deque(maxlen=_LINES_KEPT)
    late = threading.Event()

    def expire() -> None:
        late.set()
        _kill(process.pid)

    timer = threading.Timer(time_limit, expire)
    timer.daemon = True
    timer.start()
    try:
        for line in _lines(process):
            if on_line(line):
                (tail if len(head) >= _LINES_KEPT else head).append(line)
        code = process.wait()
    finally:
        timer.cancel()
        if process.returncode is None:
            # Compilers that were told clean up what is half written.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TERM_GRACE)
        # Also after a good end: something that it started may be left in its group.
        _kill(process.pid)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if late.is_set():
        raise InstallError(f"{name} did not end within {time_limit / 60:g} minutes.")
    return Ended(code=code, head=tuple(head), tail=tuple(tail))


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    assert process.stdout is not None  # noqa: S101 - it was asked for as a pipe
    splitter = LineSplitter()
    while chunk := os.read(process.stdout.fileno(), 65536):
        yield from (_clean(line) for line in splitter.feed(chunk))
    yield from (_clean(line) for line in splitter.flush())


def _clean(line: bytes) -> str:
    return clean_line(line.decode("utf-8", "replace"), limit=2000)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


@contextlib.contextmanager
def _sentinel() -> Iterator[Callable[[int], None]]:
    """A shell that ends a process group with us; gives the function that tells it which."""
    shell = subprocess.Popen(
        ["/bin/sh", "-c", _SENTINEL],
        env={"PATH": os.defpath},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    pipe = shell.stdin
    assert pipe is not None  # noqa: S101 - it was asked for as a pipe

    def tell(text: str) -> None:
        # Without the shell there is nobody to tell: the group then outlives only our SIGKILL.
        with contextlib.suppress(OSError):
            pipe.write(text.encode())
            pipe.flush()

    try:
        yield lambda group: tell(f"{group}\n")
    finally:
        tell("done\n")
        with contextlib.suppress(OSError):
            pipe.close()
        shell.wait()
