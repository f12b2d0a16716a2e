"""The sequences for the desktop, by terminal."""

from __future__ import annotations

import pytest

from cyber_inference_tui.terminal.desktop import Desktop

PLAIN = {"TERM": "xterm-256color"}


@pytest.mark.parametrize(
    ("environ", "notice", "progress"),
    [
        (PLAIN, "\x1b]777;notify;a, b;c;d\x07", ""),
        (PLAIN | {"LC_TERMINAL": "iTerm2"}, "\x1b]9;a, b: c;d\x07", ""),
        (
            PLAIN | {"TERM_PROGRAM": "iTerm.app", "TERM_FEATURES": "T3LrMSc7UUw9PNoF"},
            "\x1b]9;a, b: c;d\x07",
            "\x1b]9;4;1;64\x07",
        ),
        (PLAIN | {"TERM_FEATURES": "Po"}, "\x1b]777;notify;a, b;c;d\x07", ""),
        (PLAIN | {"VTE_VERSION": "8001"}, "\x1b]777;notify;a, b;c;d\x07", "\x1b]9;4;1;64\x07"),
        (PLAIN | {"VTE_VERSION": "7600"}, "\x1b]777;notify;a, b;c;d\x07", ""),
        ({"TERM": "xterm-ghostty"}, "\x1b]777;notify;a, b;c;d\x07", "\x1b]9;4;1;64\x07"),
        (
            {"TERM": "tmux-256color", "TMUX": "/tmp/x", "TERM_PROGRAM": "ghostty"},
            "\x1bPtmux;\x1b\x1b]777;notify;a, b;c;d\x07\x1b\\",
            "",
        ),
        *(({"TERM": term}, "", "") for term in ("linux", "dumb", "vt220", "screen", "")),
    ],
)
def test_each_terminal_gets_what_it_understands(
    environ: dict[str, str], notice: str, progress: str
) -> None:
    desktop = Desktop.of(environ)
    assert desktop.notice("a; b", "c;d\x1b\x07\n") == notice
    assert desktop.progress_bar(64) == progress
    assert desktop.progress_bar(None) == ("\x1b]9;4;0;0\x07" if progress else "")
    assert desktop.title("t\x07\x1b]52;x") == ("\x1b]2;t\x07" if notice else "")
    assert bool(desktop.keep_title) is bool(desktop.restore_title) is bool(notice)
