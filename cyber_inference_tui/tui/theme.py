"""The two themes: one accent colour, three meanings (good, busy, bad), else shades of text.

Textual's own themes work as well, because all colours in the program are theme variables:
``$accent``, ``$success`` (good), ``$warning`` (busy), ``$error`` (bad), ``$foreground`` and
``$text-muted``.
"""

from __future__ import annotations

from collections.abc import Mapping

from textual.theme import Theme

DARK = Theme(
    name="cyber-dark",
    dark=True,
    primary="#4fb6c8",
    secondary="#4fb6c8",
    accent="#4fb6c8",
    success="#7cc36e",
    warning="#e3b04b",
    error="#e8697a",
    foreground="#d3d9df",
    background="#101418",
    surface="#161b21",
    panel="#1e252d",
    variables={
        "block-cursor-text-style": "none",
        "input-selection-background": "#4fb6c8 35%",
        "scrollbar": "#2a333d",
        "scrollbar-background": "#101418",
        "scrollbar-corner-color": "#101418",
        "text-muted": "#8a96a1",
        "border": "#2a333d",
    },
)

LIGHT = Theme(
    name="cyber-light",
    dark=False,
    primary="#0a6c82",
    secondary="#0a6c82",
    accent="#0a6c82",
    success="#2b7a2f",
    warning="#8f5d00",
    error="#b3243b",
    foreground="#1f2429",
    background="#fafaf8",
    surface="#f0f0ec",
    panel="#e4e5e0",
    variables={
        "block-cursor-text-style": "none",
        "input-selection-background": "#0a6c82 30%",
        "scrollbar": "#d0d2cc",
        "scrollbar-background": "#fafaf8",
        "scrollbar-corner-color": "#fafaf8",
        "text-muted": "#5d666e",
        "border": "#cfd2cc",
    },
)

THEMES = (DARK, LIGHT)
DEFAULT = DARK.name


def theme_for(environ: Mapping[str, str]) -> str:
    """Return the light theme if ``COLORFGBG`` ends with 7 or 15 (white), else the dark one.

    rxvt, Konsole and others set it; its last part is the number of the background colour.
    """
    background = environ.get("COLORFGBG", "").rpartition(";")[2]
    return LIGHT.name if background in {"7", "15"} else DARK.name
