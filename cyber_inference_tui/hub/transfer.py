"""One file from the hub to the disk: resumed to the byte, verified, and whole or not there at all.

Bytes are read on the event loop and hashed and written in threads, one block after the other. Few
blocks are on their way: a slow disk slows the reading down instead of filling the memory.
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

from cyber_inference_tui.errors import (
    CyberError,
    DamagedDownloadError,
    HubAnswerError,
    HubError,
    HubUnreachableError,
)
from cyber_inference_tui.hub.block_writer import BlockWriter
from cyber_inference_tui.hub.connector import Connector
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.partial import Checkpoint, HubFile, Partial, open_partial, write_error
from cyber_inference_tui.hub.request import FileResponse, PastEnd, file_from, unreachable
from cyber_inference_tui.hub.response_body import Body

T = TypeVar("T")

_READ_BUFFER = 256 * 1024
_PROGRESS = 256 * 1024
"""Bytes after which a connection counts as a good one, and earlier failures are forgotten."""


def _backoff(tries: int) -> float:
    return min(60.0, 0.5 * 2.0**tries)


class TransferLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a transfer is; seconds and bytes."""

    connect_timeout: float = 15.0
    stall_timeout: float = 30.0
    """Without a byte."""
    tries: int = 20
    """Failures in a row, with hardly a byte between them, until it gives up."""
    backoff: Callable[[int], float] = _backoff
    """Seconds to wait after that many failures, at least; the hub may want more."""
    force_interval: float = 5.0
    """Between two times that what was written is forced to the disk,"""
    force_bytes: int = 128 << 20
    """where less than this came. So a fast disk has little left to do in the end."""
    disk_margin: int = 256 << 20
    """That stay free."""


class TransferContext(msgspec.Struct, frozen=True, kw_only=True):
    """What transfers share."""

    session: aiohttp.ClientSession
    endpoint: Callable[[], HubEndpoint]
    """Asked in a thread before every try, so that a new token counts at once."""
    executor: Executor
    environ: Mapping[str, str]
    """For proxies."""
    boot: str
    """Names this life of the system."""
    pace: TransferLimits = TransferLimits()
    clock: Callable[[], float] = time.monotonic

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Run ``work``. A cancelled caller waits for it all the same: it cannot be stopped, and
        what it uses must not be taken away from it."""
        future = asyncio.get_running_loop().run_in_executor(self.executor, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await _settled(future)
            raise


def open_session(pace: TransferLimits) -> aiohttp.ClientSession:
    """A session for transfers; the caller closes it."""
    return aiohttp.ClientSession(
        connector=Connector(),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        # Proxies are looked up by us: aiohttp would read passwords from ~/.netrc as well.
        trust_env=False,
        read_bufsize=_READ_BUFFER,
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=pace.connect_timeout, sock_read=pace.stall_timeout
        ),
    )


class Transfer:
    """Brings ``origin`` to ``target``. Use ``run`` once.

    Cancelled, it keeps what has arrived, and another one goes on from there.
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
        self._forcing: asyncio.Task[None] | None = None
        self._forced_at = 0.0
        self._forced_offset = 0
        self.received = 0
        """Bytes that came over the network and were kept."""
        self.done = 0
        """Bytes of the file that are here."""
        self.size = origin.size
        self.running = False
        self.opened = False
        """``done`` is known."""
        self.checking = False
        """What is here is being hashed; nothing is on its way."""
        self.abandoned = False
        """Set before it is cancelled: what is here will be removed, so that no disk is waited
        for."""

    async def run(self) -> None:
        """Raises ``CyberError``s: what the hub says, a full disk, a file that is not the one."""
        self.running = True
        try:
            partial = await self._in_thread(self._open)
            await self._check_what_is_there(partial)
            damaged = False
            while True:
                await self._in_thread(partial.check_space, self._pace.disk_margin)
                await self._fetch(partial)
                await self._stop_forcing()
                problem = await self._in_thread(partial.problem)
                if problem is None:
                    break
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
        # Noted here: whoever waits for it may be cancelled meanwhile.
        self._partial = open_partial(self._target, self._origin, boot=self._transport.boot)
        return self._partial

    async def _check_what_is_there(self, partial: Partial) -> None:
        self.done = partial.found
        self.opened = self.checking = True
        try:
            while not await self._in_thread(partial.read_on):
                pass
        finally:
            self.checking = False
        self.done = partial.offset
        self.size = partial.origin.size

    async def _fetch(self, partial: Partial) -> None:
        """Try until all bytes are here.

        After an answer that does not go with the request the whole file is asked for, once.
        """
        failures = 0
        odd = False
        """The last answer was such a one, and no other has brought much since."""
        while partial.remaining != 0:
            before = partial.offset
            try:
                if await self._attempt(partial, whole=odd):
                    return
                failure: HubError = HubUnreachableError(f"{self._origin.path} ended too early.")
            except HubAnswerError as error:
                if odd:
                    raise
                failure, odd = error, True
            except HubError as error:
                if not error.passing:
                    raise
                failure = error
            # A byte now and then would make it go on for ever.
            good = partial.offset - before >= _PROGRESS
            failures = 0 if good else failures + 1
            odd = odd and (not good or isinstance(failure, HubAnswerError))
            if failures >= self._pace.tries:
                raise failure
            self._on_wait(failure)
            await asyncio.sleep(max(failure.retry_after or 0.0, self._pace.backoff(failures)))

    async def _attempt(self, partial: Partial, *, whole: bool) -> bool:
        """Ask once for the rest, or for the ``whole`` file, and write what of it is new.

        Returns whether that is known to be all.
        """
        endpoint = await self._in_thread(self._transport.endpoint)
        async with file_from(
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
                raise await self._another_length(partial, answer.total)
            await self._in_thread(
                lambda: partial.learn(
                    size=answer.total, sha256=answer.sha256, git_sha1=answer.git_sha1
                )
            )
            self.size = partial.origin.size
            if self.size is not None and answer.total not in {None, self.size}:
                raise await self._another_length(partial, answer.total)
            await self._receive(answer, partial)
        if partial.remaining and answer.total is None and answer.framed:
            raise await self._another_length(partial, None)
        # A body without a length ends where it ends.
        return partial.remaining == 0 or (partial.origin.size is None and answer.total is None)

    async def _another_length(self, partial: Partial, total: int | None) -> HubAnswerError:
        """The error that the file is not as long as it should be."""
        listed = partial.origin.size
        if self._origin.size is None:
            # No list said so, but an earlier answer, or there is more here than the file has.
            partial.origin = self._origin
            await self._restart(partial)
        has = "another length" if total is None else f"{total} bytes"
        return HubAnswerError(
            f"{self._origin.path} of {self._origin.repo} has {has} at the hub"
            + (f", and {listed} in its list." if listed is not None else " by now."),
            hint="Look at its list of files again; the download may need another revision.",
        )

    async def _receive(self, answer: FileResponse, partial: Partial) -> None:
        wanted = _NewBytes(
            self._origin.path, skip=partial.offset - answer.start, left=partial.remaining
        )
        writer = BlockWriter(partial, self._transport.executor)
        self._on_wait(None)
        try:
            while await _more(answer.body, self._origin.path):
                await writer.room()
                self._count(partial)
                self._force_if_due(partial, writer.mark)
                writer.put(wanted.of(answer.body.take()))
        finally:
            # What has arrived is not asked for again, whatever ended this.
            rest = asyncio.create_task(_write_rest(writer, answer.body, wanted))
            await _settled(rest)
            self._count(partial)
        rest.result()

    def _count(self, partial: Partial) -> None:
        self.received += partial.offset - self.done
        self.done = partial.offset

    def _force_if_due(self, partial: Partial, mark: Checkpoint | None) -> None:
        """Have what is there forced to the disk if it is time."""
        now = self._transport.clock()
        if self._forcing is not None and self._forcing.done():
            self._forcing.result()
            self._forcing = None
        if self._forcing is not None or mark is None:
            return
        if (
            now - self._forced_at >= self._pace.force_interval
            or mark.offset - self._forced_offset >= self._pace.force_bytes
        ):
            self._forced_at, self._forced_offset = now, mark.offset
            self._forcing = asyncio.create_task(
                self._force(partial, mark), name=f"force {self._target.name}"
            )

    async def _force(self, partial: Partial, mark: Checkpoint) -> None:
        await self._in_thread(partial.force, mark)
        await self._in_thread(partial.check_space, self._pace.disk_margin)

    async def _stop_forcing(self) -> None:
        forcing, self._forcing = self._forcing, None
        if forcing is not None:
            await _settled(forcing)
            forcing.result()

    async def _restart(self, partial: Partial) -> None:
        await self._stop_forcing()
        await self._in_thread(partial.restart)
        self.done = self._forced_offset = 0

    async def _close(self) -> None:
        """Keep what is here, even over a power cut, and let go of the file."""
        forcing, self._forcing = self._forcing, None
        try:
            if forcing is not None:
                await _settled(forcing)
        finally:
            if self._partial is not None:
                loop = asyncio.get_running_loop()
                executor = self._transport.executor
                await _settled(loop.run_in_executor(executor, self._let_go, self._partial))

    def _let_go(self, partial: Partial) -> None:
        try:
            if not self.abandoned:
                # A full disk has been told of already, or will be the next time.
                with contextlib.suppress(CyberError):
                    partial.keep()
        finally:
            partial.close()

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._transport.in_thread(work, *arguments)


class _NewBytes:
    """What of an answer is new: ``left`` bytes after the first ``skip``."""

    def __init__(self, path: str, *, skip: int, left: int | None) -> None:
        # A hub that knows no ranges begins anew: what is here already is passed over.
        self._path = path
        self._skip = skip
        self._left = left

    def of(self, blocks: Sequence[bytes | memoryview]) -> list[memoryview]:
        """Raises ``HubAnswerError`` from the block on that has more than there may be."""
        wanted = []
        for block in blocks:
            new = memoryview(block)[self._skip :]
            self._skip -= len(block) - len(new)
            if self._left is not None:
                self._left -= len(new)
                if self._left < 0:
                    raise HubAnswerError(
                        f"{self._path} is longer than announced.",
                        hint="Look at the list of files again.",
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
        raise HubUnreachableError(f"{path}: no byte has come for too long.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise unreachable(path, error) from error


async def _settled(future: asyncio.Future[T]) -> None:
    """Wait until ``future`` is done, however often the waiting is cancelled.

    Its result or failure is left to the caller.
    """
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    if not future.cancelled():
        future.exception()
    if cancelled:
        raise asyncio.CancelledError
