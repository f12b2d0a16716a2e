"""The Hub page's knowledge of the hub, read through the service. Nothing here draws."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import CyberError, HubNotFoundError
from cyber_inference_tui.records import (
    HubCardRecord,
    HubFilesRecord,
    HubModelRecord,
    ModelRecord,
    endpoints,
    queries,
)
from cyber_inference_tui.tui.pages.models.model_actions import INACTIVE
from cyber_inference_tui.tui.suggested_models import Suggestion

T = TypeVar("T")

SORTS = ("downloads", "likes", "trending", "new")
"""The orders that the search offers."""
FOUND_KEPT = 600
"""Search results after which no further pages are requested."""
_FILES_KEPT = 64
_CARDS_KEPT = 32
_FAILURES = 3
"""Failures in a row after which no offers are read until the next search."""


class Offer(NamedTuple):
    """The best model of a repository for this machine."""

    best: HubFilesRecord | None
    """If none is known to fit, the smallest; ``None`` if there are none, or reading failed."""
    local_id: str | None = None
    """The id of a model that is downloaded already."""


def offer_of(files: Sequence[HubFilesRecord]) -> Offer:
    """Return the suggested model, else the smallest."""
    best = next((one for one in files if one.suggested), None)
    if best is None:
        sizes = {one.name: one.size_bytes or 0 for one in files}
        best = min(files, key=lambda one: sizes[one.name], default=None)
    local = [one.local_id for one in files if one.local_id is not None]
    own = best.local_id if best is not None else None
    return Offer(best, own or (local[0] if local else None))


def fit_state(models: Iterable[ModelRecord]) -> Hashable:
    """Return what the fit of other models depends on: the models that are here, and loaded."""
    return frozenset((one.id, one.status in INACTIVE) for one in models)


class HubCatalog:
    """A store of what was read: search results, the models of repositories, and their cards.

    Methods that read raise ``CyberError``.
    """

    def __init__(self, client: ServiceClient) -> None:
        self._client = client
        self.query = ""
        self.sort = SORTS[0]
        self.suggestions: dict[str, Suggestion] = {}
        """Repositories with models for this machine."""
        self.lacking: set[str] = set()
        """Suggestions that this hub does not have."""
        self._found: dict[str, HubModelRecord] = {}
        self._cursor: str | None = None
        self._facts: dict[str, HubModelRecord] = {}
        """Of suggestions that the search did not find."""
        self._files: dict[str, tuple[Hashable, list[HubFilesRecord]]] = {}
        self._offers: dict[str, tuple[Hashable, Offer]] = {}
        self._cards: dict[str, HubCardRecord] = {}
        self._reading: set[str] = set()
        self._failures = 0

    # Repositories

    @property
    def models(self) -> list[HubModelRecord]:
        """The repositories in their order."""
        first = self.first
        above = [self.model(repo) or HubModelRecord(repo=repo) for repo in first]
        return above + [one for one in self._found.values() if one.repo not in first]

    @property
    def first(self) -> dict[str, Suggestion]:
        """The suggestions above the results, unless somebody asked for names or another order."""
        asked = self.query or self.sort != SORTS[0] or not self._found
        return {} if asked else self.suggestions

    @property
    def count(self) -> int:
        """The number of repositories that the search found so far."""
        return len(self._found)

    @property
    def has_more(self) -> bool:
        """The search has another page."""
        return self._cursor is not None and len(self._found) < FOUND_KEPT

    def model(self, repo: str | None) -> HubModelRecord | None:
        """Return the facts about a repository."""
        return self._found.get(repo or "") or self._facts.get(repo or "")

    async def search(self) -> None:
        """Replace the results by the first page of the search."""
        found, self._cursor = await self._client.search(
            queries.SearchQuery(q=self.query, sort=self.sort)
        )
        self._found = {one.repo: one for one in found}
        self._files.clear()  # they may be hours old
        self._offers = {repo: one for repo, one in self._offers.items() if one[1].best is not None}
        self._failures = 0

    async def search_more(self) -> None:
        """Add the next page of the search."""
        found, self._cursor = await self._client.search(
            queries.SearchQuery(q=self.query, sort=self.sort, cursor=self._cursor)
        )
        self._found |= {one.repo: one for one in found if one.repo not in self._found}

    # The models of a repository

    def files(self, repo: str, state: Hashable) -> list[HubFilesRecord] | None:
        """Return the models of a repository if they were judged in this state."""
        known = self._files.get(repo)
        return known[1] if known is not None and known[0] == state else None

    async def read_files(self, repo: str, state: Hashable) -> list[HubFilesRecord]:
        """Read the models of a repository, judged in the present ``state``."""
        files = await self._client.call(
            endpoints.HUB_FILES, query=queries.RepositoryQuery(repo=repo)
        )
        _keep(self._files, repo, (state, files), _FILES_KEPT)
        _keep(self._offers, repo, (state, offer_of(files)), FOUND_KEPT)
        return files

    def offer(self, repo: str) -> Offer | None:
        """Return the best model of a repository, if it is known; it may be of an earlier state."""
        known = self._offers.get(repo)
        return None if known is None else known[1]

    def next_unknown(self, repos: Iterable[str], state: Hashable) -> str | None:
        """Return the first repository whose offer is to be read, and note that it is."""
        if self._failures >= _FAILURES:
            return None
        for repo in repos:
            known = self._offers.get(repo)
            if repo not in self._reading and (known is None or known[0] != state):
                self._reading.add(repo)
                return repo
        return None

    async def read_offer(self, repo: str, state: Hashable) -> None:
        """Read the offer of a repository, after ``next_unknown`` has returned it."""
        try:
            await self.read_files(repo, state)
            if repo in self.suggestions and self.model(repo) is None:
                self._facts[repo] = (await self.read_card(repo)).model
            self._failures = 0
        except CyberError as error:
            self._failures += 1
            if self.model(repo) is None:
                self.suggestions.pop(repo, None)
                if isinstance(error, HubNotFoundError):
                    self.lacking.add(repo)
            _keep(self._offers, repo, (state, Offer(None)), FOUND_KEPT)
            raise
        finally:
            self._reading.discard(repo)

    # Cards

    def card(self, repo: str) -> HubCardRecord | None:
        """Return the card of a repository, if it was read."""
        return self._cards.get(repo)

    async def read_card(self, repo: str) -> HubCardRecord:
        """Read the card of a repository."""
        card = await self._client.call(endpoints.HUB_CARD, query=queries.RepositoryQuery(repo=repo))
        _keep(self._cards, repo, card, _CARDS_KEPT)
        return card


def _keep(kept: dict[str, T], key: str, value: T, most: int) -> None:
    """Keep a value in place of the oldest."""
    kept.pop(key, None)
    while len(kept) >= most:
        del kept[next(iter(kept))]
    kept[key] = value
