"""Prebuilt llama-server from the project's releases on GitHub.

The API names each release's assets with their size and SHA-256; an asset is chosen by its name,
downloaded with a bound, and refused unless its digest is given and right.
https://docs.github.com/en/rest/releases/releases
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.request import getproxies

import httpx
import msgspec

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.binary import PROGRAM
from cyber_inference_tui.llama.install.archive import Limits, unpack_archive
from cyber_inference_tui.llama.install.layout import link_program
from cyber_inference_tui.llama.install.source import Offer, Progress
from cyber_inference_tui.text import clean_line

API = "https://api.github.com"
DOWNLOAD = "https://github.com"
REPOSITORY = "ggml-org/llama.cpp"

_CONNECT_TIMEOUT = 3.0
_READ_TIMEOUT = 20.0
_DOWNLOAD_TIME = 1800.0
_ANSWER_LIMIT = 8 << 20
_ARCHIVE_LIMIT = 1 << 30
_RELEASES = 5
"""How many releases are looked at: the newest may be without assets while it is being built."""

T = TypeVar("T")

_TAG = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_DIGEST = re.compile(r"^sha256:([0-9a-f]{64})$")


class _Asset(msgspec.Struct, frozen=True):
    name: str
    size: int
    state: str = "uploaded"
    digest: str | None = None


class _Release(msgspec.Struct, frozen=True):
    tag_name: str
    draft: bool = False
    assets: list[_Asset] = []


class Platform(NamedTuple):
    """What a build has to be made for, in the words of ``platform``."""

    system: str
    machine: str

    @classmethod
    def here(cls) -> Platform:
        """This machine."""
        return cls(platform.system(), platform.machine())


def asset_patterns(target: Platform, *, gpu: bool) -> tuple[re.Pattern[str], ...]:
    """Names of assets for ``target``, the best first; none where there are no builds.

    There is no CUDA build for Linux: with a GPU of any make the Vulkan one comes first.
    """
    cpu = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(
        target.machine.lower()
    )
    system = {"Linux": "ubuntu", "Darwin": "macos"}.get(target.system)
    if cpu is None or system is None:
        return ()
    kinds = [f"vulkan-{cpu}"] if gpu and system == "ubuntu" else []
    return tuple(
        # The system may carry its release: "ubuntu-22.04-x64".
        re.compile(rf"^llama-[\w.]+-bin-{system}(?:-\d\d\.\d\d)?-{kind}\.(?:tar\.gz|zip)$")
        for kind in [*kinds, cpu]
    )


class GithubSource:
    """Releases of ``repository``. ``api`` and ``download`` are the bases of the two hosts."""

    name = "github"

    def __init__(
        self,
        *,
        gpu: bool,
        target: Platform | None = None,
        api: str = API,
        download: str = DOWNLOAD,
        repository: str = REPOSITORY,
        limits: Limits | None = None,
        archive_limit: int = _ARCHIVE_LIMIT,
    ) -> None:
        self._target = target or Platform.here()
        self._patterns = asset_patterns(self._target, gpu=gpu)
        self._api = api.rstrip("/")
        self._download = download.rstrip("/")
        self._repository = repository
        self._limits = limits
        self._archive_limit = archive_limit
        self._asset: _Asset | None = None
        self._client = httpx.Client(
            timeout=httpx.Timeout(_READ_TIMEOUT, connect=_CONNECT_TIMEOUT),
            follow_redirects=True,
            headers={"User-Agent": f"cyber-inference-tui/{__version__}"},
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def offer(self, version: str | None, progress: Progress) -> Offer:
        """The newest release with a build for this machine, or the one of that tag."""
        if not self._patterns:
            raise InstallError(
                f"{self._repository} has no builds for {self._target.system} on "
                f"{self._target.machine}."
            )
        progress.step(f"asking {self._host(self._api)} for releases", upto=0.02)
        _check_name(self._host(self._api))
        releases = self._releases(version)
        for release in releases:
            for pattern in self._patterns:
                for asset in release.assets:
                    if asset.state == "uploaded" and pattern.match(asset.name):
                        self._asset = asset
                        return Offer(source=self.name, version=release.tag_name)
        tags = ", ".join(release.tag_name for release in releases)
        raise InstallError(
            f"{self._repository} offers no build for {self._target.system} on "
            f"{self._target.machine} in {tags or 'any release'}."
        )

    def unpack(self, offer: Offer, staging: Path, final: Path, progress: Progress) -> None:
        """Download the asset of ``offer``, check its digest, and unpack it."""
        asset = self._asset
        if asset is None:
            raise InstallError(f"No build of {offer.version} has been chosen.")
        found = _DIGEST.match(asset.digest or "")
        if not found:
            raise InstallError(f"GitHub gives no SHA-256 of {asset.name}, so it cannot be trusted.")
        archive = staging / "archive"
        progress.step(f"downloading {asset.name} ({asset.size / 1e6:.1f} MB)", upto=0.9)
        self._fetch(offer, asset, found[1], archive, progress)
        progress.step(f"unpacking {asset.name}", upto=0.95)
        unpacked = staging / "unpacked"
        unpacked.mkdir()
        unpack_archive(archive, unpacked, limits=self._limits)
        archive.unlink()
        _arrange(unpacked, staging)

    def _releases(self, version: str | None) -> list[_Release]:
        url = f"{self._api}/repos/{self._repository}/releases"
        if version is None:
            releases = self._ask(f"{url}?per_page={_RELEASES}", list[_Release])
            # Tags become folder names and parts of addresses.
            return [r for r in releases if not r.draft and _TAG.match(r.tag_name)]
        tag = f"b{version}" if version.isdecimal() else version
        if not _TAG.match(tag):
            raise InstallError(f"{clean_line(version, limit=80)} is not the name of a release.")
        release = self._ask(f"{url}/tags/{tag}", _Release)
        return [release] if release.tag_name == tag else []

    def _ask(self, url: str, kind: type[T]) -> T:
        host = self._host(url)
        try:
            with self._client.stream(
                "GET", url, headers={"Accept": "application/vnd.github+json"}
            ) as response:
                self._check_status(response, host)
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > _ANSWER_LIMIT:
                        raise InstallError(f"{host} answers without end.")
            return msgspec.json.decode(body, type=kind)
        except httpx.HTTPError as error:
            raise self._unreachable(host, error) from error
        except msgspec.MsgspecError as error:
            raise InstallError(f"{host} answers something that is no list of releases.") from error

    def _fetch(
        self, offer: Offer, asset: _Asset, digest: str, path: Path, progress: Progress
    ) -> None:
        """Download into ``path``; what is longer, shorter or other than announced is refused."""
        if not 0 < asset.size <= self._archive_limit:
            raise InstallError(f"{asset.name} is said to have {asset.size} bytes; refused.")
        url = f"{self._download}/{self._repository}/releases/download/{offer.version}/{asset.name}"
        host = self._host(url)
        deadline = time.monotonic() + _DOWNLOAD_TIME
        hashed = hashlib.sha256()
        done = 0
        try:
            with self._client.stream("GET", url) as response, path.open("xb") as file:
                self._check_status(response, host)
                for chunk in response.iter_raw(1 << 18):
                    done += len(chunk)
                    if done > asset.size:
                        raise InstallError(f"{asset.name} is longer than announced.")
                    if time.monotonic() > deadline:
                        raise InstallError(f"The download of {asset.name} takes too long.")
                    hashed.update(chunk)
                    file.write(chunk)
                    progress.advance(done, asset.size)
        except httpx.HTTPError as error:
            raise self._unreachable(host, error) from error
        except OSError as error:
            raise InstallError(f"{path} cannot be written: {error.strerror}.") from error
        if done != asset.size:
            raise InstallError(
                f"The download of {asset.name} ended after {done} of {asset.size} bytes."
            )
        if hashed.hexdigest() != digest:
            raise InstallError(
                f"{asset.name} is not the file that GitHub's digest is of; it was discarded."
            )

    def _check_status(self, response: httpx.Response, host: str) -> None:
        hops = [*response.history, response]
        if hops[0].url.scheme == "https" and any(hop.url.scheme != "https" for hop in hops):
            raise InstallError(f"{host} leads to an address without encryption; refused.")
        if response.status_code == httpx.codes.OK:
            return
        if response.status_code == httpx.codes.NOT_FOUND:
            raise InstallError(f"{host} knows no such release of {self._repository}.")
        if response.headers.get("x-ratelimit-remaining") == "0":
            raise InstallError(f"{host} takes no more requests from this address for an hour.")
        raise InstallError(f"{host} answers with HTTP status {response.status_code}.")

    @staticmethod
    def _unreachable(host: str, error: httpx.HTTPError) -> InstallError:
        if isinstance(error, httpx.TimeoutException):
            return InstallError(f"{host} does not answer.")
        reason = clean_line(str(error), limit=200).rstrip(".") or type(error).__name__
        return InstallError(f"{host} cannot be reached: {reason}.")

    @staticmethod
    def _host(url: str) -> str:
        return clean_line(httpx.URL(url).host or url, limit=80)


def _check_name(host: str) -> None:
    """Raise ``InstallError`` when the host's address is not known within the connect timeout.

    The client's own timeout does not hold for the resolver, which may take half a minute.
    """
    if getproxies():
        return  # the proxy resolves
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
        raise InstallError(f"The address of {host} cannot be found out in time.")
    if failures:
        raise InstallError(f"{host} cannot be reached: {failures[0]}.")


def _arrange(unpacked: Path, staging: Path) -> None:
    """Make ``lib/`` of the folder in which the program lies, wherever the archive has it."""
    programs = [p for p in unpacked.rglob(PROGRAM) if p.is_file() and not p.is_symlink()]
    programs.sort(key=lambda path: len(path.parts))
    if not programs:
        raise InstallError(f"The archive holds no {PROGRAM}.")
    programs[0].parent.rename(staging / "lib")
    shutil.rmtree(unpacked, ignore_errors=True)
    link_program(staging)
