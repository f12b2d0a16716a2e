"""The pane of a model's details, and the reader that fetches them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ModelDetails, ModelRecord, endpoints

READ_DELAY = 0.12
"""Seconds on one model until its details are asked for: a cursor that runs asks for none."""


class DetailsPane(VerticalScroll, can_focus=True):
    """A text that scrolls."""

    KEYS_TITLE = "Details"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False, id="details.down"),
        Binding("k", "scroll_up", "Up", show=False, id="details.up"),
        Binding("g", "scroll_home", "Top", show=False, id="details.top"),
        Binding("G", "scroll_end", "End", show=False, id="details.end"),
    ]

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._content = Content("")
        self.model_id = ""
        """Whose details are shown."""

    def compose(self) -> ComposeResult:
        """The text."""
        yield Static(id="text")

    @property
    def room(self) -> int:
        """Cells that a line may take."""
        return self.scrollable_content_region.width

    def show(self, model_id: str, content: Content) -> None:
        """Show this of a model; of another one than before, from its beginning."""
        if model_id != self.model_id:
            self.model_id = model_id
            self.scroll_home(animate=False)
        if not content.is_same(self._content):
            self._content = content
            self.query_one("#text", Static).update(content)


class DetailsReader:
    """Reads the details of one model at a time, and keeps the last ones.

    They are wanted anew when the model is in another state than it was, and when the settings
    have changed (``config_version`` grew).
    """

    def __init__(self) -> None:
        self._asked: object = None
        self._details: ModelDetails | None = None
        self._problem = ("", "")

    def details_of(self, model: ModelRecord | None) -> ModelDetails | None:
        """What is known of this model, even if it is about to be read anew."""
        known = self._details
        return (
            known
            if known is not None and model is not None and known.model.id == model.id
            else None
        )

    def problem_of(self, model: ModelRecord) -> str:
        """Why there are no details of this model, in one sentence; empty if nothing is wrong."""
        model_id, problem = self._problem
        return problem if model_id == model.id else ""

    def wants(self, model: ModelRecord, config_version: int) -> bool:
        """Whether there is something to read that has not been asked for."""
        return self._asked != _state(model, config_version)

    def forget(self) -> None:
        """Read anew, whatever was read."""
        self._asked = None

    async def read(
        self,
        client: ServiceClient,
        model: ModelRecord,
        config_version: int,
        then: Callable[[], None],
    ) -> None:
        """Read the details of ``model``, and call ``then``; ``problem_of`` tells what failed."""
        asked = _state(model, config_version)
        self._asked = asked
        self._problem = ("", "")
        try:
            if self.details_of(model) is None:
                await asyncio.sleep(READ_DELAY)
            self._details = await client.call(endpoints.DETAILS, model.id)
        except CyberError as error:
            self._problem = (model.id, str(error))
        except asyncio.CancelledError:
            if self._asked == asked:
                self._asked = None
            raise
        then()


def _state(model: ModelRecord, config_version: int) -> object:
    """What the details depend on."""
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
