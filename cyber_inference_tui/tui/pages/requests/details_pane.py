"""The pane with the details of a request, and with its phases where it has room for them."""

from __future__ import annotations

from functools import partial
from typing import cast

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static
from textual.worker import Worker

from cyber_inference_tui.records import ActiveRequestRecord, RequestRecord
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.page import Page, update_static
from cyber_inference_tui.tui.pages.requests.details import details, details_content, details_text
from cyber_inference_tui.tui.pages.requests.table import AnyRequest, row_key
from cyber_inference_tui.tui.pages.requests.why import (
    WhyReader,
    is_explained,
    why_content,
    why_text,
)

_WHY = "why"


class RequestDetails(VerticalScroll, can_focus=False):
    """The details of the selected request; it scrolls and gets the focus where it is all there is.

    It reads why the request took so long only while that is shown.
    """

    def __init__(self) -> None:
        super().__init__(id="pane")
        self._why = WhyReader()
        self._reading: Worker[None] | None = None
        """The worker that reads an explanation, until the next."""
        self._key = ""

    def compose(self) -> ComposeResult:
        """Compose the text."""
        yield Static(id="details")

    @property
    def _page(self) -> Page:
        return cast("Page", self.screen)

    def draw(self, record: AnyRequest | None, *, explain: bool, live: bool) -> None:
        """Draw a request; ``explain`` shows its phases, which are read if the service is there."""
        content = Content("")
        if explain and isinstance(record, RequestRecord) and is_explained(record):
            if live and self._why.wants(record):
                read = partial(self._why.read, self._page.client, record, self._page.redraw)
                self._reading = self.run_worker(
                    read, group=_WHY, exclusive=True, exit_on_error=False
                )
        else:
            self.leave()
        if record is not None:
            content = self._content(record, explain=explain)
            if (key := row_key(record)) != self._key:
                self._key = key
                self.scroll_home(animate=False)
        update_static(self.query_one("#details", Static), content, layout=True)

    def _content(self, record: AnyRequest, *, explain: bool) -> Content:
        options = self._page.cyber.options
        # The last cell is air before the scroll bar.
        width = (self.scrollable_content_region.width or self._page.size.width - 6) - 1
        content = details_content(details(record, options.now(), options.charset), width)
        if not explain:
            return content
        if (why := self._why.of(record)) is not None:
            return Content.assemble(why_content(why, width, options.charset), "\n", content)
        if problem := self._why.problem_of(record):
            return Content.assemble(content, (f"\n\n{clean_line(problem)}", "$error"))
        return content

    def on_resize(self) -> None:
        """Draw for the new width."""
        self._page.redraw()

    def leave(self) -> None:
        """Stop reading an explanation."""
        if self._reading is not None:
            self._reading.cancel()

    def text(self, record: ActiveRequestRecord | RequestRecord) -> str:
        """Return the details as plain text, with the explanation if it is known."""
        options = self._page.cyber.options
        text = details_text(details(record, options.now(), options.charset))
        why = self._why.of(record)
        return text if why is None else f"{text}\n\n{why_text(why, options.charset)}"
