from __future__ import annotations

from textual.app import App, ComposeResult
from textual.geometry import Region

from cyber_inference_tui.tui.widgets.text_view import TextRow, TextView


class _View(TextView):
    def __init__(self, ahead: int = 0) -> None:
        self.regions: list[Region] = []
        self.wholly = 0
        super().__init__(ahead=ahead)

    def refresh(self, *regions: Region, **flags: bool) -> _View:
        self.regions += regions
        self.wholly += not regions and not flags.get("layout")
        return super().refresh(*regions, **flags)


class _App(App[None]):
    def __init__(self, ahead: int = 0) -> None:
        super().__init__()
        self.view = _View(ahead)
        self.widths: list[int] = []

    def compose(self) -> ComposeResult:
        yield self.view

    def on_mount(self) -> None:
        self.view.focus()

    def on_text_view_width_changed(self, message: TextView.WidthChanged) -> None:
        self.widths.append(message.control.text_width)

    def follows(self) -> bool:
        return self.view.following

    @property
    def lines(self) -> list[str]:
        return [self.view.render_line(y).text.rstrip() for y in range(self.view.size.height)]


def _rows(count: int, last: str = "") -> list[TextRow]:
    rows: list[TextRow] = [((f"row {number}", "text"),) for number in range(count)]
    return [*rows, ((last, "text"),)] if last else rows


async def test_only_what_grew_is_painted() -> None:
    app = _App()
    async with app.run_test(size=(40, 10)) as pilot:
        app.view.show(_rows(3, "a word"))
        await pilot.pause()
        app.view.regions.clear()
        app.view.wholly = 0
        app.view.show(_rows(3, "a word more"))
        assert app.view.regions == [Region(6, 3, 5, 1)]
        app.view.show(_rows(3, "a word more"))
        app.view.show(_rows(5, "end"))
        await pilot.pause()
        assert {region.y for region in app.view.regions} == {3, 4, 5}
        assert app.view.wholly == 0
        assert app.lines[:7] == [*(f"row {number}" for number in range(5)), "end", ""]


async def test_another_colour_is_painted() -> None:
    app = _App()
    async with app.run_test(size=(40, 10)) as pilot:
        app.view.show([(("word", "text"),)])
        await pilot.pause()
        app.view.regions.clear()
        app.view.show([(("word", "error"),)])
        assert app.view.regions == [Region(0, 0, 4, 1)]


async def test_the_end_is_followed_until_the_reader_scrolls() -> None:
    app = _App()
    async with app.run_test(size=(40, 10)) as pilot:
        for count in (5, 100, 101, 104, 140):
            app.view.show(_rows(count))
            await pilot.pause()
            assert app.lines[min(count, 10) - 1] == f"row {count - 1}"
        await pilot.press("k")
        await pilot.pause()
        assert not app.follows()
        assert app.lines[9] == "row 138"
        app.view.regions.clear()
        app.view.show(_rows(142))
        app.view.show(_rows(200))
        await pilot.pause()
        assert app.lines[9] == "row 138"
        assert app.view.regions == []
        await pilot.press("G")
        await pilot.pause()
        assert app.follows()
        assert app.lines[9] == "row 199"
        await pilot.press("pageup", "pagedown")
        await pilot.pause()
        assert app.follows()
        app.view.show(_rows(201))
        await pilot.pause()
        assert app.lines[9] == "row 200"


async def test_a_text_that_shrinks_is_shown_to_its_end() -> None:
    app = _App()
    async with app.run_test(size=(40, 10)) as pilot:
        for before, after in ((200, 198), (200, 30), (30, 3)):
            app.view.show(_rows(before))
            await pilot.pause()
            app.view.show(_rows(after))
            await pilot.pause()
            assert f"row {after - 1}" in app.lines
        await pilot.press("g")


async def test_another_width_is_posted() -> None:
    app = _App()
    async with app.run_test(size=(40, 10)) as pilot:
        await pilot.resize_terminal(60, 10)
        await pilot.pause()
        assert app.widths == [39, 59]


async def test_cells_that_stay_at_both_ends_are_not_painted() -> None:
    app = _App()
    async with app.run_test(size=(40, 10)) as pilot:
        app.view.show([(("  ", "text"), ("abc   ", "code"))])
        await pilot.pause()
        app.view.regions.clear()
        app.view.show([(("  ", "text"), ("abcde ", "code"))])
        assert app.view.regions == [Region(5, 0, 2, 1)]
        app.view.regions.clear()
        app.view.show([(("  ", "text"), ("ab", "code"), ("c", "string"), ("de ", "code"))])
        assert app.view.regions == [Region(4, 0, 1, 1)]
        # A vowel sign changes the look of the letter before it.
        app.view.show([(("ab क", "text"),)])
        await pilot.pause()
        app.view.regions.clear()
        app.view.show([(("ab कि", "text"),)])
        [region] = app.view.regions
        assert region.x <= 3


async def test_a_growing_text_moves_some_rows_at_once() -> None:
    app = _App(ahead=3)
    async with app.run_test(size=(40, 24)) as pilot:
        tops = []
        for count in range(22, 38):
            app.view.show(_rows(count))
            await pilot.pause()
            tops.append(app.view.scroll_offset.y)
            assert f"row {count - 1}" in app.lines
        assert tops == [0] * 3 + [4] * 4 + [8] * 4 + [12] * 4 + [16]
        app.view.show(_rows(5))
        await pilot.pause()
        assert app.lines[0] == "row 0"


async def test_a_bar_that_appears_is_where_the_text_is() -> None:
    app = _App()
    async with app.run_test(size=(40, 10)) as pilot:
        app.view.show(_rows(3))
        await pilot.pause()
        app.view.show(_rows(30))
        await pilot.pause()
        assert app.view.scroll_y == 20
        assert app.view.vertical_scrollbar.position == 20
