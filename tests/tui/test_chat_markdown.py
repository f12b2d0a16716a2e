"""Markdown as rows, while it grows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.tui.pages.chat import tables
from cyber_inference_tui.tui.pages.chat.markdown import MarkdownFlow, code_blocks
from cyber_inference_tui.tui.pages.chat.styled import INLINE_CHARACTERS, inline
from cyber_inference_tui.tui.widgets.text_view import TextRow

_PIECES = st.sampled_from(
    [
        *"ab -*_#`\n|漢é>[](~",
        *(
            "**",
            "```",
            "\n```py\n",
            "\n| a | b |\n",
            "|---|--:|\n",
            "\n- ",
            "\n1. ",
            "\n> ",
            "x = 1 ",
        ),
    ]
)
_TEXTS = st.lists(_PIECES, max_size=60).map("".join)


def rows(text: str, width: int = 60, charset: Charset = UNICODE) -> list[TextRow]:
    return MarkdownFlow(width, charset, indent="").rows(text)


def shown(text: str, width: int = 60, charset: Charset = UNICODE) -> list[str]:
    return ["".join(piece for piece, _ in row).rstrip() for row in rows(text, width, charset)]


def roles(text: str) -> dict[str, str]:
    return {piece.strip(): role for row in rows(text) for piece, role in row if piece.strip()}


@given(_TEXTS, st.lists(st.integers(0, 200), max_size=6), st.integers(10, 40))
def test_a_text_that_grows_looks_as_if_it_had_come_at_once(
    text: str, stops: list[int], width: int
) -> None:
    grown = MarkdownFlow(width)
    for stop in sorted(stops):
        grown.rows(text[:stop])
    assert grown.rows(text) == MarkdownFlow(width).rows(text)


@given(_TEXTS, st.integers(12, 60))
def test_no_row_is_wider_than_the_screen(text: str, width: int) -> None:
    flow = MarkdownFlow(width)
    assert all(cell_len("".join(piece for piece, _ in row)) <= width for row in flow.rows(text))


def test_blocks_of_text() -> None:
    text = "# Title\n### Part\n#hashtag\n- one\n  * two\n3. three\n> said\n---\nplain"
    assert shown(text) == [
        *("Title", "Part", "#hashtag", "• one", "  • two", "3. three", "▏ said", "─" * 40, "plain")
    ]
    assert roles(text)["Title"] == "title"
    assert roles(text)["Part"] == "heading"
    assert shown("- one\n> two\n---", charset=ASCII) == ["- one", "| two", "-" * 40]


def test_the_rows_of_an_item_and_a_quote_are_below_each_other() -> None:
    assert shown("10. one two three four", 14) == ["10. one two", "    three four"]
    assert shown("> - one two three", 12) == ["▏ • one two", "▏   three"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a **b *c* d** e", [("a ", "text"), ("b ", "strong"), ("c", "strong"), (" d", "strong")]),
        ("*i* __s__ ~~x~~", [("i", "emphasis"), ("s", "strong"), ("x", "struck")]),
        ("`a*b*` ``c`d``", [("a*b*", "inline"), ("c`d", "inline")]),
        ("2 * 3 * 4 and snake_case_name", [("2 * 3 * 4 and snake_case_name", "text")]),
        (r"\*not\* **open", [("*not* **open", "text")]),
        ("[text](http://x.y) [z]", [("text", "link"), (" (http://x.y)", "dim"), (" [z]", "text")]),
        ("<https://x.y> https://z", [("https://x.y", "link"), (" https://z", "text")]),
    ],
)
def test_marks_within_a_line(text: str, pieces: list[tuple[str, str]]) -> None:
    merged: list[tuple[str, str]] = []
    for piece, role in inline(text):
        if merged and merged[-1][1] == role == "text":
            merged[-1] = (merged[-1][0] + piece, role)
        else:
            merged.append((piece, role))
    assert [one for one in pieces if one not in merged] == []


def test_a_line_that_grows_is_emphasized_before_its_end_arrives() -> None:
    assert inline("a **b", grows=True) == (("a ", "text"), ("b", "strong"))
    assert inline("a `b", grows=True) == (("a ", "text"), ("b", "inline"))


def test_a_line_of_marks_is_not_searched_for_ever() -> None:
    text = "*[`" * INLINE_CHARACTERS
    assert inline(text) == ((text, "text"),)


def test_code_has_its_number_its_language_and_its_colours() -> None:
    text = "see\n```python\ndef f():  # call\n    return 'a'\n```\n~~~\n**raw**\n~~~\nafter"
    assert shown(text, 30) == [
        "see",
        " python                     1",
        " def f():  # call",
        "     return 'a'",
        " code                       2",
        " **raw**",
        "after",
    ]
    found = roles(text)
    assert (found["def"], found["f"], found["# call"]) == ("keyword", "called", "comment")
    assert (found["'a'"], found["**raw**"]) == ("string", "code")


def test_the_lines_of_a_long_string_are_coloured_when_the_code_is_complete() -> None:
    text = '```python\n"""one\nreturn two\n"""\n```\n'
    grown = MarkdownFlow(40)
    for end in range(len(text)):
        grown.rows(text[:end])
    pieces = [piece for row in grown.rows(text) for piece in row]
    assert ("return two", "string") in pieces


def test_the_blocks_to_copy_have_the_numbers_on_the_screen() -> None:
    text = "1. x\n   ```sh\n   ls\n     -l\n   ```\n````md\n```\ninner\n```\n````\n```\nopen"
    assert [(one.language, one.text) for one in code_blocks(text)] == [
        ("sh", "ls\n  -l"),
        ("md", "```\ninner\n```"),
        ("", "open"),
    ]
    numbers = [row.split()[-1] for row in shown(text) if row.split()[:1] != row.split()[-1:]]
    assert [number for number in numbers if number.isdigit()] == ["1", "2", "3"]


def test_a_table_fits_its_columns() -> None:
    text = "| Name | Size |\n|---|--:|\n| `a` | 12 |\n| long words here | 3 |\nafter"
    assert shown(text) == [
        "Name             Size",
        "───────────────  ────",
        "a                  12",
        "long words here     3",
        "after",
    ]
    assert shown(text, 16)[:4] == [
        "Name        Size",
        "──────────  ────",
        "a             12",
        "long words     3",
    ]
    assert roles(text)["Name"] == "strong"


def test_lines_with_bars_alone_are_no_table() -> None:
    assert shown("| a | b |\n| c | d |") == ["| a | b |", "| c | d |"]


def test_a_long_table_keeps_the_widths_of_its_first_rows() -> None:
    count = tables.MEASURED_ROWS + 5
    text = "| n |\n|---|\n" + "".join(f"| {number} |\n" for number in range(count)) + "| x | y |"
    assert shown(text)[1] == "────"
    assert shown(text)[-1] == "x"
    assert len(shown(text)) == count + 3
