from __future__ import annotations

import pytest
from rich.cells import cell_len

from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.terminal.charset import ASCII, UNICODE, charset_of


@pytest.mark.parametrize(
    ("environ", "encoding", "charset"),
    [
        ({"TERM": "xterm-256color"}, "utf-8", UNICODE),
        ({"TERM": "linux"}, "utf-8", ASCII),
        ({"TERM": "dumb"}, "utf-8", ASCII),
        ({"TERM": "xterm"}, "iso-8859-1", ASCII),
        ({"TERM": "xterm"}, None, ASCII),
        ({"TERM": "xterm"}, "no such encoding", ASCII),
        ({}, "utf-8", UNICODE),
    ],
)
def test_what_the_terminal_can_show_decides(
    environ: dict[str, str], encoding: str | None, charset: object
) -> None:
    assert charset_of(environ, encoding) is charset


def test_a_choice_wins_over_what_was_found() -> None:
    assert charset_of({"TERM": "linux"}, None, "unicode") is UNICODE
    assert charset_of({"TERM": "xterm"}, "utf-8", "ascii") is ASCII


@pytest.mark.parametrize("charset", [UNICODE, ASCII])
def test_every_status_has_its_own_sign(charset: object) -> None:
    assert charset in (UNICODE, ASCII)
    signs = [(UNICODE if charset is UNICODE else ASCII).status_sign(s) for s in ModelStatus]
    assert len(set(signs)) == len(ModelStatus)
    assert all(cell_len(sign) == 1 for sign in signs)


def test_ascii_is_ascii() -> None:
    texts = [ASCII.ellipsis, ASCII.missing, ASCII.cursor, ASCII.mark, *ASCII.signs.values()]
    assert all(text.isascii() for text in texts)


def test_a_state_is_sign_and_word() -> None:
    assert UNICODE.status_text(ModelStatus.LOADED) == "● loaded"
    assert UNICODE.status_text(ModelStatus.LOADING, 0.999) == "◐ loading 99 %"
    assert ASCII.status_text(ModelStatus.FAILED, 0.5) == "x failed"


def test_a_value_that_is_not_known_is_a_dash() -> None:
    assert UNICODE.known(3, str) == "3"
    assert UNICODE.known(None, str) == "–"  # noqa: RUF001 - the dash is meant
    assert ASCII.known(None, str) == "-"
