"""The service's own log: its records as lines with their level, from any thread."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from cyber_inference_tui.llama.log import Log
from cyber_inference_tui.records import LogLevel
from cyber_inference_tui.service.process_log import LogHandler


async def test_the_programs_own_modules_go_without_the_package() -> None:
    ring = Log(now=lambda: datetime.now(UTC))
    logger = logging.Logger("cyber_inference_tui.scheduler.lifecycle")
    logger.addHandler(LogHandler(ring))
    logger.info("demo: loaded")
    assert [line.text for line in ring.tail(9)] == ["I scheduler.lifecycle: demo: loaded"]


async def test_lines_have_the_level_of_their_record() -> None:
    ring = Log(now=lambda: datetime.now(UTC))
    handler = LogHandler(ring)
    handler.attach()
    logger = logging.Logger("some.room")
    logger.addHandler(handler)
    logger.debug("D")
    logger.info("error: only said")
    logger.warning("two\nlines")
    logger.critical("over")
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("failed")
    lines = ring.tail(100)
    assert [(line.level, line.text) for line in lines[:6]] == [
        (LogLevel.DEBUG, "D some.room: D"),
        (LogLevel.INFO, "I some.room: error: only said"),
        (LogLevel.WARNING, "W some.room: two"),
        (LogLevel.WARNING, "lines"),
        (LogLevel.ERROR, "C some.room: over"),
        (LogLevel.ERROR, "E some.room: failed"),
    ]
    assert {line.level for line in lines[6:]} == {LogLevel.ERROR}
    assert lines[-1].text == "ValueError: no"
    await asyncio.to_thread(logger.warning, "from a thread")
    await asyncio.sleep(0)
    assert ring.tail(1)[0].text == "W some.room: from a thread"
