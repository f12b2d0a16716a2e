"""Search the hub for models, and read the contents of a repository.

Nothing here blocks the event loop or waits without limit, and answers are cached for five minutes.
The hub's texts are cleaned and checked where they enter; none of them is used as a path.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp

from cyber_inference_tui.errors import (
    GGUFError,
    HubError,
    HubGatedError,
    HubNotFoundError,
    InvalidRequestError,
)
from cyber_inference_tui.gguf.metadata import ModelMetadata, metadata_of
from cyber_inference_tui.gguf.reader import read_beginning
from cyber_inference_tui.hub.api import (
    TimedCache,
    check_online,
    get_page,
    import_library,
    parse_models,
    timeout_error,
)
from cyber_inference_tui.hub.card import card_text
from cyber_inference_tui.hub.download_plan import DownloadPlan, PlannedFile, check_repo
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.repository import (
    RepoModel,
    Repository,
    choose,
    family,
    models_of,
    plan_of,
)
from cyber_inference_tui.hub.request import PastEnd, get_file
from cyber_inference_tui.hub.threads import Threads
from cyber_inference_tui.records import HubCardRecord, HubModelRecord
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

SORTS: Final = {
    "downloads": "downloads",
    "likes": "likes",
    "trending": "trendingScore",
    "new": "lastModified",
}
"""Our names of the sort orders, and the hub's."""
MAX_LIMIT: Final = 100
TIMEOUT: Final = 10.0
"""Seconds for one request to the hub."""
_IMPORT_TIME: Final = 60.0
_HEADER_TIME: Final = 6.0
_HEADER_BYTES: Final = 64 * 1024
_MAX_HEADERS: Final = 4
_MAX_FILES: Final = 20_000
_KEPT_SECONDS: Final = 300.0
_THREADS: Final = 4
_MAX_QUERY: Final = 300
_MAX_CURSOR: Final = 2048
_EXPAND: Final = ["downloads", "likes", "gguf", "gated", "lastModified", "tags"]
_CARD: Final = "README.md"
_CARD_TIME: Final = 6.0
_CARD_BYTES: Final = 64 * 1024
_LICENCE: Final = "license:"
_MAX_TAGS: Final = 1000

_logger = logging.getLogger(__name__)


class Browse:
    """Browses the hub that ``endpoint`` returns; it is called in a thread, since it may read files.

    ``session`` returns the session for all requests, which belongs to the caller. Methods raise
    ``CyberError``.
    """

    def __init__(
        self,
        *,
        endpoint: Callable[[], HubEndpoint],
        session: Callable[[], aiohttp.ClientSession],
        environ: Mapping[str, str],
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._session = session
        self._environ = environ
        self._timeout = timeout
        self._threads = Threads(_THREADS)
        self._loaded = False
        self._pages: TimedCache[tuple[list[HubModelRecord], str | None]] = TimedCache(
            64, _KEPT_SECONDS, clock
        )
        self._repositories: TimedCache[Repository] = TimedCache(64, _KEPT_SECONDS, clock)
        self._headers: TimedCache[dict[str, ModelMetadata]] = TimedCache(64, _KEPT_SECONDS, clock)
        self._cards: TimedCache[HubCardRecord] = TimedCache(64, _KEPT_SECONDS, clock)

    async def search(
        self,
        query: str,
        *,
        sort: str = "downloads",
        limit: int = 30,
        cursor: str | None = None,
        author: str | None = None,
    ) -> tuple[list[HubModelRecord], str | None]:
        """Return a page of repositories with GGUF files whose names hold ``query``, and the next
        cursor.

        ``limit`` is at most 100; the cursor is ``None`` after the last page.
        """
        if sort not in SORTS:
            raise InvalidRequestError(
                f"sort cannot be {clean_line(sort, limit=80)!r}.",
                hint=f"It is one of {', '.join(SORTS)}.",
                param="sort",
            )
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidRequestError(f"limit must be 1 to {MAX_LIMIT}.", param="limit")
        for name, text, most in (
            ("q", query, _MAX_QUERY),
            ("author", author or "", _MAX_QUERY),
            ("cursor", cursor or "", _MAX_CURSOR),
        ):
            if len(text) > most or clean_line(text) != text:
                raise InvalidRequestError(
                    f"{name} is too long, or has control characters.", param=name
                )
        params: dict[str, str | list[str]] = {
            "filter": "gguf",
            "sort": SORTS[sort],
            "limit": str(limit),
            "expand": _EXPAND,
        }
        asked_for = {"search": query.strip(), "author": author, "cursor": cursor}
        params |= {key: value for key, value in asked_for.items() if value}
        endpoint = await self._ready()
        asked = (endpoint, tuple(sorted((key, str(value)) for key, value in params.items())))
        if (kept := self._pages.get(asked)) is not None:
            return kept
        found, next_url = await self._get(endpoint, "/api/models", params)
        records = [record for info in found[:limit] if (record := _record(info))]
        page = records, _cursor(next_url)
        self._pages.put(asked, page)
        return page

    async def repository(self, repo: str, revision: str | None = None) -> Repository:
        """Return the models of a repository, at its newest commit or at ``revision``."""
        try:
            check_repo(repo)
        except HubError as error:
            # The caller's mistake; in the hub's answers such a name is the hub's mistake.
            raise InvalidRequestError(
                error.message, hint="It looks like ORG/NAME.", param="repo"
            ) from error
        if revision is not None and (not revision or clean_line(revision, limit=200) != revision):
            raise InvalidRequestError("This is not a valid revision.", param="revision")
        endpoint = await self._ready()
        asked = endpoint, repo, revision
        if (kept := self._repositories.get(asked)) is not None:
            return kept
        path = f"/api/models/{quote(repo)}"
        if revision is not None:
            path += f"/revision/{quote(revision, safe='')}"
        found, _ = await self._get(endpoint, path, {"blobs": "true"}, repo, revision or "")
        info = found[0] if found else None
        name, commit = _text(info and info.id), _text(info and info.sha)
        if info is None or name is None or commit is None:
            raise HubError(f"{endpoint.url} does not give the commit of {repo}.")
        check_repo(name)
        repository = Repository(
            repo=name,
            revision=commit,
            models=models_of(_files(info)),
            facts=_record(info),
            has_card=any(one.rfilename == _CARD for one in info.siblings or ()),
        )
        self._repositories.put(asked, repository)
        return repository

    async def resolve(self, repo: str, filename: str | None, revision: str | None) -> DownloadPlan:
        """Return the plan for a file's path or name, or for a quantization; see ``choose``."""
        repository = await self.repository(repo, revision)
        return plan_of(repository, choose(repository, filename))

    async def headers(self, repository: Repository) -> dict[str, ModelMetadata]:
        """Return the metadata from the files' GGUF headers, by the models' ``filename``.

        Models that differ only in their quantization share one header, read from 64 KiB of one
        file. Models whose header cannot be read are left out.
        """
        endpoint = await self._ready()
        asked = endpoint, repository.repo, repository.revision
        if (kept := self._headers.get(asked)) is not None:
            return kept
        families: dict[str, list[RepoModel]] = {}
        for model in repository.models:
            families.setdefault(family(model), []).append(model)
        # The largest families first: nearly every repository is one model.
        chosen = sorted(families.values(), key=len, reverse=True)[:_MAX_HEADERS]
        read = await asyncio.gather(
            *(self._header(endpoint, repository, models[0]) for models in chosen)
        )
        found = {
            model.filename: header
            for models, header in zip(chosen, read, strict=True)
            if header is not None
            for model in models
        }
        if all(header is not None for header in read):
            self._headers.put(asked, found)
        return found

    async def card(self, repo: str, revision: str | None = None) -> HubCardRecord:
        """Return the facts about a repository, and the first paragraphs of its model card.

        The text is empty if there is no card, or if the hub does not give it to everybody.
        """
        repository = await self.repository(repo, revision)
        endpoint = await self._ready()
        asked = endpoint, repository.repo, repository.revision
        if (kept := self._cards.get(asked)) is not None:
            return kept
        data = b""
        if repository.has_card:
            try:
                data = await self._beginning(
                    endpoint, repository, _CARD, length=_CARD_BYTES, seconds=_CARD_TIME
                )
            except (HubGatedError, HubNotFoundError) as error:
                _logger.info("no card of %s: %s", repository.repo, error)
            except TimeoutError as error:
                raise timeout_error(endpoint.url) from error
        try:
            text = await self._threads.run(
                lambda: card_text(data.decode("utf-8", "replace")), limit=self._timeout
            )
        except TimeoutError as error:
            raise timeout_error(endpoint.url) from error
        facts = repository.facts or HubModelRecord(repo=repository.repo)
        card = HubCardRecord(model=facts, text=text)
        self._cards.put(asked, card)
        return card

    async def _beginning(
        self,
        endpoint: HubEndpoint,
        repository: Repository,
        path: str,
        *,
        length: int,
        seconds: float,
    ) -> bytes:
        """Return the first ``length`` bytes of a file. Raises ``HubError`` and ``TimeoutError``."""
        data = bytearray()
        async with (
            asyncio.timeout(min(seconds, self._timeout)),
            get_file(
                self._session(),
                endpoint,
                repo=repository.repo,
                revision=repository.revision,
                path=path,
                offset=0,
                length=length,
                environ=self._environ,
                stall_timeout=seconds,
            ) as part,
        ):
            if not isinstance(part, PastEnd):
                while len(data) < length and await part.body.wait():
                    for block in part.body.take():
                        data += block
        # A hub may send more than the requested range.
        return bytes(data[:length])

    async def _header(
        self, endpoint: HubEndpoint, repository: Repository, model: RepoModel
    ) -> ModelMetadata | None:
        try:
            data = await self._beginning(
                endpoint, repository, model.filename, length=_HEADER_BYTES, seconds=_HEADER_TIME
            )
            return metadata_of(read_beginning(data))
        except (HubError, GGUFError, TimeoutError) as error:
            # Gated, slow or no GGUF: then only the memory estimate is missing.
            _logger.info("no header of %s of %s: %s", model.filename, repository.repo, error)
            return None

    async def _ready(self) -> HubEndpoint:
        """Import the hub's library on first use, and return the endpoint."""
        check_online(self._environ)
        if not self._loaded:
            await self._threads.run(import_library, limit=_IMPORT_TIME)
            self._loaded = True
        return await self._threads.run(self._endpoint, limit=self._timeout)

    async def _get(
        self,
        endpoint: HubEndpoint,
        path: str,
        params: Mapping[str, str | list[str]],
        repo: str = "",
        revision: str = "",
    ) -> tuple[list[ModelInfo], str | None]:
        """Return the models in an answer of the hub's API, and the address of the next page."""
        try:
            async with asyncio.timeout(self._timeout):
                body, next_url = await get_page(
                    self._session(),
                    endpoint,
                    path,
                    params,
                    environ=self._environ,
                    repo=repo,
                    revision=revision,
                )
            found = await self._threads.run(
                lambda: parse_models(body, endpoint), limit=self._timeout
            )
        except TimeoutError as error:
            raise timeout_error(endpoint.url) from error
        return found, next_url


def _record(info: ModelInfo) -> HubModelRecord | None:
    try:
        check_repo(info.id)
    except (HubError, TypeError):
        return None
    facts = info.gguf if isinstance(info.gguf, dict) else {}
    architecture = facts.get("architecture")
    return HubModelRecord(
        repo=info.id,
        downloads=_count(info.downloads),
        likes=_count(info.likes),
        updated_at=_moment(info.last_modified),
        gated=bool(info.gated),
        parameters=_count(facts.get("total")),
        architecture=clean_line(architecture, limit=80).strip() or None
        if isinstance(architecture, str)
        else None,
        context_length=_count(facts.get("context_length")),
        licence=_licence(info.tags),
    )


def _licence(tags: Any) -> str | None:
    for tag in tags[:_MAX_TAGS] if isinstance(tags, list) else ():
        if isinstance(tag, str) and tag.startswith(_LICENCE):
            return clean_line(tag.removeprefix(_LICENCE), limit=80).strip() or None
    return None


def _files(info: ModelInfo) -> list[PlannedFile]:
    files: list[PlannedFile] = []
    for sibling in (info.siblings or [])[:_MAX_FILES]:
        lfs = sibling.lfs
        sha256 = lfs.sha256 if lfs is not None else None
        size = _count(lfs.size if lfs is not None else None) or _count(sibling.size)
        # Of a large file the id is that of its pointer in git, not of its content.
        git = sibling.blob_id if lfs is None else None
        files.append(PlannedFile(_text(sibling.rfilename) or "", size, _text(sha256), _text(git)))
    return files


def _cursor(url: str | None) -> str | None:
    """Return the cursor in the address of the next page; the rest of the address is ignored."""
    try:
        found = parse_qs(urlsplit(url or "").query).get("cursor", [])
    except ValueError:
        return None
    text = found[0] if found else ""
    return text if text and len(text) <= _MAX_CURSOR and clean_line(text) == text else None


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 2**62 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _moment(value: Any) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
