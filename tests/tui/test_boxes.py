"""Other boxes in the app: their state, their models, and what is done there."""

from __future__ import annotations

import msgspec
import pytest

from cyber_inference_tui.errors import NotFoundError
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.records.peers import PeerChange, PeerState
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.pages.dashboard.board import Board, Listing
from cyber_inference_tui.tui.pages.page import Page
from cyber_inference_tui.tui.snapshot import EVERYWHERE
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world, model, plain_world, several_boxes_world

QWEN = "qwen3-4b-q4_k_m"
THERE = f"workstation/{QWEN}"
UNLOADED = "gpt-oss-20b-mxfp4"


def client_of_boxes() -> FakeClient:
    """The client of a box that has two others; ``workstation`` is a service of its own."""
    client = FakeClient(several_boxes_world())
    there = busy_world()
    there.models[UNLOADED] = model(UNLOADED)
    client.boxes["workstation"] = FakeClient(there)
    return client


def table(app: CyberApp) -> LiveTable:
    name = "#models" if app.current_mode == "dashboard" else "#table"
    return app.screen.query_one(name, LiveTable)


def shown(app: CyberApp) -> set[str]:
    return {row.key for row in table(app).rows}


def box_lines(app: CyberApp) -> list[str]:
    text = screen_text(app).splitlines()
    return [line for line in text if line.strip().startswith(("here ", "cellar ", "workstation "))]


async def test_a_line_for_each_box() -> None:
    async with running(client_of_boxes()) as (app, _, pilot):
        await until(pilot, lambda: len(box_lines(app)) == 3)
        here, cellar, workstation = box_lines(app)
        assert "5.10 / 7.40 GiB  GPU  40 %" in here
        assert "stale" in cellar
        assert "It does not answer" in cellar
        # What it has said before is not true any more.
        assert "GiB" not in cellar
        assert "connected" in workstation
        assert "21.0 / 64.0 GiB  GPU  31 %  14.0 / 24.0 GiB  71.0 W  qwen3-4b-q4_k_m" in workstation


async def test_alone_nothing_says_that_there_could_be_boxes() -> None:
    async with running(busy_world()) as (app, _, pilot):
        await until(pilot, lambda: isinstance(app.screen.query("Board").first(), Board))
        await until(pilot, lambda: "loaded" in screen_text(app))
        for page in ("1", "2", "5"):
            await pilot.press(page)
            await until(pilot, lambda: "qwen3-4b" in screen_text(app))
            assert "BOX" not in screen_text(app)
            assert "b Box" not in screen_text(app)


async def test_b_shows_all_boxes_then_this_one_then_each_other_one() -> None:
    async with running(client_of_boxes(), size=SMALL, first_page="models") as (app, client, pilot):
        own, other = set(client.world.models), {THERE, f"workstation/{UNLOADED}"}
        await until(pilot, lambda: shown(app) == own | other)
        found = []
        for _ in range(4):
            await pilot.press("b")
            await pilot.pause()
            found.append((app.box_shown, shown(app)))
        assert found == [
            ("", own),
            ("cellar", set()),
            ("workstation", other),
            (EVERYWHERE, own | other),
        ]
        await pilot.press("b", "b", "1")
        await until(pilot, lambda: table(app).display)
        assert shown(app) == set()
        await pilot.press("b")
        await until(pilot, lambda: shown(app) == other)


@pytest.mark.parametrize("page", ["dashboard", "models"])
async def test_actions_reach_the_box_of_the_model(page: str) -> None:
    async with running(client_of_boxes(), first_page=page) as (app, client, pilot):
        there = client.boxes["workstation"]
        await until(pilot, lambda: bool(app.screen.query("LiveTable")) and THERE in shown(app))
        table(app).move_to(THERE)
        await pilot.press("p")
        await until(pilot, lambda: ("pin", QWEN, True) in there.calls)
        await pilot.press("u")  # it serves a request, so the app asks
        await pilot.press("n")
        await until(pilot, lambda: ("unload", QWEN, True) in there.calls)
        table(app).move_to(f"workstation/{UNLOADED}")
        await pilot.press("l")
        await until(pilot, lambda: ("load", UNLOADED, False) in there.calls)
        assert client.calls == []
        # Its files and settings are changed on its own box.
        await pilot.press("x", "e")
        await pilot.pause()
        assert isinstance(app.screen, Page)


async def test_the_log_of_a_model_on_another_box() -> None:
    async with running(client_of_boxes(), first_page="models") as (app, client, pilot):
        there = client.boxes["workstation"]
        await until(pilot, lambda: THERE in shown(app))
        table(app).move_to(THERE)
        there.world.logs[QWEN] = [
            msgspec.structs.replace(there.world.logs[QWEN][0], text="from the other box")
        ]
        await pilot.press("o")
        await until(pilot, lambda: "from the other box" in screen_text(app))
        assert THERE in screen_text(app)
        assert there.streams == 1
        app.screen.open(QWEN)  # type: ignore[attr-defined]
        await until(pilot, lambda: "done (119)" in screen_text(app))
        assert there.streams == 0


async def test_a_chat_names_the_model_with_its_box() -> None:
    async with running(client_of_boxes(), first_page="models") as (app, _, pilot):
        await until(pilot, lambda: THERE in shown(app))
        table(app).move_to(THERE)
        await pilot.press("t")
        await until(pilot, lambda: app.current_mode == "chat" and THERE in screen_text(app))
        await pilot.press(*"hello", "enter")
        # The fake service answers only for its own models, and so says what it was asked for.
        await until(pilot, lambda: f"There is no model {THERE}." in screen_text(app))


async def test_changes_of_boxes_come_as_events() -> None:
    async with running(client_of_boxes(), first_page="models") as (app, client, pilot):
        await until(pilot, lambda: THERE in shown(app))
        box = client.world.boxes[1]
        loaded = model(UNLOADED, status=ModelStatus.LOADED)
        bare = msgspec.structs.replace(box, models=())
        client.publish(
            "peers", PeerChange(name="workstation", box=bare, models=(loaded,), gone=(QWEN,))
        )
        await until(pilot, lambda: THERE not in shown(app))
        found = app.snapshot.model(f"workstation/{UNLOADED}")
        assert found is not None
        assert found.status is ModelStatus.LOADED
        lost = msgspec.structs.replace(bare, state=PeerState.RESTING, problem="It failed.")
        client.publish("peers", PeerChange(name="workstation", box=lost))
        await until(pilot, lambda: app.snapshot.boxes[1].problem == "It failed.")
        assert app.snapshot.model(f"workstation/{UNLOADED}") is not None
        for name in ("cellar", "workstation"):
            client.publish("peers", PeerChange(name=name))
        await until(pilot, lambda: "BOX" not in screen_text(app))
        assert "Box" not in screen_text(app).splitlines()[-1]


async def test_requests_name_the_box_that_answered() -> None:
    async with running(client_of_boxes(), size=(160, 40), first_page="requests") as (app, _, pilot):
        await until(pilot, lambda: UNLOADED in screen_text(app))
        line = next(one for one in screen_text(app).splitlines() if UNLOADED in one)
        assert "workstation" in line
        await pilot.press("b", "b", "b")
        await until(pilot, lambda: "only on workstation" in screen_text(app))
        assert "nomic-embed" not in screen_text(app)


async def test_the_lists_of_the_dashboard_are_those_of_the_chosen_box() -> None:
    client = client_of_boxes()
    first = client.world.active[0]
    there = msgspec.structs.replace(first, number=77, box="workstation", client="10.0.0.9")
    client.world.active.append(there)
    async with running(client, size=(160, 50)) as (app, _, pilot):

        def listed(name: str) -> set[str]:
            rows = app.screen.query_one(name, Listing).rows
            return {" ".join(row.cell(n)[0] for n in range(len(row.cells))) for row in rows}

        def lists() -> tuple[set[str], set[str]]:
            return listed("#request-list"), listed("#event-list")

        await until(pilot, lambda: len(box_lines(app)) == 3 and all(lists()))
        everywhere, events = lists()
        assert UNLOADED in str(everywhere)
        await pilot.press("b")
        await until(pilot, lambda: lists()[0] != everywhere)
        here, own = lists()
        assert UNLOADED not in str(here)
        assert own == events
        running_here = sum(one.box is None and one.position is None for one in client.world.active)
        assert f"REQUESTS  {running_here} running" in screen_text(app)
        await pilot.press("b", "b")
        await until(pilot, lambda: UNLOADED in str(lists()[0]))
        elsewhere, events = lists()
        assert elsewhere | here >= everywhere
        assert not elsewhere & here
        assert "REQUESTS  1 running" in screen_text(app)
        assert events == set()
        assert "Only events of this box are known here." in screen_text(app)


async def test_models_elsewhere_need_no_greeting() -> None:
    world = plain_world()
    world.models, world.boxes = {}, several_boxes_world().boxes
    async with running(world) as (app, _, pilot):
        await until(pilot, lambda: "workstation" in screen_text(app))
        assert THERE in shown(app)


async def test_a_model_that_is_opened_by_its_name_is_shown_whatever_the_box() -> None:
    async with running(client_of_boxes(), first_page="models") as (app, client, pilot):
        await until(pilot, lambda: THERE in shown(app))
        await pilot.press("b")
        assert shown(app) == set(client.world.models)
        await app.open_model(THERE)
        await until(pilot, lambda: table(app).cursor_key == THERE)


async def test_an_older_service_is_not_asked_for_boxes() -> None:
    client = FakeClient(busy_world())
    client.fail["peers"] = NotFoundError("There is no endpoint /admin/peers.")
    async with running(client) as (app, _, _pilot):
        assert app.snapshot.live
        (stream,) = client.service.events._waiting
        assert "model" in stream.topics
        assert "peers" not in stream.topics


async def test_many_boxes_leave_room_on_a_small_screen() -> None:
    world = several_boxes_world()
    names = [f"box-{number}" for number in range(8)]
    world.boxes = [msgspec.structs.replace(world.boxes[0], name=name) for name in names]
    async with running(world, size=(60, 20)) as (app, _, pilot):
        await until(pilot, lambda: "and 7 more" in screen_text(app))
        assert "box-0" in screen_text(app)
        assert "box-1 " not in screen_text(app)
        assert "answering" in screen_text(app)
