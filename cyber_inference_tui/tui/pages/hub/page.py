"""The Hub page: find a model that fits, and download it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import DescendantFocus
from textual.widget import Widget
from textual.widgets import Input, Static

from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    ModelRecord,
)
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.hub.card_pane import CardPane
from cyber_inference_tui.tui.pages.hub.catalog import SORTS
from cyber_inference_tui.tui.pages.hub.downloading import Downloading
from cyber_inference_tui.tui.pages.hub.downloads_pane import DownloadsPane
from cyber_inference_tui.tui.pages.hub.sentences import (
    file_sentence,
    local_keys,
    result_sentence,
)
from cyber_inference_tui.tui.pages.hub.table import (
    FILE_COLUMNS,
    RESULT_COLUMNS,
    UNDER_WAY,
    ResultLine,
    active_downloads,
    file_rows,
    result_rows,
)
from cyber_inference_tui.tui.pages.models.model_actions import room_binding
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from cyber_inference_tui.tui.widgets.text_line import TextLine

_CARD_DELAY = 0.3
"""Seconds on a row until its card is read."""
_CARD_BESIDE_FILES = 100
_CARD_BESIDE_RESULTS = 160
"""Columns from which the card has room beside the table."""


class Results(LiveTable):
    """The search results."""

    KEYS_TITLE = "Search results"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "choose", "Files", id="hub.files", tooltip="list the files of this repository"
        ),
    ]


class SearchLine(TextLine):
    """The words to search for."""

    KEYS_TITLE = "Search"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Results", id="hub.to-results"),
    ]


class HubPage(Downloading):
    """Shows repositories, or the models of one repository, above the downloads.

    The first search starts when the page opens.
    """

    MODE: ClassVar[str] = "hub"
    CSS_PATH = "page.tcss"
    # The search field must not get the focus: it would take a key for text.
    AUTO_FOCUS = "#results"
    STEERING: ClassVar[frozenset[str]] = Downloading.STEERING | {"download", "mark"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/", id="hub.search"),
        Binding(
            "d",
            "download",
            "Download",
            id="hub.download",
            tooltip="download the marked models, or this one",
        ),
        Binding("l", "load", "Load", id="hub.load", tooltip="load the downloaded model"),
        Binding("t", "chat", "Chat", id="hub.chat", tooltip="try the downloaded model"),
        Binding("i", "card", "Card", id="hub.card", tooltip="read the model card"),
        Binding(
            "space",
            "mark",
            "Mark",
            id="hub.mark",
            tooltip="for a download of several models, also of several repositories",
        ),
        Binding("escape", "back", "Back", id="hub.back", tooltip="one level up"),
        Binding("s", "sort", "Sort", id="hub.sort", tooltip="by downloads, likes, trend or age"),
        Binding("r", "retry", "Retry", id="hub.retry", tooltip="repeat the failed search"),
        room_binding("hub"),
        Binding(
            "right_square_bracket",
            "pane(1)",
            "Downloads",
            key_display="]",
            id="hub.downloads",
            tooltip="go to the downloads",
        ),
        Binding(
            "left_square_bracket",
            "pane(0)",
            "Search results",
            key_display="[",
            id="hub.results",
            tooltip="go to the search results",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._begun = False
        self._done: frozenset[str] = frozenset()
        self._drawn: object = None
        """The values that the rows of the results were made of."""

    def body(self) -> ComposeResult:
        """Compose the search above the downloads."""
        charset = self.cyber.options.charset
        with Vertical(classes="body"):
            yield Static(id="title")
            with Vertical(id="finding"):
                yield SearchLine(
                    placeholder="search Hugging Face; empty shows the most downloaded", id="search"
                )
                with Horizontal():
                    with Vertical(id="tables"):
                        yield Results(RESULT_COLUMNS, marks=True, charset=charset, id="results")
                        yield LiveTable(FILE_COLUMNS, marks=True, charset=charset, id="files")
                    yield CardPane(self._catalog)
                yield Static(id="marked")
                yield Static(id="note")
            yield DownloadsPane(charset)

    def on_mount(self) -> None:
        """Focus the results, and sort as before the last end of the app."""
        if (kept := self.kept("sort", "")) in SORTS:
            self._catalog.sort = kept
        self._files_table.display = False
        self._results.focus()

    def chosen(self) -> ModelRecord | None:
        """Return the model of the selected download, repository or file, if it is here."""
        if self._in_downloads:
            return self.query_one(DownloadsPane).model
        return self.cyber.snapshot.model(self._local_id or "")

    # Drawing

    def show(self, snapshot: Snapshot) -> None:
        """Draw the downloads, and read what the rows on the screen lack.

        Begin with the most downloaded models.
        """
        if not self._begun:
            self._begun = True
            self._start_search()
        elif self._free is None:
            self._suggest()
        self.query_one(DownloadsPane).show(snapshot.downloads)
        done = frozenset(one.id for one in snapshot.downloads if one.status is DownloadStatus.DONE)
        new, self._done = done - self._done, done
        if self._repo is not None and any(
            one.repo == self._repo for one in snapshot.downloads if one.id in new
        ):
            self._read_files(self._repo)
        self._draw()

    def _draw(self) -> None:
        downloads = self.cyber.snapshot.downloads
        context = self.cyber.options.render_context()
        catalog = self._catalog
        first, moving = catalog.first, active_downloads(downloads)
        lines = [
            ResultLine(one, catalog.offer(one.repo), moving.get(one.repo), one.repo in first)
            for one in catalog.models
        ]
        # Hundreds of rows are made again only if one may differ; ages change with the hour.
        drawn = lines, context.now.date(), context.now.hour
        if drawn != self._drawn:
            self._drawn = drawn
            self._results.show(result_rows(lines, context))
        if self._repo is not None:
            files = list(self._files.values())
            self._files_table.show(file_rows(files, self._repo, downloads, context))
        empty = self._empty()
        self._results.show_empty(empty)
        self._files_table.show_empty(empty)
        update_static(self.query_one("#title", Static), self._title(downloads))
        self._show_marks(self.cyber.snapshot)
        self._show_selection()
        self._read_offers()

    def _show_selection(self, *, moved: bool = False) -> None:
        """Show the sentence about the selection, and its card if that has room."""
        update_static(self.query_one("#note", Static), self._note(), layout=True)
        body, width = self.query_one(".body"), self.size.width
        least = _CARD_BESIDE_RESULTS if self._repo is None else _CARD_BESIDE_FILES
        body.set_class(width >= least, "-beside")
        body.set_class(self._repo is not None, "-files")
        if body.has_class("-beside") or body.has_class("-card"):
            repo = self._repo or self._results.cursor_key
            self.query_one(CardPane).show(repo, delay=_CARD_DELAY if moved else 0.0)

    def _empty(self) -> str:
        if self._doing or self._problem:
            return ""
        if self._repo is not None:
            return "This repository has no GGUF models. esc goes back."
        if self._catalog.query:
            query = clean_line(self._catalog.query, limit=100)
            return f"No results for {query}. / changes the search."
        return "No results."

    def _title(self, downloads: Sequence[DownloadRecord]) -> Content:
        parts: list[tuple[str, str]] = []
        if self._one_pane:
            behind = self._in_downloads
            running = len([one for one in downloads if one.status in UNDER_WAY])
            count = f" {running}" if running else ""
            parts += [
                ("Search", "$text-muted" if behind else "bold $text-accent"),
                ("  ", ""),
                (f"Downloads{count}", "bold $text-accent" if behind else "$text-muted"),
                ("   [ ]   ", "$text-muted"),
            ]
            if behind:
                return Content.assemble(*parts)
        catalog, dot = self._catalog, f" {self.cyber.options.charset.dot} "
        if self._repo is not None:
            parts.append((clean_line(self._repo, limit=120), "bold"))
        elif catalog.query:
            parts.append((f"Results for {clean_line(catalog.query, limit=60)}", "bold"))
        else:
            parts.append(("GGUF models", "bold"))
        remarks = []
        if self._repo is None:
            if catalog.first:
                remarks.append("what fits best here first")
            remarks.append(f"sorted by {catalog.sort}")
            if catalog.count:
                remarks.append(f"{catalog.count}{'+' if catalog.has_more else ''} found")
        parts.append((f"   {dot.join(remarks)}", "$text-muted"))
        if self._doing:
            parts.append((f"   {self._doing} {self.cyber.options.charset.dots}", "$text-warning"))
        return Content.assemble(*parts)

    def _note(self) -> Content:
        if self._problem or self._refused:
            text = clean_line(" ".join((self._problem or self._refused).split()), limit=600)
            hint = "  r tries again." if self._problem else ""
            return Content.assemble((text, "$text-error"), (hint, "$text-muted"))
        keys = "" if self._in_downloads else local_keys(self)
        if self._repo is None:
            one = self._result
            repo = one.repo if one is not None else ""
            return Content(
                result_sentence(
                    one,
                    self._catalog.offer(repo),
                    self._catalog.first.get(repo),
                    downloading=repo in active_downloads(self.cyber.snapshot.downloads),
                    keys=keys,
                )
            )
        return Content(file_sentence(self._file, gated=self._is_gated(self._repo), keys=keys))

    def action_search(self) -> None:
        """Focus the search field."""
        self._show_card(False)
        self.screen.set_focus(self.query_one("#search"))

    def action_back(self) -> None:
        """Leave the downloads, the card, the search field or the files, remove the marks, or leave
        the search, in this order; marks of downloads before these."""
        line = self.query_one("#search", Input)
        pane = self.query_one(DownloadsPane)
        if self._in_downloads and pane.marks:
            pane.mark(frozenset())
        elif self._in_downloads:
            self.action_pane(0)
        elif self._in_card:
            self.action_card()
        elif self.focused is line:
            self.screen.set_focus(self._table)
        elif self._repo is not None:
            self._leave_files()
            self.screen.set_focus(self._results)
        elif self._marked:
            self._remove_marks()
        elif self._catalog.query:
            self.search("")

    # Downloading

    @on(LiveTable.RowChosen, "#files")
    def _file_chosen(self) -> None:
        if self.check_action("download", ()):
            self.action_download()

    # The panes

    @property
    def _in_downloads(self) -> bool:
        return self.query_one(".body").has_class("-downloads")

    @property
    def _in_card(self) -> bool:
        return self.query_one(".body").has_class("-card")

    @property
    def _one_pane(self) -> bool:
        return self.has_class("-narrow") or self.has_class("-short")

    def action_pane(self, number: int) -> None:
        """Go to the search results (0) or the downloads (1)."""
        self._show_card(False)
        self.query_one(".body").set_class(bool(number), "-downloads")
        self._pane_changed(self.query_one("#downloads") if number else self._table)

    def action_card(self) -> None:
        """Read the card, or go back to the table."""
        reads = not self._in_card
        self._show_card(reads)
        self._pane_changed(self.query_one(CardPane) if reads else self._table)

    def _show_card(self, reads: bool) -> None:
        self.query_one(".body").set_class(reads, "-card")

    def _pane_changed(self, target: Widget) -> None:
        # A hidden widget can be focused after the next layout.
        self.call_after_refresh(target.focus)
        self._draw()
        self.refresh_bindings()

    @on(DescendantFocus)
    def _focus_changed(self) -> None:
        focused = self.focused
        pane = self.query_one(DownloadsPane)
        inside = focused is not None and pane in focused.ancestors
        reads = isinstance(focused, CardPane)
        if (inside, reads) != (self._in_downloads, self._in_card):
            self.query_one(".body").set_class(inside, "-downloads")
            self._show_card(reads)
            self._draw()
        pane.show_note()
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now."""
        if not self.is_mounted:
            return super().check_action(action, parameters)
        typing = isinstance(self.focused, Input)
        finding = not self._in_downloads and not typing
        inner = typing or self._in_downloads or self._in_card
        possible = {
            "download": finding and (self._target is not None or bool(self._marked)),
            "mark": finding
            and not self._in_card
            and (self._target is not None or bool(self._marks_of_selection())),
            "back": inner
            or self._repo is not None
            or bool(self._marked)
            or bool(self._catalog.query),
            "card": finding and (self._repo or self._results.cursor_key) is not None,
            "sort": finding and not self._in_card and self._repo is None,
            "retry": finding and bool(self._problem),
            "pane": (parameters == (1,)) != self._in_downloads,
        }
        return super().check_action(action, parameters) if possible.get(action, True) else False
