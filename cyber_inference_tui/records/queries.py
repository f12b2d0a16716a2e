"""Query parameters and JSON bodies of the endpoints.

The service treats a number above its bound ``le`` as ``le``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from cyber_inference_tui.records.logs import LogLevel


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No query parameters, or no body."""


# Queries

_Count = Annotated[int, Meta(ge=0)]
_AtMost1000 = Annotated[int, Meta(ge=0, le=1000)]


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the history: entries before an id, of a model, since a time."""

    limit: _AtMost1000 = 100
    before: _Count | None = None
    model: str | None = None
    since: datetime | None = None


class RequestQuery(HistoryQuery, frozen=True, kw_only=True):
    """A page of requests; ``failed`` selects failed or successful requests.

    ``request_id`` selects those whose answer has this ``X-Request-Id``.
    """

    failed: bool | None = None
    request_id: str | None = None


class ClientsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The most clients to return, and the time since which their requests count."""

    limit: _AtMost1000 = 100
    since: datetime | None = None


class TimeQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The seconds of samples to return, up to now."""

    history: _Count


class FileQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a file in bytes."""

    size: _Count


class TrendQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The seconds of the past up to now, and the most periods to divide them into."""

    seconds: Annotated[int, Meta(ge=0, le=604_800)] = 300
    points: _AtMost1000 = 300


class SpeedQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The names to sum up by, and the time since which requests count."""

    by: Literal["model", "client", "key", "day"] = "model"
    since: datetime | None = None


class LoadQuery(msgspec.Struct, frozen=True, kw_only=True):
    """``wait``: the answer waits until the model is loaded or has failed."""

    wait: bool = True


class UnloadQuery(msgspec.Struct, frozen=True, kw_only=True):
    """``force``: the model's requests are ended."""

    force: bool = False


class TailQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The number of lines from the end of a log."""

    lines: Annotated[int, Meta(ge=0, le=100_000)] = 200


class LinesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A selection of a log's lines.

    Without a number it has the newest lines. ``before`` selects the nearest lines below a number,
    ``after`` the lines from a number on; both together select from the lower end. ``level`` is the
    lowest level; each line contains ``q`` in any case, and every ``q`` if there are several.
    """

    limit: Annotated[int, Meta(ge=0, le=5000)] = 1000
    before: _Count | None = None
    after: _Count | None = None
    level: LogLevel | None = None
    q: Annotated[tuple[Annotated[str, Meta(max_length=256)], ...], Meta(max_length=4)] = ()


class SearchQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A search on the hub.

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
    """``keep``: the files of the download stay."""

    keep: bool = False


class CheckQuery(msgspec.Struct, frozen=True, kw_only=True):
    """``check``: return the effect of a change instead of making it."""

    check: bool


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The events to send: of topics, separated by commas, and of logs (``log`` may be repeated)."""

    topics: str = ""
    log: tuple[str, ...] = ()
    last_event_id: _Count | None = None


class LogEventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The log to send, and the event after which to begin."""

    id: str | None = None
    last_event_id: _Count | None = None


class StatusEventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The event after which to begin."""

    last_event_id: _Count | None = None


class ServerQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A model whose server answers instead of the service, loaded if need be."""

    model: str | None = None


# Bodies

_Name = Annotated[str, Meta(min_length=1, max_length=1024)]


class ModelName(msgspec.Struct, frozen=True, kw_only=True):
    """The id or alias of the model to load or unload."""

    model: str = ""


class OllamaModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of Ollama's API; ``name`` is an older word for ``model``."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None

    @property
    def asked(self) -> str:
        """The name of the model; empty if there is none."""
        return self.model or self.name or ""


class OllamaPull(OllamaModel, frozen=True, kw_only=True):
    """A model to download; without ``stream`` the answer comes at the end."""

    stream: bool | None = None


class OllamaCreation(OllamaPull, frozen=True, kw_only=True):
    """A new name for a model, with parameters of its own."""

    source: str | None = msgspec.field(default=None, name="from")
    system: str | None = None
    template: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[Any] | None = None
    files: dict[str, Any] | None = None
    adapters: dict[str, Any] | None = None
    quantize: str | None = None


class OllamaCopy(msgspec.Struct, frozen=True, kw_only=True):
    """A further name for a model."""

    source: str | None = None
    destination: str | None = None


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The password of a login."""

    password: str = ""


class NewValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A setting's new value."""

    value: Any


MOST_SCALE: Final = 1000.0
"""The bound of an adapter's strength, in both directions."""


class NewScale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new strength of a LoRA adapter of a loaded model, by its number."""

    id: Annotated[int, Meta(ge=0, le=1000)]
    scale: Annotated[float, Meta(ge=-MOST_SCALE, le=MOST_SCALE)]


class DownloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model to download."""

    repo: _Name
    filename: _Name | None = None
    revision: _Name | None = None


class InstallRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source of an installation."""

    source: Literal["auto", "github", "debian", "source"] = msgspec.field(
        default="auto", name="from"
    )
