"""Reads, searches and saves a log of the service."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, TextIO

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.records import LogLevel, LogPage, endpoints, queries

PAGE_LINES = 1000
MAX_SAVED_LINES = 1_000_000
_SAVED_PAGE_LINES = 5000


class LogReader:
    """Reads lines of ``level`` and worse of the log ``source``; ``None`` reads all levels."""

    def __init__(self, client: ServiceClient, source: str) -> None:
        self._client = client
        self.source = source
        self.level: LogLevel | None = None

    async def page(self, **bound: int) -> LogPage:
        """Read the last ``PAGE_LINES`` lines, or those ``before`` or ``after`` a number."""
        return await self._found(bound, limit=PAGE_LINES, level=self.level)

    async def find(self, text: str, step: int, start: int) -> int | None:
        """Return the number of the next (1) or previous (-1) line with ``text`` from ``start``."""
        bound = {"before": start} if step < 0 else {"after": start}
        page = await self._found(bound, limit=1, level=self.level, q=(text,))
        return page.lines[0].number if page.lines else None

    async def last_error(self) -> int | None:
        """Return the number of the newest error, if there is any."""
        page = await self._found({}, limit=1, level=LogLevel.ERROR)
        return page.lines[0].number if page.lines else None

    async def run_starts(self) -> list[int]:
        """Return the number of the first line of each run of the process."""
        page = await self._read(limit=1)
        return [run.first for run in page.log.runs if run.first >= page.log.first]

    async def save(self, path: Path) -> int:
        """Write the kept lines to a new file; return their number.

        Raise ``FileExistsError`` instead of overwriting a file, other ``OSError``s, and
        ``CyberError`` if the service does not answer. The file is removed then.
        """
        file = await asyncio.to_thread(path.open, "x", encoding="utf-8")
        try:
            saved = await self._write(file)
            await asyncio.to_thread(file.close)
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise
        return saved

    async def _write(self, file: TextIO) -> int:
        saved = at = 0
        while saved < MAX_SAVED_LINES:
            page = await self._read(after=at, limit=_SAVED_PAGE_LINES, level=self.level)
            text = "".join(f"{one.at.isoformat()} {one.text}\n" for one in page.lines)
            await asyncio.to_thread(file.write, text)
            saved += len(page.lines)
            if page.searched_to <= at or page.searched_to >= page.log.end:
                break
            at = page.searched_to
        return saved

    async def _found(self, bound: dict[str, int], **query: Any) -> LogPage:
        """Read on from ``bound`` until there are lines or the log ends.

        The service searches about a second per request.
        """
        onwards = "after" in bound
        while True:
            page = await self._read(**bound, **query)
            end = page.searched_to
            over = end >= page.log.end if onwards else end <= page.log.first
            if page.lines or over or end in bound.values():
                return page
            bound = {"after" if onwards else "before": end}

    async def _read(self, **query: Any) -> LogPage:
        lines = queries.LinesQuery(**query)
        return await self._client.call(endpoints.LOG_LINES, self.source, query=lines)
