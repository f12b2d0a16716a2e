"""The commands of the palette: actions of all pages, and models, settings and themes by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.binding import Binding

from cyber_inference_tui.client.hosts import host_name
from cyber_inference_tui.records import ModelRecord, ModelStatus, endpoints, queries
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui import pages
from cyber_inference_tui.tui.chrome import PAGES
from cyber_inference_tui.tui.key_table import declared_bindings, shown_key
from cyber_inference_tui.tui.pages.models.model_actions import INACTIVE, MODEL_ACTIONS
from cyber_inference_tui.tui.snapshot import EVERYWHERE, RemoteModel

if TYPE_CHECKING:
    from cyber_inference_tui.tui.app import CyberApp

_NAME_LENGTH = 200
_MOVES = (
    *("move(", "page(", "step(", "shift(", "scroll", "open(", "app.focus", "first", "last"),
    *("choose", "back", "close", "follow", "command_palette", "half"),
)
"""The beginnings of actions that make no sense by name."""
_AT_START, _WITHIN, _SCATTERED, _ABOUT = 6, 4, 2, 1
"""Points of a typed word by its place."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name, a remark, its key, and the action."""

    name: str
    run: Callable[[], Any]
    about: str = ""
    key: str = ""
    preview: str = ""
    """The theme to show while the command is under the cursor."""


def matching(commands: Iterable[Command], typed: str, recent: Sequence[str]) -> list[Command]:
    """Return the commands that have all ``typed`` words, best first.

    Of equally good ones, those with a ``recent`` name come first, the latest before all others.
    """
    words = typed.lower().split()
    ranks = {name: rank for rank, name in enumerate(recent)}
    found = []
    for command in commands:
        points = [_points(word, command) for word in words]
        if all(points):
            rank = ranks.get(command.name, len(ranks))
            found.append((-sum(points), rank, len(command.name) if words else 0, command))
    return [command for *_, command in sorted(found, key=lambda one: one[:3])]


def _points(word: str, command: Command) -> int:
    name = command.name.lower()
    if name.startswith(word) or f" {word}" in name:
        return _AT_START
    if word in name:
        return _WITHIN
    letters = iter(name)
    if len(word) > 1 and all(letter in letters for letter in word):
        return _SCATTERED
    return _ABOUT if word in command.about.lower() else 0


def page_commands(app: CyberApp) -> Iterator[Command]:
    """Yield the actions that are available on this page."""
    screen = app.screen
    actions = set()
    for node, binding, enabled, tooltip in screen.active_bindings.values():
        if enabled and is_an_action(binding) and binding.action not in actions:
            actions.add(binding.action)
            yield Command(
                binding.description,
                # Run it on the node that binds it: a pane has actions that its page lacks.
                partial(app.run_action, binding.action, node),
                tooltip or binding.tooltip,
                shown_key(screen, binding),
            )
    if "app.change_theme" not in actions:  # the Settings page has a key for it
        yield Command("Theme", app.action_change_theme, "choose the colours")
    yield Command("Screenshot", app.deliver_screenshot, "save the screen as an SVG file")


def other_page_commands(app: CyberApp, mode: str) -> Iterator[Command]:
    """Yield the actions of all pages but ``mode``; import their modules, which takes a moment."""
    for page in PAGES:
        if page.mode == mode:
            continue
        yield Command(page.title, partial(app.switch_mode, page.mode), "open the page", page.key)
        for binding in _bindings_of(app, page.mode):
            name = f"{page.title}: {binding.description}"
            run = partial(app.run_on_page, page.mode, binding.action)
            yield Command(name, run, binding.tooltip, app.get_key_display(binding))


def _bindings_of(app: CyberApp, mode: str) -> Iterator[Binding]:
    """Yield the actions of another page and its panes; those of models have their own commands."""
    package = importlib.import_module(f"{pages.__name__}.{mode}")
    actions = set(MODEL_ACTIONS)
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for owner in vars(module).values():
            if not isinstance(owner, type) or owner.__module__ != module.__name__:
                continue
            if not (getattr(owner, "MODE", "") or owner.__name__.endswith("Pane")):
                continue
            steering = getattr(owner, "STEERING", ()) if app.options.readonly else ()
            for binding in declared_bindings(owner):
                name = binding.action
                if is_an_action(binding) and name not in actions and name not in steering:
                    actions.add(name)
                    yield binding


def is_an_action(binding: Binding) -> bool:
    """Return whether a binding does more than move about. Textual's own bindings have no id."""
    return bool(binding.description and binding.id and not binding.action.startswith(_MOVES))


def model_commands(app: CyberApp) -> Iterator[Command]:
    """Yield the actions on every model, those of loaded models first."""
    everywhere = app.snapshot.models_of(EVERYWHERE)
    models = sorted(everywhere, key=lambda one: one.status in INACTIVE)
    steers = not app.options.readonly
    idle = [one for one in models if _is_idle(one) and not isinstance(one, RemoteModel)]
    if steers and idle:
        many = ", ".join(clean_line(one.id, limit=40) for one in idle[:3])
        more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
        yield Command("Unload all idle models", partial(_unload_all, app, idle), f"{many}{more}")
    for model in models:
        name = clean_line(model.id, limit=_NAME_LENGTH)
        state = model.status.value
        if steers and not model.unreadable:
            if model.status in INACTIVE:
                yield Command(f"Load {name}", partial(_load, app, model), state)
            elif model.status is not ModelStatus.UNLOADING:
                run = partial(app.run_on_model, model.id, "unload")
                yield Command(f"Unload {name}", run, state)
            pin, endpoint = ("Unpin", endpoints.UNPIN) if model.pinned else ("Pin", endpoints.PIN)
            yield Command(f"{pin} {name}", partial(_call, app, endpoint, model.id), state)
            if not model.embedding:
                yield Command(f"Chat with {name}", partial(app.open_chat, model.id), state)
            if not isinstance(model, RemoteModel):
                context = partial(app.run_on_model, model.id, "edit")
                yield Command(f"Context and settings of {name}", context)
        yield Command(f"Details of {name}", partial(app.open_model, model.id), state)
        yield Command(f"Log of {name}", partial(app.open_log, model.id))
        connect = partial(app.connect_clients, model)
        yield Command(f"Connect clients to {name}", connect, "curl, Python, Claude Code and others")
        if not model.unreadable:
            copy = partial(_copy_curl, app, model)
            yield Command(f"Copy curl for {name}", copy, "a command for the shell, without the key")
    yield Command("Log of the service", partial(app.open_log, "service"))


def host_commands(app: CyberApp) -> Iterator[Command]:
    """Yield the hosts that the app can switch to; read their file."""
    if (hosts := app.options.hosts) is None:
        return
    for address in hosts.choices():
        if address != hosts.current:
            run = partial(app.switch_host, address)
            yield Command(f"Host {host_name(address)}", run, "switch to the service there")


def theme_commands(app: CyberApp) -> Iterator[Command]:
    """Yield the themes."""
    for name in sorted(app.available_themes):
        yield Command(f"Theme {name}", partial(app.use_theme, name), preview=name)


async def setting_commands(app: CyberApp) -> list[Command]:
    """Ask the service for its settings, and return a command for each."""
    return [
        Command(
            f"Setting {value.key}",
            partial(app.open_setting, value.key),
            clean_line(value.help, limit=_NAME_LENGTH),
        )
        for value in await app.client.call(endpoints.CONFIG)
    ]


def _is_idle(model: ModelRecord) -> bool:
    busy = model.in_flight or model.queued or model.pinned
    return model.status is ModelStatus.LOADED and not busy


def _load(app: CyberApp, model: ModelRecord) -> None:
    query = queries.LoadQuery(wait=False)
    client, there = app.at(model.id)
    app.do(client.call(endpoints.LOAD, there, query=query))


def _call(app: CyberApp, endpoint: Any, model_id: str) -> None:
    client, there = app.at(model_id)
    app.do(client.call(endpoint, there))


def _copy_curl(app: CyberApp, model: ModelRecord) -> None:
    from cyber_inference_tui.connect.curl import KEY_VARIABLE  # noqa: PLC0415 - seldom
    from cyber_inference_tui.connect.ready_lines import curl  # noqa: PLC0415 - seldom
    from cyber_inference_tui.tui.dialogs import connect_facts as facts  # noqa: PLC0415 - seldom

    client, name = app.client, facts.ModelName(model.id, model)

    async def copy() -> None:
        state = await facts.key_state(client)
        wanted = bool(client.api_key) or state is facts.KeyState.REFUSED
        target = facts.connection_to(name, app.snapshot.models, url=client.url, key="")
        app.copy_to_clipboard(curl(target, name.kind, variable=wanted).text)
        reads = f"; it takes the key from ${KEY_VARIABLE}" if wanted else ""
        app.show_message(f"Copied a curl command for {clean_line(model.id, limit=200)}{reads}.")

    app.do(copy())


def _unload_all(app: CyberApp, models: Sequence[ModelRecord]) -> None:
    for model in models:
        _call(app, endpoints.UNLOAD, model.id)
