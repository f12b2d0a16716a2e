"""Markdown as rows, while it grows."""

from __future__ import annotations

import textwrap
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import cell_len

from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.tui.pages.chat import markdown
from cyber_inference_tui.tui.pages.chat.code_colours import COLOURED_CHARACTERS
from cyber_inference_tui.tui.pages.chat.markdown import MarkdownFlow
from cyber_inference_tui.tui.pages.chat.markdown_rows import MarkdownRows
from cyber_inference_tui.tui.widgets.text_view import TextRow

_PIECES = (
    *"ab -*_#\n|漢é>[](~\\!&;",
    *(
        "**",
        "x = 1 ",
        "\n\n",
        "\n  ",
        "    ",
        "\n- ",
        "\n   - ",
        "\n1. ",
        "\n2. ",
        "\n> ",
        "\n---\n",
    ),
    *("\n| a | b |\n", "|---|--:|\n", "\n```py\nx = 1\n\ny\n```\n", "\r\n", "\x1b[2J"),
)
_TEXTS = st.lists(st.sampled_from(_PIECES), max_size=60).map("".join)
_UNFINISHED = st.lists(st.sampled_from((*_PIECES, "`", "```", "~~~")), max_size=60).map("".join)


def rows(text: str, width: int = 60, charset: Charset = UNICODE) -> list[TextRow]:
    return MarkdownFlow(width, charset, indent="").rows(text)


def shown(text: str, width: int = 60, charset: Charset = UNICODE) -> list[str]:
    return [plain_row(row).rstrip() for row in rows(text, width, charset)]


def plain_row(row: TextRow) -> str:
    return "".join(piece for piece, _ in row)


def filled(found: list[TextRow]) -> list[TextRow]:
    return [row for row in found if plain_row(row).strip(" ▏")]


def inline(text: str) -> TextRow:
    (row,) = rows(text, 1_000)
    return row


def roles(text: str) -> dict[str, str]:
    return {piece.strip(): role for row in rows(text) for piece, role in row if piece.strip()}


@given(_UNFINISHED, st.lists(st.integers(0, 200), max_size=6), st.integers(10, 40))
def test_a_text_that_grows_looks_as_if_it_had_come_at_once(
    text: str, stops: list[int], width: int
) -> None:
    grown, once = MarkdownFlow(width), MarkdownFlow(width)
    with mock.patch.multiple(markdown, STEP=10, OPEN_CHARACTERS=30):
        for stop in sorted(stops):
            grown.rows(text[:stop])
        assert grown.rows(text) == once.rows(text)
        assert grown.blocks == once.blocks
        assert all(cell_len(plain_row(row)) <= width for row in once.rows(text))


@given(_TEXTS)
def test_what_is_drawn_for_good_is_what_the_whole_text_shows(text: str) -> None:
    whole = MarkdownRows(38, UNICODE, "  ")
    whole.draw(markdown._parser(6), text.replace("\r", " "))
    flow = MarkdownFlow(40)
    with mock.patch.object(markdown, "STEP", 10):
        found = flow.rows(text)
    assert filled(found) == filled(whole.rows)  # blank ones about an empty quote differ
    assert flow.blocks == whole.blocks


@pytest.mark.parametrize(
    "unit",
    [
        *("word ", "漢", "\n", "\ta\n", "> ", ">\n", "-\n", "|\n", "![", "*a_", "`", "~~"),
        *("&#x202e;", "\x1b[", "\0", "- a\n  - b\n", "1. x\n\n   y\n", "```py\nx\n```\n"),
    ],
)
@pytest.mark.parametrize(
    "begin", ["", "| a | b |\n|---|---|\n", "1. x\n   - > y\n\n     ```sh\n     "]
)
def test_only_the_end_of_a_long_text_is_parsed_again(unit: str, begin: str) -> None:
    length = 10_000
    text = begin + (unit * length)[:length]
    sizes = []

    def parse(parser: MarkdownIt, source: str) -> list[Token]:
        sizes.append(len(source))
        return whole(parser, source)

    whole = MarkdownIt.parse
    with mock.patch.object(MarkdownIt, "parse", parse):
        flow = MarkdownFlow(80)
        for end in range(0, length, 5 * markdown.STEP):
            found = flow.rows(text[:end])
    has_code = "```" in text or "~~~" in text
    longest = COLOURED_CHARACTERS if has_code else markdown.OPEN_CHARACTERS
    assert max(sizes) <= longest + 3 * markdown.STEP
    assert len(sizes) <= 4 * length / markdown.STEP
    signs = "".join(sign for row in found for sign in plain_row(row))
    assert signs.isprintable()


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
        ("**b *c* d**", [("b ", "strong"), ("c", "strong"), (" d", "strong")]),
        ("__s__~~x~~*i*", [("s", "strong"), ("x", "struck"), ("i", "emphasis")]),
        ("`a*b*`,``c`d``", [("a*b*", "inline"), (",", "text"), ("c`d", "inline")]),
        ("2 * 3 * 4 and snake_case_name", [("2 * 3 * 4 and snake_case_name", "text")]),
        (r"\*not\* **open", [("*not* **open", "text")]),
        ("[text](http://x.y) [z]", [("text", "link"), (" (http://x.y)", "dim"), (" [z]", "text")]),
        ("<https://x.y> https://z", [("https://x.y", "link"), (" https://z", "text")]),
        ("![a *b*](c.png)", [("a *b*", "link"), (" (c.png)", "dim")]),
    ],
)
def test_marks_within_a_line(text: str, pieces: list[tuple[str, str]]) -> None:
    assert inline(text + "\n") == tuple(pieces)


def test_a_line_that_grows_is_emphasized_before_its_end_arrives() -> None:
    assert inline("a **b") == (("a ", "text"), ("b", "strong"))
    assert inline("a **b*") == (("a ", "text"), ("b", "strong"))
    assert inline("a **b\n") == (("a **b", "text"),)
    assert inline("a `b") == (("a ", "text"), ("b", "inline"))
    assert inline("2 ** 3") == (("2 ** 3", "text"),)
    assert inline("# a **b") == (("a ", "title"), ("b", "title"))


def test_a_decoded_character_cannot_steer_the_terminal() -> None:
    assert inline("a&#x202e;b &lt;i&gt; <b>x</b>") == (("ab <i> <b>x</b>", "text"),)


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
    text = "1. x\n   ```sh\n   ls\n   \t-l\n   ```\n````md\n```\ninner\n```\n````\n```\nopen"
    flow = MarkdownFlow(60, indent="")
    numbers = [plain_row(row).split()[-1] for row in flow.rows(text) if row[-1][1] == "code-title"]
    assert numbers == ["1", "2", "3"]
    assert [(one.language, one.text) for one in flow.blocks] == [
        ("sh", "ls\n\t-l"),
        ("md", "```\ninner\n```"),
        ("", "open"),
    ]


@pytest.mark.parametrize("lead", ["", "   "])
def test_a_long_block_to_copy_is_whole(lead: str) -> None:
    code = (
        "\n".join(f"{'    ' * (number % 3)}line {number}" for number in range(3_000))
        + "\n"
        + "x" * 25_000
    )
    text = f"1. x\n\n{lead}```py\n{textwrap.indent(code, lead)}\n{lead}```\n\nend"
    flow = MarkdownFlow(60)
    assert plain_row(flow.rows(text)[-1]) == "  end"
    assert [block.text for block in flow.blocks] == [code]


def test_a_table_fits_its_columns() -> None:
    text = "| Name | Size |\n|---|--:|\n| `a` | 12 |\n| long words here | 3 |\n\nafter"
    assert shown(text) == [
        "Name             Size",
        "───────────────  ────",
        "a                  12",
        "long words here     3",
        "",
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


def test_a_table_that_is_too_wide_is_lines() -> None:
    text = f"|{'a|' * 20}\n|{'-|' * 20}\n"
    assert shown(text, 80) == text.splitlines()
    assert shown("- > | a | b | c |\n  > |---|---|---|\n  > | d | *e* | f |\n", 18) == [
        "• ▏ a | b | c",
        "  ▏ d | e | f",
    ]


def test_a_long_table_keeps_the_widths_of_its_first_rows() -> None:
    count = 2 * markdown.OPEN_LINES
    text = "| n | m |\n|---|---|\n" + "| 1 | 2 |\n" * count + "| a long word | y |"
    found = shown(text)
    assert found[:2] == ["n     m", "────  ────"]
    assert found[count + 1 : count + 3] == ["1     2", "a     y"]
    assert len(found) == count + 5
