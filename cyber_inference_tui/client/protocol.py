"""What the terminal app asks of a service: the calls of ``ServiceClient``, without its transport.

The methods, their arguments and their errors are described there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from cyber_inference_tui.client.completions import ChatDelta
from cyber_inference_tui.client.events import ServerEvent
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
)


class Client(Protocol):
    """A service, near or far. Every call raises ``CyberError``s only."""

    @property
    def url(self) -> str:
        """Where it answers."""

    async def login(self, password: str) -> object:
        """Log in; an error where the password is wrong."""

    # The service and its machine

    async def status(self) -> StatusRecord:
        """The service in one glance."""

    async def resources(self) -> ResourceSample:
        """The machine now."""

    async def resource_history(self, seconds: int) -> list[ResourceSample]:
        """Its last samples, oldest first."""

    async def memory_room(self) -> list[MemoryRoom]:
        """What models may take of each pool of memory."""

    async def problems(self) -> list[ProblemRecord]:
        """Files and settings that are no models, and why."""

    async def install_state(self) -> InstallRecord:
        """How getting a llama-server stands, and which ways there are."""

    async def install(self, source: str = "auto") -> InstallRecord:
        """Begin to get one."""

    async def cancel_install(self) -> InstallRecord:
        """End that."""

    async def add_demo(self) -> ModelRecord:
        """Add the built-in model to a running service."""

    def events(
        self,
        topics: Collection[str] = (),
        *,
        after: int | None = None,
        patience: float = 30.0,
        on_lost: Callable[[], None] = lambda: None,
        logs: Sequence[str] = (),
    ) -> AsyncGenerator[ServerEvent, None]:
        """What happens; of ``logs`` only where some are named."""

    # Models

    async def models(self) -> list[ModelRecord]:
        """All local models."""

    async def details(self, model_id: str) -> ModelDetails:
        """Everything there is to know of one."""

    async def load(
        self, model_id: str, *, wait: bool = True, timeout: float | None = None
    ) -> ModelRecord:
        """Load one."""

    async def unload(
        self, model_id: str, *, force: bool = False, timeout: float | None = None
    ) -> ModelRecord:
        """Unload one."""

    async def pin(self, model_id: str, pinned: bool) -> ModelRecord:
        """Keep one loaded, or no longer."""

    async def delete(self, model_id: str) -> ModelRecord:
        """Delete one's files."""

    async def sessions(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        model: str | None = None,
        since: datetime | None = None,
    ) -> list[SessionRecord]:
        """Lives of models, newest first."""

    # Requests

    async def active_requests(self) -> list[ActiveRequestRecord]:
        """Those that are not finished, oldest first."""

    async def requests(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        model: str | None = None,
        failed: bool | None = None,
        since: datetime | None = None,
    ) -> list[RequestRecord]:
        """Finished ones, newest first."""

    async def totals(self) -> list[ModelTotals]:
        """Sums, by model."""

    # Logs

    async def logs(self) -> list[LogRecord]:
        """Every log there is."""

    async def log_lines(
        self,
        source: str,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 1000,
        level: LogLevel | None = None,
        q: str | None = None,
    ) -> LogPage:
        """A part of one."""

    # Settings

    async def config(self) -> list[ConfigValueRecord]:
        """Every setting."""

    async def check_config(self, key: str, value: Any) -> ConfigCheckRecord:
        """What a change would do."""

    async def set_config(self, key: str, value: Any) -> ConfigValueRecord:
        """Change one."""

    async def unset_config(self, key: str) -> ConfigValueRecord:
        """Take one out of the file."""

    async def config_file(self) -> ConfigFileRecord:
        """The file as it is."""

    async def set_config_file(self, text: str, digest: str) -> ConfigFileRecord:
        """Replace the file's text."""

    # The hub

    async def hub_search(
        self, q: str, *, sort: str = "downloads", limit: int = 30, cursor: str | None = None
    ) -> tuple[list[HubModelRecord], str | None]:
        """A page of what is found, and the cursor of the next one."""

    async def hub_files(self, repo: str, revision: str | None = None) -> list[HubFilesRecord]:
        """The models in a repository."""

    async def downloads(self) -> list[DownloadRecord]:
        """All downloads."""

    async def download(
        self, repo: str, filename: str | None = None, revision: str | None = None
    ) -> DownloadRecord:
        """Begin one."""

    async def cancel_download(self, download_id: str, *, keep: bool = False) -> DownloadRecord:
        """End one; ``keep`` what is there of it."""

    async def pause_download(self, download_id: str) -> DownloadRecord:
        """Stop one for now."""

    async def resume_download(self, download_id: str) -> DownloadRecord:
        """Let one go on."""

    async def retry_download(self, download_id: str) -> DownloadRecord:
        """Try a failed one again."""

    # The models themselves

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        sampling: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[ChatDelta, None]:
        """A streamed answer."""

    async def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of texts."""
