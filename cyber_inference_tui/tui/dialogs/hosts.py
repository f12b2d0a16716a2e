"""Shows the machines that the app was attached to, with their load, and chooses another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from cyber_inference_tui.client.hosts import HERE, HOSTS_KEPT, Hosts, host_name, proper_address
from cyber_inference_tui.errors import AdminLoginError, CyberError
from cyber_inference_tui.records import ModelStatus, ResourceSample, StatusRecord, endpoints
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.chrome import device_line
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from cyber_inference_tui.tui.key_bar import key_hints
from cyber_inference_tui.tui.key_queue import OPENING
from cyber_inference_tui.tui.pages.page import update_static
from cyber_inference_tui.tui.widgets.live_table import LiveTable, row_of
from cyber_inference_tui.units import counted, number_text, size_text, speed_text

if TYPE_CHECKING:
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.tui.app import CyberApp

_REFRESH = 3.0
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class HostView:
    """A host as far as it is known."""

    address: str
    current: bool = False
    status: StatusRecord | None = None
    sample: ResourceSample | None = None
    problem: str = ""
    locked: bool = False
    """It wants its admin password."""

    @property
    def name(self) -> str:
        """The address in few letters."""
        return host_name(self.address)

    @property
    def gpu(self) -> float | None:
        """The load of the GPUs in percent."""
        gpus = self.sample.gpus if self.sample is not None else ()
        known = [one.utilization_percent for one in gpus if one.utilization_percent is not None]
        return sum(known) / len(known) if known else None

    @property
    def memory(self) -> tuple[int, int] | None:
        """Used and all bytes: of the GPUs' own memory, or of the machine's without any."""
        if self.sample is None:
            return None
        pairs = [(one.memory_used, one.memory_total) for one in self.sample.gpus]
        known = [(used, total) for used, total in pairs if used is not None and total]
        if not known and self.sample.memory.used is not None and self.sample.memory.total:
            known = [(self.sample.memory.used, self.sample.memory.total)]
        return (sum(one for one, _ in known), sum(one for _, one in known)) if known else None

    @property
    def speed(self) -> float | None:
        """The tokens per second of all models."""
        if self.sample is None:
            return None
        return sum(one.tokens_per_second or 0.0 for one in self.sample.models)


def _name_cell(host: HostView, context: RenderContext) -> Cell:
    return Cell(host.name, "strong" if host.current else "none")


def _state_cell(host: HostView, context: RenderContext) -> Cell:
    signs = context.charset.signs
    if host.locked:
        return Cell(f"{signs[ModelStatus.QUEUED]} wants password", "busy")
    if host.problem and host.address == HERE:
        return Cell(f"{signs[ModelStatus.UNLOADED]} not running", "dim")
    if host.problem:
        return Cell(f"{signs[ModelStatus.FAILED]} no answer", "bad")
    if host.status is None:
        return Cell(f"{signs[ModelStatus.QUEUED]} connecting", "dim")
    if not host.status.models_loaded:
        return Cell(f"{signs[ModelStatus.UNLOADED]} nothing loaded", "dim")
    return Cell(f"{signs[ModelStatus.LOADED]} {host.status.models_loaded} loaded", "good")


def _percent(value: float) -> str:
    return number_text(value, unit="%")


def _of(memory: tuple[int, int]) -> str:
    used, total = (size_text(one) for one in memory)
    return f"{used} of {total}"


COLUMNS: tuple[Column[HostView, RenderContext], ...] = (
    Column("name", "HOST", least=12, cell=_name_cell),
    Column("state", "STATE", 16, cell=_state_cell),
    Column("gpu", "GPU", 5, lambda one: one.gpu, right=True, priority=2, text=_percent),
    Column("memory", "MEMORY", 20, lambda one: one.memory, right=True, priority=3, text=_of),
    Column("speed", "TOKENS/S", 8, lambda one: one.speed, right=True, priority=1, text=speed_text),
)


def about(host: HostView, dot: str) -> str:
    """Return what the table does not say about a host."""
    if host.locked:
        return "It wants its admin password: switch to it, and the app asks for it."
    if host.problem and host.address == HERE:
        return "No service runs here: a switch starts one."
    if host.problem:
        return host.problem
    if host.status is None or host.sample is None:
        return ""
    version = host.status.llama_server.version
    return f" {dot} ".join(
        clean_line(part)
        for part in (
            device_line(host.sample.device, dot),
            counted(host.status.requests_in_flight, "request") + " in flight",
            f"llama-server {version}" if version else "",
            "the app shows it" if host.current else "",
        )
        if part
    )


class HostList(LiveTable):
    """The table of hosts."""

    KEYS_TITLE = "Hosts"


class HostsDialog(ModalScreen[str | None]):
    """Returns the address to switch to, or ``None``. Each host is asked while it is open."""

    CSS_PATH = "hosts.tcss"
    KEYS_TITLE = "Hosts"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "add", "Add", id="hosts.add", tooltip="add a machine by its address"),
        Binding("x,delete", "forget", "Forget", id="hosts.forget", tooltip="take it off the list"),
        Binding("escape,q,H", "dismiss(None)", "Close", id="hosts.close"),
    ]

    def __init__(self, hosts: Hosts) -> None:
        super().__init__()
        self._hosts = hosts
        self._views: dict[str, HostView] = {}

    @property
    def cyber(self) -> CyberApp:
        """The app with its own type."""
        return cast("CyberApp", self.app)

    def compose(self) -> ComposeResult:
        """Compose the table, a line about the selected host, and the keys."""
        with Vertical(id="box"):
            yield Static(Content.styled("Hosts", "bold"))
            yield HostList(COLUMNS, charset=self.cyber.options.charset, id="hosts")
            yield Static(id="about")
            yield Static(id="hint")

    def on_mount(self) -> None:
        """Show the current host, and read the others."""
        self.query_one(HostList).focus()
        self._show_current()
        # The next keys are for the rows.
        self.run_worker(self._begin(), group=OPENING, exit_on_error=False)

    def on_resize(self, event: events.Resize) -> None:
        """Give the table the lines that the other parts leave."""
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        limit_height(self, "#hosts", least=3)

    # Reading

    def _show_current(self) -> None:
        snapshot, current = self.cyber.snapshot, self._hosts.current
        self._views[current] = HostView(
            current,
            current=True,
            status=snapshot.status,
            sample=snapshot.sample,
            problem="" if snapshot.live else snapshot.problem,
        )
        self._draw()

    def draw(self, _: object) -> None:
        """Draw the app's own host, whose values the app reads anyway."""
        self._show_current()

    async def _begin(self) -> None:
        for address in await asyncio.to_thread(self._hosts.choices):
            self._watch(address)
        self._draw()

    def _watch(self, address: str) -> None:
        """Add a host, and read it while the dialog is open."""
        if address not in self._views:
            self._views[address] = HostView(address)
            self.run_worker(self._follow(address), group=f"host {address}", exit_on_error=False)

    async def _follow(self, address: str) -> None:
        try:
            client = await asyncio.to_thread(self._hosts.client, address)
        except CyberError as error:
            self._put(HostView(address, problem=clean_line(str(error), limit=300)))
            return
        async with client:
            while True:
                self._put(await _view(client, address))
                await asyncio.sleep(_REFRESH)

    def _put(self, view: HostView) -> None:
        if view.address in self._views and self.is_attached:
            self._views[view.address] = view
            self._draw()

    # Drawing

    def _draw(self) -> None:
        table = self.query_one(HostList)
        context = self.cyber.options.render_context()
        table.show([row_of(key, one, COLUMNS, context) for key, one in self._views.items()])
        table.styles.height = len(self._views) + 1
        selected = self._selected()
        text = "" if selected is None else about(selected, context.charset.dot)
        if len(self._views) == 1:
            text = "a adds another machine: ssh://user@jetson needs nothing there but ssh."
        update_static(self.query_one("#about", Static), Content(text), layout=True)
        can_switch = selected is not None and not selected.current
        hints = [
            *([("enter", "switches")] if can_switch else []),
            *([("a", "adds")] if len(self._views) < HOSTS_KEPT else []),
            *([("x", "forgets")] if self._can_forget(selected) else []),
            ("esc", "closes"),
        ]
        update_static(self.query_one("#hint", Static), key_hints(*hints), layout=True)
        self.call_after_refresh(self._fit)

    def _selected(self) -> HostView | None:
        return self._views.get(self.query_one(HostList).cursor_key or HERE)

    @staticmethod
    def _can_forget(host: HostView | None) -> bool:
        return host is not None and not host.current and host.address != HERE

    @on(LiveTable.RowHighlighted)
    def _moved(self) -> None:
        self._draw()
        self.refresh_bindings()

    @on(LiveTable.RowChosen)
    def _chosen(self, event: LiveTable.RowChosen) -> None:
        self.dismiss(None if event.key == self._hosts.current else event.key)

    # Actions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available."""
        if action == "forget" and self.is_mounted:
            return self._can_forget(self._selected())
        if action == "add":
            return len(self._views) < HOSTS_KEPT
        return super().check_action(action, parameters)

    def action_add(self) -> None:
        """Ask for an address, and add its machine."""

        async def accept(text: str) -> None:
            address = proper_address(text)
            await asyncio.to_thread(self._hosts.keep, address)
            if self.is_attached:
                self._watch(address)
                self._draw()
                self.query_one(HostList).move_to(address)

        text = (
            "ssh://user@host opens a tunnel with your ssh, and needs no setting on that machine. "
            "A service that is open to the network has a URL."
        )
        self.app.push_screen(
            Prompt("Another machine", text, accept, placeholder="ssh://user@jetson")
        )

    def action_forget(self) -> None:
        """Take the selected host off the list."""
        host = self._selected()
        if host is None or not self._can_forget(host):
            return
        self.workers.cancel_group(self, f"host {host.address}")
        del self._views[host.address]
        self._draw()
        self.cyber.do(asyncio.to_thread(self._hosts.forget, host.address))


async def _view(client: ServiceClient, address: str) -> HostView:
    """Read a host."""
    try:
        status = await client.call(endpoints.STATUS, timeout=_ANSWER_SECONDS)
        sample = await client.call(endpoints.RESOURCES, timeout=_ANSWER_SECONDS)
    except AdminLoginError:
        return HostView(address, locked=True)
    except CyberError as error:
        # Without its hint, which is for this machine's service.
        return HostView(address, problem=clean_line(error.message, limit=300))
    return HostView(address, status=status, sample=sample)
