"""The view that is kept between starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.tui.kept_view import MAX_BYTES, MAX_CHARACTERS, KeptView
from cyber_inference_tui.tui.pages.dashboard.board import Board
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.world import busy_world


async def test_values_are_kept_by_page_and_only_with_the_type_that_is_asked_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / "new folder" / "view.json"
    first, second = KeptView(path), KeptView(path)
    assert first.put("models", sort="size", descending=True)
    assert not first.put("models", sort="size")
    second.put("requests", columns=["time", "model"], filter="x" * (MAX_CHARACTERS + 1))
    await first.save()
    await second.save()
    # Neither has replaced what the other wrote.
    kept = KeptView(path)
    assert kept.get("models", "sort", "model") == "size"
    assert kept.get("models", "descending", default=False) is True
    assert kept.get("models", "descending", "text") == "text"
    assert kept.get("requests", "columns", ["time"]) == ["time", "model"]
    assert kept.get("requests", "filter", "") == ""
    assert kept.problem == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is damaged and is ignored"),
        (b'{"models": 1}', "is damaged and is ignored"),
        (b"\xff", "is damaged and is ignored"),
        (b" " * (MAX_BYTES + 1), "is larger than"),
    ],
)
async def test_a_bad_file_is_ignored_and_replaced(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "view.json"
    path.write_bytes(content)
    kept = KeptView(path)
    assert says in kept.problem
    kept.put("models", sort="size")
    await kept.save()
    assert KeptView(path).get("models", "sort", "") == "size"


async def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = KeptView(tmp_path / "file" / "view.json")
    kept.put("models", sort="size")
    with pytest.raises(CyberError, match="cannot be written"):
        await kept.save()


async def test_order_filter_and_layout_are_there_again_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "view.json"
    world = busy_world()
    async with running(world, first_page="models", view_path=path) as (app, _, pilot):
        await until(pilot, lambda: "MODELS  5" in screen_text(app))
        await pilot.press("s", "i", "d", "d", "slash", *"Q4_K", "enter")
        await until(pilot, lambda: "4 of 5" in screen_text(app))
        await pilot.press("5")
        await until(pilot, lambda: "TIME ▼" in screen_text(app))
        await pilot.press("s", "m")
        await until(pilot, lambda: "MODEL ▲" in screen_text(app))
    async with running(busy_world(), first_page="models", view_path=path) as (app, _, pilot):
        await until(pilot, lambda: "4 of 5" in screen_text(app))
        assert "SIZE ▼" in screen_text(app)
        assert "COMMAND" not in screen_text(app)
        await pilot.press("5")
        await until(pilot, lambda: "MODEL ▲" in screen_text(app))
        # A column that no longer exists is no column.
        await pilot.press("2", "escape")
        await until(pilot, lambda: "MODELS  5" in screen_text(app))
    path.write_text('{"models": {"sort": "gone", "descending": true}}')
    async with running(busy_world(), first_page="models", view_path=path) as (app, _, pilot):
        await until(pilot, lambda: "MODEL ▲" in screen_text(app))


async def test_chosen_columns_are_there_again_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "view.json"
    models: dict[str, Any] = {"size": (200, 40), "first_page": "models", "view_path": path}
    async with running(busy_world(), **models) as (app, _, pilot):
        await until(pilot, lambda: "MODELS  5" in screen_text(app))
        assert "QUANT" in screen_text(app)
        await pilot.press("v")
        await until(pilot, lambda: "✔ quant" in screen_text(app))
        # The first column cannot be hidden.
        assert "✔ model" not in screen_text(app)
        await pilot.press("j", "space")
        await until(pilot, lambda: "✔ quant" not in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "QUANT" not in screen_text(app))
    async with running(busy_world(), **models) as (app, _, pilot):
        await until(pilot, lambda: "MODELS  5" in screen_text(app))
        assert "QUANT" not in screen_text(app)
        # On the dashboard it is another table.
        await pilot.press("1", "v", "space", "escape")
        await until(pilot, lambda: "STATE" not in screen_text(app))
        await pilot.press("2", "v", "j", "space", "escape")
        await until(pilot, lambda: "QUANT" in screen_text(app))
    async with running(busy_world(), view_path=path) as (app, _, pilot):
        await until(pilot, lambda: "TOKENS/S" in screen_text(app))
        assert "STATE" not in screen_text(app)


async def test_a_column_without_room_says_so() -> None:
    async with running(busy_world(), first_page="models", size=SMALL) as (app, _, pilot):
        await until(pilot, lambda: "MODELS  5" in screen_text(app))
        await pilot.press("v")
        await until(pilot, lambda: "Columns" in screen_text(app))
        lines = [line for line in screen_text(app).splitlines() if "✔" in line]
        state, used = (next(x for x in lines if f"✔ {name} " in x) for name in ("state", "used"))
        assert "no room" not in state
        assert "no room" in used


async def test_the_dashboards_span_and_layout_are_there_again_after_a_restart(
    tmp_path: Path,
) -> None:
    path = tmp_path / "view.json"
    async with running(busy_world(), view_path=path) as (app, _, pilot):
        await pilot.press("h", "h", "plus")
        await until(pilot, lambda: app.kept.get("dashboard", "layout", 0) == 2)
    async with running(busy_world(), view_path=path) as (app, _, pilot):
        await until(pilot, lambda: bool(app.screen.query(Board)))
        board = app.screen.query_one(Board)
        await until(pilot, lambda: board.span.name == "24 h")
        assert board.chosen_layout == 2


async def test_a_damaged_file_is_named_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "view.json"
    path.write_text("?")
    async with running(busy_world(), view_path=path) as (app, _, pilot):
        # A long path may part the words on the screen.
        await until(pilot, lambda: any("damaged" in one.message for one in app._notifications))
