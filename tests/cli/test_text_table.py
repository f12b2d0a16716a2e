from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cyber_inference_tui.cli.model_tables import library_table
from cyber_inference_tui.cli.text_table import render_table
from cyber_inference_tui.records import ModelRecord, ModelStatus
from cyber_inference_tui.terminal.charset import ASCII
from cyber_inference_tui.terminal.columns import Cell, Column
from cyber_inference_tui.terminal.stream import Terminal, terminal_of
from cyber_inference_tui.units import context_text, duration_text, size_text
from tests.terminal.emulator import Emulator, halves, narrow

Texts = tuple[Cell | str, ...]


def columns(*titles: str, least: int = 0) -> list[Column[Texts, Terminal]]:
    """Columns that show the texts of a row unchanged."""
    return [
        Column(title, title, least=least, cell=lambda row, _, at=at: row[at])  # type: ignore[misc]
        for at, title in enumerate(titles)
    ]


COLUMNS: list[Column[Texts, Terminal]] = [
    Column("id", "ID", least=16, cell=lambda row, _: row[0]),
    Column("state", "STATE", cell=lambda row, _: row[1]),
    Column("size", "SIZE", right=True, priority=1, cell=lambda row, _: row[2]),
    Column("problem", "PROBLEM", least=10, priority=2, cell=lambda row, _: row[3]),
]


def row(*texts: Cell | str) -> Texts:
    return texts


def test_columns_align_by_what_the_eye_sees() -> None:
    rows = [row("模型-大", "loaded", "9.1 GiB", ""), row("tiny", "unloaded", "812 B", "")]
    assert render_table(COLUMNS, rows, Terminal()) == [
        "ID       STATE        SIZE  PROBLEM",
        "模型-大  loaded    9.1 GiB",
        "tiny     unloaded    812 B",
    ]


def test_a_pipe_gets_every_cell_whole_and_plain() -> None:
    rows = [row("x" * 300, "loaded", "1 B", "y" * 300)]
    text = "\n".join(render_table(COLUMNS, rows, Terminal()))
    assert "x" * 300 in text
    assert "y" * 300 in text
    assert "\x1b" not in text


def test_a_narrow_terminal_cuts_long_ids_and_leaves_out_columns() -> None:
    rows = [row("Some-Very-Long-Model-Name-Q4_K_M", "loaded", "9.1 GiB", "its file is cut short")]
    wide = render_table(COLUMNS, rows, Terminal(width=60))
    assert wide[1] == "Some-Very-Long-Mode…  loaded  9.1 GiB  its file is cut short"
    narrow = render_table(COLUMNS, rows, Terminal(width=33))
    assert narrow == ["ID                STATE      SIZE", "Some-Very-Long-…  loaded  9.1 GiB"]


def test_control_sequences_in_cells_do_nothing() -> None:
    lines = render_table(columns("ID"), [row("a\x1b[2Jb\r\nc")], Terminal())
    assert lines[1] == "abc"


def test_colour_is_not_counted_as_width() -> None:
    terminal = Terminal(color=True, width=80)
    rows = [row(Cell("a", "bad"), "b"), row("aa", "b")]
    lines = render_table(columns("X", "Y"), rows, terminal)
    assert lines == [
        "\x1b[2mX\x1b[0m   \x1b[2mY\x1b[0m",
        "\x1b[31ma\x1b[0m   b",
        "aa  b",
    ]


@given(
    st.lists(st.lists(st.text(max_size=50), min_size=4, max_size=4), max_size=6),
    st.integers(60, 120),
)
def test_no_line_is_wider_than_the_terminal(texts: list[list[str]], width: int) -> None:
    rows = [row(*cells) for cells in texts]
    for line in render_table(columns(*"0123", least=8), rows, Terminal(width=width)):
        screen = Emulator(200, 1)
        screen.feed(line)
        assert not screen.rows[0][width:].strip()


NAMES = [
    "plain",
    "flag-🇩🇪🇫🇷",
    "tone-👋🏽👍🏿",
    "family-👨\u200d👩\u200d👧",
    "key-1\ufe0f\u20e3",
    "sun-☀\ufe0f",
    unicodedata.normalize("NFD", "한국어모델"),
    "한국어모델",
    unicodedata.normalize("NFD", "ガギグ"),
    "हिन्दी-मॉडल",
    "e\u0301\u0302\u0323",
    "llama-🦙",
]


@pytest.mark.parametrize("width", [cell_len, halves, narrow])
def test_columns_align_in_terminals_that_disagree_on_widths(width: Callable[[str], int]) -> None:
    terminal = Terminal(color=True, width=80)
    rows = [row(Cell(name, "strong"), "loaded", "9.1 GiB", "") for name in NAMES]
    screen = Emulator(80, len(rows) + 1, width)
    screen.feed("\n".join(render_table(COLUMNS, rows, terminal)))
    assert len({line.index("loaded") for line in screen.rows[1:]}) == 1
    assert len({line.index("9.1 GiB") for line in screen.rows[1:]}) == 1


def test_a_composed_and_a_decomposed_name_are_as_wide_in_a_pipe() -> None:
    rows = [row(name, "loaded", "1 B", "") for name in NAMES[6:8]]
    first, second = render_table(COLUMNS, rows, Terminal())[1:]
    assert NAMES[6] in first  # unchanged, for scripts
    assert unicodedata.normalize("NFC", first) == second


class FakeTerminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "color"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colour_follows_the_environment(environ: dict[str, str], color: bool) -> None:
    terminal = terminal_of(FakeTerminal(io.BytesIO(), encoding="utf-8"), environ)
    assert terminal.color is color
    assert terminal.width == 80


def test_an_encoding_without_the_signs_gets_ascii() -> None:
    environ = {"COLUMNS": "100", "NO_COLOR": "1"}
    terminal = terminal_of(FakeTerminal(io.BytesIO(), encoding="latin-1"), environ)
    assert terminal.width == 100
    assert terminal.ellipsis == "..."
    assert all(text.isascii() for text in states(terminal))
    # The terminal app has the same signs.
    signs = {name: sign for sign, name in (text.split() for text in states(terminal))}
    assert signs.pop("unreadable") == ASCII.signs["failed"]
    assert signs == ASCII.signs


def states(terminal: Terminal) -> list[str]:
    """Return the cells of the state, as in a table of models."""
    records = [ModelRecord(id="a", status=status) for status in ModelStatus]
    records.append(ModelRecord(id="a", unreadable=True))
    words = [line.split() for line in library_table(records, datetime.now(UTC), terminal)[1:]]
    return [" ".join(line[1 : 3 if terminal.interactive else 2]) for line in words]


def test_each_state_has_a_sign_and_its_word() -> None:
    assert states(Terminal(width=80)) == [
        "○ unloaded",
        "◌ queued",
        "◐ loading",
        "● loaded",
        "◍ unloading",
        "✖ failed",
        "✖ unreadable",
    ]
    assert states(Terminal())[3] == "loaded"


def test_numbers_read_well() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 1048575, 4_500_000_000, 3 << 40)] == [
        "0 B",
        "0.999 KiB",
        "1.00 KiB",
        "1.00 MiB",
        "4.19 GiB",
        "3.00 TiB",
    ]
    assert [context_text(n) for n in (512, 1024, 4096, 131072, 1048576, 5000)] == [
        "512",
        "1K",
        "4K",
        "128K",
        "1M",
        "5,000",
    ]
    assert [duration_text(s) for s in (0.04, 59.96, 250, 7503, 90_000, 86_400)] == [
        "0.0 s",
        "1 min",
        "4 min 10 s",
        "2 h 5 min",
        "1 d 1 h",
        "1 d",
    ]
