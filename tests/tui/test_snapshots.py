"""Compares the pages with snapshots that a person has checked.

``make snapshots`` takes them again; look at each that changed. Other tests check the behaviour.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot
from textual.screen import ModalScreen

from cyber_inference_tui.errors import InvalidRequestError, ModelLoadError
from cyber_inference_tui.records import (
    ClientRecord,
    InstallState,
    LiveRequest,
    LiveRequests,
    ModelStatus,
    PortRecord,
)
from cyber_inference_tui.records.bench import BenchRequest, BenchState, BenchStatus
from cyber_inference_tui.records.peers import PeerSuggestion
from cyber_inference_tui.terminal.charset import ASCII
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.dialogs.new_key import NewKeyForm
from cyber_inference_tui.tui.dialogs.password import Password
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from cyber_inference_tui.tui.pages.chat.page import ChatPage
from cyber_inference_tui.tui.pages.logs.page import LogsPage
from cyber_inference_tui.tui.theme import LIGHT
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from cyber_inference_tui.tui.widgets.log_view import LogView
from tests.fakes.service import World
from tests.tui.companions_world import companions_world
from tests.tui.driving import LAUNCH, SMALL, WIDE, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.fake_hosts import hosts_of
from tests.tui.test_presets import LONG, world_with_presets
from tests.tui.world import (
    GIB,
    ago,
    bench_results,
    busy_world,
    empty_world,
    hot_world,
    measured,
    mode_results,
    plain_world,
    several_boxes_world,
    slow_world,
    streaming_world,
    with_disk,
)

Compare = Callable[..., bool]
Steps = Callable[[Pilot[Any], CyberApp, FakeClient], Awaitable[None]]


@pytest.fixture
def looks(snap_compare: Compare) -> Callable[..., None]:
    """Compares the app on a world, after some steps, with its picture."""

    def compare(
        world: World,
        steps: Steps,
        *,
        size: tuple[int, int] = WIDE,
        **changes: Any,
    ) -> None:
        client = FakeClient(world)
        # All pages, as a person has them: the picture is taken of the whole app.
        app = CyberApp(client, replace(LAUNCH, **changes))

        async def run_before(pilot: Pilot[Any]) -> None:
            await until(pilot, lambda: app.snapshot.live and client.streams > 0)
            await steps(pilot, app, client)
            await pilot.pause()

        assert snap_compare(app, terminal_size=size, run_before=run_before)

    return compare


def shows(*texts: str, keys: tuple[str, ...] = ()) -> Steps:
    """Press keys and wait until the texts are on the screen."""

    async def steps(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
        await pilot.press(*keys)
        await until(pilot, lambda: all(text in screen_text(app) for text in texts))

    return steps


async def _happen(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
    client.set_model("phi-4-mini-q4_k_m", status=ModelStatus.UNLOADED, error=None)
    client.set_model(
        "phi-4-mini-q4_k_m",
        status=ModelStatus.FAILED,
        error="The model needs more memory than the GPU has: cudaMalloc failed: out of memory.",
    )
    client.set_model("qwen3-32b-q4_k_m", pinned=True)
    client.set_model("qwen3-32b-q4_k_m", pinned=False)
    await until(pilot, lambda: "unpinned" in screen_text(app) or "EVENTS" in screen_text(app))
    await until(pilot, lambda: len(app.snapshot.recent_events) == 5)


async def _answer(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
    """Let all requests answer, and a model load and another one fail meanwhile."""
    await _happen(pilot, app, client)
    live = tuple(
        LiveRequest(
            number=one.number,
            phase=one.phase,
            tokens_out=one.tokens_out,
            tokens_per_second=one.tokens_per_second,
        )
        for one in client.world.active
    )
    speeds = {"qwen3-4b-q4_k_m": 119.0, "gemma-3-4b-it-q4_k_m": 115.0}
    client.publish("request", LiveRequests(live=live, tokens_per_second=speeds))
    await until(pilot, lambda: bool(app.snapshot.rates))
    if app.screen.query(".-log"):
        await pilot.press("j", "j", "j")
        await until(pilot, lambda: "done (119)" in screen_text(app))


def test_dashboard(looks: Callable[..., None]) -> None:
    looks(busy_world(), _happen)


def test_dashboard_small(looks: Callable[..., None]) -> None:
    looks(busy_world(), _happen, size=SMALL)


def test_dashboard_light(looks: Callable[..., None]) -> None:
    looks(busy_world(), _happen, theme=LIGHT.name)


def test_dashboard_ascii(looks: Callable[..., None]) -> None:
    looks(busy_world(), _happen, charset=ASCII)


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (120, 40), (160, 45), (200, 60)])
def test_dashboard_with_streams(looks: Callable[..., None], size: tuple[int, int]) -> None:
    looks(streaming_world(), _answer, size=size)


def test_dashboard_at_a_moment_of_the_last_day(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
        await _answer(pilot, app, client)
        await pilot.press("h", "h")
        await until(pilot, lambda: "throttled" in screen_text(app))
        await pilot.press(*["left"] * 20)
        await until(pilot, lambda: " at Thu 07:" in screen_text(app))

    looks(streaming_world(), steps, theme=LIGHT.name)


def test_dashboard_without_a_connection(looks: Callable[..., None]) -> None:
    async def lose(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
        await until(pilot, lambda: "qwen3-4b" in screen_text(app))
        client.stop()
        await until(pilot, lambda: "no connection" in screen_text(app))

    looks(busy_world(), lose)


def test_first_start(looks: Callable[..., None]) -> None:
    looks(empty_world(), shows("Welcome."))


def test_first_start_under_way(looks: Callable[..., None]) -> None:
    world = empty_world()
    world.install = msgspec.structs.replace(
        world.install,
        state=InstallState.RUNNING,
        source="source",
        step="compiling",
        progress=0.42,
    )
    looks(world, shows("compiling"), size=SMALL)


SIZES = {"60x20": (60, 20), "80x24": SMALL, "120x40": WIDE, "200x60": (200, 60)}
_PAGES = {"models": "FITS", "logs": "following", "requests": "nomic", "settings": "SETTING"}
"""By page: a text that it shows once it is complete."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("page", _PAGES)
def test_page(looks: Callable[..., None], page: str, size: str) -> None:
    looks(busy_world(), shows(_PAGES[page]), size=SIZES[size], first_page=page)


@pytest.mark.parametrize("page", _PAGES)
def test_page_light(looks: Callable[..., None], page: str) -> None:
    looks(busy_world(), shows(_PAGES[page]), first_page=page, theme=LIGHT.name)


@pytest.mark.parametrize("size", SIZES)
def test_no_service(snap_compare: Compare, size: str) -> None:
    client = FakeClient(busy_world())
    client.stop()
    app = CyberApp(client, replace(LAUNCH, first_page="requests", attached=True))

    async def run_before(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: "No service answers" in screen_text(app))

    assert snap_compare(app, terminal_size=SIZES[size], run_before=run_before)


def test_empty_requests(looks: Callable[..., None]) -> None:
    looks(empty_world(), shows("No requests yet."), first_page="requests")


async def _nothing(_: str) -> None:
    """Accept it."""


async def _refuse(path: str) -> None:
    raise InvalidRequestError(f"There is no program {path}.")


_PROGRAM = "/opt/llama.cpp/build/bin/llama-server"
_DIALOGS: dict[str, tuple[str, tuple[str, ...], str, Callable[[], ModalScreen[Any]] | None]] = {
    "help": ("models", ("question_mark",), "llama-server b9310", None),
    "question": ("models", ("j", "j", "x"), "Keep it", None),
    "model-form": ("models", ("G", "e"), "idle_timeout", None),
    "sort-menu": ("requests", ("s",), "Sort by", None),
    "sampling-form": ("chat", ("s",), "Sampling options", None),
    "choice": ("settings", ("t",), "cyber-dark", None),
    "api-keys": ("settings", ("a",), "None yet.", None),
    "new-key": ("models", (), "New API key", NewKeyForm),
    "password": (
        "models",
        (),
        "Admin password",
        lambda: Password("http://jetson:8337", _nothing, can_keep=True),
    ),
    "prompt": (
        "models",
        ("enter",),
        "There is no program",
        lambda: Prompt(
            "Where is llama-server?", "Its path, or its folder.", _refuse, value=_PROGRAM
        ),
    ),
}
"""By dialog: the page behind it, the keys, a text of it, and what makes it without a key."""


@pytest.mark.parametrize("size", ["80x24", "120x40"])
@pytest.mark.parametrize("dialog", _DIALOGS)
def test_dialog(looks: Callable[..., None], dialog: str, size: str) -> None:
    page, keys, text, make = _DIALOGS[dialog]

    async def steps(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
        ready = {**_PAGES, "chat": "Write to try a model."}[page]
        await until(pilot, lambda: ready in screen_text(app))
        if make is not None:
            app.push_screen(make())
            await pilot.pause()
        await pilot.press(*keys)
        await until(pilot, lambda: text in screen_text(app))

    looks(busy_world(), steps, size=SIZES[size], first_page=page)


def test_models_small(looks: Callable[..., None]) -> None:
    looks(busy_world(), shows("FITS", keys=("j", "j")), size=SMALL, first_page="models")


def test_model_details(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
        await until(pilot, lambda: "FITS" in screen_text(app))
        await pilot.press("j", "j", "enter")
        await until(pilot, lambda: "COMMAND" in screen_text(app))

    looks(busy_world(), steps, first_page="models")


def test_presets(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
        await until(pilot, lambda: LONG in screen_text(app))
        app.screen.query_one("#table", LiveTable).move_to(LONG)
        await pilot.press("f")
        await until(pilot, lambda: f"★ {LONG}" in screen_text(app))
        await pilot.press("P")
        await until(pilot, lambda: "Load a preset" in screen_text(app))

    looks(world_with_presets(), steps, first_page="models", size=SMALL)


def test_model_companions(looks: Callable[..., None]) -> None:
    steps = shows("without drafts", "1  terse", keys=("G",))
    looks(companions_world(), steps, first_page="models")


def test_adapters_small(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
        await until(pilot, lambda: "FITS" in screen_text(app))
        await pilot.press("G", "enter")
        await until(pilot, lambda: "LORA" in screen_text(app))
        await pilot.press("a")
        await until(pilot, lambda: "STRENGTH" in screen_text(app))

    looks(companions_world(), steps, size=SMALL, first_page="models")


def test_marked_models(looks: Callable[..., None]) -> None:
    steps = shows("up to 8K of context each", keys=("space", "G", "space", "g"))
    looks(busy_world(), steps, size=SMALL, first_page="models")


def test_column_menu(looks: Callable[..., None]) -> None:
    steps = shows("no room", keys=("v", "j", "space"))
    looks(busy_world(), steps, size=SMALL, first_page="models")


def test_settings_small(looks: Callable[..., None]) -> None:
    steps = shows("overrides the file.", keys=("j", "enter"))
    looks(busy_world(), steps, size=SMALL, first_page="settings")


def test_logs(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
        await until(pilot, lambda: isinstance(app.screen, LogsPage) and client.streams == 2)
        await pilot.press("b", "j", "j", "s")
        await until(pilot, lambda: "load_tensors" in screen_text(app))

    looks(busy_world(), steps, first_page="logs")


def test_logs_small(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
        await until(pilot, lambda: isinstance(app.screen, LogsPage) and client.streams == 2)
        assert isinstance(app.screen, LogsPage)
        app.screen.open("qwen3-4b-q4_k_m")
        await until(pilot, lambda: "(119)" in screen_text(app))
        await pilot.press("slash", *"nearly", "enter")
        await until(pilot, lambda: app.screen.query_one(LogView).target == 90)

    looks(busy_world(), steps, size=SMALL, first_page="logs")


def test_hub(looks: Callable[..., None]) -> None:
    looks(busy_world(), shows("✔ here"), first_page="hub")


def test_hub_with_a_card(looks: Callable[..., None]) -> None:
    looks(busy_world(), shows("✔ here", "Highlights"), size=(160, 45), first_page="hub")


def test_hub_marked_files(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
        await shows("✔ here")(pilot, app, client)
        await shows("Highlights", "Q3_K_M", keys=("enter",))(pilot, app, client)
        await shows("fits on the disk", keys=("k", "space"))(pilot, app, client)

    looks(with_disk(busy_world(), 100 * GIB), steps, size=(200, 60), first_page="hub")


def test_hub_narrow(looks: Callable[..., None]) -> None:
    looks(busy_world(), shows("✔ here"), size=(60, 20), first_page="hub", theme="cyber-light")


def test_hub_files_small(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
        await until(pilot, lambda: "gated" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "QUANT" in screen_text(app))

    looks(busy_world(), steps, size=SMALL, first_page="hub")


_ANSWER = (
    "The sea is **wide**:\n\n",
    "- It is `blue`, or *green*.\n",
    "\n| Sea | Depth |\n|---|--:|\n| North | 95 m |\n\n",
    "```python\ndef sea():  # salt\n    return 'blue', 95\n```\n",
)


async def _ask(pilot: Pilot[Any], app: CyberApp, *others: str) -> None:
    """Ask a model, and the others as well."""
    await until(pilot, lambda: "Write to try a model." in screen_text(app))
    assert isinstance(app.screen, ChatPage)
    app.screen._clock = app.screen.talks[0]._clock = lambda: 0.0
    # Without the timer an answer is drawn once, when it has ended.
    assert app.screen._timer is not None
    app.screen._timer.stop()
    await pilot.press("enter", *"Hello", "enter")
    await until(pilot, lambda: "21.4 tok/s" in screen_text(app))
    await pilot.press("escape")
    for name in others:
        await pilot.press("a", *name, "enter")
        talks = app.screen.talks
        await until(pilot, lambda talks=talks: bool(talks[-1].conversation.turns))  # type: ignore[misc]
        await until(pilot, lambda talks=talks: talks[-1].turn is None)  # type: ignore[misc]


def test_chat(looks: Callable[..., None]) -> None:
    world = busy_world()
    world.thinking = ("The sea is what I know. ", "I say so.")
    world.answer = _ANSWER

    async def steps(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
        await _ask(pilot, app)

    looks(world, steps, first_page="chat")


def test_chat_with_three_models(looks: Callable[..., None]) -> None:
    world = busy_world()
    world.answer = _ANSWER

    async def steps(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
        client.fail["chat with phi-4-mini-q4_k_m"] = ModelLoadError("It needs more memory.")
        await _ask(pilot, app, "gemma", "phi")

    looks(world, steps, first_page="chat")


def test_chat_with_two_models_small(looks: Callable[..., None]) -> None:
    world = busy_world()
    world.answer = _ANSWER

    async def steps(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
        await _ask(pilot, app, "gemma")

    looks(world, steps, size=SMALL, first_page="chat", theme=LIGHT.name)


async def _slowest(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
    await pilot.press("s", "a")
    await until(pilot, lambda: "cold prompt" in screen_text(app))


def test_slow_request(looks: Callable[..., None]) -> None:
    looks(slow_world(), _slowest, first_page="requests")


def test_request_totals(looks: Callable[..., None]) -> None:
    looks(busy_world(), shows("14.2", keys=("t",)), size=SMALL, first_page="requests")


def test_request_energy(looks: Callable[..., None]) -> None:
    looks(measured(busy_world()), shows("0.0655", keys=("t",)), first_page="requests")


def test_failed_request_small(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
        await until(pilot, lambda: "answering" in screen_text(app))
        await pilot.press("f")
        await until(pilot, lambda: "1 done" in screen_text(app))
        await pilot.press("G", "enter")
        await until(pilot, lambda: "needs more memory" in screen_text(app))

    looks(busy_world(), steps, size=SMALL, first_page="requests")


def test_settings(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, _: FakeClient) -> None:
        await until(pilot, lambda: "SETTING" in screen_text(app))
        await pilot.press("j", "enter", *"600")
        await until(pilot, lambda: "overridden by" in screen_text(app))

    looks(busy_world(), steps, first_page="settings")


def _with_clients() -> World:
    world = busy_world()
    world.status = msgspec.structs.replace(world.status, extra_ports=(PortRecord(port=11434),))
    world.clients = [
        ClientRecord(
            user_agent=agent,
            key_name=key,
            client=address,
            port=port,
            requests=requests,
            last_used_at=ago(seconds),
        )
        for agent, key, address, port, requests, seconds in (
            ("claude-cli/2.0.76 (external, cli)", "1", "127.0.0.1", 8337, 1204, 4),
            ("ollama/0.9.6 (amd64 linux)", None, "127.0.0.1", 11434, 18, 95),
            ("OpenAI/Python 2.8.1", "2", "192.168.1.20", 8337, 3, 7300),
        )
    ]
    return world


async def _connect(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
    client.api_key = "sk-" + "0123456789abcdef" * 3
    await until(pilot, lambda: "FITS" in screen_text(app))
    await pilot.press("G", "C")
    await until(pilot, lambda: "claude-cli" in screen_text(app))


def test_connect(looks: Callable[..., None]) -> None:
    looks(_with_clients(), _connect, first_page="models")


def test_connect_light(looks: Callable[..., None]) -> None:
    async def steps(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
        await _connect(pilot, app, client)
        await pilot.press("v", "j", "j", "j", "j")
        await until(pilot, lambda: "export ANTHROPIC_BASE_URL" in screen_text(app))

    looks(_with_clients(), steps, first_page="models", theme=LIGHT.name)


def test_connect_small(looks: Callable[..., None]) -> None:
    looks(_with_clients(), _connect, first_page="models", size=SMALL)


def test_connect_narrow(looks: Callable[..., None]) -> None:
    looks(_with_clients(), _connect, first_page="models", size=(60, 20))


async def _hosts(pilot: Pilot[Any], app: CyberApp, client: FakeClient) -> None:
    await pilot.press("H")
    answers = ("2 loaded", "no answer", "wants password", "not running")
    await until(pilot, lambda: all(text in screen_text(app) for text in answers))
    await pilot.press("down", "down", "down")


def test_hosts(looks: Callable[..., None], tmp_path: Path) -> None:
    looks(busy_world(), _hosts, hosts=hosts_of(tmp_path, "http://jetson:8337"), attached=True)


def test_hosts_narrow(looks: Callable[..., None], tmp_path: Path) -> None:
    hosts = hosts_of(tmp_path, "http://jetson:8337")
    changes = {"charset": ASCII, "theme": LIGHT.name}
    looks(busy_world(), _hosts, hosts=hosts, attached=True, size=(60, 20), **changes)


def test_boxes(looks: Callable[..., None]) -> None:
    looks(several_boxes_world(), shows("21.0 / 64.0 GiB"))


def test_boxes_small(looks: Callable[..., None]) -> None:
    steps = shows("gpt-oss-20b", keys=("b", "b", "b"))
    looks(several_boxes_world(), steps, size=SMALL, theme=LIGHT.name)


def test_boxes_dialog(looks: Callable[..., None]) -> None:
    world = several_boxes_world()
    world.suggestions = [PeerSuggestion(name="attic", url="https://192.168.1.50:8337")]
    looks(world, shows("found", keys=("B",)), size=SMALL)


def _bench_world() -> World:
    world = busy_world()
    world.benches = bench_results()
    request = BenchRequest(models=("qwen3-4b-q4_k_m",))
    step = "qwen3-4b-q4_k_m, round 3 of 6"
    world.bench = BenchStatus(state=BenchState.RUNNING, request=request, step=step, done=2, total=6)
    return world


@pytest.mark.parametrize("size", [SMALL, WIDE])
def test_bench(looks: Callable[..., None], size: tuple[int, int]) -> None:
    steps = shows("faster than", "round 3", keys=("m", "down"))
    looks(_bench_world(), steps, first_page="models", size=size)


def test_bench_light(looks: Callable[..., None]) -> None:
    steps = shows("faster than", "round 3", keys=("m", "down"))
    looks(_bench_world(), steps, first_page="models", size=(200, 60), theme=LIGHT.name)


def test_the_question_at_the_end(looks: Callable[..., None]) -> None:
    looks(busy_world(), shows("Leave it running", keys=("q",)), size=SMALL, owned=True)


def test_too_small(looks: Callable[..., None]) -> None:
    looks(busy_world(), shows("too small"), size=(56, 14))


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (120, 40), (200, 60)])
def test_machine(looks: Callable[..., None], size: tuple[int, int]) -> None:
    looks(hot_world(), shows("slows down"), size=size, first_page="machine")


@pytest.mark.parametrize("size", [SMALL, WIDE])
def test_machine_with_measured_power_modes(
    looks: Callable[..., None], size: tuple[int, int]
) -> None:
    world = busy_world()
    world.benches = mode_results()
    looks(world, shows("POWER MODES"), size=size, first_page="machine", theme=LIGHT.name)


@pytest.mark.parametrize("size", [WIDE, (200, 60)])
def test_machine_with_two_gpus(looks: Callable[..., None], size: tuple[int, int]) -> None:
    looks(streaming_world(), shows("power limit"), size=size, first_page="machine")


def test_machine_without_sensors(looks: Callable[..., None]) -> None:
    looks(plain_world(), shows("NOT REPORTED"), size=SMALL, first_page="machine")


def test_machine_light(looks: Callable[..., None]) -> None:
    looks(hot_world(), shows("slows down"), first_page="machine", theme=LIGHT.name)


def test_machine_ascii(looks: Callable[..., None]) -> None:
    looks(hot_world(), shows("slows down"), first_page="machine", charset=ASCII)
