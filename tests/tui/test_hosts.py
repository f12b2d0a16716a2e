"""The dialog of hosts."""

from __future__ import annotations

import threading
from pathlib import Path

from textual import events

from cyber_inference_tui.client.hosts import HERE, Hosts
from cyber_inference_tui.tui.dialogs.fit import limit_height
from cyber_inference_tui.tui.dialogs.hosts import HostsDialog
from tests import waiting
from tests.tui.driving import running, screen_text, until
from tests.tui.fake_hosts import BOX, OLD, hosts_of
from tests.tui.world import busy_world, empty_world


async def test_hosts_show_their_state_and_one_is_switched_to(tmp_path: Path) -> None:
    async with running(busy_world(), hosts=hosts_of(tmp_path)) as (app, _, pilot):
        await pilot.press("H")
        await until(
            pilot,
            lambda: all(
                text in screen_text(app)
                for text in ("● 2 loaded", "✖ no answer", "◌ wants password")
            ),
        )
        (line,) = (line for line in screen_text(app).splitlines() if BOX in line)
        assert "5.10 GiB of 7.40 GiB" in line
        await pilot.press("down", "down")
        assert "No service answers at http" in screen_text(app)
        await pilot.press("up", "enter")
    assert app.next_host == BOX


class SlowHosts(Hosts):
    """Hosts on a slow disk."""

    read = threading.Event()

    def known(self) -> tuple[str, ...]:
        self.read.wait(waiting.LIMIT)
        return super().known()


async def test_keys_that_come_before_the_rows_are_for_the_rows(tmp_path: Path) -> None:
    hosts = SlowHosts(tmp_path, HERE, hosts_of(tmp_path).client)
    async with running(busy_world(), hosts=hosts) as (app, _, pilot):
        for key in ("H", "down", "enter"):
            app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: isinstance(app.screen, HostsDialog))
        hosts.read.set()
        await waiting.until(lambda: app.next_host, what="the switch")
    assert app.next_host == BOX


async def test_a_dialog_that_has_closed_is_not_measured(tmp_path: Path) -> None:
    async with running(busy_world(), hosts=hosts_of(tmp_path)) as (app, _, pilot):
        await pilot.press("H")
        dialog = app.screen
        await pilot.press("escape")
        await until(pilot, lambda: not dialog.is_attached)
        limit_height(dialog, "#hosts", least=3)


async def test_a_host_is_added_and_forgotten(tmp_path: Path) -> None:
    hosts = hosts_of(tmp_path)
    async with running(empty_world(), hosts=hosts) as (app, _, pilot):
        await pilot.press("H", "a", *"ssh://x y", "enter")
        await until(pilot, lambda: "is not the address of a service" in screen_text(app))
        await pilot.press("ctrl+u", *"jetson:9000", "enter")
        await until(pilot, lambda: "▸ jetson:9000" in screen_text(app))
        await until(pilot, lambda: "nothing loaded" in screen_text(app))
        assert hosts.known()[0] == "http://jetson:9000"
        await pilot.press("x")
        await until(pilot, lambda: "jetson" not in screen_text(app))
        await until(pilot, lambda: hosts.known()[0] == BOX)
        await pilot.press("escape")
    assert app.next_host is None


async def test_a_service_that_answers_is_remembered(tmp_path: Path) -> None:
    hosts = hosts_of(tmp_path, OLD)
    async with running(busy_world(), hosts=hosts, attached=True) as (_, _, pilot):
        await until(pilot, lambda: hosts.known()[0] == OLD)


async def test_without_hosts_there_is_no_key() -> None:
    async with running(busy_world()) as (app, _, pilot):
        await pilot.press("H")
        assert len(app.screen_stack) == 1
