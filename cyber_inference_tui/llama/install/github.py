"""Prebuilt llama-server from the project's releases on GitHub.

The API names each release's assets with their size and SHA-256; an asset is chosen by its name,
downloaded with a bound, and refused unless its digest is given and right.
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

_DOWNLOAD = ".download-"
"""How the names of interrupted downloads begin."""

_ARCHIVE_LIMIT = 1 << 30
_DIGEST = re.compile(r"^sha256:([0-9a-f]{64})$")


class GithubSource:
    """Releases of ``repository``. ``api`` and ``download`` are the bases of the two hosts.

    ``keep`` is a folder in which an interrupted download waits for the next try.
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
        """Nothing was kept: the archive went as soon as it was unpacked."""

    def offer(self, version: str | None, progress: Progress) -> Offer:
        """The newest release with a build for this machine, or the one of that tag."""
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
        """Download the asset of ``offer``, check its digest, and unpack it."""
        asset = self._asset
        if asset is None:
            raise InstallError(f"No build of {offer.version} has been chosen.")
        found = _DIGEST.match(asset.digest or "")
        if not found:
            raise InstallError(f"GitHub gives no SHA-256 of {asset.name}, so it cannot be trusted.")
        archive = self._archive(asset, staging)
        progress.step(f"downloading {asset.name} ({asset.size / 1e6:.1f} MB)", upto=0.9)
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
            # It is what GitHub says it is: another download would be no better.
            archive.unlink()
        _arrange(unpacked, staging)

    def _archive(self, asset: Asset, staging: Path) -> Path:
        """Where it is downloaded to; what waits there of others is removed."""
        if self._keep is None:
            return staging / "archive"
        # The pattern that chose the name lets no path through.
        path = self._keep / f"{_DOWNLOAD}{asset.name}"
        for other in self._keep.glob(f"{_DOWNLOAD}*"):
            if other != path:
                other.unlink()
        return path


def _arrange(unpacked: Path, staging: Path) -> None:
    """Make ``lib/`` of the folder in which the program lies, wherever the archive has it."""
    programs = [p for p in unpacked.rglob(PROGRAM) if p.is_file() and not p.is_symlink()]
    programs.sort(key=lambda path: len(path.parts))
    if not programs:
        raise InstallError(f"The archive holds no {PROGRAM}.")
    programs[0].parent.rename(staging / "lib")
    shutil.rmtree(unpacked, ignore_errors=True)
    link_program(staging)
