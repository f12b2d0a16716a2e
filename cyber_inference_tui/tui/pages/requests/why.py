"""Why a request took so long: read from the service, and drawn as phases one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from textwrap import wrap

from textual.content import Content

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import CyberError, NotFoundError
from cyber_inference_tui.records import PhaseName, RequestRecord, RequestWhy, endpoints
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.phases import phase_lines, slowness
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.requests.request_status import CLIENT_LEFT, failed
from cyber_inference_tui.tui.snapshot import RequestIdentity, request_identity
from cyber_inference_tui.units import counted, seconds_text

READ_DELAY = 0.12
"""Seconds before it is read, so that a moving cursor reads nothing."""
_BEFORE_BAR = 21
"""Cells of a phase's name and time."""
_INDENT = 10
"""Cells before the figures of a phase that are below its bar."""
_LEAST_BAR = 24
"""Cells of a bar; with less room, the figures of a phase are below it."""
_WIDEST_BAR = 60
_WORK = {PhaseName.PROMPT, PhaseName.WRITING}
"""The other phases are waits."""


def is_explained(record: RequestRecord) -> bool:
    """Return whether the service can explain its time; a failure has its error instead."""
    known = bool(record.model and (record.id or record.request_id))
    return known and (not failed(record) or record.status == CLIENT_LEFT)


class WhyReader:
    """Reads the explanation of one request at a time, and keeps the last one."""

    def __init__(self) -> None:
        self._asked: RequestIdentity | None = None
        self._why: RequestWhy | None = None
        self._problem = ""

    def of(self, record: object) -> RequestWhy | None:
        """Return the explanation of this request, if it is known."""
        if not isinstance(record, RequestRecord) or self._why is None:
            return None
        known = request_identity(self._why.request) == request_identity(record)
        return self._why if known else None

    def problem_of(self, record: object) -> str:
        """Return a sentence if the explanation of this request could not be read."""
        asked = isinstance(record, RequestRecord) and request_identity(record) == self._asked
        return self._problem if asked else ""

    def wants(self, record: RequestRecord) -> bool:
        """Return whether the explanation has to be read."""
        return self._asked != request_identity(record)

    async def read(
        self, client: ServiceClient, record: RequestRecord, then: Callable[[], None]
    ) -> None:
        """Read the explanation of ``record`` and call ``then``."""
        asked = self._asked = request_identity(record)
        self._problem = ""
        try:
            await asyncio.sleep(READ_DELAY)
            name = str(record.id or record.request_id)
            self._why = await client.call(endpoints.WHY, name)
        except NotFoundError:
            return  # an older service, or a request that is no longer kept
        except CyberError as error:
            self._problem = f"Its phases could not be read: {error}"
        except asyncio.CancelledError:
            if self._asked == asked:
                self._asked = None
            raise
        then()


def why_content(why: RequestWhy, width: int, charset: Charset) -> Content:
    """Return the comparison, the phases with bars and the explanation, in ``width`` cells."""
    parts: list[tuple[str, str]] = []
    if why.cause:
        parts.append((f"{_headline(why)}\n\n", "bold $text-warning"))
    notes = max((len(line.note) for line in phase_lines(why, 1, charset)), default=0)
    room = width - _BEFORE_BAR
    beside = room - notes - 2 >= _LEAST_BAR
    bar = max(1, min(_WIDEST_BAR, room - notes - 2 if beside else room))
    for line in phase_lines(why, bar, charset):
        tone = "$accent" if line.name in _WORK else "$warning"
        parts += [(f"{line.name:8}", "$text-muted"), (f"  {line.took:>9}  ", ""), (line.bar, tone)]
        if line.note:
            lines = [line.note] if beside else _wrapped(line.note, max(10, width - _INDENT))
            gap = "  " if beside else f"\n{' ' * _INDENT}"
            parts += [(f"{gap}{note}", "$text-muted") for note in lines]
        parts.append(("\n", ""))
    parts.append((f"\n{_explanation(why)}\n", ""))
    if why.usual_seconds is not None:
        parts.append((f"{_compared(why)}\n", "$text-muted"))
    return Content.assemble(*parts)


def _wrapped(note: str, width: int) -> list[str]:
    """Return a note in lines; a figure and its unit stay together."""
    return [
        line.replace("\xa0", " ")
        for line in wrap(note.replace(" ", "\xa0").replace(",\xa0", ", "), width)
    ]


def why_text(why: RequestWhy, charset: Charset) -> str:
    """Return the same as plain text for the clipboard."""
    lines = [_headline(why)] if why.cause else []
    lines += [
        ", ".join(filter(None, (f"{line.name}: {line.took}", line.note)))
        for line in phase_lines(why, 1, charset)
    ]
    lines.append(_explanation(why))
    if why.usual_seconds is not None:
        lines.append(_compared(why))
    return "\n".join(lines)


def _headline(why: RequestWhy) -> str:
    words = clean_line(slowness(why))
    return words[:1].upper() + words[1:]


def _explanation(why: RequestWhy) -> str:
    return " ".join(map(clean_line, why.explanation))


def _compared(why: RequestWhy) -> str:
    usual = seconds_text(why.usual_seconds or 0.0)
    return f"Usual time: {usual}, the median of {counted(why.compared, 'earlier request')}."
