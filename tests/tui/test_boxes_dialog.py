"""The dialog that pairs this box with others."""

from __future__ import annotations

from cyber_inference_tui.errors import ForbiddenPairingError
from cyber_inference_tui.records.peers import NewPeer, PeerSuggestion, Role
from cyber_inference_tui.tui.dialogs.boxes import BoxesDialog
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from tests.fakes.service import World
from tests.tui.driving import running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world, several_boxes_world


def owner_of(world: World) -> FakeClient:
    client = FakeClient(world)
    client.token = client.connections.token
    return client


async def test_a_code_is_shown_until_the_dialog_is_closed() -> None:
    client = owner_of(busy_world())
    acceptance = client.service.peers.acceptance
    async with running(client) as (app, _, pilot):
        await pilot.press("B")
        await until(pilot, lambda: "None yet." in screen_text(app))
        await pilot.press("w")
        await until(pilot, lambda: "What may the other box do here?" in screen_text(app))
        await pilot.press("s")
        await until(pilot, lambda: "The code is" in screen_text(app))
        code = acceptance.record().code or ""
        assert f"{code[:3]} {code[3:]}" in screen_text(app)
        assert acceptance._role is Role.ADMIN
        assert screen_text(app).count("shows a code") == 1
        await pilot.press("escape")
        await until(pilot, lambda: not acceptance.record().open)
        assert "It was ended" not in screen_text(app)


async def test_a_box_that_came_is_named_and_its_code_is_gone() -> None:
    client = owner_of(busy_world())
    acceptance = client.service.peers.acceptance
    async with running(client) as (app, _, pilot):
        await pilot.press("B", "w", "m")
        await until(pilot, lambda: "The code is" in screen_text(app))
        acceptance._paired = "jetson"
        acceptance.close()
        await until(pilot, lambda: "jetson is paired." in screen_text(app))
        assert "The code is" not in screen_text(app)
        await pilot.press("w", "m")
        await until(pilot, lambda: "The code is" in screen_text(app))
        acceptance.close("Three wrong codes were tried.")
        await until(pilot, lambda: "Three wrong codes were tried." in screen_text(app))


async def test_a_box_is_added_by_its_address_and_its_code() -> None:
    client = owner_of(busy_world())
    async with running(client) as (app, _, pilot):
        await pilot.press("B", "a", "m")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        await pilot.press(*"jetson", "enter")
        await until(pilot, lambda: "An address begins with https://" in screen_text(app))
        await pilot.press("home", *"https://", "end", *":8337", "enter")
        await until(pilot, lambda: "that https://jetson:8337 shows" in screen_text(app))
        await pilot.press(*"12 34", "enter")
        await until(pilot, lambda: "The code has 6 digits." in screen_text(app))
        client.fail["add_peer"] = ForbiddenPairingError("The code is wrong.")
        await pilot.press(*"57", "enter")
        await until(pilot, lambda: "The code is wrong." in screen_text(app))
        del client.fail["add_peer"]
        await pilot.press("backspace", "6", "enter")
        await until(pilot, lambda: isinstance(app.screen, BoxesDialog))
        assert client.calls == [
            ("add_peer", NewPeer(url="https://jetson:8337", code="123456", role=Role.SERVE))
        ]
        await until(pilot, lambda: "● connected" in screen_text(app))


async def test_a_box_that_is_found_in_the_network_is_added_without_typing_its_address() -> None:
    world = several_boxes_world()
    world.suggestions = [
        PeerSuggestion(name="jet\x1b[2Json", url="http://192.168.1.44:8337"),
        PeerSuggestion(name="nas", url="https://192.168.1.50:8337"),
    ]
    client = owner_of(world)
    async with running(client) as (app, _, pilot):
        await until(pilot, lambda: "cellar" in screen_text(app))
        await pilot.press("B")
        await until(pilot, lambda: "https://192.168.1.50:8337" in screen_text(app))
        assert "\x1b" not in screen_text(app)
        await pilot.press("end")
        await until(pilot, lambda: "nobody has checked it" in screen_text(app))
        # There is nothing to remove.
        assert "removes" not in screen_text(app)
        await pilot.press("x", "a", "m")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        world.suggestions.pop()
        await pilot.press("enter", *"123456", "enter")
        await until(pilot, lambda: isinstance(app.screen, BoxesDialog))
        assert client.calls == [
            ("add_peer", NewPeer(url="https://192.168.1.50:8337", code="123456", role=Role.SERVE))
        ]
        await until(pilot, lambda: screen_text(app).count("found") == 1)


async def test_an_address_without_tls_is_used_only_if_that_is_wanted() -> None:
    client = owner_of(busy_world())
    async with running(client) as (app, _, pilot):
        await pilot.press("B", "a", "m")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        await pilot.press(*"http://[", "enter")
        await until(pilot, lambda: "This is no address." in screen_text(app))
        await pilot.press("backspace", *"jetson", "enter")
        await until(pilot, lambda: "Use http://jetson without TLS?" in screen_text(app))
        # What has the focus is harmless.
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        assert "The address of the box" in screen_text(app)
        await pilot.press("enter", "u", *"123456", "enter")
        await until(pilot, lambda: isinstance(app.screen, BoxesDialog))
        assert client.calls == [
            ("add_peer", NewPeer(url="http://jetson", code="123456", insecure=True))
        ]
        client.calls.clear()
        await pilot.press("a", "m", *"http://127.0.0.1:1", "enter", *"123456", "enter")
        await until(pilot, lambda: bool(client.calls))
        assert client.calls == [("add_peer", NewPeer(url="http://127.0.0.1:1", code="123456"))]


async def test_a_box_is_removed_after_a_question() -> None:
    async with running(several_boxes_world()) as (app, client, pilot):
        await until(pilot, lambda: "cellar" in screen_text(app))
        await pilot.press("B")
        await until(pilot, lambda: "Other boxes" in screen_text(app))
        assert "It does not answer: Connection timeout to host." in screen_text(app)
        await pilot.press("x")
        await until(pilot, lambda: "Remove cellar?" in screen_text(app))
        await pilot.press("enter")
        assert client.calls == []
        await pilot.press("x", "r")
        await until(pilot, lambda: ("remove_peer", "cellar") in client.calls)
        await until(pilot, lambda: "cellar" not in screen_text(app).replace("cellar is", ""))


async def test_a_read_only_app_only_lists_them() -> None:
    async with running(several_boxes_world(), readonly=True) as (app, client, pilot):
        await until(pilot, lambda: "cellar" in screen_text(app))
        await pilot.press("B")
        await until(pilot, lambda: "Other boxes" in screen_text(app))
        for hint in ("shows a code", "adds", "removes"):
            assert hint not in screen_text(app)
        await pilot.press("x", "a", "w")
        await pilot.pause()
        assert isinstance(app.screen, BoxesDialog)
        assert client.calls == []
