"""Removes harmful characters from outside text: logs, names, output of children, hub texts.

Terminals obey escape sequences, C1 controls and bidirectional overrides in any text. All text from
outside passes ``clean_line`` where it enters the program.
"""

from __future__ import annotations

import re

# Whole ESC sequences (CSI, OSC/DCS/PM/APC up to their terminator, two-byte escapes), so that no
# remains such as "[31m" are left; then single controls and bidi marks.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
_CONTROLS = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
    "\ud800-\udfff]"
)
_VERSION = re.compile(r"(?<=.)/v?\d[^/]*\Z", re.IGNORECASE)
_LONGEST_PROGRAM = 40
_PRINTABLE = bytes(range(0x20, 0x7F))

MAX_CHARACTERS = 4096
"""The maximum number of characters of a line; longer lines are cut."""


def clean_line(text: str, *, limit: int = MAX_CHARACTERS) -> str:
    """Return ``text`` as a line without escape sequences, controls or bidi marks; tabs are spaces.

    ``limit`` is in characters; a cut line ends with ``… (+N characters)``.
    """
    # Fast path: most lines are printable, which a single call in C checks.
    if not text.isprintable():
        if "\x1b" in text or "\x9b" in text:
            text = _ESCAPES.sub("", text)
        text = _CONTROLS.sub("", text).replace("\t", "    ")
    if len(text) > limit:
        text = f"{text[:limit]}… (+{len(text) - limit} characters)"
    return text


def program(user_agent: str) -> str:
    """Return the program of a ``User-Agent``: its first product without a version, or ``browser``.

    All browsers call themselves ``Mozilla/5.0``.
    """
    first = user_agent.split(" ", 1)[0]
    if first.startswith("Mozilla/"):
        return "browser"
    return _VERSION.sub("", first)[:_LONGEST_PROGRAM]


def escaped(text: str, *, limit: int = MAX_CHARACTERS) -> str:
    """Return a typed text as a line: what ``clean_line`` removes is shown, as ``\\n``."""
    shown = _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return clean_line(shown, limit=limit)


def escaped_json(text: str) -> str:
    """Return JSON in which what ``clean_line`` removes is escaped, except line ends.

    Its values stay the same.
    """
    return _CONTROLS.sub(
        lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text
    )


def clean_text(text: str, *, limit: int = 1_000_000) -> str:
    """Clean each line of ``text`` with ``clean_line``; ``limit`` is in characters."""
    if text.isprintable() and len(text) <= limit:
        return text
    return "\n".join(clean_line(line, limit=limit) for line in text[:limit].split("\n"))


def clean_lines(lines: list[str]) -> list[str]:
    """Clean each line; fast for many lines without anything to remove."""
    # Passes in C over all lines replace a call for each. The one for ASCII is six times as fast.
    text = "".join(lines)
    if text.isascii():
        printable = not text.encode().translate(None, _PRINTABLE)
    else:
        printable = text.isprintable()
    if printable and max(map(len, lines), default=0) <= MAX_CHARACTERS:
        return lines
    return [clean_line(line) for line in lines]
