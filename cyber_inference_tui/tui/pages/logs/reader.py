"""Reads, searches and saves a log of the service."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, TextIO

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.records import LogLevel, LogPage, NumberedLine, endpoints, queries
from cyber_inference_tui.records.logs import message_of

PAGE_LINES = 1000
MATCHES = 1000
"""Numbers of matches that are read at once."""
MAX_SAVED_LINES = 1_000_000
_SAVED_PAGE_LINES = 5000
_SEVERITY = {level: place for place, level in enumerate(LogLevel)}


class LogReader:
    """Reads the selected lines of the log ``source``.

    These have ``level`` or worse (``None``: all levels) and contain the text ``only``.
    """

    def __init__(self, client: ServiceClient, source: str) -> None:
        self._client = client
        self.source = source
        self.level: LogLevel | None = None
        self.only = ""

    @property
    def selects(self) -> bool:
        """Lines of the log may be left out."""
        return self.level is not None or bool(self.only)

    def wants(self, line: NumberedLine, text: str = "") -> bool:
        """Return whether a line is selected and contains ``text``, as the service does."""
        if self.level is not None and _SEVERITY[line.level] < _SEVERITY[self.level]:
            return False
        texts = [one.casefold() for one in (self.only, text) if one]
        return not texts or all(one in message_of(line.text).casefold() for one in texts)

    async def page(self, *, limit: int = PAGE_LINES, **bound: int) -> LogPage:
        """Read the last ``limit`` lines, or those ``before`` or ``after`` a number."""
        return await self._found(bound, limit=limit, level=self.level, q=self._texts())

    async def find(self, text: str, start: int) -> int | None:
        """Return the number of the next line with ``text`` from ``start`` on."""
        texts = self._texts(text)
        page = await self._found({"after": start}, limit=1, level=self.level, q=texts)
        return page.lines[0].number if page.lines else None

    async def matches(
        self, text: str, *, before: int | None = None, limit: int = MATCHES
    ) -> tuple[list[int], bool]:
        """Return the numbers of the last ``limit`` lines with ``text`` before a number.

        The second result says that there are no earlier ones.
        """
        numbers: list[int] = []
        while len(numbers) < limit:
            query = queries.LinesQuery(
                limit=limit - len(numbers), before=before, level=self.level, q=self._texts(text)
            )
            page = await self._client.call(endpoints.LOG_MATCHES, self.source, query=query)
            numbers[:0] = page.numbers
            if page.searched_to in {before, page.log.first}:
                return numbers, True
            before = page.searched_to
        return numbers, False

    async def last_error(self) -> int | None:
        """Return the number of the newest error, if there is any."""
        page = await self._found({}, limit=1, level=LogLevel.ERROR, q=self._texts())
        return page.lines[0].number if page.lines else None

    async def run_starts(self) -> list[int]:
        """Return the number of the first line of each run of the process."""
        page = await self._read(limit=1)
        return [run.first for run in page.log.runs if run.first >= page.log.first]

    async def save(self, path: Path) -> int:
        """Write the selected lines to a new file; return their number.

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
        selected = {"level": self.level, "q": self._texts()}
        while saved < MAX_SAVED_LINES:
            page = await self._read(after=at, limit=_SAVED_PAGE_LINES, **selected)
            text = "".join(f"{one.at.isoformat()} {one.text}\n" for one in page.lines)
            await asyncio.to_thread(file.write, text)
            saved += len(page.lines)
            if page.searched_to <= at or page.searched_to >= page.log.end:
                break
            at = page.searched_to
        return saved

    def _texts(self, *texts: str) -> tuple[str, ...]:
        return tuple(filter(None, (self.only, *texts)))

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
