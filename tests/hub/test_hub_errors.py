"""The errors for the hub's refusals, by recorded and likely answers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from multidict import CIMultiDict

from cyber_inference_tui.errors import (
    HubError,
    HubGatedError,
    HubNotFoundError,
    HubRateLimitError,
    HubTokenError,
    HubUnreachableError,
)
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.hub_errors import MAX_WAIT, hub_error

HUB = HubEndpoint(url="https://huggingface.co")
TOKEN = HubEndpoint(url="https://huggingface.co", token="hf_x", token_source="HF_TOKEN")
MIRROR = HubEndpoint(url="https://mirror.example/hf")

LOGIN = {"x-error-message": "Invalid username or password."}
CREDENTIALS = {"x-error-message": "Invalid credentials in Authorization header"}
NO_REPO = {"x-error-code": "RepoNotFound", "x-error-message": "Repository not found"}
NO_ENTRY = {"x-error-code": "EntryNotFound", "x-error-message": "Entry not found"}
NO_REVISION = {"x-error-code": "RevisionNotFound", "x-error-message": "Invalid rev id: dev"}
GATED = {
    "x-error-code": "GatedRepo",
    "x-error-message": "Access to model o/n is restricted. You must be authenticated to access it.",
}
RIGHTS = {
    "x-error-message": "Please enable access to public gated repositories in your fine-grained"
    " token settings to view this repository."
}
DISABLED = {"x-error-message": "Access to this resource is disabled."}
HTML = b"<!doctype html><html><title>404</title></html>"


@pytest.mark.parametrize(
    ("endpoint", "status", "headers", "body", "kind", "words"),
    [
        # A repository that does not exist, without a token; the reason does not matter.
        (
            HUB,
            401,
            LOGIN,
            b"",
            HubNotFoundError,
            "o/n was not found at https://huggingface.co, or it is",
        ),
        (HUB, 401, LOGIN, b"", HubNotFoundError, "a private one needs hf_token"),
        (HUB, 401, NO_REPO, b"", HubNotFoundError, "or it is private"),
        (HUB, 401, CREDENTIALS, b"", HubNotFoundError, "or it is private"),
        (HUB, 401, {}, b'{"error":"Invalid username or password."}', HubNotFoundError, "private"),
        (HUB, 404, NO_REPO, b"", HubNotFoundError, "or it is private"),
        (MIRROR, 401, {}, HTML, HubNotFoundError, "Check the name and hf_endpoint"),
        (MIRROR, 404, {}, HTML, HubNotFoundError, "o/n was not found at https://mirror.example/hf"),
        (MIRROR, 404, {}, b"", HubNotFoundError, "Check the name and hf_endpoint"),
        # With a token.
        (TOKEN, 404, NO_REPO, b"", HubNotFoundError, "the token from HF_TOKEN is valid and may"),
        (TOKEN, 401, NO_REPO, b"", HubNotFoundError, "the token from HF_TOKEN is valid and may"),
        (TOKEN, 401, CREDENTIALS, b"", HubTokenError, "the token from HF_TOKEN is not valid"),
        (TOKEN, 401, NO_REPO | CREDENTIALS, b"", HubTokenError, "from HF_TOKEN is not valid"),
        (TOKEN, 401, GATED | CREDENTIALS, b"", HubTokenError, "from HF_TOKEN is not valid"),
        (TOKEN, 401, LOGIN, b"", HubTokenError, "the token from HF_TOKEN is not valid"),
        (TOKEN, 401, {}, b'{"error":"Invalid user token."}', HubTokenError, "not valid: Invalid"),
        (TOKEN, 401, {}, b"", HubTokenError, "the token from HF_TOKEN is not valid"),
        (TOKEN, 401, {}, HTML, HubTokenError, "the token from HF_TOKEN is not valid"),
        # Gated.
        (HUB, 401, GATED, b"", HubGatedError, "Accept its licence at https://huggingface.co/o/n"),
        (HUB, 401, GATED, b"", HubGatedError, "then set hf_token"),
        (TOKEN, 401, GATED, b"", HubGatedError, "then check the token from HF_TOKEN"),
        (TOKEN, 403, GATED, b"", HubGatedError, "token from HF_TOKEN has no access to o/n yet"),
        (TOKEN, 403, GATED, b"", HubGatedError, "Request it at https://huggingface.co/o/n"),
        (TOKEN, 403, RIGHTS, b"", HubGatedError, "enable access to public gated repositories"),
        (TOKEN, 403, RIGHTS, b"", HubGatedError, "what the token from HF_TOKEN may read is set"),
        (HUB, 403, {}, HTML, HubGatedError, r"huggingface.co refuses o/n\. See"),
        (HUB, 403, DISABLED, b"", HubGatedError, "has disabled o/n"),
        # The repository exists, but not the file or the revision.
        (HUB, 404, NO_ENTRY, b"", HubNotFoundError, r"o/n has no file a\.gguf"),
        (HUB, 404, NO_REVISION, b"", HubNotFoundError, "o/n has no revision dev"),
        (HUB, 400, {}, b'{"error":"Invalid repo name"}', HubError, "status 400: Invalid repo"),
        (HUB, 403, {"x-error-message": "No\x1b[31m."}, b"", HubGatedError, r"refuses o/n: No\."),
        (HUB, 429, {"ratelimit": '"api";r=0;t=55'}, b"", HubRateLimitError, r"again in 55\.0 s"),
        (HUB, 429, {}, b"", HubRateLimitError, "rate limit.*raises the limit"),
        (TOKEN, 429, {}, b"", HubRateLimitError, r"rate limit\.$"),
        (HUB, 500, {}, b"", HubUnreachableError, "status 500"),
        (HUB, 503, {"x-error-message": "down"}, b"", HubUnreachableError, "status 503: down"),
        (HUB, 451, {}, b"", HubError, "status 451"),
        (HUB, 404, {}, b'{"error":5}', HubNotFoundError, "or it is private"),
        (HUB, 404, {}, b"\xff{", HubNotFoundError, "or it is private"),
    ],
)
def test_errors_for_refusals(
    *,
    endpoint: HubEndpoint,
    status: int,
    headers: dict[str, str],
    body: bytes,
    kind: type[HubError],
    words: str,
) -> None:
    given = CIMultiDict(headers)
    path = "a.gguf" if "EntryNotFound" in headers.values() else ""
    error = hub_error(
        status, given, endpoint=endpoint, repo="o/n", revision="dev", path=path, body=body
    )
    assert type(error) is kind
    with pytest.raises(HubError, match=words):
        raise error
    assert "\x1b" not in str(error)
    assert "hf_x" not in str(error)


def test_a_file_of_a_mirror_that_gives_no_reason() -> None:
    error = hub_error(404, CIMultiDict(), endpoint=MIRROR, repo="o/n", path="q/a.gguf", body=HTML)
    assert "q/a.gguf of o/n was not found at https://mirror.example/hf" in str(error)


@pytest.mark.parametrize(
    ("endpoint", "status", "headers", "body", "kind", "words"),
    [
        (TOKEN, 401, CREDENTIALS, b"", HubTokenError, "the token from HF_TOKEN is not valid"),
        (TOKEN, 401, LOGIN, b"", HubTokenError, "the token from HF_TOKEN is not valid"),
        (TOKEN, 401, {}, b"", HubTokenError, "the token from HF_TOKEN is not valid"),
        (MIRROR, 401, {}, HTML, HubTokenError, r"answers only with a token\. Set hf_token"),
        (MIRROR, 404, {}, HTML, HubError, "does not answer like a model hub .*Check hf_endpoint"),
        (MIRROR, 403, {}, HTML, HubError, "does not answer like a model hub .*Check hf_endpoint"),
        (HUB, 400, {"x-error-message": "Bad sort"}, b"", HubError, "status 400: Bad sort"),
        (HUB, 429, {}, b"", HubRateLimitError, "rate limit"),
        (HUB, 502, {}, HTML, HubUnreachableError, "status 502"),
    ],
)
def test_errors_for_refusals_of_a_search(
    *,
    endpoint: HubEndpoint,
    status: int,
    headers: dict[str, str],
    body: bytes,
    kind: type[HubError],
    words: str,
) -> None:
    error = hub_error(status, CIMultiDict(headers), endpoint=endpoint, body=body)
    assert type(error) is kind
    with pytest.raises(HubError, match=words):
        raise error


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "99999999"}, MAX_WAIT),
        ({"Retry-After": "Sat, 31 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"Retry-After": "Sat, 31 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": "nonsense"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    error = hub_error(429, CIMultiDict(headers), endpoint=HUB, repo="o/n", now=now)
    assert error.retry_after == seconds
