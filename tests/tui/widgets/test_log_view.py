from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip

from cyber_inference_tui.records import LogLevel, NumberedLine
from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.tui.widgets.log_view import LogView

_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _line(number: int, text: str | None = None, level: LogLevel = LogLevel.INFO) -> NumberedLine:
    at = _AT + timedelta(seconds=number)
    return NumberedLine(number=number, at=at, text=text or f"line {number}", level=level)


def _lines(first: int, end: int) -> list[NumberedLine]:
    return [_line(number) for number in range(first, end)]


class _View(LogView):
    def __init__(self, window: int, charset: Charset) -> None:
        self.marked = 0
        self.painted = 0
        super().__init__(
            window=window, timezone=UTC, empty="Nothing yet", gap_hint="r reads", charset=charset
        )

    def refresh(self, *regions: Region, **flags: bool) -> _View:
        self.marked += 1
        return super().refresh(*regions, **flags)

    def render_line(self, y: int) -> Strip:
        self.painted += 1
        return super().render_line(y)


class _App(App[None]):
    def __init__(self, window: int = 1000, charset: Charset = UNICODE) -> None:
        super().__init__()
        self.view = _View(window, charset)
        self.told: list[Message] = []

    def compose(self) -> ComposeResult:
        yield self.view

    def on_mount(self) -> None:
        self.view.focus()

    def on_log_view_older_wanted(self, message: LogView.OlderWanted) -> None:
        self.told.append(message)

    def on_log_view_newer_wanted(self, message: LogView.NewerWanted) -> None:
        self.told.append(message)

    def on_log_view_end_wanted(self, message: LogView.EndWanted) -> None:
        self.told.append(message)

    @property
    def lines(self) -> list[str]:
        view = self.view
        return [view.render_line(y).text.rstrip() for y in range(view.size.height)]

    def follows(self) -> bool:
        return self.view.following

    @property
    def older(self) -> list[int]:
        return [told.before for told in self.told if isinstance(told, LogView.OlderWanted)]

    @property
    def newer(self) -> list[int]:
        return [told.start for told in self.told if isinstance(told, LogView.NewerWanted)]


async def test_it_follows_the_end() -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        await pilot.pause()
        assert app.lines[0] == "  Nothing yet"
        app.view.show(_lines(0, 3))
        await pilot.pause()
        assert app.lines[2] == "  03:04:07 line 2"
        app.view.extend(_lines(3, 30))
        await pilot.pause()
        assert app.lines[-1].endswith("line 29")
        assert app.follows()
        await pilot.resize_terminal(60, 9)
        await pilot.pause()
        assert app.lines[-1].endswith("line 29")
        await pilot.resize_terminal(60, 4)
        await pilot.pause()
        assert app.lines[-1].endswith("line 29")
        assert app.follows()


async def test_scrolled_up_it_pauses_and_counts() -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(0, 30))
        await pilot.press("k")
        await pilot.pause()
        assert not app.follows()
        before = app.lines
        app.view.marked = 0
        app.view.painted = 0
        app.view.extend(_lines(30, 40))
        app.view.extend(_lines(40, 42))
        await pilot.pause()
        assert app.view.marked == 0
        assert app.view.painted == 0
        assert app.lines == before
        assert app.view.new_lines == 12
        assert not app.view.following
        await pilot.press("G")
        await pilot.pause()
        assert app.lines[-1].endswith("line 41")
        assert app.follows()
        assert app.view.new_lines == 0


@pytest.mark.parametrize("keys", [("down", "j"), ("pagedown", "down"), ("end",)])
async def test_coming_back_to_the_end_resumes(keys: tuple[str, ...]) -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(0, 30))
        await pilot.press("up", "up")
        app.view.extend(_lines(30, 31))
        assert not app.follows()
        await pilot.press(*keys)
        await pilot.pause()
        assert app.follows()
        assert app.lines[-1].endswith("line 30")


async def test_older_lines_are_asked_for_once_and_do_not_move_the_reader() -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(100, 130))
        await pilot.press(*["pageup"] * 8)
        await pilot.press("up")
        await pilot.pause()
        assert app.older == [100]
        app.view.prepend(_lines(50, 100))
        await pilot.pause()
        assert app.lines[0].endswith("line 100")
        await pilot.press("up")
        await pilot.pause()
        assert app.lines[0].endswith("line 99")
        assert app.older == [100]
        await pilot.press(*["pageup"] * 14)
        await pilot.pause()
        assert app.older == [100, 50]
        app.view.prepend(())
        await pilot.press("up")
        await pilot.pause()
        assert app.older == [100, 50]
        app.view.allow_requests()
        await pilot.press("up")
        await pilot.pause()
        assert app.older == [100, 50, 50]


async def test_a_short_window_can_ask_for_older_lines_too() -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(100, 102))
        await pilot.press("up")
        await pilot.pause()
        assert app.older == [100]
        assert app.follows()
        app.view.prepend(_lines(80, 100))
        await pilot.pause()
        assert app.lines[-1].endswith("line 101")


async def test_paging_back_detaches_the_window_and_paging_on_attaches_it() -> None:
    app = _App(window=40)
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(100, 140))
        await pilot.press("g")
        app.view.prepend(_lines(80, 100))
        await pilot.pause()
        assert (app.view.first_number, app.view.end_number) == (80, 120)
        assert len(app.view.lines) == 40
        app.view.extend(_lines(140, 142))
        await pilot.press(*["pagedown"] * 12)
        await pilot.pause()
        assert app.newer == [120]
        assert not app.follows()
        app.view.append(_lines(120, 141), at_end=True)
        await pilot.pause()
        assert app.lines[-1].endswith("line 119")
        await pilot.press(*["pagedown"] * 12)
        await pilot.pause()
        assert app.follows()
        # Live lines that came during the pause are there, each once.
        assert [line.number for line in app.view.lines][-3:] == [139, 140, 141]
        assert app.lines[-1].endswith("line 141")


async def test_the_end_of_a_detached_window_is_asked_for() -> None:
    app = _App(window=40)
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(0, 20), at_end=False)
        await pilot.pause()
        assert app.lines[0].endswith("line 0")
        await pilot.press("G")
        await pilot.pause()
        assert any(isinstance(told, LogView.EndWanted) for told in app.told)
        app.view.show(_lines(500, 540))
        await pilot.pause()
        assert app.follows()
        assert app.lines[-1].endswith("line 539")


async def test_memory_is_bounded_whether_it_follows_or_not() -> None:
    app = _App(window=100)
    async with app.run_test(size=(60, 5)) as pilot:
        for first in range(0, 1000, 50):
            app.view.extend(_lines(first, first + 50))
        await pilot.pause()
        assert len(app.view.lines) == 100
        assert app.lines[-1].endswith("line 999")
        await pilot.press("up")
        for first in range(1000, 2000, 50):
            app.view.extend(_lines(first, first + 50))
        await pilot.press("down", "down")
        await pilot.pause()
        # Too much came to be kept: the reader pages through it.
        assert app.newer == [1000]
        assert app.view.new_lines == 1000
        assert app.view.end_number == 1000


async def test_lines_left_out_of_a_flood_are_a_gap() -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(0, 2))
        app.view.extend(_lines(4502, 4503))
        await pilot.pause()
        assert app.lines[2].strip() == "… 4,500 lines not shown: r reads"


async def test_wrapping_keeps_the_line_at_the_top() -> None:
    app = _App()
    long = "0123456789" * 5
    async with app.run_test(size=(32, 5)) as pilot:
        app.view.show([_line(number, f"{number:02} {long}") for number in range(40)])
        await pilot.press("g", "j", "j", "j")
        await pilot.pause()
        assert app.lines[0].endswith("…")
        top = app.lines[0][:14]
        await pilot.press("w")
        await pilot.pause()
        assert app.lines[0].startswith(top)
        assert [line[11:] for line in app.lines[:3]] == [
            f"03 {long}"[at : at + 20] for at in (0, 20, 40)
        ]
        await pilot.press("t")
        await pilot.pause()
        assert app.lines[0].startswith("  03 0123")
        await pilot.resize_terminal(80, 5)
        await pilot.pause()
        assert app.lines[0] == f"  03 {long}"
        await pilot.press("w", "G")
        await pilot.pause()
        assert app.lines[-1] == f"  39 {long}"


async def test_levels_have_a_sign() -> None:
    app = _App(charset=ASCII)
    async with app.run_test(size=(60, 5)) as pilot:
        levels = (LogLevel.DEBUG, LogLevel.INFO, LogLevel.WARNING, LogLevel.ERROR)
        app.view.show([_line(number, "x", level) for number, level in enumerate(levels)])
        app.view.goto(2)
        await pilot.pause()
        assert [line[:2] for line in app.lines[:4]] == ["  ", "  ", "W>", "E "]


async def test_a_line_can_be_gone_to() -> None:
    app = _App()
    async with app.run_test(size=(60, 9)) as pilot:
        app.view.show(_lines(0, 300))
        await pilot.pause()
        assert app.view.goto(120)
        await pilot.pause()
        assert not app.follows()
        assert app.view.target == 120
        assert [line for line in app.lines if "▸" in line] == [" ▸03:06:05 line 120"]
        assert not app.view.goto(300)


async def test_a_search_is_marked_and_found() -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        texts = ["CUDA out of memory", "fine", "cuda [x] again", "fine"]
        app.view.show([_line(number, text) for number, text in enumerate(texts)])
        app.view.search = "cuda"
        await pilot.pause()
        assert list(app.view.matches()) == [0, 2]
        assert "CUDA" in [segment.text for segment in app.view.render_line(0)]
        assert app.lines[2].endswith("cuda [x] again")
        app.view.search = "[x]("
        assert list(app.view.matches()) == []


@pytest.mark.parametrize("wrap", [False, True])
async def test_outside_text_is_harmless_and_fits(wrap: bool) -> None:
    app = _App()
    texts = ["\x1b]52;c;aGk=\x07[/oops]\x9b2J\u202e end", "漢字" * 300, "x" * 10_000, "é🦙" * 50]
    async with app.run_test(size=(61, 12)) as pilot:
        app.view.wrap = wrap
        app.view.show([_line(number, text) for number, text in enumerate(texts)])
        for width in (61, 20, 5, 1):
            await pilot.resize_terminal(width, 12)
            height = app.view.virtual_size.height
            rows = min(app.view.size.height, height)
            for y in range(0, height, rows):
                app.view.scroll_to(y=y, animate=False)
                for row in range(rows):
                    text = app.view.render_line(row).text
                    assert text.isprintable()
                    assert cell_len(text) == app.view.size.width


async def test_a_very_long_line_is_cut_with_a_mark() -> None:
    app = _App()
    async with app.run_test(size=(120, 40)) as pilot:
        app.view.wrap = True
        app.view.show([_line(0, "x" * 10_000)])
        await pilot.pause()
        assert "(+8000 characters)" in "".join(line.strip() for line in app.lines)


async def test_another_log_starts_empty() -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(0, 50))
        await pilot.press("up")
        app.view.extend(_lines(50, 60))
        app.view.clear()
        app.view.show(_lines(0, 2))
        await pilot.pause()
        assert [line.number for line in app.view.lines] == [0, 1]
        assert app.follows()
        assert app.view.new_lines == 0


async def test_the_wheel_pauses_and_resumes() -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(0, 30))
        await pilot.pause()
        app.view.scroll_up(animate=False)
        await pilot.pause()
        assert not app.follows()
        app.view.extend(_lines(30, 33))
        app.view.scroll_down(animate=False)
        await pilot.pause()
        assert app.follows()
        assert app.lines[-1].endswith("line 32")


async def test_following_a_long_log_keeps_the_scrollbar_true_once_it_matters() -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(0, 200))
        await pilot.pause()
        for first in range(200, 215, 5):
            app.view.extend(_lines(first, first + 5))
            await pilot.pause()
            assert app.lines[-1].endswith(f"line {first + 4}")
        await pilot.press("k")
        await pilot.pause()
        assert app.lines[-1].endswith("line 213")
        bar = app.view.vertical_scrollbar
        assert (bar.window_virtual_size, bar.position) == (215, 215 - 5 - 1)


async def test_the_scrollbar_covers_no_text() -> None:
    app = _App()
    async with app.run_test(size=(31, 5)) as pilot:
        app.view.wrap = True
        app.view.show([_line(number, "0123456789" * 3) for number in range(9)])
        await pilot.pause()
        width = app.view.scrollable_content_region.width
        rows = [app.view.render_line(y).text[11:width].rstrip() for y in range(5)]
        assert rows[1:] == ["0123456789012345678", "90123456789"] * 2


async def test_hidden_it_paints_nothing_and_is_up_to_date_when_it_comes_back() -> None:
    app = _App()
    async with app.run_test(size=(60, 5)) as pilot:
        app.view.show(_lines(0, 100))
        await pilot.pause()
        app.view.display = False
        await pilot.pause()
        app.view.painted = 0
        for first in range(100, 200, 5):
            app.view.extend(_lines(first, first + 5))
            await pilot.pause()
        assert app.view.painted == 0
        app.view.display = True
        await pilot.pause()
        assert app.view.painted
        assert app.lines[-1].endswith("line 199")
        assert app.follows()


async def test_lines_have_one_clock() -> None:
    app = _App()
    written = [
        "0.00.018.399 I srv    load_model: loading",
        "W slot update_slots: id  0 | task 7 | full",
        '{"type":"log","time":42,"level":"error","msg":"srv  \\"x\\"\\n"}',
        "I is a word",
    ]
    async with app.run_test(size=(80, 4)) as pilot:
        app.view.show([_line(number, text) for number, text in enumerate(written)])
        await pilot.pause()
        texts = ["srv    load_model: loading", "slot update_slots: id  0 | task 7 | full"]
        texts += ['srv  "x"', "I is a word"]
        assert [line[11:] for line in app.lines] == texts
        assert app.lines[0].startswith("  03:04:05 ")
        # What is hidden matches nothing, nor does it when it is shown.
        app.view.search = "0"
        assert list(app.view.matches()) == [1]
        await pilot.press("t")
        assert [line[2:] for line in app.lines] == texts
        await pilot.press("t")
        assert [line[2:] for line in app.lines] == written
        assert list(app.view.matches()) == [1]
        await pilot.press("t")
        assert [line[11:] for line in app.lines] == texts


async def test_rows_break_between_words_and_mark_a_match_in_two_of_them() -> None:
    app = _App()
    async with app.run_test(size=(32, 5)) as pilot:
        app.view.wrap = True
        app.view.show([_line(0, "logits of the top-p samplers")])
        app.view.search = "the top"
        await pilot.pause()
        assert [line[11:] for line in app.lines[:2]] == ["logits of the top-p", "samplers"]
        await pilot.resize_terminal(25, 5)
        await pilot.pause()
        assert [line[11:] for line in app.lines[:3]] == ["logits of the", "top-p", "samplers"]
        rows = [[one.text for one in app.view.render_line(y)] for y in (0, 1)]
        assert "the" in rows[0]
        assert "top" in rows[1]


async def test_requests_that_run_together_have_different_shades() -> None:
    app = _App()
    async with app.run_test(size=(80, 8)):
        tasks = [f"slot release: id  0 | task {number} | done" for number in range(0, 168, 21)]
        app.view.show([_line(number, text) for number, text in enumerate(tasks)])
        styles = set()
        for y in range(8):
            (task,) = (one for one in app.view.render_line(y) if one.text.startswith("task "))
            styles.add(task.style)
        assert len(styles) == 3
