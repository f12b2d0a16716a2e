"""How serious a log line is, read from the line itself.

llama-server tells it by a letter (``0.00.123.456 I srv …``, common/log.cpp), and so does the
service's own log (``W llama.launcher: …``). Older builds, compilers, CMake and other
programs' servers have only their words; a line without any sign counts as ``info``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cyber_inference_tui.records import LogLevel

LEVELS = tuple(LogLevel)
"""By rank: a line's level is kept as its place in here."""

DEBUG, INFO, WARNING, ERROR = range(4)

_BY_SIGN = {
    **dict.fromkeys(("D", "T", "DEBUG", "TRACE"), DEBUG),
    **dict.fromkeys(("I", "INFO", "NOTICE"), INFO),
    **dict.fromkeys(("W", "WARN", "WARNING"), WARNING),
    **dict.fromkeys(("E", "C", "ERROR", "CRITICAL", "FATAL"), ERROR),
}

# A sign at the beginning: a letter, behind a time or not, or a word. "C" needs a logger's name
# behind it, because a sentence about the language begins with it, too.
_SIGN = re.compile(
    r"(?:\d+\.\d\d\.\d{3}\.\d{3} )?([DTIWE]) "
    r"|(C) [\w.]+: "
    r"|\[?(DEBUG|TRACE|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|FATAL)\b"
)

# Every line that one of the rules below finds has one of these in it, in any case: where none is
# in a whole chunk of lines, the rules need not be tried on each.
_WORDS = (
    *("warn", "error", "fail", "fatal", "abort", "assert", "terminate", "fault", "traceback"),
    *("exception", "***"),
)

_ERROR = re.compile(
    r"(?:^|: )error\b|\berror:|^cmake error|\bcuda error\b|^traceback \(most recent"
    r"|\bfatal\b(?: error)?:|^(?:ggml|llama|gguf)_\w+: .*\bfailed\b|\bfailed to\b|^failed:"
    r"|ggml_assert|^terminate called|\bsegmentation fault\b|^\w+\[?\d*\]?: \*\*\*|\baborted\b"
    r"|^[\w.]*(?:error|exception): ",
    re.IGNORECASE | re.ASCII,
)
_ERROR_TAG = re.compile(r"\b(?:ERROR|CRITICAL|FATAL)\b")
_WARNING = re.compile(
    r"\bwarning:|^warn(?:ing)?\b|: warn(?:ing)?\b|^cmake (?:\w+ )?warning", re.I | re.A
)
_WARNING_TAG = re.compile(r"\bWARN(?:ING)?\b")


def line_level(text: str) -> LogLevel:
    """The level that ``text`` tells of."""
    return LEVELS[line_ranks([text])[0]]


def line_ranks(texts: Sequence[str]) -> bytes:
    """The level of each line, as its place in ``LEVELS``."""
    found = list(map(_SIGN.match, texts))
    if None not in found:
        return bytes([_BY_SIGN[sign[sign.lastindex or 0]] for sign in found if sign is not None])
    folded = "\n".join(texts).lower()
    by_words = _by_words if any(word in folded for word in _WORDS) else lambda _: INFO
    return bytes(
        [
            by_words(text) if sign is None else _BY_SIGN[sign[sign.lastindex or 0]]
            for text, sign in zip(texts, found, strict=True)
        ]
    )


def _by_words(text: str) -> int:
    # Where both are told, the first rule that is sure decides: "warning: treated as error" is one.
    if _WARNING.search(text):
        return ERROR if _ERROR_TAG.search(text) else WARNING
    if _ERROR.search(text) or _ERROR_TAG.search(text):
        return ERROR
    return WARNING if _WARNING_TAG.search(text) else INFO
