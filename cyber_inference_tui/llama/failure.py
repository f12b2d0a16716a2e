"""Why a server ended, in plain words: pure functions over its exit and its last log lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

# The first rule whose pattern is found in a line names the reason; rules stand from the most to
# the least telling, because one failure usually leaves several lines behind.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (
            r"NvMapMemAlloc.*error 12",
            "the Jetson's memory allocator refused (NvMap error 12): unload a model or reboot",
        ),
        (r"cudaMalloc failed|CUDA error: out of memory", "out of GPU memory"),
        (r"ErrorOutOfDeviceMemory", "out of GPU memory"),
        (
            r"failed to allocate .*buffer|unable to allocate|bad_alloc|cannot allocate memory",
            "out of memory",
        ),
        (r"unknown model architecture", "this llama-server does not know the architecture"),
        (r"unknown pre-tokenizer|unknown tokenizer", "this llama-server does not know it"),
        (
            r"data is not within the file bounds|file is corrupted|is the file complete"
            r"|invalid magic|failed to read magic|unexpectedly reached end of file"
            r"|tensor .* (is missing|not found)|missing tensor|failed to load model from file"
            r"|failed to read (key-value|tensor)|invalid GGUF",
            "the model file is damaged or incomplete",
        ),
        (r"invalid argument|unknown argument|error while handling argument", "a wrong argument"),
        (
            r"couldn't bind|address already in use|failed to bind|bind.* failed",
            "its port is taken",
        ),
        (r"error while loading shared libraries", "a shared library is missing"),
        (r"No such file or directory|failed to open", "a file is missing"),
    )
)
_NOISE = re.compile(r"exiting due to|cleaning up before exit|^\s*$")
_ERROR_LEVEL = re.compile(r"^[\d.]+ E |\berror\b|\bfailed\b|\bfatal\b", re.IGNORECASE)

PORT_TAKEN = "its port is taken"


def deciding_line(lines: Sequence[str]) -> tuple[str | None, str | None]:
    """``(reason, line)``: the plain reason a log gives for a failure and the line that says so.

    ``reason`` is ``None`` where no known pattern is found; ``line`` is then the last line that
    looks like an error.
    """
    for pattern, reason in _RULES:
        for line in reversed(lines):
            if pattern.search(line):
                return reason, line.strip()
    for line in reversed(lines):
        if _ERROR_LEVEL.search(line) and not _NOISE.search(line):
            return None, line.strip()
    return None, None


def describe_exit(returncode: int) -> str:
    """``exited with code 1`` or ``was killed by SIGKILL``, from a subprocess return code."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


def explain(returncode: int, lines: Sequence[str]) -> str:
    """One sentence part: what happened to the server and, where known, why."""
    reason, line = deciding_line(lines)
    what = f"its server {describe_exit(returncode)}"
    if reason and line:
        return f"{reason} ({what}: {line})"
    if line:
        return f"{what}: {line}"
    if returncode == -signal.SIGKILL:
        return f"{what} (the kernel does that when memory runs out)"
    return what
