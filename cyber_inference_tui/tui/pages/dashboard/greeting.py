"""The greeting of a first start: the three steps, their keys and their progress."""

from __future__ import annotations

import textwrap
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
    DownloadRecord,
    DownloadStatus,
    InstallRecord,
    InstallSource,
    InstallState,
    ModelStatus,
    endpoints,
    queries,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.chrome import device_line
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.suggested_models import Suggestion, suggest
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.units import counted, duration_text, size_text

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_MODEL_KEYS = "abc"
_SOURCE_KEYS = "iuy"
_BAR = 24
_ROOMY = 70
"""Least width in cells for all remarks about a model."""
_SETTERS = {"env": "environment", "flag": "command line"}
Parts = list[tuple[str, str]]


def free_for_models(snapshot: Snapshot) -> int | None:
    """Return the bytes that models may use: of the GPUs if they have their own memory."""
    rooms = {room.pool: room for room in snapshot.rooms}
    room = rooms.get("gpu") or rooms.get("memory")
    return room.free_after_unloading_bytes if room else None


def install_options(install: InstallRecord | None) -> tuple[InstallSource, ...]:
    """Return the possible sources of llama-server, the recommended one first."""
    if install is None:
        return ()
    possible = [one for one in install.sources if one.possible]
    return tuple(sorted(possible, key=lambda one: not one.recommended)[: len(_SOURCE_KEYS)])


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


def greeting_content(snapshot: Snapshot, charset: Charset, url: str, width: int) -> Content:
    """Return the whole greeting, ``width`` cells wide."""
    free = free_for_models(snapshot)
    machine = device_line(snapshot.sample.device, charset.dot) if snapshot.sample else ""
    parts: Parts = [("Welcome.", "bold $accent")]
    facts = [machine, f"{size_text(free)} free for models" if free is not None else ""]
    line = f" {charset.dot} ".join(fact for fact in facts if fact)
    if line:
        parts.append((f"  {_folded(line, width, 10, first=10)}", ""))
    parts.append(("\n\n", ""))
    parts += _server_step(snapshot, charset, width)
    parts += _model_step(snapshot, charset, free, width)
    if snapshot.model("demo") is None:
        parts += [*_step("3", "or try a demo"), *_key("d", "add a tiny demo model")]
        parts.append(("  no download\n\n", "$text-muted"))
    then, address = "Then point any OpenAI client at", f"{url}/v1"
    room = len(then) + 2 + len(address) <= width
    parts += [(then, "$text-muted"), ("  " if room else "\n  ", ""), (f"{address}\n", "bold")]
    parts += _ports(snapshot, charset, width)
    return Content.assemble(*parts)


def _ports(snapshot: Snapshot, charset: Charset, width: int) -> Parts:
    """Offer the ports where clients look, or show which of the extra ports are open."""
    if snapshot.status is None:
        return []
    if not snapshot.status.extra_ports:
        places = " and ".join(f"{port} ({name})" for port, name in OFFERED_PORTS.items())
        return _key("l", f"{_folded(f'also listen on {places}, where clients look', width, 3)}\n")
    parts: Parts = []
    for one in snapshot.status.extra_ports:
        if one.problem is None:
            parts.append((f"{charset.check} also on {one.port}\n", "$success"))
        else:
            sign = charset.signs[ModelStatus.FAILED]
            problem = _folded(f"{sign} not on {one.port}: {one.problem}", width, 2, first=0)
            parts.append((f"{problem}\n", "$error"))
    return parts


_INDENT = 5


def _folded(text: str, width: int, indent: int, *, first: int | None = None) -> str:
    """Wrap ``text`` to ``width`` cells; all lines but the first have ``indent`` spaces.

    The first line begins at cell ``first``, by default ``indent``.
    """
    lines = textwrap.wrap(
        clean_line(text, limit=500),
        max(20, width),
        initial_indent=" " * (indent if first is None else first),
        subsequent_indent=" " * indent,
    )
    return "\n".join(lines).lstrip(" ")


def _step(number: str, title: str, sign: str = "", style: str = "") -> Parts:
    return [
        (f"{number}  ", "bold $accent"),
        (title.ljust(16) if sign else title, "bold"),
        (sign, style),
        ("\n" + " " * _INDENT, ""),
    ]


def _key(key: str, does: str) -> Parts:
    return [(key, "bold $accent"), (f"  {does}", "")]


def _line(text: str, width: int, style: str) -> Parts:
    """Return a remark below a step."""
    return [(f"{' ' * _INDENT}{_folded(text, width, _INDENT)}\n", style)]


def _server_step(snapshot: Snapshot, charset: Charset, width: int) -> Parts:
    server = snapshot.status.llama_server if snapshot.status else None
    install = snapshot.install
    if server is not None and server.path is not None:
        found = f"{charset.check} {clean_line(server.version or 'found')}"
        return [
            *_step("1", "llama-server", found, "$success")[:-1],
            ("\n", ""),
            *_line(server.path, width, "$text-muted"),
            ("\n", ""),
        ]
    if install is not None and install.state is InstallState.RUNNING:
        doing = f"{charset.signs[ModelStatus.LOADING]} installing"
        parts = _step("1", "llama-server", doing, "$warning")
        parts += [(f"{_bar(install.progress, charset)}\n", "$warning")]
        parts += _line(install.step or install.source or "", width, "")
        parts += [(" " * _INDENT, ""), *_key("x", "stop"), ("   ", ""), *_key("4", "its log")]
        return [*parts, ("\n\n", "")]
    missing = f"{charset.signs[ModelStatus.FAILED]} not found"
    parts = _step("1", "llama-server", missing, "$error")
    for key, source in zip(_SOURCE_KEYS, install_options(install), strict=False):
        summary = _folded(source.summary, width, _INDENT + 3)
        parts += [*_key(key, summary), ("\n" + " " * _INDENT, "")]
    parts += [*_key("p", "I have one"), ("\n", "")]
    if problem := with_keys(_server_problem(snapshot)):
        sign = charset.signs[ModelStatus.FAILED]
        parts += _line(f"{sign} {problem}", width, "$error")
    parts.append(("\n", ""))
    return parts


def _server_problem(snapshot: Snapshot) -> str:
    """Return why the installation failed; empty if there was none."""
    install = snapshot.install
    if install is not None and install.error:
        return install.error
    if install is not None and install.state is InstallState.DONE and install.warnings:
        return " ".join(install.warnings)
    server = snapshot.status.llama_server if snapshot.status else None
    # The step says "not found" already; a wrong llama_server_path needs a reason.
    return (
        server.problem
        if server and server.problem and "llama_server_path" in server.problem
        else ""
    )


def _model_step(snapshot: Snapshot, charset: Charset, free: int | None, width: int) -> Parts:
    number = len(snapshot.models)
    if number:
        have = f"{charset.check} {counted(number, 'model')}"
        parts = _step("2", "a model", have, "$success")
    else:
        missing = f"{charset.signs[ModelStatus.FAILED]} none"
        parts = _step("2", "a model", missing, "$error")
    chosen = suggest(free)
    for key, one in zip(_MODEL_KEYS, chosen, strict=False):
        parts += [*_key(key, one.title.ljust(15)), (f"{one.quantization:<7}", "$text-muted")]
        parts += [(f"{size_text(one.size_bytes):>9}   ", "")]
        parts += _suggestion_note(one, snapshot, free, charset, width)
        parts.append(("\n" + " " * _INDENT, ""))
    parts += [*_key("h", "search the Hub for others"), ("\n\n", "")]
    return parts


def _suggestion_note(
    one: Suggestion, snapshot: Snapshot, free: int | None, charset: Charset, width: int
) -> Parts:
    download = next((d for d in reversed(snapshot.downloads) if d.repo == one.repo), None)
    if download is not None:
        return _download_note(download, charset, width)
    if free is None:
        return [(one.good_for, "$text-muted")]
    if one.need_bytes <= free:
        good_for = f"  {one.good_for}" if width >= _ROOMY else ""
        return [(f"{charset.check} fits", "$success"), (good_for, "$text-muted")]
    return [("too big here", "$error")]


def _download_note(download: DownloadRecord, charset: Charset, width: int) -> Parts:
    done = download.bytes_done / download.bytes_total if download.bytes_total else None
    if download.status is DownloadStatus.DONE:
        return [(f"{charset.check} here", "$success")]
    if download.status is DownloadStatus.FAILED:
        sign = charset.signs[ModelStatus.FAILED]
        error = _folded(f"{sign} {download.error or 'failed'}", width, _INDENT + 3)
        return [(f"\n{' ' * (_INDENT + 3)}{error}", "$error")]
    if width < _ROOMY:
        percent = "" if done is None else f" {int(done * 100)} %"
        return [(f"{download.status.value}{percent}", "$warning")]
    parts: Parts = [(_bar(done, charset), "$warning"), (f"  {download.status.value}", "")]
    if download.bytes_per_second:
        parts.append((f"  {size_text(int(download.bytes_per_second))}/s", "$text-muted"))
    if download.seconds_left is not None:
        parts.append((f"  {duration_text(download.seconds_left)} left", "$text-muted"))
    return parts


def _bar(done: float | None, charset: Charset) -> str:
    """Return a bar with its percentage; an empty bar if the progress is unknown."""
    full, rest = charset.bar
    if done is None:
        return rest * _BAR
    filled = round(max(0.0, min(1.0, done)) * _BAR)
    return f"{full * filled}{rest * (_BAR - filled)} {done:4.0%}"
