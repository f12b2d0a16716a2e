from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cyber_inference_tui.terminal.text_width import (
    Align,
    cut,
    fit,
    fold,
    folded_count,
    pasted_text,
    plain,
)

TEXTS = st.text(
    st.one_of(st.characters(), st.sampled_from("a 漢字é🦙\u200d\ufe0f\u0301\x1b[31m\x07")),
    max_size=60,
)


@given(TEXTS)
def test_plain_text_is_safe_and_as_wide_as_its_characters(text: str) -> None:
    shown = plain(text)
    assert not any(character < " " or "\x7f" <= character < "\xa0" for character in shown)
    assert cell_len(shown) == sum(cell_len(character) for character in shown)


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


@given(TEXTS, st.integers(2, 30))
def test_folding_keeps_every_character_and_fits(text: str, width: int) -> None:
    shown = plain(text)
    pieces = fold(shown, width)
    assert "".join(pieces) == shown
    assert all(cell_len(piece) <= width for piece in pieces)
    assert folded_count(shown, width) == len(pieces)


def test_what_is_pasted_into_a_line_is_one_line_without_controls() -> None:
    pasted = "se\x1b]52;c;aGk=\x07cr\u202eet\r\n\r\n  {\n"
    assert pasted_text(pasted, one_line=True) == "secret {"
    assert pasted_text(pasted, one_line=False) == "secret\n\n  {\n"
    assert pasted_text("a  b", one_line=True) == "a  b"
