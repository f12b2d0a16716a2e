"""Runs the tools of an installation, such as apt and cmake, and keeps a part of their lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.log_lines import LineSplitter
from cyber_inference_tui.llama.program import run_program
from cyber_inference_tui.text import clean_line

_LINES_KEPT = 400


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a tool's run."""

    code: int
    """As ``subprocess`` has it: negative = killed by that signal."""
    lines: tuple[str, ...]
    """Its first and its last lines, without control characters."""


def run_tool(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    time_limit: float,
    folder: Path = Path("/"),
    on_line: Callable[[str], bool] = lambda _: True,
) -> ToolResult:
    """Run a tool to its end. ``on_line`` gets each line of output and returns whether to keep it.

    ``time_limit`` is in seconds. Raises ``InstallError`` when the tool cannot be run or takes
    longer. However this call ends, no process of the tool is left.
    """
    head: list[str] = []
    tail: deque[str] = deque(maxlen=_LINES_KEPT)
    splitter = LineSplitter()

    def take(lines: bytes) -> None:
        for line in lines.splitlines():
            text = clean_line(line.decode("utf-8", "replace"), limit=2000)
            if on_line(text):
                (tail if len(head) >= _LINES_KEPT else head).append(text)

    try:
        code = run_program(
            command,
            environ=environ,
            time_limit=time_limit,
            on_output=lambda chunk: take(splitter.feed(chunk)),
            folder=folder,
            guarded=True,
        )
    except TimeoutError:
        minutes = f"{time_limit / 60:g} minutes"
        raise InstallError(f"{command[0]} did not end within {minutes}.") from None
    except OSError as error:
        raise InstallError(f"{command[0]} cannot be run: {error.strerror}.") from error
    take(splitter.flush())
    return ToolResult(code=code, lines=(*head, *tail))
