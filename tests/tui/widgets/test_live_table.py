from __future__ import annotations

from collections.abc import Sequence

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip

from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.terminal.columns import Cell, Column, RenderContext
from cyber_inference_tui.tui.widgets.live_table import LiveTable, Row
from tests.tui.driving import until


def _empty(record: None, context: RenderContext) -> str:
    return ""


_COLUMNS: tuple[Column[None, RenderContext], ...] = (
    Column("model", "MODEL", least=12, cell=_empty),
    Column("state", "STATE", width=12, cell=_empty),
    Column("rate", "RATE", width=8, right=True, priority=1, cell=_empty),
)


class _Table(LiveTable):
    """Counts what it is asked to paint."""

    def __init__(self, charset: Charset = UNICODE) -> None:
        self.marked: list[Region] = []
        self.painted = 0
        super().__init__(_COLUMNS, empty="Nothing here.\nPress h.", charset=charset)

    def refresh(self, *regions: Region, **flags: bool) -> _Table:
        self.marked += regions or [Region(0, 0, 0, 0)]
        return super().refresh(*regions, **flags)

    def render_line(self, y: int) -> Strip:
        self.painted += 1
        return super().render_line(y)


class _App(App[None]):
    def __init__(self, charset: Charset = UNICODE) -> None:
        super().__init__()
        self.table = _Table(charset)
        self.told: list[Message] = []

    def compose(self) -> ComposeResult:
        yield self.table

    def on_live_table_row_highlighted(self, message: LiveTable.RowHighlighted) -> None:
        self.told.append(message)

    def on_live_table_row_chosen(self, message: LiveTable.RowChosen) -> None:
        self.told.append(message)

    def on_live_table_header_selected(self, message: LiveTable.HeaderSelected) -> None:
        self.told.append(message)

    @property
    def chosen(self) -> list[str]:
        return [told.key for told in self.told if isinstance(told, LiveTable.RowChosen)]

    @property
    def highlighted(self) -> list[str | None]:
        return [told.key for told in self.told if isinstance(told, LiveTable.RowHighlighted)]

    @property
    def lines(self) -> list[str]:
        return [self.table.render_line(y).text for y in range(self.table.size.height)]


def _rows(keys: Sequence[str], rate: str = "1.0") -> list[Row]:
    return [Row(key, (key, Cell("loaded", "good"), rate)) for key in keys]


async def test_without_rows_it_says_what_to_do() -> None:
    app = _App()
    async with app.run_test(size=(60, 8)) as pilot:
        await pilot.pause()
        assert "Nothing here." in app.lines[1]
        assert "Press h." in app.lines[2]
        app.table.show(_rows("a"))
        await pilot.pause()
        assert "Nothing here." not in "".join(app.lines)
        app.table.show([])
        app.table.show_empty("Gone")
        await pilot.pause()
        assert "Gone" in app.lines[1]
        assert [app.table.cursor_key] == [None]
        assert app.highlighted == ["a", None]


async def test_what_did_not_change_is_not_painted() -> None:
    app = _App()
    async with app.run_test(size=(60, 8)) as pilot:
        table = app.table
        table.show(_rows("abcd"))
        await pilot.pause()
        table.marked.clear()
        table.painted = 0
        table.show(_rows("abcd"))
        await pilot.pause()
        assert table.marked == []
        assert table.painted == 0
        rows = _rows("abcd")
        rows[2] = Row("c", ("c", Cell("failed", "bad"), "1.0"))
        table.show(rows)
        await pilot.pause()
        state = app.lines[0].index("STATE")
        assert table.marked == [Region(state, 3, 12, 1)]
        assert "failed" in app.lines[3]
        table.marked.clear()
        # Two columns beside each other are painted together, others apart.
        rows[0] = Row("a", ("a", Cell("failed", "bad"), "2.0"))
        rows[1] = Row("b", ("B", Cell("loaded", "good"), "2.0"))
        table.show(rows)
        rate = app.lines[0].index("RATE") + len("RATE") - 8
        assert table.marked == [
            Region(state, 1, rate + 8 - state, 1),
            Region(2, 2, state - 4, 1),
            Region(rate, 2, 8, 1),
        ]


async def test_a_row_more_is_painted_alone() -> None:
    app = _App()
    async with app.run_test(size=(60, 8)) as pilot:
        table = app.table
        for before, after, painted in [
            ("abcd", "abcde", [Region(0, 5, 60, 1)]),
            ("abcdefgh", "abcdefghi", []),  # out of sight
        ]:
            table.show(_rows(before))
            await pilot.pause()
            table.marked.clear()
            table.show(_rows(after))
            await pilot.pause()
            assert table.marked == painted
        assert table.vertical_scrollbar.window_virtual_size == 1 + 9
        table.action_last()
        await pilot.pause()
        assert app.lines[-1].startswith("▸ i")
        table.show(_rows("ab"))
        await pilot.pause()
        assert not table.show_vertical_scrollbar
        assert app.lines[1].startswith("  a")


async def test_rows_out_of_sight_cost_nothing() -> None:
    app = _App()
    async with app.run_test(size=(60, 8)) as pilot:
        keys = [f"row {number}" for number in range(5000)]
        app.table.show(_rows(keys))
        await pilot.pause()
        app.table.marked.clear()
        app.table.painted = 0
        rows = _rows(keys)
        rows[4000] = Row("row 4000", ("row 4000", "unloaded", "9.9"))
        app.table.show(rows)
        await pilot.pause()
        assert app.table.marked == []
        app.table.refresh()
        await pilot.pause()
        assert app.table.painted <= 8


async def test_the_cursor_stays_on_its_thing() -> None:
    app = _App()
    async with app.run_test(size=(60, 8)) as pilot:
        app.table.focus()
        app.table.show(_rows("abcdef"))
        await pilot.press("j", "j")
        assert app.table.cursor_key == "c"
        app.table.show(_rows("fedcba"))
        await pilot.pause()
        assert app.table.cursor_key == "c"
        assert app.lines[4].startswith("▸ c")
        assert sum("▸" in line for line in app.lines) == 1
        app.table.show(_rows("xyzfedcba"))
        await pilot.pause()
        assert app.table.cursor_key == "c"
        # A key for a thing that is gone does not act on its neighbour, until a key moves there.
        app.table.show(_rows("fedba"))
        await pilot.pause()
        assert [app.table.cursor_key] == [None]
        assert app.highlighted == ["a", "b", "c", None]
        assert not any("▸" in line for line in app.lines)
        app.table.show(_rows("fedcba"))
        assert app.table.cursor_key == "c"
        for key, neighbour in [("j", "b"), ("k", "d")]:
            app.table.show(_rows("fedcba"))
            app.table.move_to("c")
            app.table.show(_rows("fedba"))
            await pilot.press(key)
            assert app.table.cursor_key == neighbour
            await pilot.pause()
            assert sum("▸" in line for line in app.lines) == 1
        app.table.move_to("b")
        app.table.filtered = True
        app.table.show(_rows("fed"))
        assert app.table.cursor_key == "d"


async def test_the_cursor_is_kept_in_sight_when_the_order_changes() -> None:
    app = _App()
    async with app.run_test(size=(60, 6)) as pilot:
        keys = [f"{number:03}" for number in range(50)]
        app.table.show(_rows(keys))
        await pilot.pause()
        assert app.table.move_to("002")
        app.table.show(_rows(keys[::-1]))
        await pilot.pause()
        assert app.table.cursor_key == "002"
        assert any(line.startswith("▸ 002") for line in app.lines)
        assert not app.table.move_to("nobody")


async def test_keys_move_the_cursor() -> None:
    app = _App()
    async with app.run_test(size=(60, 11)) as pilot:
        app.table.focus()
        app.table.show(_rows([str(number) for number in range(100)]))
        await pilot.pause()
        for key, at in [
            ("down", "1"), ("j", "2"), ("k", "1"), ("up", "0"), ("up", "0"), ("G", "99"),
            ("j", "99"), ("g", "0"), ("pagedown", "9"), ("pagedown", "18"), ("pageup", "9"),
            ("ctrl+d", "14"), ("ctrl+u", "9"), ("end", "99"), ("home", "0"),
        ]:  # fmt: skip
            await pilot.press(key)
            assert app.table.cursor_key == at, key
            assert any(line.startswith(f"▸ {at} ") for line in app.lines), key
        await pilot.press("enter")
        await pilot.pause()
        assert app.chosen == ["0"]


async def test_marks_stand_beside_the_cursor() -> None:
    app = _App()
    table = LiveTable(_COLUMNS, marks=True)
    async with app.run_test(size=(60, 8)) as pilot:
        await app.table.remove()
        await app.mount(table)
        table.show(_rows("abc"))
        await pilot.pause()
        table.show_marks(frozenset("ac"))
        lines = [table.render_line(y).text for y in range(4)]
        assert [line[:5] for line in lines] == ["   MO", "▸✔ a ", "   b ", " ✔ c "]
        table.show_marks(frozenset("c"))
        assert table.render_line(1).text.startswith("▸  a")


async def test_the_mouse_chooses() -> None:
    app = _App()
    async with app.run_test(size=(60, 8)) as pilot:
        app.table.show(_rows("abcd"))
        await pilot.pause()
        await pilot.click(app.table, offset=(5, 2))
        assert app.table.cursor_key == "b"
        assert app.chosen == []
        await pilot.click(app.table, offset=(5, 3), times=2)
        await pilot.pause()
        assert app.chosen == ["c"]
        await pilot.click(app.table, offset=(58, 0))
        await pilot.click(app.table, offset=(5, 7))
        await pilot.pause()
        headers = [told for told in app.told if isinstance(told, LiveTable.HeaderSelected)]
        assert [header.column.key for header in headers] == ["rate"]
        assert app.table.cursor_key == "c"


async def test_two_clicks_on_different_things_choose_nothing() -> None:
    app = _App()
    async with app.run_test(size=(60, 8)) as pilot:
        app.table.show(_rows("abcd"))
        await pilot.pause()
        await pilot.click(app.table, offset=(5, 2))
        app.table.show(_rows("dcba"))
        await pilot.click(app.table, offset=(5, 2), times=2)
        await pilot.pause()
        assert app.chosen == ["c"]
        app.told.clear()
        await pilot.click(app.table, offset=(5, 1))
        await pilot.pause()
        assert app.chosen == []


async def test_columns_go_and_come_with_the_width() -> None:
    app = _App()
    async with app.run_test(size=(60, 8)) as pilot:
        app.table.show(_rows(["漢字" * 20, "long name " * 9, "x"]))
        app.table.show_sort("rate", descending=True)
        await pilot.pause()
        assert len(app.table.shown_columns) == 3
        assert app.lines[0].rstrip().endswith("RATE ▼")
        for width in (30, 14, 3, 1, 70):
            await pilot.resize_terminal(width, 8)
            await pilot.pause()
            assert {cell_len(line) for line in app.lines} == {width}
        assert {line.index("loaded") for line in app.lines[2:4]} == {app.lines[0].index("STATE")}
        await pilot.resize_terminal(30, 8)
        await pilot.pause()
        assert app.table.shown_columns[-1].key == "state"


async def test_outside_text_stays_text() -> None:
    app = _App()
    async with app.run_test(size=(60, 8)) as pilot:
        app.table.show([Row("a", ("[/oops] \x1b[2J\x9b1m\x07\u202e[red]x", "\n", "1"))])
        await pilot.pause()
        assert "[/oops] [red]x" in app.lines[1]
        assert all(line.isprintable() for line in app.lines)


@pytest.mark.parametrize("charset", [ASCII, UNICODE])
async def test_the_cursor_is_seen_without_colour(
    charset: Charset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Textual reads the variable when an app is made.
    monkeypatch.setenv("NO_COLOR", "1")
    app = _App(charset)
    async with app.run_test(size=(60, 8)) as pilot:
        app.table.focus()
        app.table.show(_rows("ab"))
        await pilot.pause()
        assert app.lines[1].startswith(f"{charset.cursor} a")
        styles = [segment.style for segment in app.table.render_line(1) if segment.style]
        assert styles
        assert all(style.reverse for style in styles)
        others = [segment.style for segment in app.table.render_line(2) if segment.style]
        assert not any(style.reverse for style in others)


async def test_a_list_without_a_cursor_scrolls() -> None:
    app = _App()
    table = LiveTable(_COLUMNS, header=False, cursor=False)
    async with app.run_test(size=(60, 5)) as pilot:
        await app.table.remove()
        await app.mount(table)
        table.show(_rows("abcdefgh"))
        await pilot.pause()
        table.focus()
        await until(pilot, lambda: table.render_line(0).text.startswith("a "))
        await pilot.press("j", "j")
        await until(pilot, lambda: table.render_line(0).text.startswith("c "))
        await pilot.press("enter")
        assert app.chosen == []


async def test_no_text_is_cut_beside_empty_cells() -> None:
    app = _App()
    async with app.run_test(size=(40, 8)) as pilot:
        name = "a name of 24 characters."
        app.table.show([Row("a", (name, "idle", "1"))])
        await pilot.pause()
        assert app.lines[1].split("  ")[0].endswith(name)
        # A column is as wide as its widest text, and only grows: it does not move back and forth.
        app.table.show([Row("a", (name, "loading 64 %", "1"))])
        await pilot.pause()
        assert "…" in app.lines[1]
        assert "loading 64 %" in app.lines[1]
        places = app.lines[0]
        app.table.show([Row("a", (name, "idle", "1"))])
        await pilot.pause()
        assert app.lines[0] == places
        await pilot.resize_terminal(41, 8)
        await pilot.pause()
        assert name in app.lines[1]


async def test_the_columns_do_not_depend_on_rows_that_are_gone() -> None:
    app = _App()
    async with app.run_test(size=(40, 8)) as pilot:
        rows = [Row("a", ("a name of 24 characters.", "idle", "1"))]
        app.table.show(rows)
        await pilot.pause()
        lines = app.lines
        app.table.show([*rows, Row("b", ("b", "loading 64 %", "1"))])
        await pilot.pause()
        assert "…" in app.lines[1]
        app.table.show(rows)
        await pilot.pause()
        assert app.lines == lines
