"""The endpoints of the service, one line each: server, client, docs and tests use this table.

The server registers a handler for each (``http.application``, ``http.admin``),
``ServiceClient.call`` calls them, and ``GET /openapi.json`` describes them. To add an endpoint, add
a line here and a line in ``http.admin``.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Generic, TypeVar

import msgspec

from cyber_inference_tui.records.bench import BenchRequest, BenchResult, BenchStatus
from cyber_inference_tui.records.checks import ModelCheck
from cyber_inference_tui.records.events import RecentEvent
from cyber_inference_tui.records.gc import GcOrder, GcPlan, GcQuery, GcResult
from cyber_inference_tui.records.hub import (
    DownloadRecord,
    HubCardRecord,
    HubFilesRecord,
    HubModelRecord,
)
from cyber_inference_tui.records.keys import CreatedKey, KeyRecord, KeyTotals, NewKey
from cyber_inference_tui.records.logs import LogMatches, LogPage, LogRecord
from cyber_inference_tui.records.machine import MemoryPool, ResourceSample
from cyber_inference_tui.records.models import (
    AdapterRecord,
    ModelDetails,
    ModelRecord,
    ProblemRecord,
    SessionRecord,
)
from cyber_inference_tui.records.peers import (
    NewPeer,
    PairingAnswer,
    PairingHello,
    PairingProof,
    PairingQuery,
    PairingRecord,
    PairingReply,
    PairingRequest,
    PeerRecord,
    PeerSuggestion,
)
from cyber_inference_tui.records.queries import (
    CancelQuery,
    CheckQuery,
    ClientsQuery,
    Credentials,
    DownloadRequest,
    EventsQuery,
    FileQuery,
    HistoryQuery,
    InstallRequest,
    LinesQuery,
    LoadQuery,
    LogEventsQuery,
    ModelName,
    NewScale,
    NewValue,
    Nothing,
    OllamaCopy,
    OllamaCreation,
    OllamaModel,
    OllamaPull,
    RepositoryQuery,
    RequestQuery,
    SearchQuery,
    ServerQuery,
    SpeedQuery,
    StatusEventsQuery,
    TailQuery,
    TimeQuery,
    TrendQuery,
    UnloadQuery,
)
from cyber_inference_tui.records.requests import (
    ActiveRequestRecord,
    ClientRecord,
    ModelTotals,
    RequestRecord,
    RequestWhy,
    WaitingRecord,
)
from cyber_inference_tui.records.service import (
    ConfigCheckRecord,
    ConfigValueRecord,
    InstallRecord,
    LoginRecord,
    LogoutRecord,
    StatusRecord,
)
from cyber_inference_tui.records.trend import SpeedTotals, Trend
from cyber_inference_tui.records.tuning import TuneRequest, TuneUndone
from cyber_inference_tui.records.workers import SplitCheck, SplitQuestion, WorkerQuery

NEXT_CURSOR = "X-Next-Cursor"
"""Header of a page of a search: the ``cursor`` of the next page; missing on the last page."""
LOG_POSITION = "X-Last-Event-ID"
"""Header of a log: the id of the newest event when it was read, to follow the log from there."""

Q = TypeVar("Q")
B = TypeVar("B")
A = TypeVar("A")


class Area(Enum):
    """The clients that may call an endpoint."""

    OPEN = auto()
    """All clients, without a key, and pages of all sites: health."""
    PAGE = auto()
    """All clients, without a key, but no pages of other sites: the front page, the web page."""
    MODEL = auto()
    """Clients of models, with a key if the service has any."""
    LOGIN = auto()
    """The login: no pages of other sites, and only JSON bodies."""
    ADMIN = auto()
    """The owner: as ``LOGIN``, and with a token if ``admin_password`` is set."""
    OWNER = auto()
    """The owner by a client of Ollama's API: as ``ADMIN``, but without a type of the body, and with
    a key for all models if the service has any and ``admin_password`` is not set."""
    PEER = auto()
    """Paired boxes, with the key of their pairing."""


class Endpoint(msgspec.Struct, Generic[Q, B, A], frozen=True):
    """A method of a path, with the types of its query, body and answer.

    ``route`` is the method and the path. A path has at most one parameter, which may contain
    slashes; one segment may follow it. Where two endpoints have the same route, the first
    whose required query parameters are given answers (for a flag: is 1).
    """

    route: str
    query: type[Q]
    """A struct whose fields are the query parameters."""
    body: type[B]
    """The JSON body of a write; an empty body counts as ``{}``."""
    answer: type[A]
    """The type of the answer's JSON; ``str`` is plain text, ``bytes`` a file."""
    summary: str
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
        """True if the request has a body."""
        return self.method != "GET"


class Stream(msgspec.Struct):
    """The answer of an endpoint that sends events until the client leaves."""


def _plain(
    route: str, answer: type[A], summary: str, area: Area = Area.ADMIN
) -> Endpoint[Nothing, Nothing, A]:
    return Endpoint(route, Nothing, Nothing, answer, summary, area)


def _asking(
    route: str, query: type[Q], answer: type[A], summary: str, area: Area = Area.ADMIN
) -> Endpoint[Q, Nothing, A]:
    return Endpoint(route, query, Nothing, answer, summary, area)


HEALTH = _plain("GET /health", dict[str, str], "whether the service is up", Area.OPEN)
HEALTH_V1 = _plain("GET /v1/health", dict[str, str], "the same as `/health`", Area.OPEN)
FRONT_PAGE = _plain("GET /", str, "a page that says what this is", Area.PAGE)
WEB_PAGE = _asking(
    "GET /ui/", ServerQuery, str, "llama-server's own web page, if the build has it", Area.PAGE
)
LIST_V1 = _plain(
    "GET /v1/models", dict[str, Any], "the models, as llama-server's router lists them", Area.MODEL
)
LISTED_V1 = _plain("GET /v1/models/{id}", dict[str, Any], "one model", Area.MODEL)
LIST = _plain("GET /models", dict[str, Any], "the same as `/v1/models`", Area.MODEL)
LISTED = _plain("GET /models/{id}", dict[str, Any], "one model", Area.MODEL)
BEGIN_LOAD = Endpoint(
    "POST /models/load",
    Nothing,
    ModelName,
    dict[str, bool],
    "begins to load a model",
    Area.MODEL,
)
BEGIN_UNLOAD = Endpoint(
    "POST /models/unload",
    Nothing,
    ModelName,
    dict[str, bool],
    "begins to unload a model, after its requests",
    Area.MODEL,
)
MODEL_EVENTS = _plain(
    "GET /models/sse", Stream, "loads and unloads, as Server-Sent Events", Area.MODEL
)
PROPS = _asking(
    "GET /props", ServerQuery, dict[str, Any], "what this router is, for its clients", Area.MODEL
)
METRICS = _asking("GET /metrics", ServerQuery, str, "figures for Prometheus", Area.MODEL)
OPENAPI = _asking(
    "GET /openapi.json",
    ServerQuery,
    dict[str, Any],
    "this table as an OpenAPI document",
    Area.MODEL,
)
OLLAMA_VERSION = _plain(
    "GET /api/version", dict[str, str], "the version of Ollama whose API this is", Area.MODEL
)
OLLAMA_STATUS = _plain(
    "GET /api/status", dict[str, Any], "that there are no models in a cloud", Area.MODEL
)
OLLAMA_TAGS = _plain(
    "GET /api/tags", dict[str, Any], "the models, as Ollama lists them", Area.MODEL
)
OLLAMA_PS = _plain("GET /api/ps", dict[str, Any], "the loaded models, as Ollama does", Area.MODEL)
OLLAMA_SHOW = Endpoint(
    "POST /api/show",
    Nothing,
    OllamaModel,
    dict[str, Any],
    "the facts of one model, as Ollama shows them",
    Area.MODEL,
)
OLLAMA_PULL = Endpoint(
    "POST /api/pull",
    Nothing,
    OllamaPull,
    dict[str, Any],
    "downloads a model from the hub",
    Area.OWNER,
)
OLLAMA_CREATE = Endpoint(
    "POST /api/create",
    Nothing,
    OllamaCreation,
    dict[str, Any],
    "gives a model a further name with parameters of its own",
    Area.OWNER,
)
OLLAMA_COPY = Endpoint(
    "POST /api/copy", Nothing, OllamaCopy, str, "gives a model a further name", Area.OWNER
)
OLLAMA_DELETE = Endpoint(
    "DELETE /api/delete",
    Nothing,
    OllamaModel,
    str,
    "removes a name, or the files of a model named by its id",
    Area.OWNER,
)
LOGIN = Endpoint(
    "POST /admin/login", Nothing, Credentials, LoginRecord, "the password for a token", Area.LOGIN
)
LOGOUT = _plain("POST /admin/logout", LogoutRecord, "ends the login of the token")
STATUS = _plain("GET /admin/status", StatusRecord, "the state of the service")
RESOURCE_HISTORY = _asking(
    "GET /admin/resources", TimeQuery, list[ResourceSample], "samples, oldest first"
)
RESOURCES = _plain("GET /admin/resources", ResourceSample, "the machine and its models now")
TREND = _asking(
    "GET /admin/trend", TrendQuery, Trend, "the past of the machine and its models, for graphs"
)
MEMORY = _plain("GET /admin/memory", list[MemoryPool], "the memory that models may have")
QUEUE = _plain("GET /admin/queue", list[WaitingRecord], "the requests that wait for a model")
PROBLEMS = _plain(
    "GET /admin/problems", list[ProblemRecord], "files and settings that are no models, and why"
)
MODELS = _plain("GET /admin/models", list[ModelRecord], "every model, by id")
DETAILS = _plain("GET /admin/models/{id}/details", ModelDetails, "all facts about one model")
MODEL = _plain("GET /admin/models/{id}", ModelRecord, "one model")
DELETE_MODEL = _plain(
    "DELETE /admin/models/{id}",
    ModelRecord,
    "removes an unloaded model's files, under `models_dir` only",
)
LOAD = _asking(
    "POST /admin/models/{id}/load",
    LoadQuery,
    ModelRecord,
    "loads a model; answers when it is loaded or has failed, with `wait=0` at once",
)
UNLOAD = _asking(
    "POST /admin/models/{id}/unload",
    UnloadQuery,
    ModelRecord,
    "unloads a model after its requests, with `force=1` at once",
)
CHECK_MODEL = _plain(
    "POST /admin/models/{id}/check",
    ModelCheck,
    "tries what a model can do, and answers with the results",
)
PIN = _plain(
    "POST /admin/models/{id}/pin",
    ModelRecord,
    "keeps a model from being evicted or unloaded when idle, until the service ends",
)
UNPIN = _plain("POST /admin/models/{id}/unpin", ModelRecord, "undoes `pin`")
GC = _asking(
    "GET /admin/gc",
    GcQuery,
    GcPlan,
    "what can be deleted to free the disk: partial downloads, outdated revisions, duplicates, and "
    "models that nobody uses",
)
DO_GC = Endpoint(
    "POST /admin/gc", Nothing, GcOrder, GcResult, "deletes a part of this plan, by its token"
)
SCALE_ADAPTER = Endpoint(
    "POST /admin/models/{id}/lora",
    Nothing,
    NewScale,
    list[AdapterRecord],
    "sets the strength of a loaded model's LoRA adapter until its server ends, without a reload",
)
SEARCH = _asking("GET /admin/hub/search", SearchQuery, list[HubModelRecord], "models on the hub")
HUB_FILES = _asking(
    "GET /admin/hub/files",
    RepositoryQuery,
    list[HubFilesRecord],
    "the models in a repository, and how they would fit here",
)
HUB_CARD = _asking(
    "GET /admin/hub/card",
    RepositoryQuery,
    HubCardRecord,
    "the facts about a repository, and the beginning of its model card as plain text",
)
DOWNLOADS = _plain("GET /admin/downloads", list[DownloadRecord], "every download, oldest first")
DOWNLOAD = Endpoint(
    "POST /admin/downloads",
    Nothing,
    DownloadRequest,
    DownloadRecord,
    "queues a download",
    status=202,
)
CANCEL_DOWNLOAD = _asking(
    "DELETE /admin/downloads/{id}",
    CancelQuery,
    DownloadRecord,
    "cancels a download and removes its files; `keep=1` keeps them for a later try",
)
PAUSE_DOWNLOAD = _plain("POST /admin/downloads/{id}/pause", DownloadRecord, "pauses a download")
RESUME_DOWNLOAD = _plain("POST /admin/downloads/{id}/resume", DownloadRecord, "resumes a download")
RETRY_DOWNLOAD = _plain(
    "POST /admin/downloads/{id}/retry", DownloadRecord, "tries a failed or cancelled download again"
)
LOGS = _plain("GET /admin/logs", list[LogRecord], "every log, by id")
LOG_TAIL = _asking("GET /admin/logs/{id}", TailQuery, str, "the last lines of a log as text")
LOG_LINES = _asking(
    "GET /admin/log-lines/{id}",
    LinesQuery,
    LogPage,
    "any part of a log, with numbers, times and levels",
)
LOG_MATCHES = _asking(
    "GET /admin/log-matches/{id}",
    LinesQuery,
    LogMatches,
    "only the numbers of these lines, to count and visit matches",
)
ACTIVE_REQUESTS = _plain(
    "GET /admin/requests/active",
    list[ActiveRequestRecord],
    "the requests in progress, oldest first",
)
REQUESTS = _asking(
    "GET /admin/requests", RequestQuery, list[RequestRecord], "finished requests, newest first"
)
WHY = _plain(
    "GET /admin/requests/{id}/why",
    RequestWhy,
    "the phases of a finished request, by its number or `X-Request-Id`, and why it was slow",
)
SESSIONS = _asking(
    "GET /admin/sessions",
    HistoryQuery,
    list[SessionRecord],
    "from a load to the unload, newest first",
)
CLIENTS = _asking(
    "GET /admin/clients",
    ClientsQuery,
    list[ClientRecord],
    "the clients of each port, by program, key and address, the latest first",
)
TOTALS = _plain("GET /admin/totals", list[ModelTotals], "sums over the requests, by model")
KEY_TOTALS = _plain(
    "GET /admin/totals/keys", list[KeyTotals], "sums over the requests, by the name of their key"
)
SPEED_TOTALS = _asking(
    "GET /admin/totals/speed",
    SpeedQuery,
    list[SpeedTotals],
    "sums and speeds by model, client, key or day",
)
BENCH = _plain("GET /admin/bench", BenchStatus, "the bench or tuning that runs, or the last one")
START_BENCH = Endpoint(
    "POST /admin/bench",
    Nothing,
    BenchRequest,
    BenchStatus,
    "measures models in turns, unless a request runs; stops when one arrives",
    status=202,
)
CANCEL_BENCH = _plain("DELETE /admin/bench", BenchStatus, "ends the bench or tuning that runs")
BENCH_RESULTS = _asking(
    "GET /admin/bench/results",
    HistoryQuery,
    list[BenchResult],
    "the results of benches, newest first",
)
START_TUNING = Endpoint(
    "POST /admin/tune",
    Nothing,
    TuneRequest,
    BenchStatus,
    "looks for better settings of a model, as a bench does: `/admin/bench` has the progress",
    status=202,
)
UNDO_TUNING = _plain(
    "DELETE /admin/tune/{name}", TuneUndone, "returns a model to its settings before the tuning"
)
KEYS = _plain("GET /admin/keys", list[KeyRecord], "the API keys with names, and their use")
ADD_KEY = Endpoint(
    "POST /admin/keys",
    Nothing,
    NewKey,
    CreatedKey,
    "creates an API key, and is the only answer that shows it",
    status=201,
)
REMOVE_KEY = _plain(
    "DELETE /admin/keys/{name}", KeyRecord, "removes an API key, which is invalid at once"
)
PEERS = _plain("GET /admin/peers", list[PeerRecord], "the other boxes, by name")
ADD_PEER = Endpoint(
    "POST /admin/peers",
    Nothing,
    NewPeer,
    PeerRecord,
    "pairs with the box that shows this code",
    status=201,
)
REMOVE_PEER = _plain(
    "DELETE /admin/peers/{name}", PeerRecord, "removes a box, whose key is invalid at once"
)
PEER_SUGGESTIONS = _plain(
    "GET /admin/peers/suggestions",
    list[PeerSuggestion],
    "boxes in the local network that are not paired, as they present themselves (`mdns`)",
)
PAIRING = _asking(
    "GET /admin/pairing",
    PairingQuery,
    PairingRecord,
    "whether another box may pair; with `wait=1` it answers when that is over",
)
OPEN_PAIRING = Endpoint(
    "POST /admin/pairing",
    Nothing,
    PairingRequest,
    PairingRecord,
    "shows a code, and lets a box that knows it pair in the next five minutes",
    status=201,
)
CLOSE_PAIRING = _plain("DELETE /admin/pairing", PairingRecord, "lets no box pair any more")
PAIR = Endpoint(
    "POST /peers/pair", Nothing, PairingHello, PairingReply, "begins a pairing", Area.PAGE
)
PAIR_PROOF = Endpoint(
    "POST /peers/pair/proof", Nothing, PairingProof, PairingAnswer, "completes a pairing", Area.PAGE
)
PEER_EVENTS = _plain(
    "GET /peers/events", Stream, "the models of this box and its machine, for a box", Area.PEER
)
PEER_FILE = _asking(
    "GET /peers/files/{sha256}",
    FileQuery,
    bytes,
    "a model file of this box, or a part of it (`Range`), for a box",
    Area.PEER,
)
PEER_LINK = _plain(
    "GET /peers/link", Stream, "a WebSocket to measure the link to this box, for a box", Area.PEER
)
PEER_WORKER = _asking(
    "GET /peers/worker",
    WorkerQuery,
    Stream,
    "a WebSocket; while it is open, a worker lends memory to a model of a box",
    Area.PEER,
)
PEER_TUNNEL = _plain(
    "GET /peers/worker/{token}",
    Stream,
    "a WebSocket with the bytes of a connection to such a worker",
    Area.PEER,
)
CHECK_SPLIT = Endpoint(
    "POST /admin/peers/{name}/check",
    Nothing,
    SplitQuestion,
    SplitCheck,
    "measures the link to a box, and says whether a model can be split over both",
)
CONFIG = _plain(
    "GET /admin/config",
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
UNSET_CONFIG = _plain(
    "DELETE /admin/config/{key}",
    ConfigValueRecord,
    "removes a setting from the file, so that its default applies again",
)
INSTALLATION = _plain(
    "GET /admin/install",
    InstallRecord,
    "the state of installing a llama-server, and the sources there are",
)
INSTALL = Endpoint(
    "POST /admin/install",
    Nothing,
    InstallRequest,
    InstallRecord,
    "begins to install a llama-server",
    status=202,
)
CANCEL_INSTALL = _plain("DELETE /admin/install", InstallRecord, "ends the installation that runs")
ADD_DEMO = _plain(
    "POST /admin/demo", ModelRecord, "adds the built-in model `demo` until the service ends"
)
RECENT_EVENTS = _plain(
    "GET /admin/recent-events", list[RecentEvent], "the last events in words, newest first"
)
EVENTS = _asking("GET /admin/events", EventsQuery, Stream, "what happens, as Server-Sent Events")
LOG_EVENTS = _asking("GET /ws/logs", LogEventsQuery, Stream, "new lines of logs, over WebSocket")
STATUS_EVENTS = _asking(
    "GET /ws/status",
    StatusEventsQuery,
    Stream,
    "models, requests, resources and the service, over WebSocket",
)

ENDPOINTS: dict[str, Endpoint[Any, Any, Any]] = {
    name: value for name, value in list(globals().items()) if isinstance(value, Endpoint)
}
"""All endpoints by name, in this order."""
