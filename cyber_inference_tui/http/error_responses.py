"""Turns errors into responses, in the shape of the API that was asked.

That is OpenAI's, Anthropic's under ``/v1/messages``, Ollama's under ``/api/``, and llama-server's
own for its router's calls.
"""

from __future__ import annotations

import math
import re
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import hdrs, web
from aiohttp.http_exceptions import (
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)

from cyber_inference_tui.errors import (
    AdminLoginError,
    CyberError,
    InvalidApiKeyError,
    InvalidRequestError,
    MethodNotAllowedError,
    ModelLoadError,
    ModelNotFoundError,
    NotFoundError,
    RateLimitedError,
    RequestTooLargeError,
)
from cyber_inference_tui.records import to_json
from cyber_inference_tui.text import clean_line, clean_text, escaped

SERVER_NAME = "cyber-inference-tui"
"""The header ``Server``, in place of aiohttp's, which tells strangers the versions."""
MAX_TARGET_BYTES = 8190
MAX_FIELD_BYTES = 8192
"""The longest value of a header. It differs from the limit of the target, because aiohttp's parser
reports only the limit that a request exceeds."""
MAX_HEADERS = 128

_MAX_MESSAGE = 64 * 1024
_ANTHROPIC_PATH = re.compile(r"(?:/upstream/.+)?/v1/messages(?:/.*)?")

_PLAIN_IN_OLLAMA: dict[type[CyberError], bytes] = {
    NotFoundError: b"404 page not found",
    MethodNotAllowedError: b"405 method not allowed",
}
"""The errors of Ollama that are plain text."""

_ROUTER_PATHS = frozenset({"/models/load", "/models/unload", "/models/sse"})
# ``format_error_response`` in ``tools/server/server-common.cpp`` of llama.cpp.
_LLAMA_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "unavailable_error",
}
# https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# An error event of a stream: llama-server names it under Anthropic's paths, and sends it without a
# name under OpenAI's.
_ERROR_EVENT = re.compile(
    rb'^(?:event: ?error\r?\ndata: ?|data: ?(?=\{"error"))([^\r\n]*)', re.MULTILINE
)
_ERROR_BEGINNINGS = (b"event: error", b'data: {"error"')
_MAX_HELD = 64 * 1024

RETRY_IN_VAIN = (b"x-should-retry", b"false")
"""The official clients of OpenAI and Anthropic obey this header. Without it they repeat requests
with a status of 408, 409, 429, or 500 and more."""


def speaks_anthropic(path: str) -> bool:
    """Check whether clients of ``path`` expect errors in Anthropic's shape."""
    return _ANTHROPIC_PATH.fullmatch(path) is not None


def speaks_ollama(path: str) -> bool:
    """Check whether clients of ``path`` expect errors in Ollama's shape."""
    return path.startswith("/api/")


def error_body(error: CyberError, path: str) -> bytes:
    """Return ``error`` as JSON, in the shape that a client of ``path`` expects."""
    message = message_of(error)
    if speaks_ollama(path):
        if isinstance(error, ModelNotFoundError):
            # Programs look for Ollama's own words.
            message = clean_text(f"model '{error.name}' not found. {error.hint}".strip())
        return to_json({"error": message})
    if speaks_anthropic(path):
        kind = _anthropic_type(error.status)
        if isinstance(error, ModelLoadError):
            kind = "api_error"
        return to_json(
            {"type": "error", "error": {"type": kind, "message": message, "code": error.code}}
        )
    if path in _ROUTER_PATHS:
        kind = _LLAMA_TYPES.get(error.status, error.type)
        return to_json({"error": {"message": message, "type": kind, "code": error.status}})
    return to_json(
        {
            "error": {
                "message": message,
                "type": error.type,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def _anthropic_type(status: int) -> str:
    default = "invalid_request_error" if status < 500 else "api_error"
    return _ANTHROPIC_TYPES.get(status, default)


def in_anthropic_shape(body: bytes, status: int) -> bytes | None:
    """Return an error of llama-server in Anthropic's shape.

    ``body`` is ``{"error": {"message", "type", "code", …}}``, or only the inner object, as in a
    stream. All fields except the type stay. ``None`` if the body already has this shape, or has no
    message.
    """
    try:
        said: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("type") == "error":
        return None
    error = said.get("error", said)
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 600:
        status = code
    return to_json({"type": "error", "error": {**error, "type": _anthropic_type(status)}})


def in_ollama_shape(body: bytes, status: int) -> bytes:
    """Return an error of a model's server in Ollama's shape: ``{"error": TEXT}``."""
    try:
        said: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = None
    error = said.get("error", said) if isinstance(said, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    if not isinstance(text, str):
        shown = body[:500].decode("utf-8", "replace")
        text = f"The model's server answered with status {status}: {shown}"
    return to_json({"error": clean_text(text[:_MAX_MESSAGE])})


def in_shape_of(path: str, body: bytes, status: int) -> bytes | None:
    """Return an error of a model's server in the shape that clients of ``path`` expect.

    ``None`` if it has this shape, or none that is known.
    """
    if speaks_ollama(path):
        return in_ollama_shape(body, status)
    return in_anthropic_shape(body, status) if speaks_anthropic(path) else None


class ErrorEvents:
    """Puts the error events of a stream into Anthropic's shape, and passes on all other bytes."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the stream, and return the bytes that can be passed on.

        The beginning of a possible error event is held back, up to 64 KiB.
        """
        data, self._held = self._held + data, b""
        start = data.rfind(b"\n\n") + 2 if b"\n\n" in data else data.startswith(b"\n")
        last = data[start:]
        if 0 < len(last) <= _MAX_HELD and any(
            last.startswith(one) or one.startswith(last) for one in _ERROR_BEGINNINGS
        ):
            data, self._held = data[:start], last
        return self._translated(data)

    def rest(self) -> bytes:
        """Return the bytes held back, at the end of the stream."""
        data, self._held = self._held, b""
        return self._translated(data)

    @staticmethod
    def _translated(data: bytes) -> bytes:
        if not any(one in data for one in _ERROR_BEGINNINGS):
            return data

        def event(found: re.Match[bytes]) -> bytes:
            error = in_anthropic_shape(found[1], 500)
            return found[0] if error is None else b"event: error\ndata: %b" % error

        return _ERROR_EVENT.sub(event, data)


def message_of(error: CyberError) -> str:
    """Return the message for users: the sentence, the hint, and a failed load's last log lines."""
    message = str(error)
    if isinstance(error, ModelLoadError) and error.log_tail:
        message = "\n".join((message, *error.log_tail))
    # The message may quote the request.
    message = clean_text(message)
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]}…"
    return message


def error_response(
    error: CyberError, path: str, *, kind: type[web.Response] = web.Response
) -> web.Response:
    """Return ``error`` as a response."""
    headers = {"X-Content-Type-Options": "nosniff"}
    if error.permanent:
        name, value = RETRY_IN_VAIN
        headers[name.decode()] = value.decode()
    elif error.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, InvalidApiKeyError | AdminLoginError):
        headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="cyber-inference"'
    elif isinstance(error, MethodNotAllowedError) and error.allow:
        headers[hdrs.ALLOW] = ", ".join(error.allow)
    elif isinstance(error, RateLimitedError):
        headers.update(error.left)
    body, content_type = error_body(error, path), "application/json"
    if speaks_ollama(path) and type(error) in _PLAIN_IN_OLLAMA:
        body, content_type = _PLAIN_IN_OLLAMA[type(error)], "text/plain"
    return kind(body=body, status=error.status, content_type=content_type, headers=headers)


def error_event(error: CyberError, path: str) -> bytes:
    """Return ``error`` as the last event of a stream."""
    return as_event(error_body(error, path), path)


def as_event(body: bytes, path: str) -> bytes:
    """Return the JSON of an error as the last event of a stream."""
    if speaks_ollama(path):
        return body + b"\n"
    return b"%bdata: %b\n\n" % (b"event: error\n" if speaks_anthropic(path) else b"", body)


def internal_error() -> CyberError:
    """Return the error that a client gets for a defect of the service. Details are in the log."""
    return CyberError("The service failed to answer this request.", hint="Its log says why.")


class BrokenBodyError(InvalidRequestError):
    """The request's body cannot be read to its end, so the connection cannot be used again."""


class TargetTooLongError(InvalidRequestError):
    """The request's path and query are longer than ``MAX_TARGET_BYTES``."""

    code = "uri_too_long"
    status = 414


class HeadTooLargeError(InvalidRequestError):
    """A header is longer than ``MAX_FIELD_BYTES``, or there are more than ``MAX_HEADERS``."""

    code = "headers_too_large"
    status = 431


class HttpError(CyberError):
    """An error with a status of its own: one of the HTTP protocol, or as another API has it."""

    type = "invalid_request_error"

    def __init__(self, message: str, status: int, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status  # type: ignore[misc] # one class for the many statuses of HTTP
        self.code = HTTPStatus(status).name.lower()  # type: ignore[misc]


def from_http_exception(error: web.HTTPException, method: str, path: str) -> CyberError:
    """Return the ``CyberError`` for an exception of aiohttp."""
    if isinstance(error, web.HTTPNotFound):
        return NotFoundError(f"There is no endpoint {escaped(path)}.")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = tuple(sorted(error.allowed_methods))
        return method_not_allowed(method, path, allow)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return RequestTooLargeError("The request's body is too large.")
    if error.status == 400:
        return InvalidRequestError(error.text or "The request is malformed.")
    return HttpError(error.reason, error.status)


def method_not_allowed(method: str, path: str, allow: tuple[str, ...]) -> MethodNotAllowedError:
    """Return the error for a method that the path does not have."""
    return MethodNotAllowedError(
        f"{escaped(path)} takes {' or '.join(allow)}, not {method}.", allow=allow
    )


def from_parser(error: BaseException | None) -> CyberError:
    """Return the error for invalid HTTP. The message repeats nothing of the request."""
    text = "it cannot be parsed"
    match error:
        case LineTooLong(args=(_, limit, *_)) if limit == MAX_TARGET_BYTES:
            return TargetTooLongError(
                f"The request's target is longer than {MAX_TARGET_BYTES} bytes."
            )
        case LineTooLong():
            return HeadTooLargeError(
                f"A header of the request is longer than {MAX_FIELD_BYTES} bytes.",
                hint="Perhaps the client sends cookies of other services.",
            )
        case InvalidHeader():
            text = "a header has invalid characters"
        case InvalidURLError():
            text = "its target is not a URL"
        case BadHttpMethod(message=message) if "HTTPS" in message:
            text = "it is TLS, and this port speaks plain HTTP: use http://"
        case BadStatusLine(message=message) if message.startswith("Bad status line"):
            text = "its first line is not one of HTTP"
        case HttpProcessingError(message=message) if message.startswith("Too many headers"):
            return HeadTooLargeError(f"The request has more than {MAX_HEADERS} headers.")
        case HttpProcessingError(message=message):
            # The parser's message; its further lines quote the request.
            first = clean_line(message.strip().split("\n")[0], limit=200)
            text = first.rstrip(" .:") or text
    return InvalidRequestError(f"The request is not valid HTTP: {text}.")
