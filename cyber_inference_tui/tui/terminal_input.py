"""Reduces the bytes that a terminal sends to what Textual's parser can read.

Textual decodes input as strict UTF-8 and raises on several sequences that terminals do send: bytes
of another encoding, mouse reports of the old protocol, key releases of the kitty protocol. It
types sequences that it does not know into the focused field. ``InputFilter`` drops all of these.

Sequences: https://invisible-island.net/xterm/ctlseqs/ctlseqs.html,
keys: https://sw.kovidgoyal.net/kitty/keyboard-protocol/
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS

_MAX_SEQUENCE = 96
"""Bytes of the longest control sequence that is read. A longer one is dropped."""
_MAX_STRING = 4096
"""Bytes of the longest control string (an answer to a query) that is skipped as a whole."""
_MAX_CODEPOINT = 0x10FFFF
_KEY_RELEASE = "3"

_PASTE_BEGIN = b"\x1b[200~"
_PASTE_END = b"\x1b[201~"
_CSI = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")
_CSI_BEGIN = re.compile(rb"\x1b\[[0-?]*[ -/]*")
_STRING_BEGIN = re.compile(rb"\x1b(?:\]\d|P[\d>!+|=$]|_G)")
_STRING_END = re.compile(rb"\x07|\x1b\\")
_UNUSUAL_KEYS = tuple(
    key.encode() for key in ANSI_SEQUENCES_KEYS if re.fullmatch(r"\x1b\[(\[.|\d+\$)", key)
)
"""Keys of the Linux console and of rxvt, whose sequences break the rules."""
_OLD_MOUSE = b"\x1b[M"
_OLD_MOUSE_BYTES = 6
_EIGHT_BIT = re.compile("\udc9b[0-?]*[ -/]*[@-~]|[\udc80-\udcff]")

_KEY = re.compile(r"\x1b\[([\d:]*)(?:;([\d:]*))?(?:;([\d:]*))?([u~ABCDEFHPQRS])")
_OTHER = re.compile(
    r"\x1b\[(?:[IO]|20[01]~"  # focus, paste
    r"|<\d{1,6};-?\d{1,6};-?\d{1,6}[Mm]"  # mouse
    r"|\?2026;\d\$y"  # whether it draws whole frames
    r"|\d{1,6};\d{1,6}R)"  # the cursor's position
)


class InputFilter:
    """Turn bytes of a terminal into text that Textual's parser reads without an error.

    Sequences and characters may be split between reads; ``feed`` keeps an unfinished one until its
    rest comes, or until ``flush``.
    """

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._held = b""
        self._pasting = False

    def feed(self, data: bytes) -> str:
        """Return the readable text of ``data`` and of what an earlier read left unfinished."""
        data, self._held = self._held + data, b""
        parts: list[str] = []
        while data:
            taken, part = self._pasted(data) if self._pasting else self._typed(data)
            parts.append(part)
            data = data[taken:]
            if not taken:
                self._held = data
                break
        return "".join(parts)

    def flush(self) -> str:
        """Return the unfinished text after a pause: a lone escape is a key."""
        held, self._held = self._held, b""
        if self._pasting or len(held) > 2:
            return ""
        return held.decode("ascii", "ignore")

    def _typed(self, data: bytes) -> tuple[int, str]:
        """Return the number of bytes used of ``data``, and their text."""
        start = data.find(b"\x1b")
        if start:
            end = len(data) if start < 0 else start
            return end, self._text(data[:end])
        if len(data) == 1:
            return 0, ""
        if data.startswith(_OLD_MOUSE):
            return (_OLD_MOUSE_BYTES if len(data) >= _OLD_MOUSE_BYTES else 0), ""
        if data.startswith(b"\x1b["):
            return self._sequence(data)
        if _STRING_BEGIN.match(data):
            if match := _STRING_END.search(data):
                return match.end(), ""
            return (len(data) if len(data) > _MAX_STRING else 0), ""
        return 1, "\x1b"

    def _sequence(self, data: bytes) -> tuple[int, str]:
        for key in _UNUSUAL_KEYS:
            if data.startswith(key):
                return len(key), key.decode()
        if data == b"\x1b[[":
            return 0, ""
        match = _CSI.match(data)
        if match is None:
            begun = _CSI_BEGIN.match(data)
            end = begun.end() if begun else len(data)
            return (0 if end == len(data) <= _MAX_SEQUENCE else end), ""
        if match.end() > _MAX_SEQUENCE:
            return match.end(), ""
        sequence = match.group().decode("ascii")
        self._pasting = match.group() == _PASTE_BEGIN
        return match.end(), readable_sequence(sequence)

    def _pasted(self, data: bytes) -> tuple[int, str]:
        """Do the same as ``_typed`` inside a paste, where an escape begins no sequence."""
        end = data.find(_PASTE_END)
        if end == 0:
            self._pasting = False
            return len(_PASTE_END), _PASTE_END.decode()
        if end < 0:
            # An end that is split between two reads begins in the last bytes.
            end = data.find(b"\x1b", max(0, len(data) - len(_PASTE_END) + 1))
            if end == 0 and not _PASTE_END.startswith(data):
                end = 1
            if end < 0:
                end = len(data)
        return end, self._text(data[:end].replace(b"\x1b", b""))

    def _text(self, data: bytes) -> str:
        return _EIGHT_BIT.sub("", self._decoder.decode(data))


def readable_sequence(sequence: str) -> str:
    """Return the control sequence in a form that Textual reads; empty, if it has none."""
    if sequence in ANSI_SEQUENCES_KEYS or _OTHER.fullmatch(sequence):
        return sequence
    if (match := _KEY.fullmatch(sequence)) is None:
        return ""
    codes, modifiers, text, final = match.groups(default="")
    code = codes.partition(":")[0]  # without the codes of other keyboard layouts
    modifier, _, event = modifiers.partition(":")
    if event == _KEY_RELEASE or not all(
        _is_character(number) for number in [code, *text.split(":")] if number
    ):
        return ""
    if modifier and not 0 < int(modifier) <= 256:
        return ""
    fields = [code, modifier, text]
    while fields and not fields[-1]:
        fields.pop()
    return f"\x1b[{';'.join(fields)}{final}"


def _is_character(number: str) -> bool:
    return int(number) <= _MAX_CODEPOINT and not 0xD800 <= int(number) <= 0xDFFF
