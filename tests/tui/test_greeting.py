"""The greeting of a first start: its steps and their keys."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    InstallRecord,
    InstallState,
    LlamaServerRecord,
    ModelStatus,
    PortRecord,
)
from cyber_inference_tui.terminal.charset import ASCII, UNICODE
from cyber_inference_tui.tui.pages.dashboard.greeting_text import (
    free_for_models,
    greeting_content,
    install_options,
)
from cyber_inference_tui.tui.pages.dashboard.page import needs_greeting
from cyber_inference_tui.tui.snapshot import Snapshot
from cyber_inference_tui.tui.suggested_models import SUGGESTIONS, suggest
from tests.fakes.service import World
from tests.tui.driving import SMALL, WIDE, running, screen_text, until
from tests.tui.world import GIB, busy_world, empty_world, setting


def first_start(**changes: object) -> Snapshot:
    world = empty_world()
    fields = {
        "status": world.status,
        "sample": world.samples[-1],
        "rooms": tuple(world.rooms),
        "install": world.install,
        **changes,
    }
    return Snapshot(**fields)  # type: ignore[arg-type]


def text_of(snapshot: Snapshot) -> str:
    return greeting_content(snapshot, UNICODE, "http://127.0.0.1:8337", 100).plain


def test_the_ports_where_clients_look_are_offered_once() -> None:
    assert "l  also listen on 11434 (Ollama) and 8080 (llama.cpp)" in text_of(first_start())
    ports = (PortRecord(port=11434), PortRecord(port=8080, problem="in use by nginx (pid 7)"))
    status = msgspec.structs.replace(empty_world().status, extra_ports=ports)
    text = text_of(first_start(status=status))
    assert "also listen" not in text
    assert "also on 11434" in text
    assert "not on 8080: in use by nginx (pid 7)" in text


async def test_a_key_opens_the_ports_where_clients_look() -> None:
    world = empty_world()
    world.config["extra_ports"] = setting("extra_ports", [])
    async with running(world) as (app, client, pilot):
        await until(pilot, lambda: "l  also listen" in screen_text(app))
        await pilot.press("l")
        await until(pilot, lambda: bool(client.calls))
        assert client.calls == [("set_config", "extra_ports", [11434, 8080])]


def test_it_is_shown_while_something_is_missing() -> None:
    world = busy_world()
    assert not needs_greeting(Snapshot())
    assert needs_greeting(first_start())
    assert needs_greeting(Snapshot(status=world.status))
    models = tuple(world.models.values())
    assert not needs_greeting(Snapshot(status=world.status, models=models))
    no_server = msgspec.structs.replace(world.status, llama_server=LlamaServerRecord())
    at_rest = tuple(msgspec.structs.replace(one, status=ModelStatus.UNLOADED) for one in models)
    assert needs_greeting(Snapshot(status=no_server, models=at_rest))
    # Another program's servers need none.
    assert not needs_greeting(Snapshot(status=no_server, models=models))


@given(st.one_of(st.none(), st.integers(0, 10**12)))
def test_suggestions_fit_and_get_smaller(free: int | None) -> None:
    chosen = suggest(free)
    assert 1 <= len(chosen) <= 3
    fitting = [one for one in SUGGESTIONS if free is not None and one.need_bytes <= free]
    if fitting:
        assert chosen[0] == fitting[-1]
        assert all(one in fitting for one in chosen)
        sizes = [one.size_bytes for one in chosen]
        assert sizes == sorted(sizes, reverse=True)
    else:
        assert chosen == SUGGESTIONS[:3]


def test_the_memory_of_a_gpu_counts_where_it_has_its_own() -> None:
    snapshot = first_start()
    assert free_for_models(snapshot) == int(5.8 * GIB)
    gpu = msgspec.structs.replace(snapshot.rooms[0], pool="gpu", free_after_unloading_bytes=7)
    assert free_for_models(first_start(rooms=(snapshot.rooms[0], gpu))) == 7
    assert free_for_models(first_start(rooms=())) is None


def test_ways_that_are_not_possible_are_left_out_and_the_best_comes_first() -> None:
    assert [one.name for one in install_options(empty_world().install)] == ["source", "debian"]
    assert install_options(None) == ()


def test_it_shows_the_progress_and_the_failure_of_each_step() -> None:
    running_install = InstallRecord(
        state=InstallState.RUNNING, source="source", step="compiling", progress=0.42
    )
    assert "compiling" in text_of(first_start(install=running_install))
    assert "42 %" in text_of(first_start(install=running_install))
    failed = InstallRecord(state=InstallState.FAILED, error="There is no compiler.")
    assert "There is no compiler." in text_of(first_start(install=failed))
    chosen = suggest(int(5.8 * GIB))[0]
    download = DownloadRecord(
        id="d",
        repo=chosen.repo,
        status=DownloadStatus.RUNNING,
        bytes_done=GIB,
        bytes_total=2 * GIB,
        bytes_per_second=10 * 1024**2,
        seconds_left=102,
    )
    told = text_of(first_start(downloads=(download,)))
    assert "50 %" in told
    assert "10.0 MiB/s" in told
    assert "1 min 42 s left" in told
    broken = msgspec.structs.replace(download, status=DownloadStatus.FAILED, error="Disk full.")
    assert "Disk full." in text_of(first_start(downloads=(broken,)))


def test_ascii_has_ascii_only() -> None:
    content = greeting_content(first_start(), ASCII, "http://127.0.0.1:8337", 100)
    assert content.plain.isascii()


@pytest.mark.parametrize(("key", "source"), [("i", "source"), ("u", "debian")])
async def test_each_way_to_get_a_llama_server_is_a_key(key: str, source: str) -> None:
    async with running(empty_world()) as (app, client, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        await pilot.press("y")  # there is no third way here
        await pilot.press(key)
        await until(pilot, lambda: bool(client.calls))
        assert client.calls == [("install", source)]


async def test_an_installation_can_be_stopped() -> None:
    world = empty_world()
    world.install = msgspec.structs.replace(
        world.install, state=InstallState.RUNNING, source="source", step="compiling"
    )
    async with running(world) as (app, client, pilot):
        await until(pilot, lambda: "compiling" in screen_text(app))
        await pilot.press("i", "x")
        await until(pilot, lambda: client.calls == [("cancel_install",)])


def with_path_setting(**changes: object) -> World:
    world = empty_world()
    world.config["llama_server_path"] = setting("llama_server_path", **{"value": "", **changes})
    return world


async def test_a_llama_server_that_is_there_is_named() -> None:
    async with running(with_path_setting()) as (app, client, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        await pilot.press("p")
        await until(pilot, lambda: "Where is llama-server?" in screen_text(app))
        await pilot.press(*"/opt/x", "enter")
        await until(pilot, lambda: "Using /opt/x." in screen_text(app))
        assert client.calls == [("set_config", "llama_server_path", "/opt/x")]


async def test_a_missing_llama_server_is_reported_and_not_kept() -> None:
    async with running(with_path_setting()) as (app, client, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        await pilot.press("p")
        await until(pilot, lambda: "Where is llama-server?" in screen_text(app))
        await pilot.press(*"/nope", "enter")
        await until(pilot, lambda: "there is no such file" in screen_text(app))
        assert client.calls[-1] == ("unset_config", "llama_server_path")
        assert "Using" not in screen_text(app)
        shown = screen_text(app)
        assert shown.index("/nope") < shown.index("no such file") < shown.index("accepts")
        assert "Welcome." in shown, "the page behind is dimmed, not hidden"
        await pilot.press(*["backspace"] * 4, *"opt/x", "enter")
        await until(pilot, lambda: "Using /opt/x." in screen_text(app))
        assert "Where is llama-server?" not in screen_text(app)


async def test_a_path_from_the_environment_is_reported() -> None:
    async with running(with_path_setting(source="env", value="/gone")) as (app, _, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        await pilot.press("p")
        await until(pilot, lambda: "Where is llama-server?" in screen_text(app))
        await pilot.press(*"/opt/x", "enter")
        await until(pilot, lambda: "The service cannot use /opt/x" in screen_text(app))


def test_it_says_why_an_installed_llama_server_is_not_used() -> None:
    installed = InstallRecord(
        state=InstallState.DONE,
        version="b9",
        warnings=("llama_server_path is /gone and goes before the one just installed.",),
    )
    assert "goes before the one just installed" in text_of(first_start(install=installed))
    problem = "llama_server_path is /gone, but there is no such file."
    status = msgspec.structs.replace(
        empty_world().status, llama_server=LlamaServerRecord(problem=problem)
    )
    assert problem in text_of(first_start(status=status))


@pytest.mark.parametrize("width", [56, 76, 116])
def test_no_line_is_cut_or_folded_by_the_screen(width: int) -> None:
    world = empty_world()
    long = "a fault of some kind that takes many words " * 4
    sources = tuple(
        msgspec.structs.replace(one, summary="compiled here, which takes ten minutes or an hour")
        for one in world.install.sources
    )
    failed = InstallRecord(state=InstallState.FAILED, error=long, sources=sources)
    download = DownloadRecord(
        id="d",
        repo=suggest(int(5.8 * GIB))[0].repo,
        status=DownloadStatus.FAILED,
        bytes_done=0,
        error=long,
    )
    shown = first_start(install=failed, downloads=(download,))
    content = greeting_content(shown, UNICODE, "http://127.0.0.1:8337", width)
    assert max(len(line) for line in content.plain.splitlines()) <= width


async def test_what_has_no_room_can_be_scrolled_to() -> None:
    async with running(empty_world(), size=(60, 18)) as (app, _, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        assert "Then point" not in screen_text(app)
        await pilot.press("end")
        await until(pilot, lambda: "Then point" in screen_text(app))


async def test_each_suggestion_is_a_key() -> None:
    chosen = suggest(int(5.8 * GIB))
    async with running(empty_world(), size=SMALL) as (app, client, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        await pilot.press("a", "b", "c")
        await until(pilot, lambda: len(client.calls) == 3)
        assert client.calls == [("download", one.repo, None, None) for one in chosen]
        await until(pilot, lambda: "queued" in screen_text(app))


async def test_the_demo_and_the_hub_are_a_key_away() -> None:
    async with running(empty_world(), size=WIDE) as (app, client, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        await pilot.press("h")
        await until(pilot, lambda: app.current_mode == "hub")
        await pilot.press("escape", "1", "d")
        await until(pilot, lambda: "Install llama-server first?" in screen_text(app))
        await pilot.press("d")
        await until(pilot, lambda: client.calls == [("add_demo",)])
        await until(pilot, lambda: "model demo is here" in screen_text(app))


async def test_the_demo_first_offers_to_install_a_llama_server() -> None:
    async with running(empty_world(), size=SMALL) as (app, client, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        await pilot.press("d")
        await until(pilot, lambda: "Install llama-server first?" in screen_text(app))
        await pilot.press("i")
        await until(pilot, lambda: len(client.calls) == 2)
        assert {call[0] for call in client.calls} == {"install", "add_demo"}
        await until(pilot, lambda: "model demo is here" in screen_text(app))


async def test_the_demo_asks_nothing_if_there_is_a_llama_server() -> None:
    world = empty_world()
    server = LlamaServerRecord(path="/usr/bin/llama-server", version="b9")
    world.status = msgspec.structs.replace(world.status, llama_server=server)
    async with running(world) as (app, client, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        await pilot.press("d")
        await until(pilot, lambda: client.calls == [("add_demo",)])
        await until(pilot, lambda: "Press 6" in screen_text(app))


async def test_a_readonly_app_only_shows_the_state() -> None:
    async with running(empty_world(), readonly=True) as (app, client, pilot):
        await until(pilot, lambda: "Welcome." in screen_text(app))
        await pilot.press("i", "u", "p", "a", "d", "x")
        await pilot.pause()
        assert not client.calls
