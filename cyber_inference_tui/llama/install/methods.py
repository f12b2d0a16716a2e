"""Lists the methods to get a llama-server on this machine, from files alone."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cyber_inference_tui.llama.install.apt import NEEDED_PROGRAMS
from cyber_inference_tui.llama.install.apt_sources import find_mirrors
from cyber_inference_tui.llama.install.build_plan import (
    dotted,
    find_nvcc,
    missing_tools,
    tools_hint,
)
from cyber_inference_tui.llama.install.hardware import (
    Gpu,
    Platform,
    VulkanBuilds,
    asset_patterns,
    gpus,
    vulkan_builds,
)
from cyber_inference_tui.records import InstallSource

_GITHUB_GLIBC = {"x86_64": (2, 35), "aarch64": (2, 39)}
"""The C library of the Ubuntu release that each build is made on (22.04, 24.04), by machine: the
project's ``.github/workflows/release.yml``."""


class InstallFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about this machine that decide the methods."""

    system: str
    """As ``platform.system`` has it: ``Linux``, ``Darwin``."""
    machine: str
    """As ``platform.machine`` has it: ``x86_64``, ``aarch64``."""
    glibc: tuple[int, int] | None
    """The version of the GNU C library; ``None`` = another library."""
    has_apt: bool
    has_mirror: bool
    """apt uses a mirror of Debian's own archive."""
    has_keys: bool
    """Debian's archive keys are installed."""
    gpus: tuple[Gpu, ...]
    vulkan: VulkanBuilds
    has_nvcc: bool
    missing_tools: tuple[str, ...]
    """Build tools that are not installed."""

    @property
    def nvidia(self) -> bool:
        """True if there is a GPU for CUDA."""
        return Gpu.NVIDIA in self.gpus or Gpu.JETSON in self.gpus


def gather_install_facts(root: Path, environ: Mapping[str, str]) -> InstallFacts:
    """Examine this machine, with GPUs below ``root``. Reads some files, runs no program."""
    path = f"{environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"
    mirrors = find_mirrors(Path("/"))
    return InstallFacts(
        system=platform.system(),
        machine=platform.machine(),
        glibc=_glibc(),
        has_apt=all(shutil.which(program, path=path) for program in NEEDED_PROGRAMS),
        has_mirror=bool(mirrors),
        has_keys=any(mirror.keyrings for mirror in mirrors),
        gpus=gpus(root),
        vulkan=vulkan_builds(root),
        has_nvcc=find_nvcc(root, environ) is not None,
        missing_tools=missing_tools(root, environ),
    )


def install_methods(facts: InstallFacts) -> tuple[InstallSource, ...]:
    """Return all methods in the order of ``auto``, which chooses the first possible one.

    Network errors only show when a method is tried.
    """
    found = (_github(facts), _debian(facts), _source(facts))
    choice = next((method.name for method in found if method.possible), None)
    return tuple(
        msgspec.structs.replace(method, recommended=method.name == choice) for method in found
    )


def _github(facts: InstallFacts) -> InstallSource:
    target = Platform(facts.system, facts.machine)
    kind = _prebuilt(facts, facts.vulkan.github)
    problem = None
    if not asset_patterns(target, gpu=False):
        problem = f"There is no build for {facts.system} on {facts.machine}."
    elif facts.system == "Linux":
        needed = _GITHUB_GLIBC["aarch64" if facts.machine in {"aarch64", "arm64"} else "x86_64"]
        if facts.glibc is None:
            problem = "Its builds need the GNU C library."
        elif facts.glibc < needed:
            problem = (
                f"Its builds need the GNU C library {dotted(needed)}; this machine has "
                f"{dotted(facts.glibc)}."
            )
    return InstallSource(
        name="github",
        summary=f"a prebuilt release of llama.cpp, {kind}; a minute",
        possible=problem is None,
        problem=problem,
    )


def _debian(facts: InstallFacts) -> InstallSource:
    kind = _prebuilt(facts, facts.vulkan.debian)
    problem = None
    if facts.system != "Linux":
        problem = "Debian's packages run on Linux only."
    elif not facts.has_apt:
        problem = "This machine has no apt."
    elif not facts.has_mirror:
        problem = "This machine's apt uses no Debian mirror."
    elif not facts.has_keys:
        problem = "The package debian-archive-keyring is not installed."
    return InstallSource(
        name="debian",
        summary=f"Debian's package in the data directory, {kind}; a minute",
        possible=problem is None,
        problem=problem,
    )


def _source(facts: InstallFacts) -> InstallSource:
    device = "CPU"
    if Gpu.APPLE in facts.gpus:
        device = "GPU, with Metal"
    elif facts.has_nvcc and facts.nvidia:
        device = "GPU, with CUDA"
    elif facts.nvidia:
        device = "CPU, as CUDA's compiler nvcc is not here"
    problem = None
    if facts.system not in {"Linux", "Darwin"}:
        problem = f"Building on {facts.system} is not provided for."
    elif facts.missing_tools:
        problem = (
            f"What it needs is missing: {', '.join(facts.missing_tools)}. "
            f"{tools_hint(facts.missing_tools, facts.system)}"
        )
    return InstallSource(
        name="source",
        summary=f"llama.cpp compiled here for the {device}; ten minutes to an hour and more",
        possible=problem is None,
        problem=problem,
    )


def _prebuilt(facts: InstallFacts, vulkan: tuple[bool, ...]) -> str:
    """Describe the device of a prebuilt server; ``vulkan`` is as in ``VulkanBuilds``."""
    if Gpu.APPLE in facts.gpus:
        return "for the GPU, with Metal"
    return "for the GPU, with Vulkan" if vulkan[0] else "for the CPU"


def _glibc() -> tuple[int, int] | None:
    try:
        found = re.match(r"glibc (\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError, AttributeError):
        # Another C library does not know the name.
        return None
    return (int(found[1]), int(found[2])) if found else None
