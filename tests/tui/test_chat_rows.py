"""A conversation as rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cyber_inference_tui.client.completions import ChatDelta
from cyber_inference_tui.terminal.charset import ASCII, UNICODE
from cyber_inference_tui.tui.pages.chat.conversation import Turn, TurnState
from cyber_inference_tui.tui.pages.chat.rows import (
    TEXT_WIDTH,
    TextFlow,
    TurnRows,
    state_content,
)
from cyber_inference_tui.tui.pages.chat.styled import wrap
from cyber_inference_tui.tui.widgets.text_view import TextRow

_TEXTS = st.text(st.sampled_from("ab -*#`\n漢é "), max_size=200)


def shown(rows: list[TextRow]) -> list[str]:
    return ["".join(text for text, _ in row).rstrip() for row in rows]


def test_lines_break_between_words() -> None:
    assert wrap("the quick brown fox", 10) == ["the quick", "brown fox"]
    assert wrap("incomprehensibilities", 10) == ["incomprehe", "nsibilitie", "s"]
    assert wrap("- a list's long item", 12) == ["- a list's", "  long item"]
    assert wrap("    indented and long", 16) == ["    indented and", "    long"]
    assert wrap("漢字漢字漢字", 5) == ["漢字", "漢字", "漢字"]
    assert wrap("", 10) == [""]


@given(_TEXTS.map(lambda text: text.replace("\n", " ")), st.integers(8, 40))
def test_no_piece_is_too_wide_and_no_word_is_lost(text: str, width: int) -> None:
    pieces = wrap(text, width)
    assert all(cell_len(piece) <= width for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


@given(_TEXTS, st.lists(st.integers(0, 200), max_size=6), st.integers(10, 40))
def test_a_text_that_grows_is_wrapped_as_if_it_had_come_at_once(
    text: str, stops: list[int], width: int
) -> None:
    grown = TextFlow(width)
    for stop in sorted(stops):
        grown.rows(text[:stop])
    assert grown.rows(text) == TextFlow(width).rows(text)


def test_thinking_is_folded_until_it_is_asked_for() -> None:
    turn = Turn(question="why", model="m", began=0.0)
    rows = TurnRows(turn, 80, UNICODE)
    turn.take(ChatDelta(thinking="let me "), 1.0)
    turn.take(ChatDelta(thinking="see"), 1.5)
    assert "  thinking … 2 tokens" in shown(rows.rows(unfolded=False))
    assert "  let me see" not in shown(rows.rows(unfolded=False))
    assert "  let me see" in shown(rows.rows(unfolded=True))
    turn.take(ChatDelta(text="because"), 2.0)
    assert "  thought  2 tokens" in shown(rows.rows(unfolded=False))


def test_the_figures_of_an_answer_are_below_it() -> None:
    turn = Turn(question="why", model="m", began=0.0)
    rows = TurnRows(turn, 80, ASCII)
    turn.take(ChatDelta(text="because"), 0.25)
    turn.take(ChatDelta(finish_reason="length", tokens_out=1, tokens_per_second=9.0), 0.5)
    turn.end(TurnState.DONE)
    assert shown(rows.rows(unfolded=False))[-2] == (
        "  cut at max_tokens - 1 token - 9.0 tok/s - first text after 0.25 s"
    )


def test_a_long_line_of_text_stays_readable_on_a_wide_terminal() -> None:
    turn = Turn(question="why " * 100, model="m", began=0.0)
    assert max(map(len, shown(TurnRows(turn, 200).rows(unfolded=False)))) <= TEXT_WIDTH


def test_the_state_counts_whole_seconds_until_the_first_word() -> None:
    turn = Turn(question="why", model="m", began=10.0)
    assert "waiting for the first word  3 s" in state_content(turn, 13.9, UNICODE).plain
    turn.take(ChatDelta(waiting="loading m 40%"), 14.0)
    assert "loading m 40%  4 s" in state_content(turn, 14.5, UNICODE).plain
    turn.take(ChatDelta(text="a"), 15.0)
    assert "first text after 5.00 s" in state_content(turn, 16.0, UNICODE).plain
    assert state_content(None, 0.0, UNICODE).plain == ""
