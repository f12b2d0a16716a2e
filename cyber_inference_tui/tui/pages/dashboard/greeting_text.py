"""The text of the greeting of a first start."""

from __future__ import annotations

import textwrap

from textual.content import Content

from cyber_inference_tui.records import (
    OFFERED_PORTS,
    DownloadRecord,
    DownloadStatus,
    InstallRecord,
    InstallSource,
    InstallState,
    ModelStatus,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.chrome import device_line
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.suggested_models import Suggestion, suggest
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.units import counted, duration_text, percent_text, size_text

_MODEL_KEYS = "abc"
_SOURCE_KEYS = "iuy"
_BAR = 24
_INDENT = 5
_ROOMY = 70
"""Least width in cells for all remarks about a model."""
Parts = list[tuple[str, str]]


def free_for_models(snapshot: Snapshot) -> int | None:
    """Return the bytes that models may use: of the GPUs if they have their own memory."""
    rooms = {room.pool: room for room in snapshot.rooms}
    room = rooms.get("gpu") or rooms.get("memory")
    return room.free_after_unloading_bytes if room else None


def install_options(install: InstallRecord | None) -> tuple[InstallSource, ...]:
    """Return the possible sources of llama-server, the recommended one first."""
    if install is None:
        return ()
    possible = [one for one in install.sources if one.possible]
    return tuple(sorted(possible, key=lambda one: not one.recommended)[: len(_SOURCE_KEYS)])


def greeting_content(snapshot: Snapshot, charset: Charset, url: str, width: int) -> Content:
    """Return the whole greeting, ``width`` cells wide."""
    free = free_for_models(snapshot)
    machine = device_line(snapshot.sample.device, charset.dot) if snapshot.sample else ""
    parts: Parts = [("Welcome.", "bold $accent")]
    facts = [machine, f"{size_text(free)} free for models" if free is not None else ""]
    line = f" {charset.dot} ".join(fact for fact in facts if fact)
    if line:
        parts.append((f"  {_folded(line, width, 10, first=10)}", ""))
    parts.append(("\n\n", ""))
    parts += _server_step(snapshot, charset, width)
    parts += _model_step(snapshot, charset, free, width)
    if snapshot.model("demo") is None:
        parts += [*_step("3", "or try a demo"), *_key("d", "add a tiny demo model")]
        parts.append(("  no download\n\n", "$text-muted"))
    then, address = "Then point any OpenAI client at", f"{url}/v1"
    room = len(then) + 2 + len(address) <= width
    parts += [(then, "$text-muted"), ("  " if room else "\n  ", ""), (f"{address}\n", "bold")]
    parts += _ports(snapshot, charset, width)
    return Content.assemble(*parts)


def _ports(snapshot: Snapshot, charset: Charset, width: int) -> Parts:
    """Offer the ports where clients look, or show which of the extra ports are open."""
    if snapshot.status is None:
        return []
    if not snapshot.status.extra_ports:
        places = " and ".join(f"{port} ({name})" for port, name in OFFERED_PORTS.items())
        return _key("l", f"{_folded(f'also listen on {places}, where clients look', width, 3)}\n")
    parts: Parts = []
    for one in snapshot.status.extra_ports:
        if one.problem is None:
            parts.append((f"{charset.check} also on {one.port}\n", "$success"))
        else:
            sign = charset.signs[ModelStatus.FAILED]
            problem = _folded(f"{sign} not on {one.port}: {one.problem}", width, 2, first=0)
            parts.append((f"{problem}\n", "$error"))
    return parts


def _folded(text: str, width: int, indent: int, *, first: int | None = None) -> str:
    """Wrap ``text`` to ``width`` cells; all lines but the first have ``indent`` spaces.

    The first line begins at cell ``first``, by default ``indent``.
    """
    lines = textwrap.wrap(
        clean_line(text, limit=500),
        max(20, width),
        initial_indent=" " * (indent if first is None else first),
        subsequent_indent=" " * indent,
    )
    return "\n".join(lines).lstrip(" ")


def _step(number: str, title: str, sign: str = "", style: str = "") -> Parts:
    return [
        (f"{number}  ", "bold $accent"),
        (title.ljust(16) if sign else title, "bold"),
        (sign, style),
        ("\n" + " " * _INDENT, ""),
    ]


def _key(key: str, does: str) -> Parts:
    return [(key, "bold $accent"), (f"  {does}", "")]


def _line(text: str, width: int, style: str) -> Parts:
    """Return a remark below a step."""
    return [(f"{' ' * _INDENT}{_folded(text, width, _INDENT)}\n", style)]


def _server_step(snapshot: Snapshot, charset: Charset, width: int) -> Parts:
    server = snapshot.status.llama_server if snapshot.status else None
    install = snapshot.install
    if server is not None and server.path is not None:
        found = f"{charset.check} {clean_line(server.version or 'found')}"
        return [
            *_step("1", "llama-server", found, "$success")[:-1],
            ("\n", ""),
            *_line(server.path, width, "$text-muted"),
            ("\n", ""),
        ]
    if install is not None and install.state is InstallState.RUNNING:
        doing = f"{charset.signs[ModelStatus.LOADING]} installing"
        parts = _step("1", "llama-server", doing, "$warning")
        parts += [(f"{_bar(install.progress, charset)}\n", "$warning")]
        parts += _line(install.step or install.source or "", width, "")
        parts += [(" " * _INDENT, ""), *_key("x", "stop"), ("   ", ""), *_key("4", "its log")]
        return [*parts, ("\n\n", "")]
    missing = f"{charset.signs[ModelStatus.FAILED]} not found"
    parts = _step("1", "llama-server", missing, "$error")
    for key, source in zip(_SOURCE_KEYS, install_options(install), strict=False):
        summary = _folded(source.summary, width, _INDENT + 3)
        parts += [*_key(key, summary), ("\n" + " " * _INDENT, "")]
    parts += [*_key("p", "I have one"), ("\n", "")]
    if problem := with_keys(_server_problem(snapshot)):
        sign = charset.signs[ModelStatus.FAILED]
        parts += _line(f"{sign} {problem}", width, "$error")
    parts.append(("\n", ""))
    return parts


def _server_problem(snapshot: Snapshot) -> str:
    """Return why the installation failed; empty if there was none."""
    install = snapshot.install
    if install is not None and install.error:
        return install.error
    if install is not None and install.state is InstallState.DONE and install.warnings:
        return " ".join(install.warnings)
    server = snapshot.status.llama_server if snapshot.status else None
    # The step says "not found" already; a wrong llama_server_path needs a reason.
    return (
        server.problem
        if server and server.problem and "llama_server_path" in server.problem
        else ""
    )


def _model_step(snapshot: Snapshot, charset: Charset, free: int | None, width: int) -> Parts:
    number = len(snapshot.models)
    if number:
        have = f"{charset.check} {counted(number, 'model')}"
        parts = _step("2", "a model", have, "$success")
    else:
        missing = f"{charset.signs[ModelStatus.FAILED]} none"
        parts = _step("2", "a model", missing, "$error")
    chosen = suggest(free)
    for key, one in zip(_MODEL_KEYS, chosen, strict=False):
        parts += [*_key(key, one.title.ljust(15)), (f"{one.quantization:<7}", "$text-muted")]
        parts += [(f"{size_text(one.size_bytes):>9}   ", "")]
        parts += _suggestion_note(one, snapshot, free, charset, width)
        parts.append(("\n" + " " * _INDENT, ""))
    parts += [*_key("h", "search the Hub for others"), ("\n\n", "")]
    return parts


def _suggestion_note(
    one: Suggestion, snapshot: Snapshot, free: int | None, charset: Charset, width: int
) -> Parts:
    download = next((d for d in reversed(snapshot.downloads) if d.repo == one.repo), None)
    if download is not None:
        return _download_note(download, charset, width)
    if free is None:
        return [(one.good_for, "$text-muted")]
    if one.need_bytes <= free:
        good_for = f"  {one.good_for}" if width >= _ROOMY else ""
        return [(f"{charset.check} fits", "$success"), (good_for, "$text-muted")]
    return [("too big here", "$error")]


def _download_note(download: DownloadRecord, charset: Charset, width: int) -> Parts:
    if download.status is DownloadStatus.DONE:
        return [(f"{charset.check} here", "$success")]
    if download.status is DownloadStatus.FAILED:
        sign = charset.signs[ModelStatus.FAILED]
        error = _folded(f"{sign} {download.error or 'failed'}", width, _INDENT + 3)
        return [(f"\n{' ' * (_INDENT + 3)}{error}", "$error")]
    if width < _ROOMY:
        percent = "" if download.share is None else f" {percent_text(download.share)}"
        return [(f"{download.status.value}{percent}", "$warning")]
    parts: Parts = [(_bar(download.share, charset), "$warning"), (f"  {download.status.value}", "")]
    if download.bytes_per_second:
        parts.append((f"  {size_text(int(download.bytes_per_second))}/s", "$text-muted"))
    if download.seconds_left is not None:
        parts.append((f"  {duration_text(download.seconds_left)} left", "$text-muted"))
    return parts


def _bar(share: float | None, charset: Charset) -> str:
    """Return a bar with its percentage; an empty bar if the progress is unknown."""
    bar = charset.bar_text(share or 0.0, _BAR)
    return bar if share is None else f"{bar}  {percent_text(share)}"
