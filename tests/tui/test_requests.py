"""The Requests page: its contents and its keys."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest
from textual.pilot import Pilot

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.records import (
    ActiveRequestRecord,
    Priority,
    RequestPhase,
    RequestRecord,
)
from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.terminal.columns import Order, RenderContext
from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.app_options import AfterExit
from cyber_inference_tui.tui.pages.requests.details import details, details_text
from cyber_inference_tui.tui.pages.requests.known_requests import (
    MOST_KEPT,
    KnownRequests,
    RequestFilter,
)
from cyber_inference_tui.tui.pages.requests.request_status import (
    outcome_text,
    outcome_tone,
    request_kind,
)
from cyber_inference_tui.tui.pages.requests.table import (
    COLUMNS,
    FinishedRows,
    request_row,
)
from cyber_inference_tui.tui.widgets.live_table import LiveTable
from tests.fakes.service import World
from tests.tui.driving import SMALL, WIDE, running, screen_text, until
from tests.tui.fake_client import FakeClient
from tests.tui.world import NOW, ago, busy_world, empty_world, measured, request, streaming_world

on_page = partial(running, first_page="requests")

HOSTILE = "\x1b[2J[/oops]\u202eevil\x07" + "漢" * 300

CONTEXT = RenderContext(UNICODE, NOW)
BY_KEY = {column.key: column for column in COLUMNS}


def table(app: CyberApp) -> LiveTable:
    return app.screen.query_one("#requests", LiveTable)


def grew(app: CyberApp, before: int) -> bool:
    return len(table(app).rows) > before


def cell(app: CyberApp, row: int, column: int) -> str:
    return table(app).rows[row].cell(column)[0]


async def open_page(app: CyberApp, pilot: Pilot[AfterExit]) -> None:
    if app.current_mode != "requests":
        await pilot.press("5")
    await until(pilot, lambda: app.current_mode == "requests" and "TIME" in screen_text(app))


def long_world(number: int) -> World:
    """Return a service with many finished requests, every tenth failed."""
    world = busy_world()
    world.active = []
    world.requests = [
        request(
            place,
            at=ago((number - place) * 10),
            **({"status": 500, "error": "It broke."} if place % 10 == 0 else {}),
        )
        for place in range(number, 0, -1)
    ]
    return world


# Pure parts


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/completions", "completion"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "count"),
        ("/v1/responses?x=1", "responses"),
        ("/v1/audio/transcriptions", "transcriptions"),
        ("/", "/"),
    ],
)
def test_a_path_has_a_short_word(path: str, word: str) -> None:
    assert request_kind(path) == word


def test_how_a_request_ended_has_sign_word_and_colour() -> None:
    assert outcome_text(request(1), UNICODE) == "✔ 200"
    assert outcome_text(request(1, status=503), ASCII) == "x 503"
    assert outcome_text(request(1, status=499), UNICODE) == "✖ gone"
    assert outcome_tone(request(1, status=499)) == "dim"
    assert outcome_text(request(1, error="The stream broke off."), UNICODE) == "✖ broke off"
    assert outcome_tone(request(1, error="The stream broke off.")) == "bad"


def test_unknown_values_are_dashes() -> None:
    row = request_row(
        request(1, tokens_in=None, tokens_out=None, tokens_per_second=None, client=None), CONTEXT
    )
    texts = [row.cell(place)[0] for place in range(13)]
    assert texts[4] == texts[5] == texts[7] == texts[10] == texts[12] == UNICODE.missing


@pytest.mark.parametrize(("charset", "text"), [(UNICODE, "≈ 148"), (ASCII, "~ 148")])
def test_tokens_that_were_counted_are_marked(charset: Charset, text: str) -> None:
    record = request(1, tokens_out=148, tokens_counted=True)
    assert request_row(record, RenderContext(charset, NOW)).cell(5)[0] == text
    assert ("tokens out", text) in details(record, NOW, charset)


def test_only_an_answer_that_is_streamed_has_a_first_token() -> None:
    assert request_row(request(1), CONTEXT).cell(6)[0] == "0.21 s"
    assert request_row(request(1, stream=False), CONTEXT).cell(6)[0] == UNICODE.missing


def test_a_time_more_than_a_day_ago_is_its_date() -> None:
    assert request_row(request(1, at=ago(2 * 86400)), CONTEXT).cell(0)[0] == "03 Mar"
    # The last night has times, too.
    assert request_row(request(1, at=ago(16 * 3600)), CONTEXT).cell(0)[0] == "20:04:31"


def test_the_history_knows_a_request_with_and_without_its_number() -> None:
    history = KnownRequests(RequestFilter())
    told = request(0, at=ago(5))
    history.follow((told,))
    history.add_older([msgspec.structs.replace(told, id=7), request(6)], 2)
    assert [one.id for one in history.records] == [7, 6]
    assert history.oldest_id == 6
    assert not history.complete
    history.add_older([request(6)], 1)
    assert history.complete


def test_the_history_ends_where_the_service_has_no_more() -> None:
    history = KnownRequests(RequestFilter())
    history.add_older([request(number) for number in range(50, 0, -1)], 200)
    assert history.complete


def test_the_history_is_bounded_and_keeps_the_newest() -> None:
    history = KnownRequests(RequestFilter())
    history.add_older([request(number) for number in range(1, MOST_KEPT + 500)], MOST_KEPT + 499)
    assert len(history.records) == MOST_KEPT
    assert history.records[0].id == MOST_KEPT + 499
    assert history.complete


def test_the_history_takes_up_only_what_is_wanted() -> None:
    history = KnownRequests(RequestFilter("a", only_failures=True))
    history.follow(
        (
            request(3, model="a", status=500),
            request(2, model="b", status=500),
            request(1, model="a"),
        )
    )
    assert [one.id for one in history.records] == [3]


def test_records_without_a_value_come_last_whichever_way_it_is_sorted() -> None:
    records = [request(1, tokens_out=5), request(2, tokens_out=None), request(3, tokens_out=9)]
    assert [one.id for one in Order(BY_KEY["out"], descending=True).sort(records)] == [3, 1, 2]
    assert [one.id for one in Order(BY_KEY["out"]).sort(records)] == [1, 3, 2]


def test_rows_are_made_once() -> None:
    rows = FinishedRows(UNICODE)
    records = [request(2), request(1)]
    first = rows.rows(records, NOW)
    again = rows.rows([request(3), *records], NOW)
    assert again[1] is first[0]
    assert again[2] is first[1]


def test_the_details_show_everything_and_the_error_first() -> None:
    lines = details(request(9, status=500, error="Line one\nand \x1b[31mtwo."), NOW, UNICODE)
    assert lines[0] == ("error", "Line oneand two.")
    text = details_text(lines)
    for part in ("status: 500, failed", "tokens in: 49", "client: 127.0.0.1", "number: 9"):
        assert part in text


def test_the_details_name_the_client() -> None:
    lines = dict(
        details(
            request(9, user_agent="claude-cli/2.0.1 (external)", key_name="2", port=11434),
            NOW,
            UNICODE,
        )
    )
    assert lines["client"] == "claude-cli (key 2)"
    assert lines["address"] == "127.0.0.1"
    assert lines["user agent"] == "claude-cli/2.0.1 (external)"
    assert lines["port"] == "11434"
    plain_lines = dict(details(request(9), NOW, UNICODE))
    assert plain_lines["client"] == "127.0.0.1"
    assert plain_lines.keys().isdisjoint({"address", "user agent", "port"})


def test_the_details_name_the_priority_of_a_request_that_waits() -> None:
    waits = msgspec.structs.replace(
        busy_world().active[0], phase=RequestPhase.WAITING, position=3, priority=Priority.LOW
    )
    lines = details(waits, NOW, UNICODE)
    assert lines[:2] == [("status", "waiting for its model, place 3"), ("priority", "low")]
    normal = msgspec.structs.replace(waits, priority=Priority.NORMAL)
    assert "priority" not in dict(details(normal, NOW, UNICODE))


def test_a_failure_without_a_reason_says_where_to_look() -> None:
    assert "log" in details(request(9, status=500), NOW, UNICODE)[0][1]


def test_hostile_texts_make_harmless_rows() -> None:
    world = busy_world()
    records: list[RequestRecord] = [request(1, model=HOSTILE, path=HOSTILE, client=HOSTILE)]
    live = msgspec.structs.replace(world.active[0], model=HOSTILE, path=HOSTILE)
    for row in (request_row(records[0], CONTEXT), request_row(live, CONTEXT)):
        for place in range(12):
            assert row.cell(place)[0].isprintable()
    for _, value in details(records[0], NOW, UNICODE):
        assert value.isprintable()


# The page


async def test_live_requests_have_tokens_and_a_graph_of_their_speed() -> None:
    async with on_page(streaming_world(), size=(160, 45)) as (app, client, pilot):
        await open_page(app, pilot)
        client.service.publish_live()
        await until(pilot, lambda: bool(app.snapshot.rates) and bool(cell(app, 0, 8)))
        assert [cell(app, 0, column) for column in (5, 7)] == ["900", "42.0"]
        assert cell(app, 0, 8).strip() in "▁▂▃▄▅▆▇█"
        assert not cell(app, 8, 8)


async def test_live_requests_stand_above_the_finished_ones() -> None:
    async with running(busy_world()) as (app, _, pilot):
        await open_page(app, pilot)
        statuses = [cell(app, row, 3) for row in range(7)]
        assert statuses == [
            "◐ answering",
            "◐ processing",
            "◌ waiting 1",
            "◌ waiting 2",
            "◌ waiting 3",
            "✖ 503",
            "✔ 200",
        ]
        assert cell(app, 0, 9) == "14 s"
        assert "5 live · 38 done" in screen_text(app)
        # c copies the details.
        await pilot.press(*"jjjjj", "c")
        await until(pilot, lambda: "503, failed" in app.clipboard)
        assert "path: /v1/chat/completions" in app.clipboard
        # f shows only failures, and escape all again.
        await pilot.press("f")
        await until(pilot, lambda: len(table(app).rows) == 1)
        assert "only failures" in screen_text(app)
        assert "The model needs more" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: len(table(app).rows) == 43)
        # m shows one model, and all again.
        await pilot.press("g", "m")
        await until(pilot, lambda: "only qwen3-4b-q4_k_m" in screen_text(app))
        assert {row.cell(1)[0] for row in table(app).rows} == {"qwen3-4b-q4_k_m"}
        await pilot.press("m")
        await until(pilot, lambda: len(table(app).rows) == 43)
        assert "only " not in screen_text(app)
        # / filters as it is typed, and escape clears.
        await pilot.press("slash", *"embed")
        await until(pilot, lambda: len(table(app).rows) == 1)
        assert "with 'embed'" in screen_text(app)
        await pilot.press("enter")
        assert table(app).has_focus
        await pilot.press("escape")
        await until(pilot, lambda: len(table(app).rows) == 43)
        await pilot.press("slash", *"nothing like it")
        await until(pilot, lambda: "No request matches." in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: len(table(app).rows) == 43)
        assert table(app).has_focus


async def test_a_new_request_appears_on_top_and_the_cursor_stays_on_its_own() -> None:
    world = busy_world()
    world.active = []
    async with on_page(world) as (app, client, pilot):
        await open_page(app, pilot)
        await pilot.press("j")
        key = table(app).cursor_key
        client.publish("request", request(59, at=ago(1), model="brand-new"))
        await until(pilot, lambda: cell(app, 0, 1) == "brand-new")
        assert table(app).cursor_key == key


async def test_an_empty_page_says_what_it_is_for() -> None:
    async with on_page(empty_world()) as (app, client, pilot):
        await open_page(app, pilot)
        await until(pilot, lambda: "No requests yet." in screen_text(app))
        # The text has the whole width, and no key acts on a request.
        assert "http://127.0.0.1:8337/v1 with the lines that C shows, or press" in screen_text(app)
        assert "Details" not in screen_text(app)
        client.publish("request", request(1, model="first"))
        await until(pilot, lambda: "Details" in screen_text(app))
        assert "received" in screen_text(app)


def end_of(live: ActiveRequestRecord) -> RequestRecord:
    """Return the record of a running request after its end."""
    return request(0, at=live.at, model=live.model, path=live.path, client=live.client)


async def test_a_live_request_stays_selected_when_it_is_done() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await open_page(app, pilot)
        await pilot.press("j", "enter")
        live = client.world.active[1]
        await until(pilot, lambda: "sent to the model's server" in screen_text(app))
        client.publish("request", end_of(live))
        await until(pilot, lambda: "200, answered" in screen_text(app))
        assert f"{live.at:%H:%M:%S}" in screen_text(app)


async def test_the_newest_stay_in_sight_until_the_cursor_is_moved() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await open_page(app, pilot)
        for number in range(60):
            client.publish("request", request(900 + number, at=ago(1 - number / 100)))
        await until(pilot, lambda: len(table(app).rows) == 103)
        assert table(app).scroll_offset.y == 0
        assert table(app).cursor_key == table(app).rows[0].key
        await pilot.press("j")
        key = table(app).cursor_key
        client.publish("request", request(999, at=ago(0)))
        await until(pilot, lambda: len(table(app).rows) == 104)
        assert table(app).cursor_key == key


async def test_space_holds_the_display() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await open_page(app, pilot)
        await pilot.press("space")
        await until(pilot, lambda: "frozen: space continues" in screen_text(app))
        client.publish("request", request(900, at=ago(0)))
        await until(pilot, lambda: app.snapshot.finished[0].id == 900)
        assert len(table(app).rows) == 43
        await pilot.press("escape")
        await until(pilot, lambda: len(table(app).rows) == 44)
        assert "held" not in screen_text(app)


async def test_s_sorts_and_shift_s_turns_without_moving_live_rows() -> None:
    async with on_page(busy_world()) as (app, _, pilot):
        # A click on a title sorts.
        await open_page(app, pilot)
        await pilot.click("#requests", offset=(4, 0))
        await until(pilot, lambda: "TIME ▲" in screen_text(app))
        assert cell(app, 5, 0) == "11:58:01"
        # So does a letter in the menu.
        live = [row.key for row in table(app).rows[:5]]
        await pilot.press("s", "m")
        await until(pilot, lambda: "MODEL ▲" in screen_text(app))
        assert [row.key for row in table(app).rows[:5]] == live
        assert cell(app, 5, 1) == "nomic-embed-text-v2"
        await pilot.press("S")
        await until(pilot, lambda: "MODEL ▼" in screen_text(app))
        assert cell(app, 5, 1) == "qwen3-4b-q4_k_m"
        assert [row.key for row in table(app).rows[:5]] == live
        # t shows the sums, and enter the requests of one.
        await pilot.press("t")
        await until(pilot, lambda: "688,010" in screen_text(app))
        assert "1,311" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: "TIME" in screen_text(app))
        await pilot.press("t")
        await until(pilot, lambda: "688,010" in screen_text(app))
        await pilot.press("j", "enter")
        await until(pilot, lambda: "only nomic-embed-text-v2" in screen_text(app))
        await pilot.press("t", "t")
        await until(pilot, lambda: "TIME" in screen_text(app))
        # o opens the log of the model.
        await pilot.press("o")
        await until(pilot, lambda: app.current_mode == "logs")


async def test_enter_opens_the_details_and_esc_goes_back() -> None:
    async with on_page(busy_world(), size=SMALL) as (app, _, pilot):
        await open_page(app, pilot)
        await pilot.press(*"jjjjj", "enter")
        await until(pilot, lambda: "number" in screen_text(app))
        assert "TIME" not in screen_text(app)
        assert "503, failed" in screen_text(app)
        await pilot.press("j")
        await until(pilot, lambda: "200, answered" in screen_text(app))
        await pilot.press("k")
        await until(pilot, lambda: "503, failed" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "TIME" in screen_text(app))
        assert table(app).has_focus


async def test_a_refused_request_is_seen_with_what_its_client_asked_for() -> None:
    world = empty_world()
    no_model = 'There is no model "gpt-4o". See /v1/models or list-models for those that are.'
    refused = {"stream": False, "tokens_in": None, "tokens_out": None, "client": "192.0.2.7"}
    world.requests = [
        request(2, model="gpt-4o", status=404, error=no_model, **refused),
        request(1, model="", status=400, error="The body is not valid JSON.", **refused),
    ]
    async with on_page(world) as (app, _, pilot):
        await open_page(app, pilot)
        await until(pilot, lambda: len(table(app).rows) == 2)
        assert (cell(app, 0, 1), cell(app, 1, 1)) == ("gpt-4o", UNICODE.missing)
        assert "404" in cell(app, 0, 3)
        await pilot.press("enter")
        await until(pilot, lambda: 'There is no model "gpt-4o"' in screen_text(app))
        assert "192.0.2.7" in screen_text(app)
        await pilot.press("escape", "down", "m")
        # It has no model whose requests could be shown alone.
        await until(pilot, lambda: len(table(app).rows) == 2)
        await pilot.press("o")
        await until(pilot, lambda: app.current_mode == "logs")


async def test_older_requests_come_when_the_end_is_reached() -> None:
    async with on_page(long_world(500)) as (app, _, pilot):
        await open_page(app, pilot)
        assert len(table(app).rows) == 200
        await pilot.press("G")
        await until(pilot, lambda: len(table(app).rows) == 400)
        await pilot.press("G")
        await until(pilot, lambda: len(table(app).rows) == 500)
        await until(pilot, lambda: "500 done and more" not in screen_text(app))


async def test_rows_are_bounded() -> None:
    async with on_page(long_world(MOST_KEPT + 300)) as (app, _, pilot):
        await open_page(app, pilot)
        while (number := len(table(app).rows)) < MOST_KEPT:
            await pilot.press("G")
            await until(pilot, partial(grew, app, number))
        await pilot.press("G")
        await pilot.pause()
        assert len(table(app).rows) == MOST_KEPT


async def test_older_failures_are_asked_for_at_once() -> None:
    async with on_page(long_world(500)) as (app, _, pilot):
        await open_page(app, pilot)
        await pilot.press("f")
        await until(pilot, lambda: len(table(app).rows) == 50)


async def test_older_ones_that_cannot_be_had_say_why() -> None:
    client = FakeClient(long_world(500))
    async with on_page(client) as (app, _, pilot):
        await open_page(app, pilot)
        client.fail["requests"] = CyberError("The disk is gone.")
        await pilot.press("G")
        await until(pilot, lambda: "The disk is gone." in screen_text(app))
        assert len(table(app).rows) == 200


async def test_after_a_lost_connection_it_reads_again() -> None:
    async with on_page(long_world(500)) as (app, client, pilot):
        await open_page(app, pilot)
        await pilot.press("G")
        await until(pilot, lambda: len(table(app).rows) == 400)
        client.stop()
        await until(pilot, lambda: "no connection" in screen_text(app))
        assert len(table(app).rows) == 400
        client.world.requests = [request(900, at=ago(1), model="after")]
        client.start(pid=1)
        await until(pilot, lambda: len(table(app).rows) == 1)
        assert cell(app, 0, 1) == "after"


async def test_a_waiting_request_that_gets_its_turn_stays_where_it_is() -> None:
    async with on_page(busy_world()) as (app, client, pilot):
        await open_page(app, pilot)
        await pilot.press("j", "j")
        key = table(app).cursor_key
        client.world.active[2] = msgspec.structs.replace(
            client.world.active[2], phase=RequestPhase.PROCESSING, position=None
        )
        await until(pilot, lambda: cell(app, 2, 3) == "◐ processing")
        assert table(app).cursor_key == key


async def test_energy_has_columns_where_it_is_measured_and_else_is_not_mentioned() -> None:
    async with on_page(busy_world(), size=WIDE) as (app, _, pilot):
        await open_page(app, pilot)
        await pilot.press("s")
        await until(pilot, lambda: "Sort by" in screen_text(app))
        assert "ENERGY" not in screen_text(app)
        await pilot.press("escape", "t")
        await until(pilot, lambda: "688,010" in screen_text(app))
        assert "ENERGY" not in screen_text(app)
    async with on_page(measured(busy_world()), size=(200, 60)) as (app, _, pilot):
        await open_page(app, pilot)
        await until(pilot, lambda: "ENERGY" in screen_text(app))
        assert "146 J" in screen_text(app)
        await pilot.press("s", "r")
        await until(pilot, lambda: "ENERGY ▼" in screen_text(app))
        await pilot.press("t")
        await until(pilot, lambda: "233 Wh" in screen_text(app))
        assert "0.0655" in screen_text(app)


async def test_it_works_small_and_in_ascii_with_hostile_names() -> None:
    world = busy_world()
    world.requests.insert(0, request(99, at=ago(1), model=HOSTILE, error=HOSTILE, client=HOSTILE))
    async with on_page(world, size=SMALL, charset=ASCII) as (app, _, pilot):
        await open_page(app, pilot)
        await pilot.press(*"jjjjj")
        text = screen_text(app)
        assert "[/oops]evil" in text
        assert "\x1b" not in text
        assert "x broke off" in text
        assert all(len(line) <= 80 for line in text.splitlines())
        await pilot.press("enter")
        await until(pilot, lambda: "TIME" not in screen_text(app))


async def test_the_keys_fit_into_a_small_footer() -> None:
    async with on_page(busy_world(), size=SMALL) as (app, _, pilot):
        await open_page(app, pilot)
        footer = screen_text(app).splitlines()[-1]
        for word in ("Details", "Failed", "Filter", "Totals", "Palette", "Help", "Quit"):
            assert word in footer
