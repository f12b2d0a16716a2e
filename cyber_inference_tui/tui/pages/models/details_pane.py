"""The pane of a model's details, and the reader that requests them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ModelDetails, ModelRecord, endpoints
from cyber_inference_tui.tui.pages.page import update_static

READ_DELAY = 0.12
"""Seconds before details are requested, so that a moving cursor requests none."""


class DetailsPane(VerticalScroll, can_focus=True):
    """A scrolling text."""

    KEYS_TITLE = "Details"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False, id="details.down"),
        Binding("k", "scroll_up", "Up", show=False, id="details.up"),
        Binding("ctrl+d", "half_page(1)", "Half down", show=False, id="details.half-down"),
        Binding("ctrl+u", "half_page(-1)", "Half up", show=False, id="details.half-up"),
        Binding("g", "scroll_home", "Top", show=False, id="details.top"),
        Binding("G", "scroll_end", "End", show=False, id="details.end"),
    ]

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model_id = ""
        """Id of the model that is shown."""

    def compose(self) -> ComposeResult:
        """Compose the text."""
        yield Static(id="text")

    @property
    def room(self) -> int:
        """Width of a line in cells."""
        return self.scrollable_content_region.width

    def action_half_page(self, pages: int) -> None:
        """Scroll by half screens."""
        self.scroll_relative(y=pages * max(1, self.size.height // 2), animate=False)

    def show(self, model_id: str, content: Content) -> None:
        """Show the text of a model; a new model is shown from the top."""
        if model_id != self.model_id:
            self.model_id = model_id
            self.scroll_home(animate=False)
        update_static(self.query_one("#text", Static), content, layout=True)


class DetailsReader:
    """Reads the details of one model at a time and keeps the last ones.

    They have to be read again when the model changes its state, and when the settings change
    (``config_version`` grows).
    """

    def __init__(self) -> None:
        self._asked: object = None
        self._model_id = ""
        self._details: ModelDetails | None = None
        self._problem = ("", "")

    def details_of(self, model: ModelRecord | None) -> ModelDetails | None:
        """Return the known details of this model, even if they have to be read again."""
        return self._details if model is not None and self._model_id == model.id else None

    def problem_of(self, model: ModelRecord) -> str:
        """Return a sentence on why this model has no details; empty if nothing is wrong."""
        model_id, problem = self._problem
        return problem if model_id == model.id else ""

    def wants(self, model: ModelRecord, config_version: int) -> bool:
        """Return whether the details have to be read."""
        return self._asked != _state(model, config_version)

    def forget(self) -> None:
        """Read the details again the next time."""
        self._asked = None

    def read(
        self,
        client: ServiceClient,
        there: str,
        model: ModelRecord,
        config_version: int,
        then: Callable[[], None],
    ) -> Coroutine[Any, Any, None]:
        """Read the details of ``model`` and call ``then``; ``problem_of`` has the error.

        ``client`` is that of its box, ``there`` its id on that box.
        """
        self._asked = _state(model, config_version)  # at once: nothing else has to read them
        return self._read(client, there, model, self._asked, then)

    async def _read(
        self,
        client: ServiceClient,
        there: str,
        model: ModelRecord,
        asked: object,
        then: Callable[[], None],
    ) -> None:
        self._problem = ("", "")
        try:
            if self.details_of(model) is None:
                await asyncio.sleep(READ_DELAY)
            self._details = await client.call(endpoints.DETAILS, there)
            self._model_id = model.id
        except CyberError as error:
            self._problem = (model.id, str(error))
        except asyncio.CancelledError:
            if self._asked == asked:
                self._asked = None
            raise
        then()


def _state(model: ModelRecord, config_version: int) -> object:
    """Return the values that the details depend on."""
    return (
        model.id,
        model.status,
        model.context_length,
        model.port,
        model.pinned,
        model.fits,
        model.error,
        config_version,
    )
