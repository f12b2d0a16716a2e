"""The pane with the facts about a repository and its model card."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import HubCardRecord, HubModelRecord
from cyber_inference_tui.terminal.columns import RenderContext
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.hub.catalog import HubCatalog
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.units import age_text, context_text, count_text, counted

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

Piece = tuple[str, str]


def facts_text(model: HubModelRecord, context: RenderContext) -> str:
    """Return the known facts about a repository in two lines."""
    dot = f" {context.charset.dot} "
    first = [
        f"{count_text(model.parameters)} parameters" if model.parameters else None,
        model.architecture,
        f"context {context_text(model.context_length)}" if model.context_length else None,
    ]
    age = None
    if model.updated_at is not None:
        age = age_text((context.now - model.updated_at).total_seconds())
    second = [
        f"licence {model.licence}" if model.licence else None,
        "gated" if model.gated else None,
        counted(model.likes, "like") if model.likes is not None else None,
        counted(model.downloads, "download") if model.downloads is not None else None,
        f"changed {age} ago" if age and age != "now" else None,
    ]
    lines = (dot.join(part for part in parts if part) for parts in (first, second))
    return "\n".join(clean_line(line, limit=400) for line in lines if line)


def card_content(card: HubCardRecord, context: RenderContext) -> Content:
    """Return the facts and the text with its headings."""
    parts: list[Piece] = [
        (f"{clean_line(card.model.repo, limit=200)}\n", "bold $text-accent"),
        (f"{facts_text(card.model, context)}\n\n", "$text-muted"),
    ]
    for line in card.text.split("\n"):
        # It comes from the service, which may be another machine.
        shown = clean_line(line)
        if shown.startswith("# "):
            parts.append((f"{shown[2:]}\n", "bold"))
        elif shown.startswith("    "):
            parts.append((f"{shown}\n", "$secondary"))
        else:
            parts.append((f"{shown}\n", ""))
    if not card.text:
        parts.append(("It has no readable model card.", "$text-muted"))
    return Content.assemble(*parts)


class CardPane(VerticalScroll, can_focus=True):
    """A model card that scrolls. It has the focus while somebody reads it."""

    KEYS_TITLE = "Model card"
    DEFAULT_CSS = """
    CardPane { scrollbar-size-vertical: 1; scrollbar-gutter: stable; padding: 0 0 0 1; }
    CardPane Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "Up", show=False, id="card.up"),
        Binding("down,j", "scroll_down", "Down", show=False, id="card.down"),
        Binding("pageup", "page_up", "Page up", show=False, id="card.page-up"),
        Binding("pagedown,space", "page_down", "Page down", show=False, id="card.page-down"),
        Binding("home,g", "scroll_home", "First", show=False, id="card.first"),
        Binding("end,G", "scroll_end", "Last", show=False, id="card.last"),
    ]

    def __init__(self, catalog: HubCatalog) -> None:
        super().__init__(id="card")
        self._catalog = catalog
        self._repo: str | None = None
        self._problem = ""

    def compose(self) -> ComposeResult:
        """Compose the text."""
        yield Static()

    def show(self, repo: str | None, *, delay: float = 0.0) -> None:
        """Show the card of ``repo``; if it has to be read, wait ``delay`` seconds before that."""
        new, self._repo = repo != self._repo, repo
        if new:
            self._problem = ""
            self.scroll_home(animate=False)
            self.workers.cancel_group(self, "card")
            if repo is not None and self._catalog.card(repo) is None:
                self.run_worker(self._read(repo, delay), group="card", exit_on_error=False)
        self._draw()

    async def _read(self, repo: str, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await self._catalog.read_card(repo)
        except CyberError as error:
            self._problem = str(error)
        self._draw()

    def _draw(self) -> None:
        options = cast("CyberApp", self.app).options
        card = self._catalog.card(self._repo) if self._repo is not None else None
        if card is not None:
            content = card_content(card, options.render_context())
        elif self._problem:
            problem = clean_line(" ".join(self._problem.split()), limit=600)
            content = Content.styled(problem, "$text-error")
        else:
            text = f"reading its card {options.charset.dots}" if self._repo is not None else ""
            content = Content.styled(text, "$text-muted")
        update_static(self.query_one(Static), content, layout=True)
