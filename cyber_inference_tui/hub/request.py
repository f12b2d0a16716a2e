"""Request a file or a page of the hub, following redirects only to the hub's hosts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import string
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import hdrs
from multidict import CIMultiDictProxy
from yarl import URL

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import HubAnswerError, HubError, HubUnreachableError
from cyber_inference_tui.hub.endpoint import HubEndpoint, proxy_for
from cyber_inference_tui.hub.hub_errors import MAX_REASON, hub_error, wait_seconds
from cyber_inference_tui.hub.response_body import Body, GzipBody, body_of
from cyber_inference_tui.text import clean_line

_MAX_REDIRECTS = 6
_REASON_TIME = 2.0
_GZIP = {"gzip", "x-gzip"}
_REDIRECTS = {301, 302, 303, 307, 308}
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")
_SIZE = re.compile(r"\d{1,18}")
_DIGEST = re.compile(r'(?:W/)?"?(?:([0-9a-f]{64})|([0-9a-f]{40}))"?')


class FileResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with the file from ``start`` on."""

    body: Body
    start: int
    total: int | None
    """Bytes of the whole file."""
    framed: bool
    """The body itself marks its end, so that a lost connection is not mistaken for the end."""
    sha256: str | None = None
    """From the hub's own answer, not from the host that it redirects to."""
    git_sha1: str | None = None


class PastEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The file has no bytes at this offset; ``total`` is its length, if the hub says it."""

    total: int | None


class HubResponse(NamedTuple):
    """The last answer after all redirects: a status below 400, or 416."""

    answer: aiohttp.ClientResponse
    url: URL
    """The address after all redirects."""
    digests: dict[str, str | None]
    """The digest of a file by the hub's own answers."""


@asynccontextmanager
async def get_with_redirects(
    session: aiohttp.ClientSession,
    endpoint: HubEndpoint,
    url: URL,
    *,
    environ: Mapping[str, str],
    headers: Mapping[str, str] | None = None,
    repo: str = "",
    revision: str = "",
    path: str = "",
) -> AsyncIterator[HubResponse]:
    """``GET`` an address of the hub and follow its redirects.

    Raises ``HubError``, also while the body is read. Only the hub's hosts are followed, and only
    the endpoint itself gets the token. ``repo``, ``revision`` and ``path`` describe the request, as
    in ``hub_error``.
    """
    digests: dict[str, str | None] = {}
    host = ""
    yielded = False
    try:
        for _ in range(_MAX_REDIRECTS):
            endpoint.check(url)
            host = url.host_port_subcomponent or ""
            sent = {
                hdrs.ACCEPT_ENCODING: "identity",
                hdrs.USER_AGENT: f"cyber-inference-tui/{__version__}",
                **endpoint.headers(url),
                **(headers or {}),
            }
            async with session.get(
                url, headers=sent, allow_redirects=False, proxy=proxy_for(url, environ)
            ) as answer:
                if endpoint.is_own(url):
                    digests = _digests_of(answer.headers) or digests
                if answer.status in _REDIRECTS and hdrs.LOCATION in answer.headers:
                    url = _location(url, answer.headers[hdrs.LOCATION])
                    continue
                if answer.status >= 400 and answer.status != 416:
                    if endpoint.is_own(url):
                        raise hub_error(
                            answer.status,
                            answer.headers,
                            endpoint=endpoint,
                            repo=repo,
                            revision=revision,
                            path=path,
                            body=await _beginning(answer),
                        )
                    # A signed address has expired: the next try gets a new one.
                    raise HubUnreachableError(
                        f"{host} answers with status {answer.status}.",
                        retry_after=wait_seconds(answer.headers),
                    )
                yielded = True
                yield HubResponse(answer, url, digests)
                return
        raise HubError(f"{endpoint.url} redirects more than {_MAX_REDIRECTS} times.")
    except TimeoutError as error:
        raise HubUnreachableError(f"{host} has not sent a byte for too long.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise unreachable(host, error) from error
    except ValueError as error:
        if yielded:
            raise
        # The client cannot parse an address, or a proxy of the environment.
        raise unreachable(host, error) from error


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """Return the first bytes of a body, as far as they arrive in time."""
    body = b""
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(_REASON_TIME):
            while len(body) < MAX_REASON and (block := await answer.content.read(MAX_REASON)):
                body += block
    return body[:MAX_REASON]


@asynccontextmanager
async def get_file(
    session: aiohttp.ClientSession,
    endpoint: HubEndpoint,
    *,
    repo: str,
    revision: str,
    path: str,
    offset: int,
    length: int | None = None,
    environ: Mapping[str, str],
    stall_timeout: float,
) -> AsyncIterator[FileResponse | PastEnd]:
    """Request a file from ``offset`` on, or ``length`` bytes of it, though a hub may send more.

    Raises ``HubError``, also while the body is read. Each request goes to the endpoint: the
    addresses that it redirects to are signed and expire.
    """
    headers: dict[str, str] = {}
    if offset or length is not None:
        end = "" if length is None else offset + length - 1
        headers[hdrs.RANGE] = f"bytes={offset}-{end}"
    async with get_with_redirects(
        session,
        endpoint,
        endpoint.file_url(repo, revision, path),
        environ=environ,
        headers=headers,
        repo=repo,
        revision=revision,
        path=path,
    ) as reply:
        yield file_response(reply, offset, stall_timeout)


def unreachable(host: str, error: Exception) -> HubUnreachableError:
    """Return the error for a failed connection, with the system's reason."""
    if isinstance(error, aiohttp.ClientPayloadError):
        return HubUnreachableError(f"{host} broke off in the middle of the file.")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return HubUnreachableError(f"{host} closed the connection without an answer.")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return HubUnreachableError(
            f"The certificate of {host} is not valid here.",
            hint="Check the clock, and the certificate authorities that this machine trusts.",
        )
    via = ""
    if isinstance(error, (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError)):
        via = " over the proxy of the environment"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.errno and reason.startswith("Connect call failed"):
        # asyncio's message hides the system's.
        reason = os.strerror(error.errno)
    reason = _ERRNO.sub("", clean_line(reason, limit=200)).strip().rstrip(".")
    reason = reason or type(error).__name__
    return HubUnreachableError(f"{host} cannot be reached{via}: {reason}.")


def file_response(reply: HubResponse, offset: int, stall_timeout: float) -> FileResponse | PastEnd:
    """Return the file in an answer to a request for the bytes from ``offset`` on.

    Raises ``HubAnswerError``.
    """
    answer, host = reply.answer, reply.url.host_port_subcomponent
    headers = answer.headers
    if answer.status == 416:
        size = headers.get(hdrs.CONTENT_RANGE, "").removeprefix("bytes */")
        return PastEnd(total=int(size) if _SIZE.fullmatch(size) else None)
    coding = headers.get(hdrs.CONTENT_ENCODING, "").lower() or "identity"
    total: int | None
    if answer.status == 206 and coding == "identity":
        found = _RANGE.fullmatch(headers.get(hdrs.CONTENT_RANGE, ""))
        # Another range than the requested one is usable if it has the next byte.
        if not found or not int(found[1]) <= offset <= int(found[2]):
            raise HubAnswerError(f"{host} sends another part of the file than requested.")
        start, total = int(found[1]), None if found[3] == "*" else int(found[3])
    elif answer.status in {200, 203} and coding in {"identity", *_GZIP}:
        start, total = 0, answer.content_length if coding == "identity" else None
    elif answer.status in {200, 203, 206}:
        raise HubAnswerError(f"{host} sends the file in an encoding that was not requested.")
    else:
        raise HubAnswerError(f"{host} answers with status {answer.status}.")
    body = body_of(answer, stall_timeout)
    return FileResponse(
        body=body if coding == "identity" else GzipBody(body),
        start=start,
        total=total,
        framed=coding != "identity" or hdrs.TRANSFER_ENCODING in headers,
        sha256=reply.digests.get("sha256"),
        git_sha1=reply.digests.get("git_sha1"),
    )


def _digests_of(headers: CIMultiDictProxy[str]) -> dict[str, str | None]:
    """Return the digest that the hub's own headers give; empty if there is none."""
    text = headers.get("X-Linked-ETag") or headers.get(hdrs.ETAG) or ""
    found = _DIGEST.fullmatch(text)
    return {"sha256": found[1], "git_sha1": found[2]} if found else {}


def _location(url: URL, text: str) -> URL:
    try:
        # It is encoded already, and a signature covers its exact bytes: only characters that no
        # address may have are replaced, as in browsers.
        return url.join(URL(quote(text, safe=string.punctuation), encoded=True))
    except ValueError as error:
        raise HubUnreachableError(f"{url.host} redirects to an invalid address.") from error
