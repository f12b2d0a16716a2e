"""Turn the hub's refusals into errors with a sentence and a way out.

The headers ``X-Error-Code`` and ``X-Error-Message`` are read as in the hub's own client library:
https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/utils/_http.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import (
    HubError,
    HubGatedError,
    HubNotFoundError,
    HubRateLimitError,
    HubTokenError,
    HubUnreachableError,
)
from cyber_inference_tui.hub.endpoint import PUBLIC_HUB, HubEndpoint
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import duration_text

MAX_WAIT = 900.0
"""Seconds: a longer wait that a hub asks for is cut to this."""

MAX_REASON = 8192
"""Bytes of an answer's body in which ``hub_error`` looks for a reason."""

_RESET = re.compile(r";\s*t=(\d{1,9})\b")
_BAD_TOKEN = re.compile(r"invalid credentials|invalid user token|expired", re.IGNORECASE)


class _Body(msgspec.Struct):
    error: str


def hub_error(
    status: int,
    headers: Mapping[str, str],
    *,
    endpoint: HubEndpoint,
    repo: str = "",
    revision: str = "",
    path: str = "",
    body: bytes = b"",
    now: datetime | None = None,
) -> HubError:
    """Return the error for an answer of the hub with ``status`` 400 or more.

    ``headers`` has case-insensitive names; ``body`` is the beginning of the body, where some
    mirrors put the reason. The request carried the token of ``endpoint`` and asked for the file
    ``path`` of ``repo`` at ``revision``; an empty ``repo`` means a search. ``now`` is compared with
    a ``Retry-After`` date.
    """
    url, code = endpoint.url, headers.get("X-Error-Code", "")
    said = _reason(headers, body)
    because = f": {said}" if said else ""
    page = f"{url}/{repo}"
    token = f"the token from {endpoint.token_source}" if endpoint.token else ""
    if status == 429:
        wait = wait_seconds(headers, now=now)
        again = "" if wait is None else f"; try again in {duration_text(wait)}"
        return HubRateLimitError(
            f"{url} has reached its rate limit{again}.",
            hint="" if token else "A token (hf_token) raises the limit.",
            retry_after=wait,
        )
    if status >= 500 or status == 408:
        return HubUnreachableError(
            f"{url} has failed (status {status}{because}).",
            retry_after=wait_seconds(headers, now=now),
        )
    if said == "Access to this resource is disabled":
        return HubGatedError(
            f"{url} has disabled {repo or 'this page'}.", hint=f"See {page} for the reason."
        )
    # Without a token a 401 only says that a login is needed: the public hub answers this for every
    # repository that does not exist, whatever reason it gives.
    hidden = code in {"GatedRepo", "RepoNotFound"}
    if status == 401 and token and (not hidden or _BAD_TOKEN.search(said)):
        return HubTokenError(
            f"{url} says that {token} is not valid{because}.",
            hint="Put a valid one there, or remove it.",
        )
    if code == "GatedRepo" and status == 401:
        then = f"check {token}" if token else "set hf_token"
        return HubGatedError(
            f"{repo} is gated.", hint=f"Accept its licence at {page}, then {then}."
        )
    if code == "GatedRepo":
        return HubGatedError(
            f"{_capital(token or 'this address')} has no access to {repo} yet{because}.",
            hint=f"Request it at {page}.",
        )
    if code == "EntryNotFound":
        return HubNotFoundError(
            f"{repo} has no file {path or 'of this name'}.", hint=f"Its files are at {page}."
        )
    if code == "RevisionNotFound":
        return HubNotFoundError(
            f"{repo} has no revision {revision or 'of this name'}, or it is gone.",
            hint=f"Its branches and tags are at {page}.",
        )
    if repo and (code == "RepoNotFound" or status in {401, 404}):
        what = f"{path} of {repo}" if path and not code else repo
        check = "the name and hf_endpoint" if url != PUBLIC_HUB and not code else "the name"
        return HubNotFoundError(
            f"{what} was not found at {url}, or it is private.",
            hint=f"Check {check}, and that {token} is valid and may read it."
            if token
            else f"Check {check}; a private one needs hf_token.",
        )
    if status == 401:
        return HubTokenError(f"{url} answers only with a token{because}.", hint="Set hf_token.")
    if not repo and not said:
        return HubError(
            f"{url} does not answer like a model hub (status {status}).", hint="Check hf_endpoint."
        )
    if status == 403:
        rights = f"; what {token} may read is set there, too" if token else ""
        return HubGatedError(
            f"{url} refuses {repo or 'this search'}{because}.", hint=f"See {page}{rights}."
        )
    return HubError(f"{url} answers with status {status}{because}.")


def _reason(headers: Mapping[str, str], body: bytes) -> str:
    """Return the hub's own reason from the header, else from the JSON body; it may be empty."""
    text: object = headers.get("X-Error-Message", "")
    if not text:
        try:
            text = msgspec.json.decode(body, type=thread_safe(_Body)).error
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return ""
    return clean_line(str(text), limit=300).strip().rstrip(".")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def wait_seconds(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Return the seconds the hub asks to wait: ``Retry-After``, else the ``t`` of ``RateLimit``.

    https://www.rfc-editor.org/rfc/rfc9110#name-retry-after and
    https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), MAX_WAIT)
    if text:
        try:
            seconds = (parsedate_to_datetime(text) - (now or datetime.now(UTC))).total_seconds()
        except (TypeError, ValueError, OverflowError):
            pass
        else:
            return min(max(seconds, 0.0), MAX_WAIT)
    reset = _RESET.search(headers.get("RateLimit", ""))
    return min(float(reset[1]), MAX_WAIT) if reset else None
