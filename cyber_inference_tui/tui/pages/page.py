"""What all pages have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from cyber_inference_tui.tui.chrome import PageTabs, StatusBar, TooSmall, is_old
from cyber_inference_tui.tui.key_bar import KeyBar
from cyber_inference_tui.tui.snapshot import Snapshot

if TYPE_CHECKING:
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.tui.app import CyberApp

WIDTHS: list[tuple[int, str]] = [(0, "-tiny"), (60, "-narrow"), (100, "-wide")]
"""Classes of a screen by the columns of the terminal; ``-tiny`` has no room for a page."""
HEIGHTS: list[tuple[int, str]] = [(0, "-flat"), (18, "-short"), (32, "-tall")]


class Page(Screen[None]):
    """A page draws itself from snapshots: ``body`` composes it, ``show`` is called with each new
    one while it is in front, once when it comes to the front, and once a second for what counts
    down. ``show`` has to be cheap when nothing changed.

    ``STEERING`` names the actions that change something: they are hidden in a read-only app.
    """

    MODE: ClassVar[str]
    STEERING: ClassVar[frozenset[str]] = frozenset()
    BINDINGS: ClassVar[list[BindingType]] = []

    def compose(self) -> ComposeResult:
        """The chrome, with the page's own body in it."""
        # Told before there is anything on the page: later it would all be styled once more.
        size = self.app.size
        self.add_class(_step(size.width, WIDTHS), _step(size.height, HEIGHTS))
        yield StatusBar(self.cyber.options)
        yield PageTabs(self.MODE)
        yield from self.body()
        yield TooSmall()
        yield KeyBar(self.cyber.options.charset)

    def body(self) -> ComposeResult:
        """What the page is made of."""
        raise NotImplementedError

    def show(self, snapshot: Snapshot) -> None:
        """Draw what ``snapshot`` tells."""
        raise NotImplementedError

    @property
    def cyber(self) -> CyberApp:
        """The app, by its own type."""
        return cast("CyberApp", self.app)

    @property
    def client(self) -> ServiceClient:
        """The service."""
        return self.cyber.client

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether an action is to be had."""
        if action in self.STEERING and self.cyber.options.readonly:
            return False
        return super().check_action(action, parameters)

    def draw(self, snapshot: Snapshot) -> None:
        """Draw the chrome and the page (called by the app)."""
        if not self.is_mounted:
            return
        now = self.cyber.options.now()
        self.set_class(is_old(snapshot, now), "-stale")
        self.query_one(StatusBar).show(snapshot, now, self.client.url)
        self.show(snapshot)

    def on_screen_resume(self) -> None:
        """The page comes to the front: draw what is known now."""
        self.call_after_refresh(self.redraw)

    def on_resize(self) -> None:
        """There is another amount of room."""
        self.call_after_refresh(self.redraw)

    def redraw(self) -> None:
        """Draw the present snapshot again."""
        self.draw(self.cyber.snapshot)


def _step(size: int, steps: list[tuple[int, str]]) -> str:
    """The class of the last step that is not above ``size``."""
    return [name for least, name in steps if least <= size][-1]


def update_static(place: Static, content: Content, layout: bool = False) -> None:
    """Show ``content`` where it is another one than before; ``layout`` where its size counts."""
    before = place.content
    if not (isinstance(before, Content) and before.is_same(content)):
        place.update(content, layout=layout)
