"""The greeting of a first start: its keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import (
    OFFERED_PORTS,
    InstallSource,
    InstallState,
    endpoints,
    queries,
)
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.pages.dashboard.greeting_text import (
    free_for_models,
    greeting_content,
    install_options,
)
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.suggested_models import suggest

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_SETTERS = {"env": "environment", "flag": "command line"}


class Greeting(VerticalScroll, can_focus=True):
    """Replaces the dashboard until there is a llama-server and a model."""

    KEYS_TITLE = "First start"
    DEFAULT_CSS = """
    Greeting { height: 1fr; padding: 1 2; scrollbar-size-vertical: 1; }
    Greeting #text { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "i", "install(0)", "Install", id="greeting.install", tooltip="install llama-server"
        ),
        Binding(
            "u", "install(1)", "Second option", show=False, tooltip="install it the second way"
        ),
        Binding("y", "install(2)", "Third option", show=False, tooltip="install it the third way"),
        Binding(
            "p",
            "path",
            "I have one",
            id="greeting.path",
            tooltip="use a llama-server that you have",
        ),
        Binding("x", "stop", "Stop", id="greeting.stop", tooltip="stop the installation"),
        Binding(
            "a", "model(0)", "Get model", id="greeting.model", tooltip="download the first model"
        ),
        Binding("b", "model(1)", "Second model", show=False, tooltip="download the second model"),
        Binding("c", "model(2)", "Third model", show=False, tooltip="download the third model"),
        Binding("h", "hub", "Hub", id="greeting.hub", tooltip="search for other models"),
        Binding("d", "demo", "Demo", id="greeting.demo", tooltip="add the built-in demo model"),
        Binding(
            "l",
            "ports",
            "Listen",
            id="greeting.ports",
            tooltip="also listen where clients look for Ollama and llama.cpp",
        ),
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
    ]
    STEERING = frozenset({"install", "path", "stop", "model", "demo", "ports"})

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._content = Content("")
        self._snapshot = Snapshot()
        self._text = Static(id="text")

    def compose(self) -> ComposeResult:
        """Compose the text."""
        self._text.update(self._content)
        yield self._text

    @property
    def _app(self) -> CyberApp:
        return cast("CyberApp", self.app)

    def show(self, snapshot: Snapshot) -> None:
        """Draw the steps with their state."""
        before, self._snapshot = self._snapshot, snapshot
        content = greeting_content(
            snapshot,
            self._app.options.charset,
            self._app.client.url,
            max(30, self.scrollable_content_region.width or self.app.size.width - 4),
        )
        if not content.is_same(self._content):
            self._content = content
            if self._text.is_attached:
                self._text.update(content)
        if before is not snapshot:
            self.refresh_bindings()

    def on_resize(self) -> None:
        """Redraw for the new width."""
        self.show(self._snapshot)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is available now."""
        if action in self.STEERING and self._app.options.readonly:
            return False
        install = self._snapshot.install
        running = install is not None and install.state is InstallState.RUNNING
        if action == "install":
            place = parameters[0] if parameters else 0
            return not running and int(str(place)) < len(install_options(install))
        if action == "stop":
            return running
        if action == "demo":
            return self._snapshot.model("demo") is None
        if action == "ports":
            return self._snapshot.status is not None and not self._snapshot.status.extra_ports
        return True

    def action_install(self, place: int) -> None:
        """Install llama-server from the source with this number."""
        options = install_options(self._snapshot.install)
        if place < len(options):
            self._app.do(
                self._app.client.call(
                    endpoints.INSTALL, body=queries.InstallRequest(options[place].name)
                ),
                group="install",
            )

    def action_stop(self) -> None:
        """Cancel the installation."""
        self._app.do(self._app.client.call(endpoints.CANCEL_INSTALL), group="install")

    def action_path(self) -> None:
        """Ask for the path of a llama-server and use it."""
        from cyber_inference_tui.tui.dialogs.prompt import Prompt  # noqa: PLC0415 - seldom

        self._app.push_screen(
            Prompt(
                "Where is llama-server?",
                "The full path on the machine that runs the service.",
                self._use,
                placeholder="/usr/local/bin/llama-server",
            )
        )

    async def _use(self, path: str) -> None:
        """Use the llama-server at ``path``, or restore the setting if it does not work."""
        client = self._app.client
        record = await client.call(
            endpoints.SET_CONFIG, "llama_server_path", body=queries.NewValue(path)
        )
        server = (await client.call(endpoints.STATUS)).llama_server
        if server.path is not None and record.source == "file":
            self._app.show_message(f"Using {clean_line(server.path)}.")
            return
        await client.call(endpoints.UNSET_CONFIG, "llama_server_path")
        if record.source != "file":
            setter = _SETTERS.get(record.source, "start")
            raise CyberError(
                f"The service cannot use {path}: llama_server_path is set by its {setter}."
            )
        raise CyberError(server.problem or f"{path} does not run as llama-server.")

    def action_model(self, place: int) -> None:
        """Download one of the suggested models."""
        chosen = suggest(free_for_models(self._snapshot))
        if place < len(chosen):
            self._app.do(
                self._app.client.call(
                    endpoints.DOWNLOAD, body=queries.DownloadRequest(chosen[place].repo)
                ),
                group="download",
            )

    def action_hub(self) -> None:
        """Open the Hub."""
        self._app.switch_mode("hub")

    def action_demo(self) -> None:
        """Add the built-in demo model; without a llama-server, first offer to install one."""
        status, install = self._snapshot.status, self._snapshot.install
        if status is None or status.llama_server.path is not None:
            self._add_demo("Press 6 to chat with it.")
        elif install is not None and install.state is InstallState.RUNNING:
            self._add_demo("You can chat with it (6) when llama-server is installed.")
        else:
            self._ask_demo(install_options(install))

    def action_ports(self) -> None:
        """Listen on the ports where clients look, too."""
        self._app.do(
            self._app.client.call(
                endpoints.SET_CONFIG, "extra_ports", body=queries.NewValue([*OFFERED_PORTS])
            ),
            group="ports",
        )

    def _ask_demo(self, options: Sequence[InstallSource]) -> None:
        from cyber_inference_tui.tui.dialogs.question import Answer, Question  # noqa: PLC0415

        def answered(value: str | None) -> None:
            if value == "install":
                self.action_install(0)
                self._add_demo("You can chat with it (6) when llama-server is installed.")
            elif value == "add":
                self._add_demo("It needs a llama-server: i installs one, and p uses yours.")

        offer = (Answer("install", "i", "Install llama-server"),) if options else ()
        way = f"i installs one: {options[0].summary}" if options else "p uses one that you have"
        self._app.push_screen(
            Question(
                "Install llama-server first?",
                f"The demo model needs a llama-server, and this machine has none. {way}.",
                (*offer, Answer("add", "d", "Only add the demo"), Answer("cancel", "c", "Cancel")),
            ),
            answered,
        )

    def _add_demo(self, then: str) -> None:
        self._app.do(
            self._app.client.call(endpoints.ADD_DEMO), done=f"The model demo is here. {then}"
        )
