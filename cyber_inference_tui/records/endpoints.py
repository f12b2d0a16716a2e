"""The endpoints of the service: one line each, from which server, client, docs and tests are made.

The server registers a handler for each (``http.app``, ``http.admin``), ``ServiceClient.call`` asks
them, and ``GET /openapi.json`` describes them. To add an endpoint, add a line here and a handler
there.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum, auto
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from cyber_inference_tui.records.hub import DownloadRecord, HubFilesRecord, HubModelRecord
from cyber_inference_tui.records.logs import LogLevel, LogPage, LogRecord
from cyber_inference_tui.records.machine import MemoryRoom, ResourceSample
from cyber_inference_tui.records.models import (
    ModelDetails,
    ModelRecord,
    ProblemRecord,
    SessionRecord,
)
from cyber_inference_tui.records.requests import (
    ActiveRequestRecord,
    ModelTotals,
    RequestRecord,
    WaitingRecord,
)
from cyber_inference_tui.records.service import (
    ConfigCheckRecord,
    ConfigFileRecord,
    ConfigValueRecord,
    InstallRecord,
    LoginRecord,
    StatusRecord,
)

NEXT_CURSOR = "X-Next-Cursor"
"""Header of a page of a search: the ``cursor`` of the next one; it is missing on the last page."""
LOG_POSITION = "X-Last-Event-ID"
"""Header of a log: the newest event when it was read, to follow the log from there."""

Q = TypeVar("Q")
B = TypeVar("B")
A = TypeVar("A")


class Area(Enum):
    """Who may call an endpoint."""

    OPEN = auto()
    """Everybody, without a key: health and the front page."""
    MODEL = auto()
    """Clients of models: with a key, when ``api_keys`` is set."""
    LOGIN = auto()
    """Where the password is sent: no foreign pages, writes only as JSON."""
    ADMIN = auto()
    """The owner: as ``LOGIN``, and with a token, when ``admin_password`` is set."""


class Endpoint(msgspec.Struct, Generic[Q, B, A], frozen=True):
    """One method of one path: what it takes and what it answers.

    ``route`` is the method and the path. A path has at most one parameter, which may contain
    slashes; one segment may follow it. Where two endpoints have the same route, the first whose
    required query parameters are given (a flag: is 1) answers.
    """

    route: str
    query: type[Q]
    """Its fields are the query parameters; a number above its ``le`` counts as that."""
    body: type[B]
    """Of a write, the JSON body; an empty body counts as ``{}``."""
    answer: type[A]
    """What the JSON of the answer decodes to; ``str`` is plain text."""
    help: str
    area: Area = Area.ADMIN
    status: int = 200

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.route.partition(" ")[0]

    @property
    def path(self) -> str:
        """The path, with its parameter in braces."""
        return self.route.partition(" ")[2]

    @property
    def writes(self) -> bool:
        """Whether it has a body."""
        return self.method != "GET"


class Stream(msgspec.Struct):
    """The answer of an endpoint that sends events until the client leaves."""


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


class Password(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a login is given for."""

    password: str = ""


class NewValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A setting's new value."""

    value: Any


class NewFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new text of the configuration file; ``digest`` names the text that it replaces."""

    text: str
    digest: str


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


# The endpoints

HEALTH = Endpoint(
    "GET /health", Nothing, Nothing, dict[str, str], "whether the service is up", Area.OPEN
)
HEALTH_V1 = Endpoint(
    "GET /v1/health", Nothing, Nothing, dict[str, str], "the same as `/health`", Area.OPEN
)
FRONT_PAGE = Endpoint("GET /", Nothing, Nothing, str, "a page that says what this is", Area.OPEN)
LIST_V1 = Endpoint(
    "GET /v1/models",
    Nothing,
    Nothing,
    dict[str, Any],
    "the models, as OpenAI lists them",
    Area.MODEL,
)
LISTED_V1 = Endpoint(
    "GET /v1/models/{id}", Nothing, Nothing, dict[str, Any], "one of them", Area.MODEL
)
LIST = Endpoint(
    "GET /models", Nothing, Nothing, dict[str, Any], "the same as `/v1/models`", Area.MODEL
)
LISTED = Endpoint("GET /models/{id}", Nothing, Nothing, dict[str, Any], "one of them", Area.MODEL)
METRICS = Endpoint("GET /metrics", ServerQuery, Nothing, str, "figures for Prometheus", Area.MODEL)
OPENAPI = Endpoint(
    "GET /openapi.json",
    ServerQuery,
    Nothing,
    dict[str, Any],
    "this table as an OpenAPI document",
    Area.MODEL,
)

LOGIN = Endpoint(
    "POST /admin/login", Nothing, Password, LoginRecord, "the password for a token", Area.LOGIN
)
STATUS = Endpoint("GET /admin/status", Nothing, Nothing, StatusRecord, "the service in one glance")
RESOURCE_HISTORY = Endpoint(
    "GET /admin/resources", TimeQuery, Nothing, list[ResourceSample], "samples, oldest first"
)
RESOURCES = Endpoint(
    "GET /admin/resources", Nothing, Nothing, ResourceSample, "the machine and its models now"
)
MEMORY = Endpoint(
    "GET /admin/memory", Nothing, Nothing, list[MemoryRoom], "the memory that models may have"
)
QUEUE = Endpoint(
    "GET /admin/queue", Nothing, Nothing, list[WaitingRecord], "the requests that wait for a model"
)
PROBLEMS = Endpoint(
    "GET /admin/problems",
    Nothing,
    Nothing,
    list[ProblemRecord],
    "files and settings that are no models, and why",
)
MODELS = Endpoint("GET /admin/models", Nothing, Nothing, list[ModelRecord], "every model, by id")
DETAILS = Endpoint(
    "GET /admin/models/{id}/details", Nothing, Nothing, ModelDetails, "all facts about one model"
)
MODEL = Endpoint("GET /admin/models/{id}", Nothing, Nothing, ModelRecord, "one model")
DELETE_MODEL = Endpoint(
    "DELETE /admin/models/{id}",
    Nothing,
    Nothing,
    ModelRecord,
    "removes an unloaded model's files, under `models_dir` only",
)
LOAD = Endpoint(
    "POST /admin/models/{id}/load",
    LoadQuery,
    Nothing,
    ModelRecord,
    "loads a model; answers when it is loaded or has failed, with `wait=0` at once",
)
UNLOAD = Endpoint(
    "POST /admin/models/{id}/unload",
    UnloadQuery,
    Nothing,
    ModelRecord,
    "unloads a model after its requests, with `force=1` at once",
)
PIN = Endpoint(
    "POST /admin/models/{id}/pin",
    Nothing,
    Nothing,
    ModelRecord,
    "keeps a model from being evicted and idled out, until the service ends",
)
UNPIN = Endpoint("POST /admin/models/{id}/unpin", Nothing, Nothing, ModelRecord, "takes that back")
SEARCH = Endpoint(
    "GET /admin/hub/search", SearchQuery, Nothing, list[HubModelRecord], "models on the hub"
)
HUB_FILES = Endpoint(
    "GET /admin/hub/files",
    RepositoryQuery,
    Nothing,
    list[HubFilesRecord],
    "the models in a repository, and how they would fit here",
)
DOWNLOADS = Endpoint(
    "GET /admin/downloads", Nothing, Nothing, list[DownloadRecord], "every download, oldest first"
)
DOWNLOAD = Endpoint(
    "POST /admin/downloads", Nothing, NewDownload, DownloadRecord, "queues a download", status=202
)
CANCEL_DOWNLOAD = Endpoint(
    "DELETE /admin/downloads/{id}",
    CancelQuery,
    Nothing,
    DownloadRecord,
    "cancels a download and removes what is here of it; `keep=1` leaves that for a later try",
)
PAUSE_DOWNLOAD = Endpoint(
    "POST /admin/downloads/{id}/pause", Nothing, Nothing, DownloadRecord, "pauses a download"
)
RESUME_DOWNLOAD = Endpoint(
    "POST /admin/downloads/{id}/resume", Nothing, Nothing, DownloadRecord, "resumes a download"
)
RETRY_DOWNLOAD = Endpoint(
    "POST /admin/downloads/{id}/retry",
    Nothing,
    Nothing,
    DownloadRecord,
    "tries a failed or cancelled download again",
)
LOGS = Endpoint("GET /admin/logs", Nothing, Nothing, list[LogRecord], "every log, by id")
LOG_TAIL = Endpoint(
    "GET /admin/logs/{id}", TailQuery, Nothing, str, "the last lines of a log as text"
)
LOG_LINES = Endpoint(
    "GET /admin/log-lines/{id}",
    LinesQuery,
    Nothing,
    LogPage,
    "any part of a log, with numbers, times and levels",
)
ACTIVE_REQUESTS = Endpoint(
    "GET /admin/requests/active",
    Nothing,
    Nothing,
    list[ActiveRequestRecord],
    "every request that is not finished, oldest first",
)
REQUESTS = Endpoint(
    "GET /admin/requests",
    RequestQuery,
    Nothing,
    list[RequestRecord],
    "finished requests, newest first",
)
SESSIONS = Endpoint(
    "GET /admin/sessions",
    HistoryQuery,
    Nothing,
    list[SessionRecord],
    "from a load to the unload, newest first",
)
TOTALS = Endpoint(
    "GET /admin/totals", Nothing, Nothing, list[ModelTotals], "sums over the requests, by model"
)
CONFIG = Endpoint(
    "GET /admin/config",
    Nothing,
    Nothing,
    list[ConfigValueRecord],
    "every setting with its value and source; secrets are masked",
)
CHECK_CONFIG = Endpoint(
    "PUT /admin/config/{key}",
    CheckQuery,
    NewValue,
    ConfigCheckRecord,
    "with `check=1`: what the change would do",
)
SET_CONFIG = Endpoint(
    "PUT /admin/config/{key}",
    Nothing,
    NewValue,
    ConfigValueRecord,
    "checks a setting, writes it to the configuration file and applies it",
)
UNSET_CONFIG = Endpoint(
    "DELETE /admin/config/{key}",
    Nothing,
    Nothing,
    ConfigValueRecord,
    "takes a setting out of the file, so that its default holds again",
)
CONFIG_FILE = Endpoint(
    "GET /admin/config-file", Nothing, Nothing, ConfigFileRecord, "the configuration file"
)
SET_CONFIG_FILE = Endpoint(
    "PUT /admin/config-file",
    Nothing,
    NewFile,
    ConfigFileRecord,
    "replaces the configuration file, if it is still that of `digest`",
)
INSTALLATION = Endpoint(
    "GET /admin/install",
    Nothing,
    Nothing,
    InstallRecord,
    "the state of installing a llama-server, and the sources there are",
)
INSTALL = Endpoint(
    "POST /admin/install",
    Nothing,
    InstallWish,
    InstallRecord,
    "begins to install a llama-server",
    status=202,
)
CANCEL_INSTALL = Endpoint(
    "DELETE /admin/install", Nothing, Nothing, InstallRecord, "ends the installation that runs"
)
ADD_DEMO = Endpoint(
    "POST /admin/demo",
    Nothing,
    Nothing,
    ModelRecord,
    "adds the built-in model `demo` until the service ends",
)
EVENTS = Endpoint(
    "GET /admin/events", EventsQuery, Nothing, Stream, "what happens, as Server-Sent Events"
)
LOG_EVENTS = Endpoint(
    "GET /ws/logs", LogEventsQuery, Nothing, Stream, "new lines of logs, over WebSocket"
)
STATUS_EVENTS = Endpoint(
    "GET /ws/status",
    StatusEventsQuery,
    Nothing,
    Stream,
    "models, requests, resources and the service, over WebSocket",
)

ENDPOINTS: dict[str, Endpoint[Any, Any, Any]] = {
    name: value for name, value in list(globals().items()) if isinstance(value, Endpoint)
}
"""All of them by name, in this order."""
