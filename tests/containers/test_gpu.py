"""The images for GPUs, as far as they are built without NVIDIA's bases: on a plain Debian."""

from __future__ import annotations

import subprocess

import pytest

from .buildah import ROOT, Buildah, Image

pytestmark = [pytest.mark.container, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def arguments(buildah: Buildah, cpu: Image) -> dict[str, str]:
    """Debian in the place of every base. ``cpu`` is built before: its steps are taken over."""
    bases = ("BASE", "NVIDIA_BASE", "JETSON_BASE")
    llama = buildah.image_of("localhost/llama", ROOT / "LICENSE", "/app/llama-server")
    return {**dict.fromkeys(bases, buildah.base()), "NVIDIA_LLAMA": llama}


def version_in(image: Image) -> str:
    program = "/opt/cyber-inference-tui/bin/cyber-inference-tui"
    command = ["chroot", str(image.root), program, "--version"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return ended.stdout


def test_nvidia(buildah: Buildah, cpu: Image, arguments: dict[str, str]) -> None:
    image = buildah.image(buildah.build("nvidia", arguments))
    assert "cyber-inference-tui" in version_in(image)
    assert (image.root / "app/llama-server").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert "/app" in image.environ["PATH"].split(":")
    assert image.environ["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert (image.user, image.entrypoint, image.health) == (cpu.user, cpu.entrypoint, cpu.health)


def test_the_program_of_jetson(buildah: Buildah, arguments: dict[str, str]) -> None:
    image = buildah.image(buildah.build("jetson-build", arguments))
    assert "cyber-inference-tui" in version_in(image)
