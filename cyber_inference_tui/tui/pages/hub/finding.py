"""The searching half of the Hub page: results, the models of repositories, and what is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from textual import on
from textual.widgets import Input
from textual.worker import Worker

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import HubFilesRecord, HubModelRecord
from cyber_inference_tui.tui.pages.dashboard.greeting_text import free_for_models
from cyber_inference_tui.tui.pages.hub.catalog import SORTS, HubCatalog, fit_state
from cyber_inference_tui.tui.pages.hub.table import RESULT_COLUMNS, sorted_files
from cyber_inference_tui.tui.pages.models.model_actions import ModelActions
from cyber_inference_tui.tui.pages.table_order import ask_key
from cyber_inference_tui.tui.suggested_models import suggest
from cyber_inference_tui.tui.widgets.live_table import LiveTable

SEARCH_DELAY = 0.3
"""Seconds without a key until the search starts."""
_READERS = 2
"""Repositories whose models are read at the same time for the list."""


class Finding(ModelActions):
    """A page with a search of the hub (``#search``, ``#results``) and the models of one repository
    (``#files``)."""

    def __init__(self) -> None:
        super().__init__()
        self._catalog = HubCatalog(self.client)
        self._request: Worker[None] | None = None
        self._readers = 0
        self._free: int | None = None
        """The memory for which models were suggested, once it is known."""
        self._doing = ""
        """The running request, in words."""
        self._problem = ""
        self._refused = ""
        """Why the last download was refused."""
        self._repo: str | None = None
        """The repository whose files are shown."""
        self._files: dict[str, HubFilesRecord] = {}

    def _draw(self) -> None:
        raise NotImplementedError

    def _show_selection(self, *, moved: bool = False) -> None:
        raise NotImplementedError

    @property
    def _results(self) -> LiveTable:
        return self.query_one("#results", LiveTable)

    @property
    def _files_table(self) -> LiveTable:
        return self.query_one("#files", LiveTable)

    @property
    def _table(self) -> LiveTable:
        return self._results if self._repo is None else self._files_table

    @property
    def _state(self) -> Hashable:
        return fit_state(self.cyber.snapshot.models)

    # The selection

    @property
    def _result(self) -> HubModelRecord | None:
        key = self._results.cursor_key
        return None if key is None else self._catalog.model(key) or HubModelRecord(repo=key)

    @property
    def _file(self) -> HubFilesRecord | None:
        key = self._files_table.cursor_key
        return self._files.get(key) if key is not None else None

    @property
    def _target(self) -> tuple[str, HubFilesRecord] | None:
        """The repository and the model that a download would get: in the list the suggested."""
        if self._repo is not None:
            return (self._repo, self._file) if self._file is not None else None
        key = self._results.cursor_key
        offer = self._catalog.offer(key) if key is not None else None
        best = offer.best if offer is not None else None
        return (key, best) if key and best is not None and best.suggested else None

    @property
    def _local_id(self) -> str | None:
        """The model of the selection that is downloaded already."""
        if self._repo is not None:
            return self._file.local_id if self._file is not None else None
        key = self._results.cursor_key
        offer = self._catalog.offer(key) if key is not None else None
        return offer.local_id if offer is not None else None

    # Searching

    def search(self, query: str) -> None:
        """Search for ``query`` as if it was typed."""
        line = self.query_one("#search", Input)
        with line.prevent(Input.Changed):
            line.value = query
        self._leave_files()
        self._catalog.query = query.strip()
        self._start_search()
        self.screen.set_focus(self._results)

    @on(Input.Changed, "#search")
    def _typed(self, event: Input.Changed) -> None:
        if event.value.strip() != self._catalog.query:
            self._catalog.query = event.value.strip()
            self._leave_files()
            self._start_search(SEARCH_DELAY)

    @on(Input.Submitted, "#search")
    def _entered(self) -> None:
        self.screen.set_focus(self._results)
        # The next key is not for the results of an earlier search.
        self.keep_keys(self._request)

    def action_sort(self) -> None:
        """Choose the order of the search."""
        now = self._catalog.sort
        ask_key(self, {name: name for name in SORTS}, now, self._sort_by, descending=True)

    @on(LiveTable.HeaderSelected, "#results")
    def _header(self, event: LiveTable.HeaderSelected) -> None:
        if event.column.key in SORTS:
            self._sort_by(event.column.key)

    def _sort_by(self, order: str) -> None:
        if order != self._catalog.sort:
            self._catalog.sort = order
            self.keep(sort=order)
            self._start_search()

    def _suggest(self) -> None:
        """Look for models that this machine's memory takes."""
        free = self._free = free_for_models(self.cyber.snapshot)
        self._catalog.suggestions = {
            one.repo: one
            for one in suggest(free)
            if free and one.need_bytes <= free and one.repo not in self._catalog.lacking
        }

    def _start_search(self, delay: float = 0.0) -> None:
        """Search after ``delay`` seconds, unless another search replaces this one."""
        self._suggest()
        sort = self._catalog.sort
        arrow = sort if sort in {one.key for one in RESULT_COLUMNS} else None
        self._results.show_sort(arrow, descending=True)
        self._show_request("searching")
        self._hub_worker(partial(self._search, delay))

    def _show_request(self, doing: str) -> None:
        self._doing, self._problem, self._refused = doing, "", ""
        self._draw()
        self.refresh_bindings()

    def _hub_worker(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one request at a time; a new one cancels the one before."""
        self._request = self.run_worker(work, group="hub", exclusive=True, exit_on_error=False)

    def _finish_request(self, problem: str = "") -> None:
        self._doing, self._problem = "", problem
        self._draw()
        self.refresh_bindings()

    async def _search(self, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await self._catalog.search()
        except CyberError as error:
            self._finish_request(str(error))
            return
        self._results.filtered = True
        self._finish_request()
        self._results.action_first()

    async def _search_more(self) -> None:
        try:
            await self._catalog.search_more()
        except CyberError as error:
            self._finish_request(str(error))
            return
        self._finish_request()

    def _read_offers(self) -> None:
        """Read the best models of the repositories on the screen, a few at a time."""
        if self.is_current and self._repo is None and not self._doing:
            while self._readers < _READERS and (repo := self._next_unknown()) is not None:
                self._readers += 1
                self.run_worker(self._read_offer(repo), group="offers", exit_on_error=False)

    def _next_unknown(self) -> str | None:
        table = self._results
        top = table.scroll_offset.y
        shown = [row.key for row in table.rows[top : top + max(0, table.size.height - 1)]]
        return self._catalog.next_unknown(shown, self._state)

    async def _read_offer(self, repo: str) -> None:
        suggested = repo in self._catalog.suggestions
        try:
            # The list shows what is known; nobody waits for it.
            with suppress(CyberError):
                await self._catalog.read_offer(repo, self._state)
        finally:
            self._readers -= 1
        if suggested and repo not in self._catalog.suggestions:
            # This hub lacks it, and its row goes away: the neighbour gets the cursor.
            self._results.filtered = True
        self._draw()
        self.refresh_bindings()

    @on(LiveTable.RowHighlighted)
    def _moved(self, event: LiveTable.RowHighlighted) -> None:
        if event.table is self._results and event.key is not None:
            models = self._catalog.models
            at_end = bool(models) and event.key == models[-1].repo
            if at_end and self._catalog.has_more and not self._doing and not self._problem:
                self._show_request("loading more")
                self._hub_worker(self._search_more)
        self._refused = ""
        self._show_selection(moved=True)
        self._read_offers()
        self.refresh_bindings()

    def action_retry(self) -> None:
        """Repeat the failed request."""
        if self._repo is not None:
            self._read_files(self._repo)
        else:
            self._start_search()

    # The models of a repository

    @on(LiveTable.RowChosen, "#results")
    def _open_files(self) -> None:
        one = self._result
        if one is None or self._repo is not None:
            return
        self._repo = one.repo
        self._files = {}
        self._results.display = False
        self._files_table.display = True
        self.screen.set_focus(self._files_table)
        if (files := self._catalog.files(one.repo, self._state)) is not None:
            self._show_files(files)
        else:
            self._read_files(one.repo)
            self.keep_keys(self._request)

    def _read_files(self, repo: str) -> None:
        self._show_request("reading its files")
        self._hub_worker(partial(self._files_of, repo))

    async def _files_of(self, repo: str) -> None:
        try:
            files = await self._catalog.read_files(repo, self._state)
        except CyberError as error:
            self._finish_request(str(error))
            return
        self._show_files(files)

    def _show_files(self, files: Sequence[HubFilesRecord]) -> None:
        first = not self._files
        self._files = {one.name: one for one in sorted_files(files)}
        self._files_table.filtered = first
        self._finish_request()
        suggested = next((one.name for one in files if one.suggested), None)
        if first and suggested is not None:
            self._files_table.move_to(suggested)

    def _leave_files(self) -> None:
        if self._repo is None:
            return
        self._repo = None
        self.workers.cancel_group(self, "hub")
        self._files_table.display = False
        self._results.display = True
        self._finish_request()
