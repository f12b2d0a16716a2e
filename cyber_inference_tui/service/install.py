"""Install a llama-server while the service runs, with ``install-llama`` as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import ConflictError, CyberError, ShuttingDownError
from cyber_inference_tui.llama.guard import ProcessGuard
from cyber_inference_tui.llama.install.report import InstallResult, Report, read_report
from cyber_inference_tui.llama.log import RUN_MARK, Log
from cyber_inference_tui.records import InstallRecord, InstallState, ServiceEvent
from cyber_inference_tui.service.install_context import AUTO, InstallContext
from cyber_inference_tui.service.installer_process import InstallerProcess
from cyber_inference_tui.service.update_check import UpdateCheck
from cyber_inference_tui.text import clean_line

INSTALL_LOG = "install"
"""The id of the log with the output of installations."""

_TIME_LIMIT = 6 * 3600.0
"""Seconds for an installation: a build on a small board takes hours."""
_GRACE = 0.3
_PROGRESS_INTERVAL = 0.5
_CLEAN_UP_LIMIT = 10.0

_logger = logging.getLogger(__name__)


class Installation:
    """Runs at most one installation at a time, and keeps the result of the last one.

    ``on_installed`` is awaited once a llama-server is installed. ``publish`` is called with an
    event for every change of state and, at most twice a second, for progress.
    """

    def __init__(
        self,
        context: InstallContext,
        *,
        guard: ProcessGuard,
        log: Log,
        publish: Callable[[ServiceEvent], None],
        on_installed: Callable[[], Awaitable[None]],
        now: Callable[[], datetime],
    ) -> None:
        self._context = context
        self._guard = guard
        self._log = log
        self._publish = publish
        self._on_installed = on_installed
        self._now = now
        self._updates = UpdateCheck(context, guard)
        self._record = InstallRecord()
        self._process: InstallerProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._finished = asyncio.Event()
        self._cancelled = False
        self._closed = False
        self._error: str | None = None
        self._last_line = ""
        self._progress_timer: asyncio.TimerHandle | None = None

    async def state(self) -> InstallRecord:
        """Return the state of the installation, with the sources there are now."""
        sources = await asyncio.to_thread(self._context.sources)
        idle = not self._closed and self._record.state is not InstallState.RUNNING
        update = await self._updates.version(look=idle)
        return msgspec.structs.replace(self._record, sources=sources, update=update)

    async def start(self, source: str) -> InstallRecord:
        """Start an installation; raises ``ConflictError`` while one is running."""
        if self._closed:
            raise ShuttingDownError("The service is stopping.")
        if self._record.state is InstallState.RUNNING:
            raise ConflictError(
                "A llama-server is being installed already.", hint="Wait for it, or cancel it."
            )
        previous = self._task
        self._finished = asyncio.Event()
        self._cancelled, self._error, self._last_line = False, None, ""
        self._record = InstallRecord(
            state=InstallState.RUNNING,
            source=None if source == AUTO else source,
            step="starting",
            started_at=self._now(),
        )
        self._task = asyncio.create_task(self._run(source, previous), name="install llama-server")
        self._publish_progress()
        return await self.state()

    async def cancel(self) -> InstallRecord:
        """End the installation that is running, if any."""
        if self._record.state is InstallState.RUNNING:
            self._cancelled = True
            try:
                if self._process is not None:
                    await self._process.stop(_GRACE)
                async with asyncio.timeout(_CLEAN_UP_LIMIT):
                    await self._finished.wait()
            except TimeoutError as error:
                raise CyberError(
                    "The installation does not end.", hint="See the service's log."
                ) from error
        return await self.state()

    async def close(self) -> None:
        """End an installation and a check that are running; none can be started afterwards."""
        self._closed = True
        await self._updates.stop()
        task, self._task = self._task, None
        if task is not None:
            self._cancelled = True
            if self._process is not None:
                with contextlib.suppress(TimeoutError):
                    await self._process.stop(_GRACE)
            await asyncio.wait({task}, timeout=_CLEAN_UP_LIMIT)
            task.cancel()
            await asyncio.wait({task})
        self._cancel_timer()

    async def _run(self, source: str, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            # It may still be cleaning up.
            await asyncio.wait({previous}, timeout=_CLEAN_UP_LIMIT)
        try:
            await self._work(source)
        finally:
            if not self._finished.is_set():
                self._finish(
                    InstallState.FAILED,
                    "install failed",
                    "Something unexpected went wrong; see the service's log.",
                )

    async def _work(self, source: str) -> None:
        _logger.info("installing a llama-server (from %s)", source)
        # A check and an installation need the same lock.
        await self._updates.stop()
        code: int | None = None
        result = b""
        try:
            argv = await asyncio.to_thread(self._context.argv, source)
            environ = await asyncio.to_thread(self._context.environ)
            first = self._log.end
            self._log.add([f"{RUN_MARK}{' '.join(argv)}"])
            process = await InstallerProcess.spawn(argv, environ, self._take)
        except OSError as error:
            self._error = f"The installer cannot be run: {error.strerror}."
        else:
            self._log.begin_run(process.pid, first=first)
            code = await self._follow(process)
            self._log.end_run(process.pid)
            result = process.result
        if self._cancelled and code != 0:
            self._finish(InstallState.CANCELLED, "install cancelled", "The installation was ended.")
        elif code == 0:
            await self._installed(result)
        else:
            reason = self._error or self._last_line or f"The installer ended with {code}."
            self._finish(InstallState.FAILED, "install failed", reason)
        if code != 0:
            await self._clean_up()

    async def _follow(self, process: InstallerProcess) -> int | None:
        """Wait for the process to end; returns its exit code, ``None`` if it took too long."""
        self._process = process
        self._guard.add(process.pid)
        try:
            if not self._cancelled:
                await asyncio.wait({process.exited}, timeout=_TIME_LIMIT)
            if not process.exited.done():
                # Cancelled before it was started, or too slow.
                self._error = f"It took longer than {_TIME_LIMIT / 3600:g} hours."
                await process.stop(_GRACE)
                return None
            return process.exited.result()
        except TimeoutError as error:
            self._error = f"{error}."
            return None
        finally:
            self._process = None
            if process.exited.done():
                self._guard.remove(process.pid)

    async def _installed(self, result: bytes) -> None:
        try:
            outcome = msgspec.json.decode(result, type=thread_safe(InstallResult))
        except msgspec.MsgspecError:
            self._finish(
                InstallState.FAILED, "install failed", "The installer's answer is not understood."
            )
            return
        try:
            await self._on_installed()
        except CyberError as error:
            _logger.warning("the new llama-server is not used: %s", error)
        self._record = msgspec.structs.replace(
            self._record,
            source=outcome.source,
            version=outcome.version,
            warnings=outcome.warnings,
        )
        what = f"llama-server {outcome.version} ({outcome.source})"
        state = "is installed." if outcome.installed else "is there already."
        self._finish(InstallState.DONE, "installed", " ".join([what, state, *outcome.warnings]))

    def _take(self, lines: list[bytes]) -> None:
        """Take lines of its standard error: reports, and lines for the log."""
        texts = []
        for line in lines:
            report = read_report(line)
            if report is None:
                texts.append(clean_line(line.decode("utf-8", "replace")))
            elif report.error is not None:
                self._error = clean_line(report.error)
            else:
                self._take_report(report, texts)
        if texts:
            self._last_line = texts[-1]
            self._log.add(texts)

    def _take_report(self, report: Report, texts: list[str]) -> None:
        step = clean_line(report.step, limit=500) if report.step else None
        if step is not None and step != self._record.step:
            texts.append(step)
        self._record = msgspec.structs.replace(
            self._record,
            source=report.source or self._record.source,
            step=step,
            progress=report.progress,
        )
        if self._progress_timer is None:
            self._progress_timer = asyncio.get_running_loop().call_later(
                _PROGRESS_INTERVAL, self._publish_progress
            )

    def _publish_progress(self) -> None:
        self._cancel_timer()
        if self._record.state is not InstallState.RUNNING:
            return
        share = self._record.progress
        percent = "" if share is None else f" ({share:.0%})"
        self._publish(
            ServiceEvent(state="installing", message=f"{self._record.step or 'working'}{percent}")
        )

    def _cancel_timer(self) -> None:
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None

    def _finish(self, state: InstallState, event: str, message: str) -> None:
        self._cancel_timer()
        done = state is InstallState.DONE
        self._record = msgspec.structs.replace(
            self._record,
            state=state,
            step=None,
            progress=1.0 if done else None,
            ended_at=self._now(),
            error=message if state is InstallState.FAILED else None,
        )
        self._log.add([f"--- {event}: {message}"])
        _logger.log(logging.INFO if done or self._cancelled else logging.WARNING, "%s", message)
        self._publish(ServiceEvent(state=event, message=message))
        self._finished.set()

    async def _clean_up(self) -> None:
        try:
            await asyncio.to_thread(self._context.clean_up)
        except (CyberError, OSError) as error:
            _logger.warning("the files that the installation left cannot be removed: %s", error)
