"""Why a request was slow, and the totals, on the Requests page."""

from __future__ import annotations

import msgspec
import pytest
from rich.cells import cell_len

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.service.why import explain
from cyber_inference_tui.terminal.charset import ASCII, UNICODE
from cyber_inference_tui.tui.pages.requests.why import is_explained, why_content
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.tui.driving import SMALL, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.test_requests import on_page, open_page, table
from tests.tui.world import ago, busy_world, request, slow_world


async def test_the_details_show_why_a_request_was_slow() -> None:
    async with on_page(slow_world()) as (app, _, pilot):
        await open_page(app, pilot)
        slow = next(row.key for row in table(app).rows if row.cell(9)[0] == "31.40 s")
        table(app).move_to(slow)
        await until(pilot, lambda: "6.0 times its usual time: a" in screen_text(app))
        for text in ("load         4.10 s", "28,092 new tokens, 12 cached", "character 79"):
            assert text in screen_text(app)
        await pilot.press("c")
        await until(pilot, lambda: "a cold prompt" in app.clipboard)
        assert "tokens in: 28,104, 12 cached" in app.clipboard
        assert "prompt: 24.90 s, 28,092 new tokens, 12 cached, 1,128.2/s" in app.clipboard
        # Below the list there is no room for it; that is kept.
        await pilot.press("d")
        await until(pilot, lambda: "1ST TOKEN" in screen_text(app))
        assert "usual time" not in screen_text(app)
        assert app.kept.get("requests", "beside", default=True) is False
        # The whole page has room for the figures beside the bars.
        await pilot.press("enter")
        await until(pilot, lambda: "█  96 tokens, 40.1/s, usually 4.99 s" in screen_text(app))
        # Another request has its own explanation.
        await pilot.press("j")
        await until(pilot, lambda: "It took no longer than usual." in screen_text(app))
        assert "28,092" not in screen_text(app)


async def test_details_stay_without_an_explanation() -> None:
    client = FakeClient(slow_world())
    async with on_page(client, size=SMALL) as (app, _, pilot):
        await open_page(app, pilot)
        await pilot.press("j", "j")
        client.fail["requests"] = CyberError("The disk is gone.")
        await pilot.press("enter")
        await until(pilot, lambda: "Its phases could not be read: The disk" in screen_text(app))
        assert "tokens out" in screen_text(app)
        # A request that is no longer kept, or a service that cannot explain it.
        del client.fail["requests"]
        client.world.requests = []
        await pilot.press("j")
        await until(pilot, lambda: "could not be read" not in screen_text(app))
        assert "usual" not in screen_text(app)
        assert "tokens out" in screen_text(app)


async def test_totals_compare_models_clients_and_days() -> None:
    async with on_page(busy_world()) as (app, _, pilot):
        await open_page(app, pilot)
        totals = app.screen.query_one("#totals", LiveTable)
        await pilot.press("t")
        await until(pilot, lambda: "4.37 s" in screen_text(app))
        assert "14.2" in screen_text(app)
        assert totals.rows[0].key == "qwen3-4b-q4_k_m"
        # s sorts them, too: the most failures first.
        await pilot.press("s", "f")
        await until(pilot, lambda: totals.rows[0].key == "phi-4-mini-q4_k_m")
        assert app.kept.get("requests", "totals_sort", "") == "failures"
        assert not app.kept.get("requests", "sort", "")
        await pilot.click("#totals", offset=(4, 0))
        await until(pilot, lambda: "NAME ▲" in screen_text(app))
        # b goes on to clients, whose requests enter finds.
        await pilot.press("b")
        await until(pilot, lambda: len(totals.rows) == 2)
        await pilot.press("enter")
        await until(pilot, lambda: f"with '{totals.rows[0].key}'" in screen_text(app))
        await pilot.press("t", "b")
        await until(pilot, lambda: "No requests with an API key yet." in screen_text(app))
        await pilot.press("b")
        await until(pilot, lambda: "2026-03-05" in screen_text(app))
        assert "Requests" not in screen_text(app).splitlines()[-1]


@pytest.mark.parametrize("width", [30, 42, 76, 130])
def test_phases_fit_into_their_room(width: int) -> None:
    slow = slow_world().requests[0]
    why = explain(slow, [request(number) for number in range(20)], [])
    for charset in (UNICODE, ASCII):
        lines = why_content(why, width, charset).plain.splitlines()
        # The sentences are wrapped by the widget.
        figures = lines[: lines.index("", 2)]
        assert all(cell_len(line.rstrip()) <= width for line in figures[2:])
        bars = [line for line in figures if "█#"[charset is ASCII] in line]
        starts = [line.index("█#"[charset is ASCII]) for line in bars]
        assert len(bars) == 4
        assert starts == sorted(starts)


def test_a_failure_has_its_error_instead_of_an_explanation() -> None:
    assert is_explained(request(9))
    assert is_explained(request(9, status=499))
    assert not is_explained(request(9, status=500, error="It broke."))
    assert not is_explained(request(0))


async def test_the_sums_follow_what_happens() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await open_page(app, pilot)
        await pilot.press("t")
        await until(pilot, lambda: "1,311" in screen_text(app))
        totals = client.world.speed_totals["model"]
        totals[0] = msgspec.structs.replace(totals[0], requests=1312)
        client.publish("request", request(900, at=ago(0)))
        await until(pilot, lambda: "1,312" in screen_text(app))


async def test_sums_that_cannot_be_had_say_why() -> None:
    client = FakeClient(busy_world())
    client.fail["speed_totals"] = CyberError("The history is being repaired.")
    async with on_page(client) as (app, _, pilot):
        await open_page(app, pilot)
        await pilot.press("t")
        await until(pilot, lambda: "The history is being repaired." in screen_text(app))
