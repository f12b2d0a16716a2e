"""``install-llama``: get a llama-server without touching the system."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import GlobalOptions, json_option
from cyber_inference_tui.cli.output import ProgressLine, print_json
from cyber_inference_tui.cli.terminal import YELLOW, Terminal, stderr_terminal
from cyber_inference_tui.errors import CyberError, InstallError
from cyber_inference_tui.llama.install.report import Meter, Report
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from cyber_inference_tui.llama.install.auto import CheckRecord, InstallRecord, MakeSource
    from cyber_inference_tui.llama.install.source import Progress, Source
    from cyber_inference_tui.settings.schema import Settings

SOURCES = ("auto", "github", "debian", "source")
_BAR = 24
_REPORT_INTERVAL = 0.2
"""Seconds between two reports of one step."""


class InstallProgress:
    """Progress on standard error: a bar on a terminal, one plain line per step elsewhere."""

    def __init__(self, terminal: Terminal, line: ProgressLine) -> None:
        self._terminal = terminal
        self._line = line
        self._step = ""
        self._percent = -1

    def begin(self, source: str) -> None:
        """Another source: its first step tells."""

    def step(self, text: str, *, upto: float | None = None) -> None:
        """A new step."""
        self._step = clean_line(text, limit=500)
        self._percent = -1
        if self._line.visible:
            self._line.show(self._step)
        else:
            click.echo(self._step, err=True)

    def advance(self, done: int, total: int | None) -> None:
        """Draw the bar anew when it would look different."""
        if not total or not self._line.visible:
            return
        percent = 100 * done // total
        if percent != self._percent:
            self._percent = percent
            full, empty = ("█", "░") if self._terminal.unicode else ("#", ".")
            filled = _BAR * percent // 100
            self._line.show(f"{full * filled}{empty * (_BAR - filled)} {percent:3d} % {self._step}")

    def line(self, text: str) -> None:
        """What a program prints is for a log, not for a terminal with a bar."""
        if not self._line.visible:
            click.echo(clean_line(text), err=True)


class InstallReports:
    """Progress for another process: reports on standard error, five a second at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter = Meter()
        self._clock = clock
        self._next = 0.0

    def begin(self, source: str) -> None:
        """Another source."""
        self._meter.begin(source)

    def step(self, text: str, *, upto: float | None = None) -> None:
        """A new step, told at once."""
        self._meter.step(text, upto)
        self._tell(self._meter.report)

    def advance(self, done: int, total: int | None) -> None:
        """Told now and then."""
        self._meter.advance(done, total)
        if self._clock() >= self._next:
            self._tell(self._meter.report)

    def line(self, text: str) -> None:
        """A line for the log."""
        click.echo(clean_line(text), err=True)

    def failed(self, error: CyberError) -> None:
        """The end."""
        self._tell(Report(error=str(error)))

    def _tell(self, report: Report) -> None:
        self._next = self._clock() + _REPORT_INTERVAL
        click.echo(report.line(), err=True)


@click.command()
@click.option(
    "--from",
    "source",
    type=click.Choice(SOURCES),
    default="auto",
    show_default=True,
    help="Where to get it: GitHub's releases, Debian's packages, or told how to build it.",
)
@click.option("--version", "version", metavar="V", help="This version instead of the newest.")
@click.option("--force", is_flag=True, help="Install even if there is one already.")
@click.option("--check", is_flag=True, help="Only tell what is installed and what is newest.")
@click.option("--mirror", metavar="URL", help="Debian mirror, if not the one that apt uses.")
@click.option("--github-api", metavar="URL", help="GitHub's API, or a mirror of it.")
@click.option("--github-url", metavar="URL", help="GitHub's downloads, or a mirror of them.")
@click.option("--reports", is_flag=True, hidden=True)
@json_option
@click.pass_obj
def install_llama(
    options: GlobalOptions,
    *,
    source: str,
    version: str | None,
    force: bool,
    check: bool,
    mirror: str | None,
    github_api: str | None,
    github_url: str | None,
    reports: bool,
    as_json: bool,
) -> int:
    """Get a llama-server into the data directory; nothing is installed system-wide.

    "auto" keeps one that is there already, else takes GitHub's, else Debian's. A new one is used
    only after it has run here; the one before it is kept.
    """
    from cyber_inference_tui.llama.install.auto import Installer  # noqa: PLC0415 - not for --help

    if mirror is not None and source == "github":
        raise click.UsageError("--mirror is a Debian mirror and does not go with --from github.")
    settings = options.load().settings
    terminal = stderr_terminal(options.environ)
    with ProgressLine(terminal) as line, _told(reports, terminal, line) as progress:
        if source == "source":
            _explain_build(settings)
        installer = Installer(
            data_dir=settings.data_dir,
            setting=settings.llama_server_path,
            environ=options.environ,
            root=settings.system_root,
            sources=_sources(
                source, settings, options, mirror=mirror, api=github_api, download=github_url
            ),
            progress=progress,
            now=lambda: datetime.now(UTC),
        )
        if check:
            checked = installer.check()
        else:
            record = installer.install(version=version, force=force, keep_any=source == "auto")
    if check:
        _show_check(checked, as_json=as_json)
        return 0 if checked.installed else 6
    if as_json:
        print_json(record)
    else:
        _show(record)
    for warning in record.warnings:
        click.echo(terminal.paint(f"Warning: {warning}", YELLOW), err=True, color=True)
    return 0


@contextmanager
def _told(reports: bool, terminal: Terminal, line: ProgressLine) -> Iterator[Progress]:
    """Who is told of the progress: a person, or with ``reports`` the process that started us.

    A SIGTERM inside is as a Ctrl-C: what was begun is cleaned up.
    """
    told = InstallReports()
    former = None
    if threading.current_thread() is threading.main_thread():
        former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield told if reports else InstallProgress(terminal, line)
    except CyberError as error:
        if reports:
            told.failed(error)
        raise
    finally:
        if former is not None:
            signal.signal(signal.SIGTERM, former)


def _sources(
    name: str,
    settings: Settings,
    options: GlobalOptions,
    *,
    mirror: str | None,
    api: str | None,
    download: str | None,
) -> list[MakeSource]:
    """The sources to try, each with its build for GPUs before the plain one."""
    from cyber_inference_tui.llama.install.debian import DebianSource  # noqa: PLC0415
    from cyber_inference_tui.llama.install.github import API, DOWNLOAD, GithubSource  # noqa: PLC0415
    from cyber_inference_tui.llama.install.layout import Layout  # noqa: PLC0415
    from cyber_inference_tui.llama.install.machine import gpus, has_vulkan_driver  # noqa: PLC0415

    root = settings.system_root
    # A build for GPUs that does not even start here is followed by the plain one.
    kinds = [True, False] if gpus(root) and has_vulkan_driver(root) else [False]

    def github(gpu: bool) -> Source:
        return GithubSource(gpu=gpu, api=api or API, download=download or DOWNLOAD)

    def debian(gpu: bool) -> Source:
        return DebianSource(
            work=Layout(settings.data_dir).scratch("apt"),
            # Always this machine's own apt: what is fetched has to run here.
            root=Path("/"),
            environ=options.environ,
            mirror=mirror,
            vulkan=gpu,
        )

    makers = {"github": [github], "debian": [debian]}.get(name, [github, debian])
    return [partial(make, gpu) for make in makers for gpu in kinds]


def _show(record: InstallRecord) -> None:
    state = "Installed" if record.installed else "Already there:"
    click.echo(f"{state} llama-server {record.version} ({record.source}): {record.path}")
    if record.installed:
        click.echo(f"Devices: {', '.join(record.devices) or 'CPU'}")


def _show_check(record: CheckRecord, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    installed = record.installed
    click.echo(
        f"installed: {installed.version} ({installed.source}) {installed.path}"
        if installed
        else "installed: none"
    )
    click.echo(f"newest:    {record.newest.version} ({record.newest.source})")


def _explain_build(settings: Settings) -> None:
    """Raise ``InstallError`` with the commands that build one for this machine."""
    import os  # noqa: PLC0415

    import psutil  # noqa: PLC0415

    from cyber_inference_tui.llama.install.build import build_commands  # noqa: PLC0415
    from cyber_inference_tui.llama.install.machine import gpus  # noqa: PLC0415

    commands = build_commands(
        gpus=gpus(settings.system_root),
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        root=settings.system_root,
    )
    lines = "".join(f"\n  {command}" for command in commands)
    raise InstallError(
        "Building from source is yours to start, with a compiler, cmake and git; these commands "
        f"build llama-server for this machine and make the program use it:{lines}"
    )
