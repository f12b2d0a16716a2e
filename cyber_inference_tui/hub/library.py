"""The only door to the hub's library: one question to the hub's API, in the calling thread.

The library is imported when it is first needed; that takes up to a second. Its client (proxies,
certificates, redirects without the token) and its understanding of answers are used. Its
``HfApi`` is not: it keeps the cursor of the next page to itself, knows no limit of time or size
for a list, and tries a dead hub for a minute.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import HubError, HubUnreachableError
from cyber_inference_tui.hub.endpoint import Endpoint
from cyber_inference_tui.hub.problems import hub_error
from cyber_inference_tui.hub.request import unreachable

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

# All that is of interest: what else a repository tells is not even looked at.
_KEYS: Final = {"id", "sha", "downloads", "likes", "gated", "lastModified", "gguf", "siblings"}
_MAX_ANSWER: Final = 32 << 20
"""Bytes; the list of files of the largest repositories has a few."""
_CONNECT: Final = 5.0
_SILENCE: Final = 8.0
# https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
_QUIET: Final = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_EXPERIMENTAL_WARNING": "1",
}
_TRUE: Final = {"1", "on", "yes", "true"}


class Answer(NamedTuple):
    """What the hub said."""

    found: list[ModelInfo]
    """One repository, or a list of them, as the library understands it."""
    next_url: str | None
    """Where the next page is."""


def load_library() -> None:
    """Import the library, told to report nothing about its users and to look for no token."""
    for name, value in list(os.environ.items()):
        if name.startswith("HF_") and not value.strip():
            # The library cannot be imported where a number is set to nothing.
            del os.environ[name]
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    importlib.import_module("huggingface_hub")


def check_online(environ: Mapping[str, str]) -> None:
    """Raise ``HubError`` where the hub's tools are told to stay offline."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if environ.get(name, "").strip().lower() in _TRUE:
            raise HubError(
                f"The hub is not asked, because {name} is set.",
                hint="Unset it to search and download.",
            )


def ask(
    endpoint: Endpoint,
    path: str,
    params: Mapping[str, str | list[str]],
    *,
    repo: str,
    limit: float,
) -> Answer:
    """``GET`` a path of the hub's API, whole within ``limit`` seconds. Raises ``HubError``s.

    ``repo`` is the repository that it is about, empty for a search.
    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # noqa: PLC0415
        build_hf_headers,
        get_session,
    )

    begun = time.monotonic()
    headers = build_hf_headers(
        token=endpoint.token or False,
        library_name="cyber-inference-tui",
        library_version=__version__,
    )
    headers["Accept-Encoding"] = "identity"
    try:
        session = get_session()
    except ValueError as error:
        # A proxy in the environment that it cannot make anything of.
        raise unreachable(endpoint.url, error) from error
    # httpx or httpx2, as the library's version has it.
    client = importlib.import_module(type(session).__module__.partition(".")[0])
    timeout = client.Timeout(min(_SILENCE, limit), connect=min(_CONNECT, limit))
    try:
        with session.stream(
            "GET", f"{endpoint.url}{path}", params=params, headers=headers, timeout=timeout
        ) as response:
            if response.status_code >= 400:
                raise _refusal(response.status_code, response.headers, endpoint, repo)
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _MAX_ANSWER:
                    raise HubError(f"{endpoint.url} answers with more than {_MAX_ANSWER} bytes.")
                if time.monotonic() - begun > limit:
                    raise too_slow(endpoint.url)
            link = response.links.get("next", {}).get("url")
            found = _infos(bytes(body), endpoint)
            return Answer(found, link if isinstance(link, str) else None)
    except client.TimeoutException as error:
        raise too_slow(endpoint.url) from error
    except (client.HTTPError, client.InvalidURL, OSError, ValueError) as error:
        raise unreachable(endpoint.url, error) from error


def too_slow(url: str) -> HubUnreachableError:
    """The hub took too long."""
    return HubUnreachableError(
        f"{url} does not answer in time.", hint="See that this machine has a way to it."
    )


def _infos(body: bytes, endpoint: Endpoint) -> list[ModelInfo]:
    from huggingface_hub import ModelInfo  # noqa: PLC0415

    try:
        answer: Any = json.loads(body)
        items = answer if isinstance(answer, list) else [answer]
        return [
            ModelInfo(  # type: ignore[no-untyped-call]
                **{"siblings": None} | {key: item[key] for key in _KEYS & item.keys()}
            )
            for item in items
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise HubError(
            f"{endpoint.url} does not answer as a hub does.", hint="Check hf_endpoint."
        ) from error


def _refusal(status: int, headers: Mapping[str, str], endpoint: Endpoint, repo: str) -> HubError:
    if repo or status == 429 or status >= 500 or "X-Error-Message" in headers:
        return hub_error(status, headers, endpoint=endpoint.url, repo=repo or "models")
    return HubError(
        f"{endpoint.url} does not answer as a hub does (status {status}).",
        hint="Check hf_endpoint.",
    )
