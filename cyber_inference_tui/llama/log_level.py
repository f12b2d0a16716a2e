"""Derives the level of a log line from its text.

llama-server marks the level with a letter (``0.00.123.456 I srv …``, common/log.cpp), or names it
in JSON (``--log-jsonl``); the service's own log has a letter, too (``W llama.launcher: …``). Older
builds, compilers, CMake and the servers of other programs only use words. A line without any sign
counts as ``info``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cyber_inference_tui.records.logs import OWN_JSON, OWN_TIME, LogLevel

LEVELS = tuple(LogLevel)
"""By rank: a line's level is stored as its index in this tuple."""

DEBUG, INFO, WARNING, ERROR = range(4)

_BY_SIGN = {
    **dict.fromkeys(("D", "T", "DEBUG", "TRACE"), DEBUG),
    **dict.fromkeys(("I", "INFO", "NOTICE"), INFO),
    **dict.fromkeys(("W", "WARN", "WARNING"), WARNING),
    **dict.fromkeys(("E", "C", "ERROR", "CRITICAL", "FATAL"), ERROR),
    **{"debug": DEBUG, "info": INFO, "warn": WARNING, "error": ERROR},
}

# A sign at the start: a letter, possibly after a time, or a word. "C" must be followed by the name
# of a logger: a sentence about the language C starts with the letter, too.
_SIGN = re.compile(
    rf"(?:{OWN_TIME})?+([DTIWE]) "
    r"|(C) [\w.]+: "
    r"|\[?(DEBUG|TRACE|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|FATAL)\b"
    rf"|{OWN_JSON}"
)

# Most chunks of a llama-server's log match this, in a third of the time that signs take.
_ALL_INFO = re.compile(rf"(?:{OWN_TIME}I [^\n]*+\n)*+")

# Every line that matches a rule below contains one of these words in some case. If a whole chunk of
# lines contains none, the rules need not be tried on each line.
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


def line_ranks(texts: Sequence[str]) -> bytes:
    """Return the level of each line, as its index in ``LEVELS``."""
    if _ALL_INFO.fullmatch("\n".join([*texts, ""])):
        return bytes([INFO]) * len(texts)
    found = list(map(_SIGN.match, texts))
    if None not in found:
        return bytes([_rank(sign) for sign in found if sign is not None])
    folded = "\n".join(texts).lower()
    by_words = _by_words if any(word in folded for word in _WORDS) else lambda _: INFO
    return bytes(
        [
            by_words(text) if sign is None else _rank(sign)
            for text, sign in zip(texts, found, strict=True)
        ]
    )


def _rank(sign: re.Match[str]) -> int:
    return _BY_SIGN.get(sign[sign.lastindex or 0], INFO)


def _by_words(text: str) -> int:
    # If a line has signs of both, a warning wins ("warning: treated as error") unless an error tag
    # is in capitals.
    if _WARNING.search(text):
        return ERROR if _ERROR_TAG.search(text) else WARNING
    if _ERROR.search(text) or _ERROR_TAG.search(text):
        return ERROR
    return WARNING if _WARNING_TAG.search(text) else INFO
