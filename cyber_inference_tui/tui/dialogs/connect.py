"""Shows how clients connect: address, key, model, lines to copy, and the clients that called."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from cyber_inference_tui.client.service_url import is_loopback_url, tunnel, tunnel_to
from cyber_inference_tui.connect.ready_lines import ReadyLines, ready_lines
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import ClientRecord, ModelRecord, endpoints, queries
from cyber_inference_tui.terminal.columns import Column, RenderContext
from cyber_inference_tui.text import clean_line, clean_text
from cyber_inference_tui.tui.dialogs.choice import ChoiceDialog
from cyber_inference_tui.tui.dialogs.connect_facts import (
    CLIENT_COLUMNS,
    NAME_COLUMNS,
    PLACEHOLDER,
    AutoSettings,
    KeyState,
    ModelName,
    address_facts,
    auto_settings,
    client_key,
    connection_to,
    facts_content,
    key_fact,
    key_state,
    mask,
    model_fact,
    model_names,
)
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.widgets.live_table import LiveTable, row_of

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_WIDTH = 108
_SIDES = 4
_ROOMY = 32
"""Least lines of a terminal for more air."""
_LINES = 19
"""Lines of the longest text, and about as many as there are texts."""
_CLIENTS = 5
_KEY_MISSING = (
    f"Replace {PLACEHOLDER} by one of the service's keys: on its machine "
    "`cyber-inference-tui config get api_keys --reveal` prints those of the settings, and "
    "`keys add NAME` makes one."
)
_KINDS: tuple[Column[ReadyLines, RenderContext], ...] = (
    Column("kind", "", least=14, value=lambda lines: lines.title),
)


class KindList(LiveTable):
    """The list of clients; the keys for pages scroll the text beside it."""

    KEYS_TITLE = "Connect"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pageup", "screen.scroll_lines(-1)", "Page up", show=False),
        Binding("pagedown,space", "screen.scroll_lines(1)", "Page down", show=False),
    ]


class ConnectDialog(ModalScreen[None]):
    """Shows the facts that clients need, and copies them. It begins with ``model``.

    The key is hidden until it is asked for.
    """

    CSS_PATH = "connect.tcss"
    KEYS_TITLE = "Connect"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "copy('lines')", "Copy", id="connect.copy", tooltip="copy the shown lines"),
        Binding("a", "copy('openai')", "Address", id="connect.openai", tooltip="copy OpenAI's"),
        Binding("b", "copy('base')", "Base", id="connect.base", tooltip="copy Anthropic's"),
        Binding("y", "copy('key')", "Key", id="connect.key", tooltip="copy the key"),
        Binding("v", "show_key", "Show key", id="connect.show-key", tooltip="or hide it"),
        Binding("i", "copy('model')", "Id", id="connect.id", tooltip="copy the model's name"),
        Binding("m", "choose", "Model", id="connect.model", tooltip="choose another name"),
        Binding("escape,C,f2,q", "dismiss", "Close", id="connect.close"),
    ]

    def __init__(self, model: ModelRecord | None) -> None:
        super().__init__()
        self._wanted = model.id if model is not None else ""
        self._key_state = KeyState.UNKNOWN
        self._key_shown = False
        self._shown: list[ReadyLines] = []
        """The lines, with the key as it is shown."""
        self._clients: list[ClientRecord] | None = None
        self._most = 1
        """Clients for which there is room."""
        self._problem = ""
        self._reading = False
        self._read_after: object = None
        """The finished requests and the version of the settings that were read last."""
        self._auto = AutoSettings()
        self._auto_version = -1

    @property
    def cyber(self) -> CyberApp:
        """The app with its own type."""
        return cast("CyberApp", self.app)

    def compose(self) -> ComposeResult:
        """Compose the facts, the list with its text, and the clients."""
        charset = self.cyber.options.charset
        with Vertical(id="box"):
            yield Static(Content.styled("Connect a client", "bold"), id="title")
            yield Static(id="facts")
            with Horizontal(id="middle"):
                yield KindList(_KINDS, header=False, charset=charset, id="kinds")
                with VerticalScroll(id="pane", can_focus=False):
                    yield Static(id="lines")
                    yield Static(id="note")
            clients = LiveTable(CLIENT_COLUMNS, cursor=False, charset=charset, id="clients")
            clients.can_focus = False
            yield clients
            hints = (("c", "copies the lines"), ("pgdn", "scrolls them"), ("esc", "closes"))
            yield Static(key_hints(*hints), id="hint")

    def on_mount(self) -> None:
        """Focus the list."""
        self.query_one(KindList).focus()
        self.redraw()

    def on_resize(self, event: events.Resize) -> None:
        """Give the text the lines that the other parts leave."""
        roomy = event.size.height >= _ROOMY
        self.set_class(roomy, "-roomy")
        self._most = max(1, min(_CLIENTS, (event.size.height - 12) // 6))
        self.query_one("#clients").styles.height = self._most + 1
        self.query_one("#middle").styles.height = _LINES
        self.redraw()
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        limit_height(self, "#middle", least=4)

    # Drawing

    def draw(self, snapshot: Snapshot) -> None:
        """Draw ``snapshot``; the app calls it, as it draws pages."""
        if not self.is_mounted:
            return
        model = self._model(snapshot)
        self._wanted = model.name if model is not None else ""
        self._shown = self._lines(snapshot, self._key(shown=self._key_shown))
        context = self.cyber.options.render_context()
        rows = [row_of(lines.title, lines, _KINDS, context) for lines in self._shown]
        kinds = self.query_one(KindList)
        chosen = kinds.cursor_key
        kinds.filtered = True  # another model may have other lines
        kinds.show(rows)
        if kinds.cursor_key != chosen:
            kinds.action_first()
        self._draw_facts(snapshot, model)
        self._draw_lines()
        self._draw_clients(context)
        news = (snapshot.finished, snapshot.config_version)
        if snapshot.live and news != self._read_after and not self._reading:
            self._reading = True
            self._read_after = news
            self.run_worker(self._read(), exit_on_error=False)

    def redraw(self) -> None:
        """Draw the newest snapshot."""
        self.draw(self.cyber.snapshot)

    def _model(self, snapshot: Snapshot) -> ModelName | None:
        """Return the chosen model; if it is gone, the one that would answer first."""
        names = model_names(snapshot.models, self._auto)
        return next((one for one in names if one.name == self._wanted), next(iter(names), None))

    def _key(self, *, shown: bool) -> str:
        """Return the key for lines: hidden, a word in its place, or "" if none is needed."""
        if self._key_state is KeyState.REFUSED:
            return PLACEHOLDER
        key = self.cyber.client.api_key
        return key if shown or not key else mask(self.cyber.options.charset)

    def _lines(self, snapshot: Snapshot, key: str) -> list[ReadyLines]:
        url = self.cyber.client.url
        found = []
        if (model := self._model(snapshot)) is not None:
            # An alias has two models for a moment when it moves from one to the other.
            with contextlib.suppress(CyberError):
                target = connection_to(model, snapshot.models, url=url, key=key, auto=self._auto)
                found = ready_lines(target, model.kind)
        ssh = self._tunnel(snapshot)
        return [ssh, *found] if self.cyber.options.attached else [*found, ssh]

    def _tunnel(self, snapshot: Snapshot) -> ReadyLines:
        url, options = self.cyber.client.url, self.cyber.options
        if (own := self.cyber.client.tunnel) is not None:
            *more, host = own.address.words
            command, near = tunnel_to(host, own.address.far_url, *more)
            note = f"While it runs, the service is at {near}, also after this app has ended."
            return ReadyLines("SSH tunnel", command, note)
        if options.attached and is_loopback_url(url):
            far = (snapshot.status.port,) if snapshot.status is not None else ()
            note = f"While it runs, the service is at {url} on this machine."
            return ReadyLines("SSH tunnel", tunnel(url, *far)[0], note)
        command, near = tunnel(url) if options.attached else tunnel_to(options.machine, url)
        note = f"Run it on another machine: the service is at {near} there."
        return ReadyLines("SSH tunnel", command, note)

    def _draw_facts(self, snapshot: Snapshot, model: ModelName | None) -> None:
        client, options = self.cyber.client, self.cyber.options
        charset = options.charset
        facts = [
            *address_facts(client.url, None if options.attached else snapshot.status),
            key_fact(client.api_key, self._key_state, charset, shown=self._key_shown),
            model_fact(model, charset),
        ]
        width = min(_WIDTH, int(self.app.size.width * 0.96)) - _SIDES
        update_static(self.query_one("#facts", Static), facts_content(facts, width, charset))

    def _draw_lines(self) -> None:
        lines = self._selected(self._shown)
        if lines is None:
            return
        notes = [lines.note]
        if PLACEHOLDER in lines.text and self._key_state is KeyState.REFUSED:
            notes.insert(0, _KEY_MISSING)
        text = Content(clean_text(lines.text.rstrip("\n")))
        note = Content(clean_text(" ".join(filter(None, notes))))
        update_static(self.query_one("#lines", Static), text, layout=True)
        update_static(self.query_one("#note", Static), note, layout=True)

    def _selected(self, among: list[ReadyLines]) -> ReadyLines | None:
        key = self.query_one(KindList).cursor_key
        return next((lines for lines in among if lines.title == key), None)

    def _draw_clients(self, context: RenderContext) -> None:
        table = self.query_one("#clients", LiveTable)
        empty = self._problem or f"Reading {context.charset.dots}"
        if self._clients is not None:
            empty = "None yet. Copy lines from above and run them."
        table.show_empty(Content.styled(empty, "$text-muted"))
        latest = (self._clients or [])[: self._most]
        table.show([row_of(client_key(one), one, CLIENT_COLUMNS, context) for one in latest])

    async def _read(self) -> None:
        """Read the latest clients, and ask the service once whether it takes the key."""
        client = self.cyber.client
        try:
            if self._key_state is KeyState.UNKNOWN:
                self._key_state = await key_state(client)
            version = self.cyber.snapshot.config_version
            if version != self._auto_version:
                self._auto_version = version
                settings = await client.call(endpoints.CONFIG)
                self._auto = auto_settings(settings)
            query = queries.ClientsQuery(limit=_CLIENTS)
            self._clients = await client.call(endpoints.CLIENTS, query=query)
        except CyberError as error:
            self._problem = clean_line(str(error), limit=200)
        self._reading = False
        self.redraw()

    @on(LiveTable.RowHighlighted, "#kinds")
    def _moved(self) -> None:
        self._draw_lines()
        self.query_one("#pane").scroll_home(animate=False)

    @on(LiveTable.RowChosen, "#kinds")
    def _chosen(self) -> None:
        self.action_copy("lines")

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether there is a key or a model for an action."""
        if action == "show_key" or parameters == ("key",):
            return bool(self.cyber.client.api_key) and self._key_state is not KeyState.REFUSED
        if action == "choose" or parameters == ("model",):
            return bool(self._wanted)
        return super().check_action(action, parameters)

    def action_copy(self, what: str) -> None:
        """Copy a fact or the selected lines; the copy has the real key."""
        url = self.cyber.client.url
        if what == "lines":
            lines = self._selected(self._lines(self.cyber.snapshot, self._key(shown=True)))
            if lines is None:
                return
            text, said = lines.text, f"the lines for {lines.title}"
        else:
            text, said = {
                "openai": (f"{url}/v1", "the address for OpenAI clients"),
                "base": (url, "the address for Anthropic clients"),
                "key": (self.cyber.client.api_key, "the key"),
                "model": (self._wanted, clean_line(self._wanted, limit=200)),
            }[what]
        self.app.copy_to_clipboard(text)
        self.cyber.show_message(f"Copied {said}.")

    def action_show_key(self) -> None:
        """Show the key, or hide it."""
        self._key_shown = not self._key_shown
        self.redraw()

    def action_choose(self) -> None:
        """Choose another id or alias."""
        context = self.cyber.options.render_context()
        names = model_names(self.cyber.snapshot.models, self._auto)
        rows = [row_of(one.name, one, NAME_COLUMNS, context) for one in names]

        def chosen(name: str | None) -> None:
            self._wanted = name or self._wanted
            self.redraw()

        dialog = ChoiceDialog(
            "Model", NAME_COLUMNS, rows, chosen=self._wanted, charset=context.charset
        )
        self.app.push_screen(dialog, chosen)

    def action_scroll_lines(self, pages: int) -> None:
        """Scroll the text."""
        pane = self.query_one("#pane")
        pane.scroll_relative(y=pages * max(1, pane.size.height - 1), animate=False)
