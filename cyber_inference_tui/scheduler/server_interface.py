"""The interface of a model's server and of its launcher, as far as the scheduler uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from cyber_inference_tui.gguf.chat_template import TemplateFacts
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.needs import Footprint, LoadWatch, Need
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.settings.schema import Settings


class Server(Protocol):
    """The server process of a loaded model."""

    address: ServerAddress
    pid: int
    exited: asyncio.Future[int]
    """Done when the process and all its children have ended."""
    context_size: int | None
    """The tokens of context that it was started with; ``None`` if it chooses them."""

    argv: tuple[str, ...]
    """The command line, with masks for secrets."""
    slots: int | None
    """The number of requests that it answers at once; ``None`` if unknown."""
    context_length: int | None
    """The tokens of context that one request may use; ``None`` if unknown."""
    template: TemplateFacts | None
    """The abilities of its chat template; ``None`` if unknown."""
    most_requests: int | None
    """The number of requests that it accepts at once, including those that wait for a slot;
    ``None`` = no limit."""

    def footprint(self) -> Footprint | None:
        """Return the memory that the server reports to have allocated, if it does."""

    async def stop(self, timeout: float, *, keep_prompts: bool = True) -> int:
        """Stop the process and return its exit code when it has ended.

        Without ``keep_prompts`` its prompts are of no use to the next server.
        """

    def declare_hung(self, reason: str) -> None:
        """Kill a server that does not work any more, with ``reason`` as its exit reason."""

    def exit_reason(self) -> tuple[str, tuple[str, ...]]:
        """Return why the process ended, in plain words, and the last lines of its log."""


class ServerLauncher(Protocol):
    """Estimates and starts servers."""

    async def need(self, spec: ServerSpec, *, ask_engine: bool = True) -> Need:
        """Estimate the memory that a server needs; without ``ask_engine`` run no program."""

    async def launch(
        self,
        spec: ServerSpec,
        settings: Settings,
        progress: Callable[[float | None], None],
        *,
        measure: bool = True,
        busy: Callable[[], bool] = lambda: False,
        watch: LoadWatch | None = None,
    ) -> Server:
        """Return a server that is ready, or raise ``CyberError`` and leave nothing behind.

        With ``measure`` the server should report the memory that it allocates. ``busy`` returns
        whether it has requests, at any time while it runs. ``watch`` runs until the server is ready
        and may end the load.
        """
