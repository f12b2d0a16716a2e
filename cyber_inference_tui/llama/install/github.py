"""Installs a prebuilt llama-server from the project's releases on GitHub.

The API gives the size and SHA-256 of each asset. An asset is chosen by its name, downloaded up to a
limit, and refused unless its digest is given and correct.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.binary import PROGRAM
from cyber_inference_tui.llama.install.archive import ArchiveLimits, unpack_archive
from cyber_inference_tui.llama.install.build_source import Offer, Progress
from cyber_inference_tui.llama.install.hardware import Platform, asset_patterns
from cyber_inference_tui.llama.install.layout import link_program
from cyber_inference_tui.llama.install.releases import (
    API,
    DOWNLOAD,
    REPOSITORY,
    Asset,
    FileDownload,
    Releases,
)
from cyber_inference_tui.units import size_text

_DOWNLOAD = ".download-"
"""The prefix of interrupted downloads."""

_ARCHIVE_LIMIT = 1 << 30
_DIGEST = re.compile(r"^sha256:([0-9a-f]{64})$")


class GithubSource:
    """Releases of ``repository``. ``api`` and ``download`` are the base URLs of the two hosts.

    ``keep`` is a folder for an interrupted download, until the next try.
    """

    name = "github"

    def __init__(
        self,
        *,
        gpu: bool,
        target: Platform | None = None,
        api: str = API,
        download: str = DOWNLOAD,
        repository: str = REPOSITORY,
        limits: ArchiveLimits | None = None,
        archive_limit: int = _ARCHIVE_LIMIT,
        keep: Path | None = None,
    ) -> None:
        self._target = target or Platform.here()
        self._patterns = asset_patterns(self._target, gpu=gpu)
        self._releases = Releases(api=api, download=download, repository=repository)
        self._limits = limits
        self._archive_limit = archive_limit
        self._keep = keep
        self._asset: Asset | None = None

    def close(self) -> None:
        """Close the connections."""
        self._releases.close()

    def finished(self) -> None:
        """Do nothing: the archive was deleted when it was unpacked."""

    def offer(self, version: str | None, progress: Progress) -> Offer:
        """Return the newest release with a build for this machine, or the release with that tag."""
        repository = self._releases.repository
        where = f"{self._target.system} on {self._target.machine}"
        if not self._patterns:
            raise InstallError(f"{repository} has no builds for {where}.")
        releases = self._releases.find(version, progress)
        for release in releases:
            for pattern in self._patterns:
                for asset in release.assets:
                    if asset.state == "uploaded" and pattern.match(asset.name):
                        self._asset = asset
                        return Offer(source=self.name, version=release.tag_name)
        tags = ", ".join(release.tag_name for release in releases)
        raise InstallError(f"{repository} offers no build for {where} in {tags or 'any release'}.")

    def unpack(self, offer: Offer, staging: Path, final: Path, progress: Progress) -> None:
        """Download the asset of ``offer``, verify its digest, and unpack it."""
        asset = self._asset
        if asset is None:
            raise InstallError(f"No build of {offer.version} has been chosen.")
        found = _DIGEST.match(asset.digest or "")
        if not found:
            raise InstallError(f"GitHub gives no SHA-256 of {asset.name}, so it cannot be trusted.")
        archive = self._archive(asset, staging)
        progress.step(f"downloading {asset.name} ({size_text(asset.size)})", upto=0.9)
        wanted = FileDownload(
            name=asset.name,
            url=f"{self._releases.base}/releases/download/{offer.version}/{asset.name}",
            limit=self._archive_limit,
            size=asset.size,
            sha256=found[1],
        )
        self._releases.fetch(wanted, archive, progress)
        progress.step(f"unpacking {asset.name}", upto=0.95)
        unpacked = staging / "unpacked"
        unpacked.mkdir()
        try:
            unpack_archive(archive, unpacked, limits=self._limits)
        finally:
            # Its digest was correct: another download would be the same.
            archive.unlink()
        _arrange(unpacked, staging)

    def _archive(self, asset: Asset, staging: Path) -> Path:
        """Return the path of the download, and remove other downloads there."""
        if self._keep is None:
            return staging / "archive"
        # The name matches a pattern without slashes, so it is no path.
        path = self._keep / f"{_DOWNLOAD}{asset.name}"
        for other in self._keep.glob(f"{_DOWNLOAD}*"):
            if other != path:
                other.unlink()
        return path


def _arrange(unpacked: Path, staging: Path) -> None:
    """Make ``lib/`` of the folder that contains the program, wherever it is in the archive."""
    programs = [p for p in unpacked.rglob(PROGRAM) if p.is_file() and not p.is_symlink()]
    programs.sort(key=lambda path: len(path.parts))
    if not programs:
        raise InstallError(f"The archive holds no {PROGRAM}.")
    programs[0].parent.rename(staging / "lib")
    shutil.rmtree(unpacked, ignore_errors=True)
    link_program(staging)
