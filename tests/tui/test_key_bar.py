"""The last line of a page: its keys and their places."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.terminal.charset import ASCII
from cyber_inference_tui.tui.key_bar import BarKey, KeyBar, place_keys
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.world import busy_world

KEYS = st.lists(
    st.builds(BarKey, st.just("x"), st.sampled_from(["l", "⏎", "esc"]), st.text("ab", max_size=12)),
    max_size=12,
)


def last_line(text: str) -> str:
    return text.splitlines()[-1].strip()


@given(KEYS, st.integers(20, 140))
def test_keys_stand_whole_in_order_and_apart(here: list[BarKey], width: int) -> None:
    always = [BarKey("f1", "?", "Help"), BarKey("q", "q", "Quit")]
    placed = place_keys(here, always, width)
    assert [one.key for one in placed] == [*here[: len(placed) - 2], *always]
    for one, other in pairwise(placed):
        assert one.start + one.key.width < other.start
    assert placed[-1].start + placed[-1].key.width == width


async def test_help_and_the_way_out_are_there_however_narrow_it_is() -> None:
    for size in ((60, 18), SMALL):
        async with running(busy_world(), size=size, first_page="models") as (app, _, pilot):
            await until(pilot, lambda: "Unload" in screen_text(app))
            assert last_line(screen_text(app)).endswith("? Help q Quit")
            assert " … " in last_line(screen_text(app))


async def test_the_mark_of_what_is_left_out_is_one_of_the_terminals_characters() -> None:
    async with running(busy_world(), size=(60, 18), charset=ASCII, first_page="models") as (
        app,
        _,
        pilot,
    ):
        await until(pilot, lambda: " ~ " in last_line(screen_text(app)))


async def test_where_a_text_is_typed_no_key_is_shown_that_would_be_typed() -> None:
    async with running(busy_world(), first_page="models") as (app, _, pilot):
        await until(pilot, lambda: "/ Filter" in last_line(screen_text(app)))
        await pilot.press("slash")
        await until(pilot, lambda: "/ Filter" not in last_line(screen_text(app)))
        assert last_line(screen_text(app)).endswith("f1 Help")
        await pilot.press("f1")
        await until(pilot, lambda: "Everywhere" in screen_text(app))


async def test_a_click_presses_the_key() -> None:
    async with running(busy_world(), first_page="models") as (app, _, pilot):
        await until(pilot, lambda: "s Sort" in last_line(screen_text(app)))
        at = screen_text(app).splitlines()[-1].index("s Sort")
        await pilot.click(KeyBar, offset=(at + 2, 0))
        await until(pilot, lambda: "Sort by" in screen_text(app))


async def test_a_terminal_without_unicode_gets_the_names_of_keys() -> None:
    async with running(busy_world(), charset=ASCII, first_page="hub") as (app, _, pilot):
        await until(pilot, lambda: "enter Files" in last_line(screen_text(app)))
        await pilot.press("2", "slash")
        await until(pilot, lambda: "down Back to the list" in last_line(screen_text(app)))
        await pilot.press("f1")
        await until(pilot, lambda: "esc closes" in screen_text(app))
