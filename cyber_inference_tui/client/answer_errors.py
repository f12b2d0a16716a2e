"""Turns errors in answers back into the exceptions of this program."""

from __future__ import annotations

from typing import Any

import msgspec

from cyber_inference_tui import errors
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import (
    CyberError,
    ModelLoadError,
    NoServiceError,
    NotFoundError,
    QueueFullError,
)
from cyber_inference_tui.text import clean_line

MESSAGE_LINES = 200
"""The most lines of an error message: the reason, then the last log lines of a failed load."""


def _classes() -> dict[str, type[CyberError]]:
    """Map each code to its class, or to the first one defined if several share a code."""
    found: dict[str, type[CyberError]] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, CyberError) and kind is not CyberError:
            found.setdefault(kind.code, kind)
    return found


_CLASSES = _classes()


class _ErrorBody(msgspec.Struct):
    message: str
    code: str | None = None
    param: str | None = None


class _ErrorAnswer(msgspec.Struct):
    error: _ErrorBody


def error_from_answer(url: str, status: int, headers: Any, body: bytes) -> CyberError:
    """Return the exception for an answer with ``status`` (400 or more) and ``body``.

    ``headers`` is a mapping with case-insensitive names, from which ``Retry-After`` is read. If the
    body does not have this program's shape, another program listens at ``url``:
    ``NoServiceError``.
    """
    try:
        answer = msgspec.json.decode(body, type=thread_safe(_ErrorAnswer)).error
    except msgspec.MsgspecError:
        return NoServiceError(
            f"Another program answers at {url} (HTTP {status}).",
            hint="Check --host and --port, or stop the other program.",
        )
    lines = [clean_line(line) for line in answer.message.splitlines()[:MESSAGE_LINES]]
    text = "\n".join(lines).strip()
    kind = _CLASSES.get(answer.code or "")
    if kind is ModelLoadError:
        return ModelLoadError(lines[0] if lines else "", log_tail=tuple(lines[1:]))
    if kind is QueueFullError:
        seconds = headers.get("retry-after", "")
        return QueueFullError(text, retry_after=int(seconds) if seconds.isdecimal() else 1)
    if kind is None:
        kind = NotFoundError if status == 404 else CyberError
    error = kind(text, param=answer.param)
    seconds = headers.get("retry-after", "")
    error.retry_after = float(seconds) if seconds.isdecimal() else None
    return error


def error_from_event(data: bytes) -> CyberError:
    """Return the exception for an error event of a stream (``data: {"error": …}``)."""
    try:
        answer = msgspec.json.decode(data, type=thread_safe(_ErrorAnswer)).error
    except msgspec.MsgspecError:
        return CyberError("The answer ended with an error that cannot be decoded.")
    kind = _CLASSES.get(answer.code or "", CyberError)
    if kind in {ModelLoadError, QueueFullError}:
        kind = CyberError
    return kind(clean_line(answer.message))
