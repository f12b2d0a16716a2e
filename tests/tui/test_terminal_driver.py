from __future__ import annotations

from rich.cells import cell_len

from cyber_inference_tui.tui.terminal_driver import placed_frame
from tests.terminal.emulator import Emulator, halves, narrow


def test_a_wide_text_covers_only_the_space_behind_it() -> None:
    frame = "\x1b[1;5H\x1b[1mhi 🇩🇪 हिन्दी भाषा x\x1b[0m\x1b[2m         \x1b[0m\x1b[1mend\x1b[0m"
    for width in (cell_len, halves, narrow):
        screen = Emulator(60, 1, width)
        screen.feed("#" * 40 + placed_frame(frame))
        shown = screen.rows[0]
        assert shown.startswith("####hi 🇩")
        assert shown[4:].index("end") == cell_len("hi 🇩🇪 हिन्दी भाषा x         ")
        assert "x" in shown
        assert shown.count("#") == 4 + 40 - shown.index("end") - 3
