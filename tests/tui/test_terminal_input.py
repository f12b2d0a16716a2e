"""Whatever a terminal sends, Textual's parser reads it, and nobody's keys are lost."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from textual import events
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._xterm_parser import XTermParser

from cyber_inference_tui.tui.terminal_input import InputFilter

PASTE = b"\x1b[200~%s\x1b[201~"


def filtered(*reads: bytes) -> str:
    input_filter = InputFilter()
    return "".join([input_filter.feed(read) for read in reads] + [input_filter.flush()])


def messages(*reads: bytes) -> list[object]:
    parser = XTermParser()
    found: list[object] = list(parser.feed(filtered(*reads)))
    if parser._timeout_time is not None:
        parser._timeout_time = 0.0
        found += parser.tick()
    return found


def keys(*reads: bytes) -> list[str]:
    return [message.key for message in messages(*reads) if isinstance(message, events.Key)]


@given(st.lists(st.binary(max_size=40), max_size=4))
@example([b"\xe9"])
@example([b"\x1b[97;1:3u"])
@example([b"\x1b[1114112u"])
@example([b"\x1b[M\x20\xe9\xe9"])
@example([PASTE % b"\xff\xfe"])
def test_no_byte_is_an_error(reads: list[bytes]) -> None:
    for message in messages(*reads):
        if isinstance(message, events.Key):
            (message.character or "").encode()


fragments = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([b"\x1b", b"\x1b[", b"[", b"M", b";", b":", b"200~", b"201~", b"<", b"u"]),
    st.from_regex(rb"\x1b\[[\d:;<?]{0,12}[A-Za-z~$]", fullmatch=True),
)


@given(st.lists(fragments, max_size=12).map(b"".join))
def test_no_sequence_is_an_error(data: bytes) -> None:
    assert all(message is not None for message in messages(data))


@given(st.lists(st.one_of(fragments, st.text(max_size=4).map(str.encode)), max_size=8), st.data())
def test_it_does_not_matter_where_a_read_ends(parts: list[bytes], data: st.DataObject) -> None:
    # 8-bit sequences are recognised within a read only.
    whole = b"".join(parts).replace(b"\x9b", b"")
    at = data.draw(st.integers(0, len(whole)))
    one, two = InputFilter(), InputFilter()
    assert one.feed(whole) == two.feed(whole[:at]) + two.feed(whole[at:])
    assert one.flush() == two.flush()


def test_no_report_sets_the_size() -> None:
    # The terminal itself knows it. With the offer to report sizes, Textual would ask for reports.
    assert filtered(b"\x1b[48;0;0;0;0t\x1b[?2048;1$y\x1b[?2026;1$y") == "\x1b[?2026;1$y"


@given(st.text(st.characters(exclude_characters="\x1b", exclude_categories=["Cs"])))
def test_typed_text_stays_as_it_is(text: str) -> None:
    assert filtered(text.encode()) == text


@pytest.mark.parametrize("sequence", [key for key in ANSI_SEQUENCES_KEYS if key.isascii()])
def test_every_key_that_textual_knows_comes_through(sequence: str) -> None:
    assert filtered(sequence.encode()) == sequence


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"a\xe9b", ["a", "b"]),  # a Latin-1 terminal
        (b"\xe1x", ["x"]),  # meta as the eighth bit
        (b"\x9b31mx", ["x"]),
        (b"\x1b[M \xe9\xe9x", ["x"]),  # an old mouse report, right of column 95
        (b"\x1b[97;1:1ux", ["a", "x"]),  # kitty: a press, a release
        (b"\x1b[97;1:3ux", ["x"]),
        (b"\x1b[97:65;2ux", ["shift+a", "x"]),
        (b"\x1b[55296ux", ["x"]),  # half of a surrogate pair
        (b"\x1b[?62;4cx", ["x"]),  # answers to what another program asked
        (b"\x1b]11;rgb:0000/0000/0000\x1b\\x", ["x"]),
        (b"\x1bP>|XTerm(390)\x1b\\x", ["x"]),
        (b"\x1b[" + b"1;" * 80 + b"mx", ["x"]),
        (b"\x1b", ["escape"]),
        (b"\x1bx", ["alt+x"]),
    ],
)
def test_unreadable_sequences_vanish_without_a_trace(sent: bytes, expected: list[str]) -> None:
    assert keys(sent) == expected


@pytest.mark.parametrize(
    ("pasted", "expected"),
    [
        ("h\xe9llo".encode("latin-1"), "hllo"),
        (b"a\x1bq\x1b[31mb", "aq[31mb"),
        ("é𝄞".encode(), "é𝄞"),
    ],
)
def test_a_paste_is_text_alone(pasted: bytes, expected: str) -> None:
    for split in range(len(PASTE % pasted)):
        data = PASTE % pasted
        pastes = [m for m in messages(data[:split], data[split:]) if isinstance(m, events.Paste)]
        assert [paste.text for paste in pastes] == [expected]
        assert not keys(data[:split], data[split:])
