"""Escape sequences for the desktop behind a terminal: notices, the window's title, progress."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cyber_inference_tui.text import clean_line

_SILENT = frozenset({"", "dumb", "linux"})
_SILENT_FAMILIES = ("vt", "screen")
_SHOWS_PROGRESS = frozenset({"ghostty", "WezTerm"})
_FIRST_VTE_WITH_PROGRESS = 7900
_PROGRESS_FEATURE = re.compile(r"P(?![a-z])")
"""iTerm2's list of features, where each is a capital letter with small ones."""
_NOTICE_CHARACTERS = 200
_TITLE_CHARACTERS = 80


@dataclass(frozen=True)
class Desktop:
    """The sequences that a terminal understands.

    Unknown ones do no harm, with one exception: some terminals show progress as a notice, so only
    those get it that are known to have it.
    """

    notices: bool
    """OSC 777, and the window's title."""
    plain_notices: bool
    """OSC 9, for iTerm2."""
    progress: bool
    """OSC 9;4 (ConEmu's)."""
    tmux: bool
    """tmux passes notices on if its ``allow-passthrough`` is on."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Desktop:
        """Return what the terminal of ``environ`` understands."""
        term = environ.get("TERM", "")
        program = environ.get("TERM_PROGRAM", "")
        tmux = "TMUX" in environ
        silent = not tmux and (term in _SILENT or term.startswith(_SILENT_FAMILIES))
        vte = environ.get("VTE_VERSION", "")
        progress = (
            program in _SHOWS_PROGRESS
            or term == "xterm-ghostty"
            or "WT_SESSION" in environ
            or environ.get("ConEmuANSI") == "ON"
            or _PROGRESS_FEATURE.search(environ.get("TERM_FEATURES", "")) is not None
            or (vte.isdecimal() and int(vte) >= _FIRST_VTE_WITH_PROGRESS)
        )
        # ssh passes iTerm2's LC_TERMINAL on.
        iterm = "iTerm.app" in program or environ.get("LC_TERMINAL") == "iTerm2"
        return cls(
            notices=not silent,
            plain_notices=iterm,
            progress=progress and not silent and not tmux,
            tmux=tmux,
        )

    def notice(self, title: str, text: str) -> str:
        """Return the sequence that shows a notice."""
        if not self.notices:
            return ""
        # The title ends at a semicolon.
        title = clean_line(title, limit=_TITLE_CHARACTERS).replace(";", ",")
        text = clean_line(text, limit=_NOTICE_CHARACTERS)
        if self.plain_notices:
            sequence = f"\x1b]9;{title}: {text}\x07"
        else:
            sequence = f"\x1b]777;notify;{title};{text}\x07"
        doubled = sequence.replace("\x1b", "\x1b\x1b")
        return f"\x1bPtmux;{doubled}\x1b\\" if self.tmux else sequence

    def title(self, text: str) -> str:
        """Return the sequence that sets the window's title."""
        return f"\x1b]2;{clean_line(text, limit=_TITLE_CHARACTERS)}\x07" if self.notices else ""

    @property
    def keep_title(self) -> str:
        """The sequence that remembers the title that the window has."""
        return "\x1b[22;2t" if self.notices else ""

    @property
    def restore_title(self) -> str:
        """The sequence that brings the remembered title back."""
        return "\x1b[23;2t" if self.notices else ""

    def progress_bar(self, percent: int | None) -> str:
        """Return the sequence that shows progress; ``None`` takes it away."""
        if not self.progress:
            return ""
        return "\x1b]9;4;0;0\x07" if percent is None else f"\x1b]9;4;1;{percent}\x07"
