"""What the HTTP layer needs of the service, and nothing more."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ConfigCheckRecord,
    ConfigFileRecord,
    ConfigValueRecord,
    DownloadRecord,
    HubFilesRecord,
    HubModelRecord,
    InstallRecord,
    LogLevel,
    LogPage,
    LogRecord,
    MemoryRoom,
    ModelDetails,
    ModelRecord,
    ModelTotals,
    ProblemRecord,
    RequestRecord,
    ResourceSample,
    SessionRecord,
    StatusRecord,
    WaitingRecord,
)
from cyber_inference_tui.service.events import EventBus


class ServiceSettings(Protocol):
    """The settings that decide who may ask what; a changed file gives a new object."""

    @property
    def host(self) -> str:
        """The configured bind address or name."""

    @property
    def api_keys(self) -> tuple[str, ...]:
        """Model endpoints need one of these, if there are any."""

    @property
    def admin_password(self) -> str:
        """The admin endpoints need a login with it, unless it is empty."""

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Further values of ``Host``."""

    @property
    def cors_origins(self) -> tuple[str, ...]:
        """Sites whose pages may use the service."""

    @property
    def max_body_size(self) -> int:
        """Bytes a request's body may have."""


class DownloadsApi(Protocol):
    """The queue of downloads."""

    def records(self) -> list[DownloadRecord]:
        """Every download, the oldest first."""

    async def add(
        self, repo: str, filename: str | None = None, revision: str | None = None
    ) -> DownloadRecord:
        """Queue one, or find it queued already."""

    async def pause(self, download_id: str, /) -> DownloadRecord:
        """Stop for now; ``NotFoundError``, ``ConflictError``."""

    async def resume(self, download_id: str, /) -> DownloadRecord:
        """Go on."""

    async def retry(self, download_id: str, /) -> DownloadRecord:
        """Try one that failed or was cancelled again."""

    async def cancel(self, download_id: str, /, *, keep: bool = False) -> DownloadRecord:
        """End it; with ``keep`` what is here stays."""


class InstallationApi(Protocol):
    """Getting a llama-server."""

    async def state(self) -> InstallRecord:
        """How it stands."""

    async def start(self, source: str, /) -> InstallRecord:
        """Begin; ``ConflictError`` while one is running."""

    async def cancel(self) -> InstallRecord:
        """End the one that is running, if there is one."""


class ConfigurationApi(Protocol):
    """The configuration of the service; every method raises ``CyberError``s only."""

    def values(self) -> list[ConfigValueRecord]:
        """Every setting."""

    async def set(self, key: str, value: Any, /) -> ConfigValueRecord:
        """Change one setting."""

    async def unset(self, key: str, /) -> ConfigValueRecord:
        """Back to the default."""

    async def check(self, key: str, value: Any, /) -> ConfigCheckRecord:
        """What ``set`` would do."""

    async def file(self) -> ConfigFileRecord:
        """The whole file."""

    async def set_file(self, text: str, digest: str, /) -> ConfigFileRecord:
        """Replace the whole file."""


class ModelsApi(Protocol):
    """The models on this machine."""

    def records(self) -> list[ModelRecord]:
        """Every local model, by id."""

    def problems(self) -> list[ProblemRecord]:
        """Files, tables and aliases that are no usable models, each with its reason."""

    def record(self, model_id: str, /) -> ModelRecord:
        """One model by id or alias; ``ModelNotFoundError``."""

    def written(self, model_id: str, /) -> int:
        """The time its files were last written, in seconds since 1970; 0 = not known."""

    async def details(self, model_id: str, /) -> ModelDetails:
        """Everything there is to know of a model; ``ModelNotFoundError``."""

    def room(self) -> list[MemoryRoom]:
        """The memory that models may have."""

    async def load(self, model_id: str, /, *, wait: bool) -> ModelRecord:
        """Load a model."""

    async def unload(self, model_id: str, /, *, force: bool) -> ModelRecord:
        """Unload a model."""

    async def pin(self, model_id: str, pinned: bool, /) -> ModelRecord:
        """Keep a model loaded, or no longer."""

    async def delete(self, model_id: str, /) -> ModelRecord:
        """Remove a model's files."""

    async def add_demo(self) -> ModelRecord:
        """Add the built-in model."""


class HistoryApi(Protocol):
    """What has been."""

    async def requests(
        self,
        *,
        limit: int,
        before: int | None,
        model: str | None,
        failed: bool | None,
        since: datetime | None,
    ) -> list[RequestRecord]:
        """Finished requests, newest first; ``before`` is an id."""

    async def totals(self) -> list[ModelTotals]:
        """Sums over the requests, by model."""


class LogsApi(Protocol):
    """The logs, by id."""

    def records(self) -> list[LogRecord]:
        """Every log that has begun."""

    async def page(
        self,
        log_id: str,
        /,
        *,
        before: int | None,
        after: int | None,
        limit: int,
        level: LogLevel | None,
        text: str,
    ) -> LogPage:
        """A part of a log."""


class MonitoringApi(Protocol):
    """The machine."""

    async def latest(self) -> ResourceSample:
        """The machine now; ``CyberError`` if it cannot be read."""

    def history(self, seconds: int, /) -> list[bytes]:
        """Samples of the last ``seconds``, oldest first, each as JSON."""


class MetricsApi(Protocol):
    """The metrics."""

    async def scrape(self) -> bytes:
        """As text for Prometheus."""


class BrowseApi(Protocol):
    """A look around on the hub."""

    async def search(
        self,
        query: str,
        /,
        *,
        sort: str,
        limit: int,
        cursor: str | None,
        author: str | None,
    ) -> tuple[list[HubModelRecord], str | None]:
        """A page of models, and the cursor of the next one."""


class HubApi(Protocol):
    """The model hub."""

    @property
    def browse(self) -> BrowseApi:
        """A look around there."""


class ServiceApi(Protocol):
    """The service below. Every method raises ``CyberError``s only."""

    @property
    def settings(self) -> ServiceSettings:
        """The settings in force, read at each request."""

    @property
    def configuration(self) -> ConfigurationApi:
        """The settings as what can be read and changed."""

    @property
    def events(self) -> EventBus:
        """What happens."""

    @property
    def models(self) -> ModelsApi:
        """The models on this machine."""

    @property
    def history(self) -> HistoryApi:
        """What has been."""

    @property
    def logs(self) -> LogsApi:
        """The logs, by id."""

    @property
    def monitoring(self) -> MonitoringApi:
        """The machine."""

    @property
    def metrics(self) -> MetricsApi:
        """The metrics."""

    @property
    def hub(self) -> HubApi:
        """The model hub."""

    async def hub_files(self, repo: str, revision: str | None = None, /) -> list[HubFilesRecord]:
        """The models in a repository."""

    @property
    def downloads(self) -> DownloadsApi:
        """Models on their way from the hub; ``ShuttingDownError``."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""

    @property
    def installation(self) -> InstallationApi:
        """Getting a llama-server."""

    def status(self) -> StatusRecord:
        """The service in one glance."""

    def active_requests(self) -> list[ActiveRequestRecord]:
        """Every request that is not finished, the oldest first."""

    def note_refusal(self, record: RequestRecord, code: str, /) -> None:
        """A request was refused before its model was known."""

    async def sessions(
        self, *, limit: int, before: int | None, model: str | None, since: datetime | None
    ) -> list[SessionRecord]:
        """Sessions, newest first; ``before`` is an id."""

    def queue(self) -> list[WaitingRecord]:
        """Every request that waits for its model."""

    def log_id(self, name: str, /) -> str:
        """The id of a log or of a model with this id or alias; ``ModelNotFoundError``."""

    async def log_tail(self, name: str, lines: int, /) -> str:
        """The last lines of a log; ``ModelNotFoundError``."""
