from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cyber_inference_tui.terminal.text_width import (
    Align,
    cells,
    cut,
    fit,
    fold,
    pasted_text,
    placed,
    plain,
    wrap,
)
from tests.terminal.emulator import Emulator, halves, narrow

TEXTS = st.text(
    st.one_of(st.characters(), st.sampled_from("a 漢字é🦙\u200d\ufe0f\u0301\x1b[31m\x07")),
    max_size=60,
)


@given(TEXTS)
def test_plain_text_is_safe_and_as_wide_as_its_characters(text: str) -> None:
    shown = plain(text)
    assert not any(character < " " or "\x7f" <= character < "\xa0" for character in shown)
    assert cell_len(shown) == sum(cell_len(character) for character in shown)


def test_plain_text_is_composed_and_without_what_terminals_disagree_on() -> None:
    decomposed = unicodedata.normalize("NFD", "한국어 é ガ")
    assert plain(decomposed) == "한국어 é ガ"
    assert cells(decomposed) == 11
    assert plain("👋🏽 👨\u200d👩 ☀\ufe0f 1\ufe0f\u20e3") == "👋 👨👩 ☀ 1\u20e3"


@given(TEXTS, st.integers(0, 20), st.sampled_from([cell_len, halves, narrow]))
def test_what_follows_doubtful_characters_is_in_its_column(
    text: str, column: int, width: Callable[[str], int]
) -> None:
    shown = plain(text)
    end = column + cell_len(shown)
    screen = Emulator(200, 1, width)
    screen.feed("#" * 200 + f"\x1b[{column + 1}G{placed(shown + '  end', column)}")
    # A text may draw over the spaces behind it, but not further.
    assert screen.rows[0][end + 2 : end + 6] == "end#"


def test_certain_text_stays_as_it_is() -> None:
    for text in ("plain größer ✔ ● 12:04", "日本語 한국어", "⣀⣤▸◆ │ █ …"):
        assert placed(text, 3) == text


@given(TEXTS, st.integers(0, 40), st.sampled_from(["left", "right"]))
def test_a_fitted_text_takes_exactly_its_cells(text: str, width: int, align: Align) -> None:
    assert cell_len(fit(plain(text), width, align, "…")) == width


@given(TEXTS, st.integers(0, 40), st.sampled_from(["…", "..."]))
def test_a_cut_text_never_exceeds_its_width(text: str, width: int, ellipsis: str) -> None:
    shown = plain(text)
    result = cut(shown, width, ellipsis)
    assert cell_len(result) <= width
    if cell_len(shown) <= width:
        assert result == shown


def test_what_is_cut_is_marked() -> None:
    assert cut("qwen3-4b", 8, "…") == "qwen3-4b"
    assert cut("qwen3-4b", 7, "…") == "qwen3-…"
    assert cut("漢字漢字", 4, "…") == "漢…"
    assert fit("漢字漢字", 4, "left", "…") == "漢… "
    assert fit("21.4", 6, "right", "…") == "  21.4"


def test_folding_prefers_to_end_behind_a_mark() -> None:
    assert fold("/home/user/models/phi.gguf", 20, after="/") == ["/home/user/models/", "phi.gguf"]
    # A mark in the first half would leave most of the piece empty.
    assert fold("/a/bcdefghijklmnop", 12, after="/") == ["/a/bcdefghij", "klmnop"]
    assert fold("ab/cd", 5, after="/") == ["ab/cd"]


@given(TEXTS, st.integers(2, 30))
def test_folding_keeps_every_character_and_fits(text: str, width: int) -> None:
    shown = plain(text)
    pieces = fold(shown, width)
    assert "".join(pieces) == shown
    assert all(cell_len(piece) <= width for piece in pieces)


@given(TEXTS, st.integers(2, 40))
def test_wrapped_rows_fit_and_leave_out_only_spaces(text: str, width: int) -> None:
    shown = plain(text)
    rows = wrap(shown, width)
    assert all(cell_len(shown[start:end]) <= width for start, end in rows)
    ends = [0, *(place for row in rows for place in row), len(shown)]
    assert not "".join(shown[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True)).strip(" ")
    assert rows == sorted(rows)


@pytest.mark.parametrize("sign", ["s", "é"])
def test_rows_break_between_words(sign: str) -> None:
    def rows(text: str, width: int) -> list[str]:
        return [text[start:end].rstrip() for start, end in wrap(text, width)]

    assert rows(f"logit{sign} of top-p samplers", 10) == [
        f"logit{sign} of",
        "top-p",
        "samplers",
    ]
    assert rows(f"a {sign}/very/long/path", 10) == [f"a {sign}/very/l", "ong/path"]
    assert rows(f"  {sign}", 10) == [f"  {sign}"]
    assert rows("", 10) == [""]


def test_what_is_pasted_into_a_line_is_one_line_without_controls() -> None:
    pasted = "se\x1b]52;c;aGk=\x07cr\u202eet\r\n\r\n  {\n"
    assert pasted_text(pasted, one_line=True) == "secret {"
    assert pasted_text(pasted, one_line=False) == "secret\n\n  {\n"
    assert pasted_text("a  b", one_line=True) == "a  b"
