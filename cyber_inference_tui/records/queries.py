"""What the endpoints take: query parameters and JSON bodies.

The bounds of a number are those of the service: it takes a number above ``le`` for ``le``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cyber_inference_tui.records.logs import LogLevel


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query parameters, or no body."""


# Queries

_Count = Annotated[int, Meta(ge=0)]
_AtMost1000 = Annotated[int, Meta(ge=0, le=1000)]


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Of which past things, newest first: those before an id, of a model, since a time."""

    limit: _AtMost1000 = 100
    before: _Count | None = None
    model: str | None = None
    since: datetime | None = None


class RequestQuery(HistoryQuery, frozen=True, kw_only=True):
    """Of requests also: only those that failed, or only those that did not."""

    failed: bool | None = None


class TimeQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The samples of the last so many seconds."""

    history: _Count


class LoadQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the answer waits until the model is loaded or has failed."""

    wait: bool = True


class UnloadQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the requests of the model are ended."""

    force: bool = False


class TailQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How many lines from the end of a log."""

    lines: Annotated[int, Meta(ge=0, le=100_000)] = 200


class LinesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines of a log.

    Without a number they are the newest. ``before`` gives those nearest below that number,
    ``after`` those from that number on, both together those between, from the lower end. ``level``
    is the least; ``q`` is in each line, in any case.
    """

    limit: Annotated[int, Meta(ge=0, le=5000)] = 1000
    before: _Count | None = None
    after: _Count | None = None
    level: LogLevel | None = None
    q: Annotated[str, Meta(max_length=256)] = ""


class SearchQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for on the hub.

    ``sort`` is ``downloads``, ``likes``, ``trending`` or ``new``; ``limit`` at most 100.
    """

    q: str = ""
    sort: str = "downloads"
    limit: _Count = 30
    cursor: str | None = None
    author: str | None = None


class RepositoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A repository on the hub, at a revision."""

    repo: Annotated[str, Meta(min_length=1)]
    revision: str | None = None


class CancelQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whether what is here of the download stays."""

    keep: bool = False


class CheckQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for the effect of a change instead of the change."""

    check: bool


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events: of topics (separated by commas), of logs (``log`` may be repeated)."""

    topics: str = ""
    log: tuple[str, ...] = ()
    last_event_id: _Count | None = None


class LogEventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which log, and after which event."""

    id: str | None = None
    last_event_id: _Count | None = None


class StatusEventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """After which event."""

    last_event_id: _Count | None = None


class ServerQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A model whose server answers instead of the service; it is loaded if need be."""

    model: str | None = None


# Bodies

_Name = Annotated[str, Meta(min_length=1, max_length=1024)]


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a login is given for."""

    password: str = ""


class NewValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A setting's new value."""

    value: Any


class NewDownload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to download."""

    repo: _Name
    filename: _Name | None = None
    revision: _Name | None = None


class InstallWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to get a llama-server from."""

    source: Literal["auto", "github", "debian", "source"] = msgspec.field(
        default="auto", name="from"
    )
