from __future__ import annotations

import re

import pytest
from rich.cells import cell_len
from textual.app import ComposeResult
from textual.drivers.headless_driver import HeadlessDriver
from textual.geometry import Region
from textual.widgets import Static

from cyber_inference_tui.tui.frames import Painting, placed_frame, short_frame
from tests.terminal.emulator import Emulator, halves, narrow

_BRIGHT = "1;38;2;9;9;9;48;2;1;1;1"
_DARK = "38;2;5;5;5;48;2;1;1;1"


def _styled(text: str, codes: str) -> str:
    return f"\x1b[{codes}m{text}\x1b[0m"


def _looks(frame: str) -> list[tuple[str, frozenset[str]]]:
    """Each character and sequence, with the codes of its style unless it only moves."""
    codes: list[str] = []
    found = []
    for piece in re.findall(r"\x1b\[[\d;?]*[a-zA-Z]|.", frame, re.DOTALL):
        if piece.startswith("\x1b") and piece.endswith("m"):
            for code in re.findall(r"[34]8;(?:2;\d+;\d+;\d+|5;\d+)|\d+", piece):
                kind = code[:2] if code[:2] in {"38", "48"} else code
                codes = [one for one in codes if kind != "0" and not one.startswith(kind)]
                codes += [code] if kind != "0" else []
        else:
            moves = piece == "\n" or (piece[0] == "\x1b" and piece[-1] in "HG")
            found.append((piece, frozenset() if moves else frozenset(codes)))
    return found


def test_a_style_is_sent_only_where_it_changes() -> None:
    parts = [
        "\x1b[3;4H",
        _styled("12", _DARK),
        "\x1b[4;4H",
        _styled("34", _DARK),
        _styled("good", _DARK.replace("5;5;5", "0;9;0")),
        "\n",
        _styled("title", _BRIGHT),
        "plain",
        _styled("title", _BRIGHT),
        _styled("fifth", "38;5;4"),
        _styled("named", "3;31;42"),
        "\x1b[1;1H",
    ]
    frame = "".join(parts)
    short = short_frame(frame)
    assert _looks(short) == _looks(frame)
    assert short.count(_DARK) == 1
    assert "\x1b[38;2;0;9;0mgood" in short
    assert short_frame("".join(parts[:4])) == f"\x1b[3;4H\x1b[{_DARK}m12\x1b[4;4H34\x1b[0m"
    assert short_frame("\x1b[?2026h") == "\x1b[?2026h"


def test_a_wide_text_covers_only_the_space_behind_it() -> None:
    frame = "\x1b[1;5H\x1b[1mhi 🇩🇪 हिन्दी भाषा x\x1b[0m\x1b[2m         \x1b[0m\x1b[1mend\x1b[0m"
    placed = placed_frame(frame)
    assert _looks(short_frame(frame)) == _looks(placed)
    for width in (cell_len, halves, narrow):
        screen = Emulator(60, 1, width)
        screen.feed("#" * 40 + short_frame(frame))
        shown = screen.rows[0]
        assert shown.startswith("####hi 🇩")
        assert shown[4:].index("end") == cell_len("hi 🇩🇪 हिन्दी भाषा x         ")
        assert "x" in shown
        assert shown.count("#") == 4 + 40 - shown.index("end") - 3


class _App(Painting):
    is_headless = False

    def compose(self) -> ComposeResult:
        yield Static("0123456789" * 2)


async def test_only_marked_cells_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(HeadlessDriver, "write", lambda _, data: sent.append(data))
    app = _App()
    async with app.run_test(size=(20, 2)) as pilot:
        await pilot.pause()
        sent.clear()
        app.query_one(Static).refresh(Region(3, 0, 2, 1), Region(12, 0, 3, 1))
        await pilot.pause()
        frame = "".join(re.findall(r"\x1b\[\d+;\d+H|\d(?![\d;]*[a-zA-Z])", "".join(sent)))
        assert frame.startswith("\x1b[1;4H34\x1b[1;13H234\x1b[")
