"""The image ``cpu``, built once for all tests, where this machine can do it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tools import run_alone

from .buildah import ROOT, Buildah, Image, why_not


@pytest.fixture(scope="session")
def buildah() -> Iterator[Buildah]:
    """buildah with a Debian base; without what it takes, the test is skipped."""
    run_alone()
    if reason := why_not():
        pytest.skip(reason)
    # Kept with the other things that a checkout needs for its tests: the base takes a minute.
    tool = Buildah(ROOT / ".dev" / "containers")
    yield tool
    tool.close()


@pytest.fixture(scope="session")
def cpu(buildah: Buildah) -> Image:
    """The image of the target ``cpu``, with its files."""
    return buildah.image(buildah.build("cpu", {"BASE": buildah.base()}))
