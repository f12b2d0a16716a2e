"""Reads folders in daemon threads, so that a hanging storage only costs its own folder."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final, Generic, TypeVar

from cyber_inference_tui.library.disk import Disk
from cyber_inference_tui.storage import SILENT, begin

T = TypeVar("T")

SILENCE: Final = 1.5
"""Seconds without progress after which a storage counts as hanging. A sleeping disk takes longer
to start: its earlier files count until then."""
_MOST_HANGING: Final = 3
_STEP: Final = 0.1


class FolderReader(Generic[T]):
    """Reads ``folder`` repeatedly, each time in a daemon thread.

    An attempt that hangs at some place continues, and its result counts when it arrives. Meanwhile
    other attempts skip that place, so a dead mount below a folder does not hide the rest. With
    ``alone`` there is never more than one attempt at a time.
    """

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        self.folder = folder
        self._most = 1 if alone else _MOST_HANGING
        self._running: list[_Attempt[T]] = []
        self._late: _Attempt[T] | None = None
        self.found: T | None = None
        """The newest result of the last scan; ``None`` = no result arrived in time."""
        self.hangs = False
        """Whether the storage does not answer; otherwise it is only slow."""
        self._work: Callable[[Disk], T]
        self._disk: Disk

    def begin(self, work: Callable[[Disk], T], disk: Disk) -> None:
        """Start reading by ``work``, unless an earlier attempt is still in progress."""
        self._work, self._disk = work, disk
        late = [one for one in self._running if one.is_done and not one.is_taken]
        self._late = max(late, key=lambda one: one.is_whole, default=None)
        self._running = [one for one in self._running if not one.is_done]
        self._start()

    def _start(self) -> None:
        """Start an attempt beside hanging ones, but not beside one that makes progress."""
        left_out = {one.at or self.folder for one in self._running}
        at_all = (self.folder, *self.folder.parents)
        if (
            len(self._running) < self._most
            and all(one.hangs for one in self._running)
            and left_out.isdisjoint(at_all)
        ):
            self._running.append(_Attempt(self._work, self._disk, left_out))

    def pending(self) -> concurrent.futures.Future[T] | None:
        """Return the future to wait for; ``None`` = it is done, or waiting is useless."""
        if self._running and self._running[-1].hangs:
            self._start()
        last = self._running[-1]
        return None if last.is_done or last.hangs else last.future

    def end(self) -> None:
        """Set ``found`` and ``hangs`` to the present state. Raises the error of ``work``."""
        last = self._running[-1]
        found = last if last.is_done else self._late
        self.hangs = found is None and last.hangs
        self.found = None
        if found is not None:
            found.is_taken = True
            self.found = found.future.result()


def wait_for(readers: Collection[FolderReader[T]], limit: float) -> None:
    """Wait until all readers are done or hang, at most ``limit`` seconds, then ``end`` all."""
    end = time.monotonic() + limit
    while pending := _pending(readers):
        left = end - time.monotonic()
        if left <= 0:
            break
        concurrent.futures.wait(pending, min(left, _STEP))
    for one in readers:
        one.end()


def _pending(readers: Iterable[FolderReader[T]]) -> list[concurrent.futures.Future[T]]:
    return [future for one in readers if (future := one.pending()) is not None]


class _Attempt(Generic[T]):
    def __init__(self, work: Callable[[Disk], T], disk: Disk, left_out: Collection[Path]) -> None:
        self._watched = _WatchedDisk(disk, left_out)
        self.is_whole = not left_out
        self.is_taken = False
        self.future = begin(lambda: work(self._watched))

    @property
    def is_done(self) -> bool:
        return self.future.done()

    @property
    def at(self) -> Path | None:
        """The place that it reads, or where it hangs."""
        return self._watched.at

    @property
    def hangs(self) -> bool:
        return not self.is_done and time.monotonic() - self._watched.since >= SILENCE


class _WatchedDisk(Disk):
    """Records the place that is being read, and skips places at or below ``left_out``."""

    def __init__(self, disk: Disk, left_out: Collection[Path]) -> None:
        self._disk = disk
        self._left_out = left_out
        self.at: Path | None = None
        self.since = time.monotonic()

    def reach(self, path: Path) -> None:
        if self._left_out and any(at in self._left_out for at in (path, *path.parents)):
            raise OSError(errno.ETIMEDOUT, SILENT, str(path))
        self.at, self.since = path, time.monotonic()
        self._disk.reach(path)

    def entries(self, directory: Path, most: int) -> list[os.DirEntry[str]]:
        self.reach(directory)
        return self._disk.entries(directory, most)

    def stat(self, path: Path) -> os.stat_result:
        self.reach(path)
        return self._disk.stat(path)

    def beginning(self, path: Path, most: int) -> bytes:
        self.reach(path)
        return self._disk.beginning(path, most)
