"""A client of a project's releases on GitHub: its API, and bounded, resumable downloads.

https://docs.github.com/en/rest/releases/releases
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import threading
import time
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar
from urllib.request import getproxies

import httpx
import msgspec

from cyber_inference_tui import __version__
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.install.build_source import Progress
from cyber_inference_tui.text import clean_line

API = "https://api.github.com"
DOWNLOAD = "https://github.com"
REPOSITORY = "ggml-org/llama.cpp"

_CONNECT_TIMEOUT = 3.0
_READ_TIMEOUT = 20.0
_DOWNLOAD_TIME = 1800.0
_TRIES = 5
"""Connections for one file, if they break."""
_ANSWER_LIMIT = 8 << 20
_RELEASES = 5
"""Releases to look at: the newest has no assets while it is being built."""

T = TypeVar("T")

_TAG = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_CONTENT_RANGE = re.compile(r"^bytes (\d{1,18})-")


class Asset(msgspec.Struct, frozen=True):
    """A file of a release."""

    name: str
    size: int
    state: str = "uploaded"
    digest: str | None = None
    """``sha256:`` and 64 hexadecimal digits; older files have none."""


class Release(msgspec.Struct, frozen=True):
    """One release."""

    tag_name: str
    draft: bool = False
    assets: list[Asset] = []


class FileDownload(msgspec.Struct, frozen=True, kw_only=True):
    """A file to download, with its known properties."""

    name: str
    url: str
    limit: int
    """The maximum size in bytes."""
    size: int | None = None
    sha256: str | None = None


@cache
def _tls() -> ssl.SSLContext:
    """Load the trusted certificates once: it takes as long as all other parts of a client."""
    return httpx.create_ssl_context()


class Releases:
    """Releases of ``repository``. ``api`` and ``download`` are the base URLs of the two hosts."""

    def __init__(self, *, api: str, download: str, repository: str) -> None:
        self._api = api.rstrip("/")
        self.repository = repository
        self.base = f"{download.rstrip('/')}/{repository}"
        """The URL of its files."""

    @cached_property
    def _client(self) -> httpx.Client:
        """Make the client. Raises ``InstallError`` if the environment names an unusable proxy."""
        try:
            return httpx.Client(
                verify=_tls(),
                timeout=httpx.Timeout(_READ_TIMEOUT, connect=_CONNECT_TIMEOUT),
                follow_redirects=True,
                headers={"User-Agent": f"cyber-inference-tui/{__version__}"},
            )
        except (ImportError, ValueError) as error:
            # An ImportError is about SOCKS.
            socks = isinstance(error, ImportError)
            kind = "SOCKS proxies are" if socks else "A proxy that the environment names is"
            raise InstallError(
                f"{kind} not supported.",
                hint="Set an HTTP proxy in HTTPS_PROXY, and unset ALL_PROXY.",
            ) from error

    def close(self) -> None:
        """Close the connections."""
        if "_client" in vars(self):
            self._client.close()

    def find(self, version: str | None, progress: Progress) -> list[Release]:
        """Return the newest releases, or the release with that tag. Raises ``InstallError``."""
        host = _host(self._api)
        progress.step(f"asking {host} for releases", upto=0.02)
        _check_name(host)
        url = f"{self._api}/repos/{self.repository}/releases"
        if version is None:
            releases = self._ask(f"{url}?per_page={_RELEASES}", list[Release])
            # Tags become folder names and parts of addresses.
            return [r for r in releases if not r.draft and _TAG.match(r.tag_name)]
        tag = f"b{version}" if version.isdecimal() else version
        if not _TAG.match(tag):
            raise InstallError(f"{clean_line(version, limit=80)} is not the name of a release.")
        release = self._ask(f"{url}/tags/{tag}", Release)
        return [release] if release.tag_name == tag else []

    def _ask(self, url: str, kind: type[T]) -> T:
        host = _host(url)
        try:
            with self._client.stream(
                "GET", url, headers={"Accept": "application/vnd.github+json"}
            ) as response:
                self._check_status(response, host)
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > _ANSWER_LIMIT:
                        raise InstallError(f"{host} sends an answer without end.")
            return msgspec.json.decode(body, type=thread_safe(kind))
        except httpx.HTTPError as error:
            raise _unreachable(host, error) from error
        except msgspec.MsgspecError as error:
            raise InstallError(
                f"{host} answers with something other than a list of releases."
            ) from error

    def fetch(self, wanted: FileDownload, path: Path, progress: Progress) -> None:
        """Download into ``path``, and refuse a file with another size or digest than announced.

        An interrupted download in ``path`` is resumed if the whole file can be verified at the end,
        so it is worth keeping; a wrong file is deleted. After a broken connection the next one is
        tried.
        """
        if wanted.size is not None and not 0 < wanted.size <= wanted.limit:
            raise InstallError(f"{wanted.name} is said to have {wanted.size} bytes; refused.")
        host = _host(wanted.url)
        try:
            for left in reversed(range(_TRIES)):
                try:
                    done = self._download(wanted, path, host, progress)
                    break
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout):
                    if not left:
                        raise
        except httpx.HTTPError as error:
            raise _unreachable(host, error) from error
        except OSError as error:
            raise InstallError(f"{path} cannot be written: {error.strerror}.") from error
        if wanted.size is not None and done != wanted.size:
            raise InstallError(
                f"The download of {wanted.name} ended after {done} of {wanted.size} bytes."
            )
        if wanted.sha256 is None:
            return
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != wanted.sha256:
            path.unlink()
            raise InstallError(f"{wanted.name} does not match GitHub's digest; it was deleted.")

    def _download(self, wanted: FileDownload, path: Path, host: str, progress: Progress) -> int:
        """Return the file's size at the end; it contains every byte received."""
        most = wanted.limit if wanted.size is None else wanted.size
        have = _size(path) if wanted.sha256 else 0
        if have == wanted.size:
            return have
        if have > most:
            # It cannot be a part of the file.
            have = 0
        deadline = time.monotonic() + _DOWNLOAD_TIME
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self._client.stream("GET", wanted.url, headers=headers) as response:
            self._check_status(response, host)
            begins = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                have = 0
            elif begins is None or int(begins[1]) != have:
                raise InstallError(f"{host} answers with another part of the file than requested.")
            with path.open("ab" if have else "wb") as file:
                for chunk in response.iter_raw():
                    have += len(chunk)
                    if have > most:
                        file.close()
                        path.unlink()
                        raise InstallError(f"{wanted.name} is longer than {_said(wanted)}.")
                    if time.monotonic() > deadline:
                        raise InstallError(f"The download of {wanted.name} takes too long.")
                    file.write(chunk)
                    progress.advance(have, wanted.size)
        return have

    def _check_status(self, response: httpx.Response, host: str) -> None:
        hops = [*response.history, response]
        if hops[0].url.scheme == "https" and any(hop.url.scheme != "https" for hop in hops):
            raise InstallError(f"{host} leads to an address without encryption; refused.")
        if response.status_code in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
            return
        if response.status_code == httpx.codes.NOT_FOUND:
            raise InstallError(f"{host} knows no such release of {self.repository}.")
        if response.headers.get("x-ratelimit-remaining") == "0":
            raise InstallError(f"{host} accepts no more requests from this address for an hour.")
        raise InstallError(f"{host} answers with HTTP status {response.status_code}.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _said(wanted: FileDownload) -> str:
    return f"{wanted.limit} bytes" if wanted.size is None else "announced"


def _unreachable(host: str, error: httpx.HTTPError) -> InstallError:
    if isinstance(error, httpx.TimeoutException):
        return InstallError(f"{host} does not answer.")
    reason = clean_line(str(error), limit=200).rstrip(".") or type(error).__name__
    return InstallError(f"{host} cannot be reached: {reason}.")


def _host(url: str) -> str:
    return clean_line(httpx.URL(url).host or url, limit=80)


def _check_name(host: str) -> None:
    """Raise ``InstallError`` unless the host's address is found within the connect timeout.

    The client's own timeout does not apply to the resolver, which may take half a minute.
    """
    if getproxies():
        return  # the proxy resolves names
    failures: list[str] = []

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
        except OSError as error:
            failures.append(error.strerror or "unknown")

    thread = threading.Thread(target=resolve, name="resolve", daemon=True)
    thread.start()
    thread.join(_CONNECT_TIMEOUT)
    if thread.is_alive():
        raise InstallError(f"The address of {host} was not found in time.")
    if failures:
        raise InstallError(f"{host} cannot be reached: {failures[0]}.")
