"""``ServiceClient``: typed calls of the service's endpoints, its events, and answers of models."""

from __future__ import annotations

import json
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from cyber_inference_tui.client.completions import ChatDelta, chat_delta
from cyber_inference_tui.client.sse import ServerEvent, follow_events, read_events
from cyber_inference_tui.client.transport import Transport, parameters
from cyber_inference_tui.records import ConfigCheckRecord, HubModelRecord, endpoints, queries
from cyber_inference_tui.records.endpoints import LOG_POSITION, NEXT_CURSOR
from cyber_inference_tui.records.queries import EventsQuery, SearchQuery, TailQuery
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    import httpx

STREAM_SILENCE = 90.0
"""Seconds without a byte after which a stream counts as lost."""

_EVENT_STREAM = {"Accept": "text/event-stream"}


class LogTail(msgspec.Struct, frozen=True, kw_only=True):
    """The last lines of a log. New lines come with the events after ``event_id``."""

    lines: tuple[str, ...]
    event_id: int | None = None


class ServiceClient(Transport):
    """A client of the service: ``call`` for each endpoint, and methods for more complex calls."""

    async def search(self, query: SearchQuery) -> tuple[list[HubModelRecord], str | None]:
        """Return a page of models on the hub, and the cursor of the next page if there is one."""
        found, headers = await self.call_with_headers(endpoints.SEARCH, query=query)
        return found, headers.get(NEXT_CURSOR)

    async def check_config(self, key: str, value: Any) -> ConfigCheckRecord:
        """Return the effect of a new value of ``key``. Raises the errors that a change raises."""
        return await self.call(
            endpoints.CHECK_CONFIG,
            key,
            query=queries.CheckQuery(check=True),
            body=queries.NewValue(value),
        )

    async def log(self, source: str, lines: int) -> LogTail:
        """Return the last lines of a model's log, or of the service's own (id ``service``)."""
        text, headers = await self.call_with_headers(
            endpoints.LOG_TAIL, source, query=TailQuery(lines=lines)
        )
        position = headers.get(LOG_POSITION, "")
        return LogTail(
            # Not splitlines(): it also splits at separators such as U+2028.
            lines=tuple(text.removesuffix("\n").split("\n")) if text else (),
            event_id=int(position) if position.isdecimal() else None,
        )

    def events(
        self,
        topics: Collection[str] = (),
        *,
        after: int | None = None,
        logs: Collection[str] = (),
        patience: float = 30.0,
        on_lost: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[ServerEvent, None]:
        """Follow the events of ``topics`` (see ``follow_events``). Close it with ``aclosing``.

        ``logs`` restricts ``log`` events to the logs with these ids.
        """

        def open_stream(last: int | None) -> Any:
            return self._open_events(topics, logs, last)

        return follow_events(open_stream, after=after, patience=patience, on_lost=on_lost)

    @asynccontextmanager
    async def _open_events(
        self, topics: Collection[str], logs: Collection[str], last: int | None
    ) -> AsyncIterator[httpx.Response]:
        query = EventsQuery(topics=",".join(sorted(topics)), log=tuple(sorted(logs)))
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        async with self.stream(
            "GET",
            endpoints.EVENTS.path,
            timeout=STREAM_SILENCE,
            params=parameters(query),
            headers={**_EVENT_STREAM, **headers},
        ) as response:
            kind = clean_line(response.headers.get("content-type", ""), limit=60)
            if not kind.startswith("text/event-stream"):
                raise self.not_our_service(f"it answers {kind or 'nothing'} where events should be")
            yield response

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        sampling: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[ChatDelta, None]:
        """Stream a model's answer to ``messages``; ``sampling`` is merged into the request.

        Loads the model if it is not loaded. Close the generator with ``aclosing``: that ends the
        request.
        """
        body = {
            **(sampling or {}),
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with (
            self.stream(
                "POST",
                "/v1/chat/completions",
                timeout=STREAM_SILENCE,
                json=body,
                headers=_EVENT_STREAM,
            ) as response,
            aclosing(read_events(response)) as events,
        ):
            async for event in events:
                delta = chat_delta(event)
                if delta is not None:
                    yield delta

    def at(self, box: str) -> ServiceClient:
        """Return a client for the admin API of another box, through this client's service."""
        return _BoxClient(self, box)


class _BoxClient(ServiceClient):
    """Sends its calls through a service, which passes them on to a paired box."""

    def __init__(self, through: ServiceClient, box: str) -> None:
        super().__init__(through.url)
        self.place = box
        self._through = through

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, timeout: float | None = None, **options: Any
    ) -> AsyncIterator[httpx.Response]:
        """Send a request of the admin API; see ``Transport.stream``."""
        relayed = f"/admin/boxes/{quote(self.place, safe='')}/{path.removeprefix('/admin/')}"
        async with self._through.stream(method, relayed, timeout=timeout, **options) as response:
            yield response


def model_key(model_id: str, key: str, preset_of: str | None = None) -> str:
    """Return the name of a setting in a model's table, as in TOML: ``models."a/b.c".key``.

    ``preset_of`` is the model of a preset, whose id is ``MODEL:PRESET``.
    """
    if not preset_of:
        return f"models.{_quoted(model_id)}.{key}"
    preset = model_id.removeprefix(f"{preset_of}:")
    return f"models.{_quoted(preset_of)}.presets.{_quoted(preset)}.{key}"


def _quoted(name: str) -> str:
    # JSON strings are TOML basic strings, except that TOML wants DEL escaped.
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
