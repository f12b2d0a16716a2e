"""Getting a llama-server as a child: a stand-in for ``install-llama`` with switches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from cyber_inference_tui.errors import ConflictError, NoLlamaServerError, ShuttingDownError
from cyber_inference_tui.llama.guard import ProcessGuard
from cyber_inference_tui.llama.install.layout import Layout, Newest
from cyber_inference_tui.llama.install.report import Report
from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.records import InstallRecord, InstallSource, InstallState, ServiceEvent
from cyber_inference_tui.service.install import Installation
from cyber_inference_tui.service.install_context import InstallContext, NewerVersion
from cyber_inference_tui.settings.load import CurrentSettings, LoadedSettings, load
from tests.waiting import LIMIT, until

WAYS = (InstallSource(name="github", summary="quick", recommended=True),)
OUTCOME = {
    "path": "/x/llama-server",
    "version": "b1",
    "source": "github",
    "devices": [],
    "warnings": ["No GPU."],
    "installed": True,
}


def now() -> datetime:
    return datetime(2026, 1, 2, tzinfo=UTC)


class Bench:
    """An installation with a few lines of Python as its installer, and its events."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "installer.py"
        self.check = folder / "check.py"
        self.known = NewerVersion()
        self.program = sys.executable
        self.events: list[ServiceEvent] = []
        self.tidied = 0
        self.found = 0
        self.found_error: Exception | None = None
        self.log = Log(now=now)
        self.guard = ProcessGuard()
        self.installation = Installation(
            BenchContext(self),
            guard=self.guard,
            log=self.log,
            publish=self.events.append,
            on_installed=self._found,
            now=now,
        )

    async def _found(self) -> None:
        self.found += 1
        if self.found_error is not None:
            raise self.found_error

    def looks(self, then: str = "") -> None:
        """Set the code of a check for a newer version."""
        self.check.write_text(f"import time\nopen({str(self.looked)!r}, 'a').write('x')\n{then}\n")

    @property
    def looked(self) -> Path:
        return self.folder / "looked"

    def says(self, *lines: str | Report, then: str = "") -> None:
        """Set the lines that the installer prints on standard error, and the code after them."""
        texts = [line.line() if isinstance(line, Report) else line for line in lines]
        self.script.write_text(
            "import os, signal, subprocess, sys, time\n"
            f"for line in {texts!r}: print(line, file=sys.stderr, flush=True)\n{then}\n"
        )

    async def until(self, look: Callable[[InstallRecord], bool]) -> InstallRecord:
        async with asyncio.timeout(LIMIT):
            while not look(record := await self.installation.state()):
                await asyncio.sleep(0.01)
        return record

    async def over(self) -> InstallRecord:
        return await self.until(lambda record: record.ended_at is not None)

    def lines(self) -> list[str]:
        return [line.text for line in self.log.tail(1000)]

    def processes(self) -> list[psutil.Process]:
        """Every process that was started in the folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                running = process.status() != psutil.STATUS_ZOMBIE
                if running and str(self.folder) in " ".join(process.cmdline()):
                    found.append(process)
        return found


class BenchContext(InstallContext):
    """Commands that run the scripts of a bench."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def argv(self, source: str) -> list[str]:
        return [self._bench.program, str(self._bench.script), source]

    def check_argv(self) -> list[str]:
        return [self._bench.program, str(self._bench.check), str(self._bench.folder)]

    def environ(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin"}

    def sources(self) -> tuple[InstallSource, ...]:
        return WAYS

    def newer_version(self) -> NewerVersion:
        return self._bench.known

    def clean_up(self) -> None:
        self._bench.tidied += 1


@asynccontextmanager
async def bench_in(folder: Path) -> AsyncIterator[Bench]:
    bench = Bench(folder)
    await bench.guard.start()
    try:
        yield bench
    finally:
        await bench.installation.close()
        await bench.guard.stop()


SUCCESS = f"print({json.dumps(OUTCOME)!r})"
HANGS = "time.sleep(60)"


async def test_it_installs_and_publishes_events(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        assert (await bench.installation.state()) == InstallRecord(sources=WAYS)
        bench.says(
            Report(source="github", step="downloading"),
            Report(source="github", step="downloading", progress=0.5),
            "a line \x1b[31mof its own",
            Report(source="github", step="checking", progress=0.9),
            then=SUCCESS,
        )
        begun = await bench.installation.start("auto")
        assert (begun.state, begun.source, begun.sources) == (InstallState.RUNNING, None, WAYS)
        record = await bench.over()
        assert (record.state, record.source, record.version) == (InstallState.DONE, "github", "b1")
        assert (record.progress, record.warnings, record.error) == (1.0, ("No GPU.",), None)
        assert bench.found == 1
        assert bench.tidied == 0
        lines = bench.lines()
        assert lines.index("downloading") < lines.index("a line of its own")
        assert lines.count("downloading") == 1
        assert "checking" in lines
        assert bench.events[0].state == "installing"
        assert bench.events[-1].state == "installed"
        assert "b1 (github) is installed. No GPU." in bench.events[-1].message


async def test_progress_is_published_while_it_runs(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.says(Report(source="source", step="compiling", progress=0.25), then=HANGS)
        await bench.installation.start("source")
        record = await bench.until(lambda record: record.progress is not None)
        assert (record.step, record.progress, record.source) == ("compiling", 0.25, "source")
        async with asyncio.timeout(LIMIT):
            while "compiling (25%)" not in [event.message for event in bench.events]:
                await asyncio.sleep(0.01)


async def test_a_flood_of_reports_is_few_events(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        reports = [Report(source="github", step="x", progress=n / 5000) for n in range(5000)]
        bench.says(*reports, then=SUCCESS)
        await bench.installation.start("github")
        record = await bench.over()
        assert record.state is InstallState.DONE
        assert len(bench.events) < 100
        assert len(bench.lines()) < 10


@pytest.mark.parametrize(
    ("lines", "then", "reason"),
    [
        ([Report(step="asking"), Report(error="No source answers.")], "sys.exit(1)", "No source"),
        (["Traceback", "SomeError: odd"], "sys.exit(1)", "SomeError: odd"),
        ([], "sys.exit(3)", "ended with 3"),
        ([], "os.kill(os.getpid(), signal.SIGKILL)", "ended with -9"),
        ([], "print('{}')", "not understood"),
        ([], "print('x' * 10_000_000)", "not understood"),
    ],
)
async def test_it_fails_with_a_reason(
    tmp_path: Path, lines: list[str | Report], then: str, reason: str
) -> None:
    async with bench_in(tmp_path) as bench:
        bench.says(*lines, then=then)
        await bench.installation.start("auto")
        record = await bench.over()
        assert record.state is InstallState.FAILED
        assert reason in (record.error or "")
        assert (record.step, record.progress) == (None, None)
        assert bench.events[-1] == ServiceEvent(state="install failed", message=record.error or "")
        assert bench.found == 0


async def test_an_installer_that_cannot_be_run(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.program = str(tmp_path / "missing")
        await bench.installation.start("auto")
        record = await bench.over()
        assert record.state is InstallState.FAILED
        assert "cannot be run" in (record.error or "")


async def test_what_nobody_foresaw_is_a_failure_too(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.found_error = RuntimeError("a defect")
        bench.says(then=SUCCESS)
        await bench.installation.start("auto")
        record = await bench.over()
        assert (record.state, record.version) == (InstallState.FAILED, None)
        assert "unexpected" in (record.error or "")
        bench.found_error = None
        await bench.installation.start("auto")
        assert (await bench.over()).state is InstallState.DONE


async def test_one_at_a_time_and_another_one_after_it(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.says(then=HANGS)
        await bench.installation.start("auto")
        with pytest.raises(ConflictError):
            await bench.installation.start("debian")
        assert (await bench.installation.cancel()).state is InstallState.CANCELLED
        bench.says(then=SUCCESS)
        assert (await bench.installation.start("debian")).source == "debian"
        assert (await bench.over()).state is InstallState.DONE


# What it starts has a session of its own, as apt and compilers have, and ignores a SIGTERM.
CHILDREN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child, FOLDER], start_new_session=True)
print("started", file=sys.stderr, flush=True)
time.sleep(60)
"""


async def test_cancelling_leaves_no_process(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.says(then=CHILDREN.replace("FOLDER", repr(str(tmp_path))))
        await bench.installation.start("source")
        async with asyncio.timeout(LIMIT):
            while "started" not in bench.lines():
                await asyncio.sleep(0.01)
        assert bench.processes()
        record = await bench.installation.cancel()
        assert record.state is InstallState.CANCELLED
        assert record.error is None
        assert not bench.processes()
        assert bench.events[-1].state == "install cancelled"
        async with asyncio.timeout(LIMIT):
            while not bench.tidied:
                await asyncio.sleep(0.01)
        # Nothing runs: nothing to end.
        assert (await bench.installation.cancel()).state is InstallState.CANCELLED


async def test_what_it_leaves_running_is_ended_after_it(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        started = CHILDREN.replace("FOLDER", repr(str(tmp_path))).rpartition("time.sleep")[0]
        bench.says(then=started + SUCCESS)
        await bench.installation.start("source")
        assert (await bench.over()).state is InstallState.DONE
        assert not bench.processes()


async def test_cancelling_at_once(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.says(then=HANGS)
        await bench.installation.start("auto")
        assert (await bench.installation.cancel()).state is InstallState.CANCELLED
        assert not bench.processes()


async def test_it_ends_with_the_service(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.says(then=CHILDREN.replace("FOLDER", repr(str(tmp_path))))
        await bench.installation.start("auto")
        async with asyncio.timeout(LIMIT):
            while "started" not in bench.lines():
                await asyncio.sleep(0.01)
        await bench.installation.close()
        assert not bench.processes()
        with pytest.raises(ShuttingDownError):
            await bench.installation.start("auto")


async def test_a_setting_that_keeps_the_new_one_from_use_is_no_failure(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.found_error = NoLlamaServerError("llama_server_path is wrong.")
        bench.says(then=SUCCESS)
        await bench.installation.start("auto")
        assert (await bench.over()).state is InstallState.DONE


async def test_a_newer_version_is_looked_up_beside_and_once(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.looks()
        assert (await bench.installation.state()).update is None
        bench.known = NewerVersion(due=True)
        for _ in range(3):
            assert (await bench.installation.state()).update is None
        await until(bench.looked.exists)
        await until(lambda: not bench.processes())
        bench.known = NewerVersion(version="b2", due=True)
        assert (await bench.installation.state()).update == "b2"
        await asyncio.sleep(0)
        assert not bench.processes()
        assert bench.looked.read_text() == "x"


async def test_an_installation_does_not_wait_for_a_look(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.looks(HANGS)
        bench.known = NewerVersion(due=True)
        await bench.installation.state()
        await until(bench.looked.exists)
        bench.says(then=SUCCESS)
        await bench.installation.start("auto")
        assert (await bench.over()).state is InstallState.DONE
        assert not bench.processes()


async def test_a_look_ends_with_the_service(tmp_path: Path) -> None:
    async with bench_in(tmp_path) as bench:
        bench.looks(HANGS)
        bench.known = NewerVersion(due=True)
        await bench.installation.state()
        await until(bench.looked.exists)
        await bench.installation.close()
        assert not bench.processes()


class Home:
    """A data directory, and the context of a service that has it."""

    def __init__(self, folder: Path, *, config: str = "") -> None:
        self.config = folder / "config.toml"
        self.config.write_text(config)
        self.folder = folder / "data" / "llama"
        environ = {"PATH": "/usr/bin:/bin", "CYBER_INFERENCE_CONFIG": str(self.config)}
        flags = {"data_dir": str(folder / "data")}
        loaded: LoadedSettings = load(config=self.config, environ=environ, flags=flags)
        self.context = InstallContext(CurrentSettings(loaded), environ, now)

    def install(self, source: str, version: str) -> None:
        layout = Layout(self.folder.parent)
        folder = layout.root / f"{source}-{version}"
        (folder / "bin").mkdir(parents=True)
        layout.activate(folder, source=source, version=version, devices=(), now=now())

    def saw(self, source: str, version: str, ago: timedelta = timedelta()) -> None:
        newest = Newest(source=source, version=version, seen_at=now() - ago)
        Layout(self.folder.parent).note_newest(newest)


def test_auto_brings_what_is_installed_up_to_date(tmp_path: Path) -> None:
    home = Home(tmp_path)
    argv = list(home.context.argv("auto"))
    assert argv[argv.index("--from") + 1] == "auto"
    assert argv[argv.index("--data-dir") + 1] == str(tmp_path / "data")
    assert argv[argv.index("--config") + 1] == str(tmp_path / "config.toml")
    home.install("debian", "1")
    argv = list(home.context.argv("auto"))
    assert argv[argv.index("--from") + 1] == "debian"
    argv = list(home.context.argv("source"))
    assert argv[argv.index("--from") + 1] == "source"
    assert "--check" in home.context.check_argv()


def test_a_configuration_file_that_was_removed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert "CYBER_INFERENCE_CONFIG" in home.context.environ()
    home.config.unlink()
    assert "--config" not in home.context.argv("auto")
    assert "CYBER_INFERENCE_CONFIG" not in home.context.environ()


def test_when_it_is_time_to_look(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.context.newer_version() == NewerVersion()
    home.install("github", "b1")
    assert home.context.newer_version() == NewerVersion(due=True)
    home.saw("debian", "9")
    assert home.context.newer_version() == NewerVersion(due=True)
    home.saw("github", "b1")
    assert home.context.newer_version() == NewerVersion()
    home.saw("github", "b2")
    assert home.context.newer_version() == NewerVersion(version="b2")
    home.saw("github", "b1", ago=timedelta(days=2))
    assert home.context.newer_version() == NewerVersion(due=True)


def test_anothers_llama_server_is_not_looked_after(tmp_path: Path) -> None:
    home = Home(tmp_path, config='llama_server_path = "/opt/llama-server"\n')
    home.install("github", "b1")
    home.saw("github", "b2")
    assert home.context.newer_version() == NewerVersion()
