"""Query the hub's API, and parse its answers with the hub's library.

This is the only module that imports the library, on first use, since that takes up to a second. It
only parses answers. Its own client follows redirects to any host, reads proxies in its own way and
fails with a traceback on unknown ones. Its ``HfApi`` hides the cursor of the next page, has no
limits of time or size for a list, and retries a dead hub for a minute.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import zlib
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import aiohttp
from aiohttp import hdrs
from yarl import URL

from cyber_inference_tui.errors import HubError, HubUnreachableError
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.request import get_with_redirects

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

T = TypeVar("T")

# The library gets no other keys of an answer.
_KEYS: Final = frozenset(
    {"id", "sha", "downloads", "likes", "gated", "lastModified", "gguf", "siblings", "tags"}
)
_MAX_ANSWER: Final = 32 << 20
"""Bytes; the file lists of the largest repositories have a few MiB."""
# https://www.rfc-editor.org/rfc/rfc8288#section-3
_NEXT: Final = re.compile(r'<([^<>]*)>\s*;[^<>]*\brel="?next\b')
# https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
_QUIET: Final = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_EXPERIMENTAL_WARNING": "1",
}
_GZIP: Final = b"\x1f\x8b"
_TRUE: Final = {"1", "on", "yes", "true"}


class TimedCache(Generic[T]):
    """Keeps the last ``most`` answers, each for ``seconds``. ``clock`` counts seconds."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._kept: dict[Hashable, tuple[float, T]] = {}

    def get(self, key: Hashable) -> T | None:
        """Return the answer, unless its time is over."""
        kept = self._kept.get(key)
        if kept is None or self._clock() - kept[0] > self._seconds:
            return None
        return kept[1]

    def put(self, key: Hashable, answer: T) -> None:
        """Keep an answer, in place of the oldest."""
        self._kept.pop(key, None)
        while len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (self._clock(), answer)


def import_library() -> None:
    """Import the library, with telemetry, progress bars and its token lookup turned off."""
    for name, value in list(os.environ.items()):
        if name.startswith("HF_") and not value.strip():
            # The library fails at import if a numeric variable is empty.
            del os.environ[name]
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    importlib.import_module("huggingface_hub")


def check_online(environ: Mapping[str, str]) -> None:
    """Raise ``HubError`` if a variable tells the hub's tools to stay offline."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if environ.get(name, "").strip().lower() in _TRUE:
            raise HubError(
                f"The hub is not contacted, because {name} is set.",
                hint="Unset it to search and download.",
            )


async def get_page(
    session: aiohttp.ClientSession,
    endpoint: HubEndpoint,
    path: str,
    params: Mapping[str, str | list[str]],
    *,
    environ: Mapping[str, str],
    repo: str,
    revision: str = "",
) -> tuple[bytes, str | None]:
    """``GET`` a path of the hub's API; return the body and the address of the next page.

    ``repo`` is the repository in question, empty for a search. Raises ``HubError``.
    """
    url = URL(f"{endpoint.url}{path}", encoded=True).with_query(params)
    async with get_with_redirects(
        session, endpoint, url, environ=environ, repo=repo, revision=revision
    ) as reply:
        body = bytearray()
        async for block in reply.answer.content.iter_any():
            body += block
            if len(body) > _MAX_ANSWER:
                raise HubError(f"{endpoint.url} answers with more than {_MAX_ANSWER} bytes.")
        found = _NEXT.search(", ".join(reply.answer.headers.getall(hdrs.LINK, [])))
        return bytes(body), found[1] if found else None


def timeout_error(url: str) -> HubUnreachableError:
    """Return the error for a hub that takes too long."""
    return HubUnreachableError(
        f"{url} does not answer in time.", hint="Check that this machine can reach it."
    )


def parse_models(body: bytes, endpoint: HubEndpoint) -> list[ModelInfo]:
    """Parse an answer, one repository or a list, with the library; this may take long.

    Raises ``HubError``.
    """
    from huggingface_hub import ModelInfo  # noqa: PLC0415

    try:
        if body.startswith(_GZIP):
            # Some servers send gzip whatever the request accepts.
            body = zlib.decompressobj(wbits=31).decompress(body, _MAX_ANSWER)
        answer: Any = json.loads(body)
        items = answer if isinstance(answer, list) else [answer]
        return [
            ModelInfo(  # type: ignore[no-untyped-call]
                **{"siblings": None} | {key: item[key] for key in _KEYS & item.keys()}
            )
            for item in items
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error) as error:
        raise HubError(
            f"{endpoint.url} does not answer like a model hub.", hint="Check hf_endpoint."
        ) from error
