"""The data of ``service`` and ``gap`` events, and recent events in words."""

from __future__ import annotations

from datetime import datetime
from itertools import takewhile
from typing import Literal

import msgspec

EVENTS_KEPT = 200
EventKind = Literal["model", "download", "install", "config", "service"]
EventTone = Literal["none", "good", "busy", "bad"]


class RecentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event in words (``GET /admin/recent-events``)."""

    id: int
    """Grows with time."""
    at: datetime
    kind: EventKind
    subject: str
    """The model's id, the download's name, ``llama-server`` or ``service``."""
    text: str
    """What happened to the subject, in a few words."""
    tone: EventTone = "none"
    """``busy`` is a step that another event will follow."""
    count: int = 1
    """The number of failures in a row that it stands for."""


class ServiceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``service`` event.

    ``state`` is ``started``, ``stopping``, ``problems`` (``/admin/problems`` has changed),
    ``event`` (``event`` is a new recent event), or that of an installation: ``installing``,
    ``installed``, ``install failed``, ``install cancelled``.
    """

    state: str
    message: str = ""
    event: RecentEvent | msgspec.UnsetType = msgspec.UNSET


class GapEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of a ``gap`` event: a reader was too slow or resumed too late, and lost events."""

    missed: int | None
    """The number of lost events; ``None`` if unknown."""
    topic: str | None
    """The topic of the lost events; ``None`` = all topics, after a restart of the service."""


def with_event(events: tuple[RecentEvent, ...], new: RecentEvent) -> tuple[RecentEvent, ...]:
    """Add ``new`` to the last events, newest first.

    A repeated failure replaces the failure before it and the steps of both: the failures of a
    model that never loads, or always crashes, are one event with their number.
    """
    if new.tone == "bad":
        own = [one for one in events if (one.kind, one.subject) == (new.kind, new.subject)]
        steps = list(takewhile(lambda one: one.tone in {"busy", "good"}, own))
        failure = own[len(steps) : len(steps) + 1]
        if failure and failure[0].tone == "bad":
            steps += takewhile(lambda one: one.tone == "busy", own[len(steps) + 1 :])
            gone = {one.id for one in steps + failure}
            events = tuple(one for one in events if one.id not in gone)
            new = msgspec.structs.replace(new, count=failure[0].count + 1)
    return (new, *events)[:EVENTS_KEPT]
