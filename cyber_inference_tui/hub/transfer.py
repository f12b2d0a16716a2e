"""Download one file of the hub: resumable to the byte, verified, and complete or not there.

The event loop reads the bytes; threads hash and write them, one block after the other. Few blocks
are in memory: a slow disk slows the reading down.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.cancellation import until_done
from cyber_inference_tui.errors import (
    CyberError,
    DamagedDownloadError,
    HubAnswerError,
    HubError,
    HubUnreachableError,
)
from cyber_inference_tui.hub.block_writer import BlockWriter
from cyber_inference_tui.hub.boxes import FileBoxes, NearbyBox
from cyber_inference_tui.hub.connector import Connector
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.partial import Checkpoint, HubFile, Partial, open_partial, write_error
from cyber_inference_tui.hub.request import FileResponse, PastEnd, get_file, unreachable
from cyber_inference_tui.hub.response_body import Body

T = TypeVar("T")

_READ_BUFFER = 256 * 1024
_PROGRESS = 256 * 1024
"""Bytes after which a connection counts as good, which resets the count of failures."""


def _backoff(tries: int) -> float:
    return backoff(1.0, 60.0, tries)


class TransferLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Time limits, retries and sizes of a transfer; seconds and bytes."""

    connect_timeout: float = 15.0
    stall_timeout: float = 30.0
    """Without a byte."""
    tries: int = 20
    """Failures in a row, with hardly a byte between them, before it gives up."""
    backoff: Callable[[int], float] = _backoff
    """Seconds to wait after that many failures, at least; the hub may ask for more."""
    sync_interval: float = 5.0
    """Between two syncs to the disk,"""
    sync_bytes: int = 128 << 20
    """unless this many bytes arrive earlier. So a fast disk has little left to do at the end."""
    disk_margin: int = 256 << 20
    """Bytes that have to stay free."""
    box_interval: float = 2.0
    """Between two questions to other boxes whether they have the file by now."""


class TransferContext(msgspec.Struct, frozen=True, kw_only=True):
    """The connections, threads and settings that transfers share."""

    session: aiohttp.ClientSession
    endpoint: Callable[[], HubEndpoint]
    """Called in a thread before every try, so that a new token takes effect at once."""
    executor: Executor
    environ: Mapping[str, str]
    """Environment variables, which may name proxies."""
    boot: str
    """The system's boot id."""
    pace: TransferLimits = TransferLimits()
    boxes: Callable[[], Sequence[NearbyBox]] = tuple
    """Return the other boxes that can be asked for files now."""
    wrong: set[tuple[str, str]] = msgspec.field(default_factory=set)
    """The boxes that have sent a wrong file, each with the file's SHA-256."""
    clock: Callable[[], float] = time.monotonic

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Run ``work`` in a thread, and wait for its end even if the caller is cancelled.

        A thread cannot be stopped, and the objects that it uses have to stay valid.
        """
        future = asyncio.get_running_loop().run_in_executor(self.executor, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await until_done(future)
            raise


def open_session(pace: TransferLimits) -> aiohttp.ClientSession:
    """Open a session for transfers; the caller closes it."""
    return aiohttp.ClientSession(
        connector=Connector(),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        # ``proxy_for`` looks up proxies: aiohttp would read passwords from ~/.netrc as well.
        trust_env=False,
        read_bufsize=_READ_BUFFER,
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=pace.connect_timeout, sock_read=pace.stall_timeout
        ),
    )


class Transfer:
    """Downloads ``origin`` to ``target``; call ``run`` once.

    If it is cancelled, it keeps the bytes that have arrived; another transfer continues from there.
    """

    def __init__(
        self,
        transport: TransferContext,
        origin: HubFile,
        target: Path,
        *,
        on_wait: Callable[[HubError | None], None] = lambda _: None,
    ) -> None:
        self._transport = transport
        self._pace = transport.pace
        self._origin = origin
        self._target = target
        self._on_wait = on_wait
        self._partial: Partial | None = None
        self._syncing: asyncio.Task[None] | None = None
        self._synced_at = 0.0
        self._synced_offset = 0
        self._boxes = FileBoxes(
            transport.session,
            transport.boxes,
            transport.wrong,
            sha256=origin.sha256,
            size=origin.size,
            interval=self._pace.box_interval,
            stall_timeout=self._pace.stall_timeout,
        )
        self.received = 0
        """Bytes that arrived over the network and were kept."""
        self.source: str | None = None
        """The box that sends the file, or has sent the end of it; ``None`` = the hub."""
        self.done = 0
        """Bytes of the file that are on the disk."""
        self.size = origin.size
        self.running = False
        self.opened = False
        """``done`` is known."""
        self.checking = False
        """Existing bytes are being hashed; nothing is being received."""
        self.abandoned = False
        """Set before a cancellation that removes the file, so that nothing is synced."""

    async def run(self) -> None:
        """Download the file. Raises ``CyberError``."""
        self.running = True
        try:
            partial = await self._in_thread(self._open)
            await self._check_what_is_there(partial)
            damaged = False
            while True:
                await self._in_thread(partial.check_space, self._pace.disk_margin)
                await self._fetch(partial)
                await self._finish_sync()
                problem = await self._in_thread(partial.problem)
                if problem is None:
                    break
                if self._boxes.blame():
                    await self._restart(partial)
                    continue
                if damaged:
                    await self._in_thread(partial.discard)
                    raise DamagedDownloadError(
                        f"{self._origin.path} of {self._origin.repo} arrived damaged twice:"
                        f" {problem}.",
                        hint="Try again later, or over another network.",
                    )
                damaged = True
                await self._restart(partial)
            await self._in_thread(partial.complete)
        finally:
            self.running = False
            await self._close()

    def _open(self) -> Partial:
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self._target.parent, error) from error
        # Kept on the object, since the waiting task may be cancelled meanwhile.
        self._partial = open_partial(self._target, self._origin, boot=self._transport.boot)
        return self._partial

    async def _check_what_is_there(self, partial: Partial) -> None:
        self.done = partial.found
        self.opened = self.checking = True
        try:
            while not await self._in_thread(partial.hash_more):
                pass
        finally:
            self.checking = False
        self.done = partial.offset
        self.size = partial.origin.size

    async def _fetch(self, partial: Partial) -> None:
        """Try until all bytes have arrived, from other boxes as far as they have the file.

        After an answer that does not match the request, request the whole file, once.
        """
        failures = 0
        odd = False  # the last answer did not match, and little has arrived since
        while not await self._copy(partial):
            before = partial.offset
            async with self._boxes.watching():
                try:
                    if await self._attempt(partial, whole=odd):
                        return
                    if self._boxes.ready.is_set():
                        continue
                    failure: HubError = HubUnreachableError(f"{self._origin.path} ended too early.")
                except HubAnswerError as error:
                    if odd:
                        raise
                    failure, odd = error, True
                except HubError as error:
                    if not error.passing:
                        raise
                    failure = error
                # A byte now and then must not keep it trying for ever.
                good = partial.offset - before >= _PROGRESS
                failures = 0 if good else failures + 1
                odd = odd and (not good or isinstance(failure, HubAnswerError))
                if failures >= self._pace.tries:
                    raise failure
                self._on_wait(failure)
                pause = max(failure.retry_after or 0.0, self._pace.backoff(failures))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._boxes.ready.wait()

    async def _copy(self, partial: Partial) -> bool:
        """Copy the missing bytes from other boxes; return whether none is missing any more."""
        while partial.remaining != 0:
            box = await self._boxes.find()
            if box is None:
                self.source = None
                return False
            self.source = box.name
            try:
                async with self._boxes.get(box, partial.offset) as answer:
                    await self._receive(answer, partial)
            except HubError as error:
                self._boxes.put_off(box, error)
        return True

    async def _attempt(self, partial: Partial, *, whole: bool) -> bool:
        """Request the missing bytes, or the ``whole`` file, and write the new ones.

        Returns whether the file is known to be complete.
        """
        endpoint = await self._in_thread(self._transport.endpoint)
        async with get_file(
            self._transport.session,
            endpoint,
            repo=self._origin.repo,
            revision=self._origin.revision,
            path=self._origin.path,
            offset=0 if whole else partial.offset,
            environ=self._transport.environ,
            stall_timeout=self._pace.stall_timeout,
        ) as answer:
            if isinstance(answer, PastEnd):
                if partial.origin.size is None and answer.total == partial.offset:
                    return True
                raise await self._length_error(partial, answer.total)
            await self._in_thread(
                lambda: partial.fill_in(
                    size=answer.total, sha256=answer.sha256, git_sha1=answer.git_sha1
                )
            )
            self.size = partial.origin.size
            if self.size is not None and answer.total not in {None, self.size}:
                raise await self._length_error(partial, answer.total)
            await self._receive(answer, partial)
        if self._boxes.ready.is_set():
            return False
        if partial.remaining and answer.total is None and answer.framed:
            raise await self._length_error(partial, None)
        # Without a known length, the end of the body is the end of the file.
        return partial.remaining == 0 or (partial.origin.size is None and answer.total is None)

    async def _length_error(self, partial: Partial, total: int | None) -> HubAnswerError:
        """Return the error for a file with an unexpected length."""
        listed = partial.origin.size
        if self._origin.size is None:
            # The length came from an earlier answer, or there are more bytes than the file has.
            partial.origin = self._origin
            await self._restart(partial)
        has = "another length" if total is None else f"{total} bytes"
        return HubAnswerError(
            f"{self._origin.path} of {self._origin.repo} has {has} at the hub"
            + (f", and {listed} in its list." if listed is not None else " by now."),
            hint="Check its list of files; the download may need another revision.",
        )

    async def _receive(self, answer: FileResponse, partial: Partial) -> None:
        wanted = _NewBytes(
            self._origin.path, skip=partial.offset - answer.start, left=partial.remaining
        )
        writer = BlockWriter(partial, self._transport.executor)
        self._on_wait(None)
        try:
            # A box that has the file by now is nearer than the hub.
            while not self._boxes.ready.is_set() and await _more(answer.body, self._origin.path):
                await writer.ready()
                self._count(partial)
                self._sync_if_due(partial, writer.checkpoint)
                writer.put(wanted.of(answer.body.take()))
        finally:
            # Bytes that have arrived are never requested again, whatever ended the loop.
            rest = asyncio.create_task(_write_rest(writer, answer.body, wanted))
            await until_done(rest)
            self._count(partial)
        rest.result()

    def _count(self, partial: Partial) -> None:
        self.received += partial.offset - self.done
        self.done = partial.offset

    def _sync_if_due(self, partial: Partial, checkpoint: Checkpoint | None) -> None:
        now = self._transport.clock()
        if self._syncing is not None and self._syncing.done():
            self._syncing.result()
            self._syncing = None
        if self._syncing is not None or checkpoint is None:
            return
        if (
            now - self._synced_at >= self._pace.sync_interval
            or checkpoint.offset - self._synced_offset >= self._pace.sync_bytes
        ):
            self._synced_at, self._synced_offset = now, checkpoint.offset
            self._syncing = asyncio.create_task(
                self._sync(partial, checkpoint), name=f"force {self._target.name}"
            )

    async def _sync(self, partial: Partial, checkpoint: Checkpoint) -> None:
        await self._in_thread(partial.sync, checkpoint)
        await self._in_thread(partial.check_space, self._pace.disk_margin)

    async def _finish_sync(self) -> None:
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            await until_done(syncing)
            syncing.result()

    async def _restart(self, partial: Partial) -> None:
        await self._finish_sync()
        await self._in_thread(partial.restart)
        self.done = self._synced_offset = 0

    async def _close(self) -> None:
        """Sync the bytes that have arrived, and close the file."""
        syncing, self._syncing = self._syncing, None
        try:
            if syncing is not None:
                await until_done(syncing)
        finally:
            if self._partial is not None:
                loop = asyncio.get_running_loop()
                executor = self._transport.executor
                await until_done(loop.run_in_executor(executor, self._let_go, self._partial))

    def _let_go(self, partial: Partial) -> None:
        try:
            if not self.abandoned:
                # A full disk is reported already, or will be at the next try.
                with contextlib.suppress(CyberError):
                    partial.sync_rest()
        finally:
            partial.close()

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._transport.in_thread(work, *arguments)


class _NewBytes:
    """Selects the new bytes of an answer: ``left`` bytes after the first ``skip``."""

    def __init__(self, path: str, *, skip: int, left: int | None) -> None:
        # A hub without ranges sends the whole file: the existing bytes are skipped.
        self._path = path
        self._skip = skip
        self._left = left

    def of(self, blocks: Sequence[bytes | memoryview]) -> list[memoryview]:
        """Return the new bytes; raises ``HubAnswerError`` once there are more than ``left``."""
        wanted = []
        for block in blocks:
            new = memoryview(block)[self._skip :]
            self._skip -= len(block) - len(new)
            if self._left is not None:
                self._left -= len(new)
                if self._left < 0:
                    raise HubAnswerError(
                        f"{self._path} is longer than announced.",
                        hint="Check the hub's list of files.",
                    )
            if new:
                wanted.append(new)
        return wanted


async def _write_rest(writer: BlockWriter, body: Body, wanted: _NewBytes) -> None:
    await writer.finish()
    if blocks := wanted.of(body.take()):
        writer.put(blocks)
        await writer.finish()


async def _more(body: Body, path: str) -> bool:
    try:
        return await body.wait()
    except TimeoutError as error:
        raise HubUnreachableError(f"{path}: no byte has arrived for too long.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise unreachable(path, error) from error
