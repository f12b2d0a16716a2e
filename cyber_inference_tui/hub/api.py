"""The only door to the hub's library, and questions to the hub's API.

The library is imported when it is first needed; that takes up to a second. Only its understanding
of answers is used. Its client follows redirects anywhere, reads the proxies of the environment in
a way of its own and ends in a traceback at those it does not know; its ``HfApi`` keeps the cursor
of the next page to itself, knows no limit of time or size for a list, and tries a dead hub for a
minute.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import hdrs
from yarl import URL

from cyber_inference_tui.errors import HubError, HubUnreachableError
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.request import follow

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

# All that is of interest: what else a repository tells is not even looked at.
_KEYS: Final = {"id", "sha", "downloads", "likes", "gated", "lastModified", "gguf", "siblings"}
_MAX_ANSWER: Final = 32 << 20
"""Bytes; the list of files of the largest repositories has a few."""
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


def import_library() -> None:
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


async def ask(
    session: aiohttp.ClientSession,
    endpoint: HubEndpoint,
    path: str,
    params: Mapping[str, str | list[str]],
    *,
    environ: Mapping[str, str],
    repo: str,
    revision: str = "",
) -> tuple[bytes, str | None]:
    """``GET`` a path of the hub's API: the body, and the address of the next page.

    ``repo`` is the repository that it is about, empty for a search. Raises ``HubError``s.
    """
    url = URL(f"{endpoint.url}{path}", encoded=True).with_query(params)
    async with follow(
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
    """The hub took too long."""
    return HubUnreachableError(
        f"{url} does not answer in time.", hint="See that this machine has a way to it."
    )


def parse_models(body: bytes, endpoint: HubEndpoint) -> list[ModelInfo]:
    """One repository, or a list of them, as the library understands an answer; may take long.

    Raises ``HubError``.
    """
    from huggingface_hub import ModelInfo  # noqa: PLC0415

    try:
        if body.startswith(_GZIP):
            # Some servers pack whatever was asked for.
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
            f"{endpoint.url} does not answer as a hub does.", hint="Check hf_endpoint."
        ) from error
