"""``install-llama``: install a llama-server into the data directory."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from cyber_inference_tui.cli.options import FilledText, GlobalOptions, json_option
from cyber_inference_tui.cli.output import ProgressLine, bar_text, print_json, print_line
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.llama.install.report import ProgressMeter, Report
from cyber_inference_tui.terminal.stream import YELLOW, Terminal, stderr_terminal
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from cyber_inference_tui.llama.install.build_source import BuildSource, Progress
    from cyber_inference_tui.llama.install.installer import MakeSource
    from cyber_inference_tui.llama.install.report import CheckResult, InstallResult
    from cyber_inference_tui.settings.schema import Settings

SOURCES = ("auto", "github", "debian", "source")
_REPORT_INTERVAL = 0.2
"""Seconds between two reports of one step."""


class InstallProgress:
    """Progress on standard error: a bar on a terminal, else one plain line per step."""

    def __init__(self, terminal: Terminal, line: ProgressLine) -> None:
        self._terminal = terminal
        self._line = line
        self._step = self._shown = ""
        self._percent = -1

    def begin(self, source: str) -> None:
        """Do nothing: the first step of a source names it."""

    def step(self, text: str, *, upto: float | None = None) -> None:
        """Show a new step."""
        self._step = self._shown = clean_line(text, limit=500)
        self._percent = -1
        if self._line.visible:
            self._line.show(self._step)
        else:
            click.echo(self._step, err=True)

    def advance(self, done: int, total: int | None) -> None:
        """Redraw the bar if its percentage has changed."""
        if not total or not self._line.visible:
            return
        percent = 100 * done // total
        if percent != self._percent:
            self._percent = percent
            self._shown = f"{bar_text(done / total, self._terminal)} {self._step}"
            self._line.show(self._shown)

    def line(self, text: str) -> None:
        """Show a line of a program's output: briefly on a terminal, else print it."""
        if not self._line.visible:
            click.echo(clean_line(text), err=True)
        elif text.strip():
            self._line.show(f"{self._shown}: {clean_line(text, limit=500).strip()}")


class InstallReports:
    """Progress for the parent process: reports on standard error, five a second at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter = ProgressMeter()
        self._clock = clock
        self._next = 0.0

    def begin(self, source: str) -> None:
        """Begin with another source."""
        self._meter.begin(source)

    def step(self, text: str, *, upto: float | None = None) -> None:
        """Report a new step at once."""
        self._meter.step(text, upto)
        self._report(self._meter.report)

    def advance(self, done: int, total: int | None) -> None:
        """Report progress, at most five times a second."""
        self._meter.advance(done, total)
        if self._clock() >= self._next:
            self._report(self._meter.report)

    def line(self, text: str) -> None:
        """Print a line for the log."""
        click.echo(clean_line(text), err=True)

    def failed(self, error: CyberError) -> None:
        """Report the error."""
        self._report(Report(error=str(error)))

    def _report(self, report: Report) -> None:
        self._next = self._clock() + _REPORT_INTERVAL
        click.echo(report.line(), err=True)


@click.command()
@click.option(
    "--from",
    "source",
    type=click.Choice(SOURCES),
    default="auto",
    show_default=True,
    help="Where to get it: GitHub's releases, Debian's packages, or compiled here.",
)
@click.option(
    "--version",
    "version",
    metavar="V",
    type=FilledText(),
    help="This version instead of the newest.",
)
@click.option("--force", is_flag=True, help="Install even if there is one already.")
@click.option("--check", is_flag=True, help="Only show the installed and the newest version.")
@click.option("--rollback", is_flag=True, help="Go back to the version that was in use before.")
@click.option(
    "--mirror",
    metavar="URL",
    type=FilledText(),
    help="Debian mirror in place of the one that apt uses.",
)
@click.option(
    "--github-api", metavar="URL", type=FilledText(), help="GitHub's API, or a mirror of it."
)
@click.option(
    "--github-url",
    metavar="URL",
    type=FilledText(),
    help="GitHub's downloads, or a mirror of them.",
)
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
    rollback: bool,
    mirror: str | None,
    github_api: str | None,
    github_url: str | None,
    reports: bool,
    as_json: bool,
) -> int:
    """Get a llama-server into the data directory; nothing is installed system-wide.

    "auto" keeps one that is there already, else takes GitHub's, else Debian's, else compiles one.
    A new version is used only after it has run here; the former version is kept.
    """
    from cyber_inference_tui.llama.install.installer import Installer

    if mirror is not None and source == "github":
        raise click.UsageError("--mirror is a Debian mirror and cannot be used with --from github.")
    if rollback and (check or force or version is not None or source != "auto"):
        raise click.UsageError("--rollback cannot be combined with other options.")
    settings = options.load().settings
    terminal = stderr_terminal(options.environ)
    with ProgressLine(terminal) as line, _progress(reports, terminal, line) as progress:
        installer = Installer(
            data_dir=settings.data_dir,
            setting=settings.llama_server_path,
            environ=options.environ,
            root=settings.system_root,
            sources=_sources(
                source,
                settings,
                options.environ,
                _Hosts(mirror, github_api, github_url),
                check=check,
            ),
            progress=progress,
            now=lambda: datetime.now(UTC),
        )
        if check:
            checked = installer.check()
        elif rollback:
            record = installer.rollback()
        else:
            record = installer.install(version=version, force=force, keep_any=source == "auto")
    if check:
        _show_check(checked, as_json=as_json)
        return 0 if checked.installed else 6
    if as_json:
        print_json(record)
    else:
        _show(record, restored=rollback)
    for warning in record.warnings:
        click.echo(terminal.paint(f"Warning: {warning}", YELLOW), err=True, color=True)
    return 0


@contextmanager
def _progress(reports: bool, terminal: Terminal, line: ProgressLine) -> Iterator[Progress]:
    """Show progress to a person, or with ``reports`` to the process that started us.

    Inside, SIGTERM works like Ctrl-C: what was begun is cleaned up.
    """
    reporter = InstallReports()
    former = None
    if threading.current_thread() is threading.main_thread():
        former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield reporter if reports else InstallProgress(terminal, line)
    except CyberError as error:
        if reports:
            reporter.failed(error)
        raise
    finally:
        if former is not None:
            signal.signal(signal.SIGTERM, former)


class _Hosts(NamedTuple):
    """Mirrors in place of the default hosts."""

    mirror: str | None
    api: str | None
    download: str | None


def _sources(
    name: str, settings: Settings, environ: Mapping[str, str], hosts: _Hosts, *, check: bool
) -> list[MakeSource]:
    """Return the sources to try, each with its GPU build before the plain one."""
    from cyber_inference_tui.llama.install.build_plan import (
        gather_build_facts,
        plan_build,
    )
    from cyber_inference_tui.llama.install.debian import DebianSource
    from cyber_inference_tui.llama.install.github import GithubSource
    from cyber_inference_tui.llama.install.hardware import vulkan_builds
    from cyber_inference_tui.llama.install.layout import Layout
    from cyber_inference_tui.llama.install.releases import (
        API,
        DOWNLOAD,
        REPOSITORY,
        Releases,
    )
    from cyber_inference_tui.llama.install.source_build import SourceBuild

    root = settings.system_root
    layout = Layout(settings.data_dir)
    api, download = hosts.api or API, hosts.download or DOWNLOAD
    vulkan = vulkan_builds(root)

    def github(gpu: bool) -> BuildSource:
        return GithubSource(gpu=gpu, api=api, download=download, keep=layout.root)

    def debian(gpu: bool) -> BuildSource:
        return DebianSource(
            work=layout.scratch("apt"),
            # Always this machine's own apt: the packages have to run here.
            root=Path("/"),
            environ=environ,
            mirror=hosts.mirror,
            vulkan=gpu,
        )

    def source() -> BuildSource:
        return SourceBuild(
            layout=layout,
            releases=Releases(api=api, download=download, repository=REPOSITORY),
            plan=lambda: plan_build(gather_build_facts(root, environ)),
            environ=environ,
            resume=not check,
        )

    # If a GPU build does not start here, the plain one is tried.
    makers: dict[str, list[MakeSource]] = {
        "github": [partial(github, gpu) for gpu in vulkan.github],
        "debian": [partial(debian, gpu) for gpu in vulkan.debian],
        "source": [source],
    }
    return makers[name] if name in makers else [make for some in makers.values() for make in some]


def _show(record: InstallResult, *, restored: bool) -> None:
    state = "Restored" if restored else "Installed" if record.installed else "Already there:"
    print_line(f"{state} llama-server {record.version} ({record.source}): {record.path}")
    if record.replaced:
        left = f"{record.replaced.version} ({record.replaced.source})"
        print_line(f"It replaces {left}, which --rollback brings back.")
    if record.installed:
        print_line(f"Devices: {', '.join(record.devices) or 'CPU'}")


def _show_check(record: CheckResult, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    installed = record.installed
    print_line(
        f"installed: {installed.version} ({installed.source}) {installed.path}"
        if installed
        else "installed: none"
    )
    print_line(f"newest:    {record.newest.version} ({record.newest.source})")
