"""Writes a log to a file on the machine where the app runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.records import LogLevel, endpoints, queries

MAX_SAVED_LINES = 1_000_000
_STEP = 5000


async def save_log(client: ServiceClient, source: str, level: LogLevel | None, path: Path) -> int:
    """Write all that is kept of the log ``source``, of ``level`` and worse, to the new file
    ``path``; tells how many lines that were.

    Raises ``FileExistsError`` rather than overwrite, other ``OSError``s as they come, and
    ``CyberError`` where the service does not answer.
    """
    saved = 0
    with path.open("x", encoding="utf-8") as file:
        at = 0
        while saved < MAX_SAVED_LINES:
            page = await client.call(
                endpoints.LOG_LINES,
                source,
                query=queries.LinesQuery(after=at, limit=_STEP, level=level),
            )
            text = "".join(f"{one.at.isoformat()} {one.text}\n" for one in page.lines)
            await asyncio.to_thread(file.write, text)
            saved += len(page.lines)
            if page.searched_to <= at or page.searched_to >= page.log.end:
                break
            at = page.searched_to
    return saved
