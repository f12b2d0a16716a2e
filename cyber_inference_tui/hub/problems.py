"""What the hub's refusals mean, as errors with a sentence and a way out.

Its answers carry ``X-Error-Code`` and ``X-Error-Message``, as its own client library reads them:
https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/utils/_http.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cyber_inference_tui.errors import (
    HubError,
    HubGatedError,
    HubNotFoundError,
    HubRateLimitError,
    HubTokenError,
    HubUnreachableError,
)
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import duration_text

MAX_WAIT = 900.0
"""Seconds: no hub makes anyone wait longer for the next try."""

_TOKEN_HINT = "Set hf_token to a valid one, or remove it."  # noqa: S105 - a sentence
_RESET = re.compile(r";\s*t=(\d{1,9})\b")


def hub_error(
    status: int,
    headers: Mapping[str, str],
    *,
    endpoint: str,
    repo: str,
    path: str = "",
    now: datetime | None = None,
) -> HubError:
    """The error that an answer with ``status`` (400 or more) of the hub stands for.

    ``headers`` has case-insensitive names; ``repo`` and ``path`` are what was asked for; ``now``
    is compared with a ``Retry-After`` that is a date.
    """
    code = headers.get("X-Error-Code", "")
    said = clean_line(headers.get("X-Error-Message", ""), limit=300).strip().rstrip(".")
    page = f"{endpoint.rstrip('/')}/{repo}"
    if status == 429:
        wait = wait_seconds(headers, now=now)
        again = "" if wait is None else f", again in {duration_text(wait)}"
        return HubRateLimitError(
            f"{endpoint} takes no more requests for now{again}.",
            hint="A token (hf_token) raises the limit.",
            retry_after=wait,
        )
    if status >= 500 or status == 408:
        return HubUnreachableError(
            f"{endpoint} has a failure of its own (status {status}{': ' + said if said else ''}).",
            retry_after=wait_seconds(headers, now=now),
        )
    if code == "GatedRepo" and status == 401:
        return HubGatedError(
            f"{repo} is gated.", hint=f"Accept its licence at {page}, then set hf_token."
        )
    if code == "GatedRepo":
        return HubGatedError(
            f"This token has no access to {repo} yet.", hint=f"Request it at {page}."
        )
    if status == 401 and "invalid" in said.lower():
        return HubTokenError(f"{endpoint} says the token is not valid.", hint=_TOKEN_HINT)
    if code == "EntryNotFound":
        return HubNotFoundError(
            f"{repo} has no file {path or 'of this name'}.", hint="Look at its list of files again."
        )
    if code == "RevisionNotFound":
        return HubNotFoundError(
            f"The version of {repo} that was asked for is gone.",
            hint="Look at its list of files again.",
        )
    if code == "RepoNotFound" or status in {401, 404}:
        return HubNotFoundError(
            f"There is no {repo} at {endpoint}, or it is private.",
            hint="Check the name; a private one needs hf_token.",
        )
    if status == 403:
        return HubGatedError(
            f"{endpoint} refuses {repo}{': ' + said if said else ''}.",
            hint=f"See {page}; what hf_token may read is set there, too.",
        )
    return HubError(f"{endpoint} answers with status {status}{': ' + said if said else ''}.")


def wait_seconds(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """How long the hub asks to wait: ``Retry-After``, else the ``t`` of ``RateLimit``.

    https://www.rfc-editor.org/rfc/rfc9110#name-retry-after and, for the latter,
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
