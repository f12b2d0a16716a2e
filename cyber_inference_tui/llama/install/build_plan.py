"""Plans how to build llama-server from source on this machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.kernel import on_macos
from cyber_inference_tui.llama.install.hardware import (
    Gpu,
    gpus,
    has_shared_memory,
    tegra_architecture,
)
from cyber_inference_tui.llama.install.tools import run_tool

_MEMORY_PER_JOB = 2 << 30
"""Bytes that one compiler may use, CUDA's above all."""

_CMAKE = (3, 18)
"""The oldest version for llama.cpp's CUDA part and its scripts; JetPack 5 has an older one."""

_CMAKE_NATIVE = (3, 24)
"""The first version with ``CMAKE_CUDA_ARCHITECTURES=native``."""

_CUDA_FOR_110 = (13, 0)
"""Thor's architecture is 110 from this CUDA version on; it was 101 before."""

_NVCC = ("usr/local/cuda/bin/nvcc", "opt/cuda/bin/nvcc")
"""Its place when it is not on ``PATH``: NVIDIA's packages and JetPack add no link there."""

_TOOLS = {
    "cmake": ("cmake",),
    "make": ("make", "gmake"),
    "a C++ compiler": ("c++", "g++", "clang++"),
}
"""Tools that a build needs, with the names of suitable programs."""

_MAC_TOOLS = (
    "Library/Developer/CommandLineTools/usr/bin/clang",
    "Applications/Xcode.app",
    "var/db/xcode_select_link",
)
"""Places of Apple's compilers, or of a link to them: xcode-select(1). Without them, the programs
in macOS's ``/usr/bin`` only offer to install them."""

_QUESTION_TIME = 20.0

# Without unused programs, and without the web page: it would be downloaded from another site, and
# the service hides it anyway. The build runs on the machine that makes it.
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_IS_DEV=OFF",
    "-DLLAMA_CURL=OFF",
    "-DGGML_RPC=ON",
)


class BuildFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about this machine that decide the build."""

    system: str
    """As ``platform.system`` has it."""
    gpus: tuple[Gpu, ...] = ()
    nvcc: Path | None = None
    """CUDA's compiler."""
    cuda: tuple[int, int] | None = None
    """Its version."""
    shared_memory: bool = False
    """The NVIDIA GPU has no memory of its own."""
    tegra: str | None = None
    """A Jetson's CUDA architecture, from its device tree."""
    cmake: tuple[int, int] | None = None
    missing: tuple[str, ...] = ()
    """Tools that are not installed."""
    cores: int
    memory_total: int
    memory_available: int
    """Bytes."""


class BuildPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The options and limits of a build."""

    options: tuple[str, ...]
    """For cmake."""
    jobs: int
    backend: str = ""
    """``CUDA``, ``Metal``, or nothing for the CPU alone."""
    path: str = ""
    """One more folder of programs, for the end of ``PATH``."""
    note: str = ""
    """A note for the user before the build."""


def plan_build(facts: BuildFacts) -> BuildPlan:
    """Choose the options and jobs for this machine: llama.cpp's ``docs/build.md``.

    Raises ``InstallError`` with the command that installs missing tools.
    """
    if facts.missing:
        raise InstallError(
            f"Building llama-server needs {_listed(facts.missing)}.",
            hint=tools_hint(facts.missing, facts.system),
        )
    if facts.cmake is not None and facts.cmake < _CMAKE:
        raise InstallError(
            f"Building llama-server needs cmake {dotted(_CMAKE)} or newer, and this machine has "
            f"{dotted(facts.cmake)}.",
            hint="`python3 -m pip install --user cmake` gets a newer one; put ~/.local/bin first "
            "in PATH.",
        )
    mac = facts.system == "Darwin"
    rpath = ["@loader_path" if mac else "$ORIGIN"]
    options = [*_OPTIONS]
    nvidia = Gpu.JETSON in facts.gpus or Gpu.NVIDIA in facts.gpus
    backend = note = ""
    if nvidia and facts.nvcc is not None:
        backend = "CUDA"
        options += ["-DGGML_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={facts.nvcc}"]
        # On some systems the loader does not search there.
        rpath.append(str(facts.nvcc.parent.parent / "lib64"))
        architecture = _architecture(facts)
        if architecture is not None:
            options.append(f"-DCMAKE_CUDA_ARCHITECTURES={architecture}")
        if facts.shared_memory:
            # CUDA's virtual memory pool fails there, on boards with 8 GB above all.
            options.append("-DGGML_CUDA_NO_VMM=ON")
    elif nvidia:
        package = "nvidia-jetpack" if Gpu.JETSON in facts.gpus else "nvidia-cuda-toolkit"
        note = (
            "There is no CUDA compiler (nvcc), so this build will not use the GPU; "
            f"`sudo apt-get install -y {package}` gets it."
        )
    if Gpu.APPLE in facts.gpus:
        backend = "Metal"
        # Embedded in the program, the GPU's code does not need Xcode's compiler.
        options += ["-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON"]
    elif mac:
        # As in llama.cpp's own releases for Macs with Intel processors.
        options.append("-DGGML_METAL=OFF")
    options.append(f"-DCMAKE_INSTALL_RPATH={';'.join(rpath)}")
    memory = max(facts.memory_available, facts.memory_total // 4)
    jobs = max(1, min(facts.cores, memory // _MEMORY_PER_JOB))
    return BuildPlan(
        options=tuple(options),
        jobs=jobs,
        backend=backend,
        path=str(facts.nvcc.parent) if backend and facts.nvcc else "",
        note=note,
    )


def _architecture(facts: BuildFacts) -> str | None:
    if facts.tegra is not None:
        old_thor = facts.tegra == "110" and facts.cuda is not None and facts.cuda < _CUDA_FOR_110
        return "101" if old_thor else facts.tegra
    # Without the option, llama.cpp builds for all common cards, which takes much longer.
    return "native" if facts.cmake is None or facts.cmake >= _CMAKE_NATIVE else None


def gather_build_facts(root: Path, environ: Mapping[str, str]) -> BuildFacts:
    """Examine this machine, and run cmake and nvcc for their versions. Blocks for a moment."""
    found = gpus(root)
    nvcc = find_nvcc(root, environ)
    memory = psutil.virtual_memory()
    return BuildFacts(
        system=platform.system(),
        gpus=found,
        nvcc=nvcc,
        cuda=_version([str(nvcc), "--version"], r"release (\d+)\.(\d+)", environ) if nvcc else None,
        shared_memory=has_shared_memory(root),
        tegra=tegra_architecture(root) if Gpu.JETSON in found else None,
        cmake=_version(["cmake", "--version"], r"cmake version (\d+)\.(\d+)", environ),
        missing=missing_tools(root, environ),
        cores=os.cpu_count() or 1,
        memory_total=memory.total,
        memory_available=memory.available,
    )


def find_nvcc(root: Path, environ: Mapping[str, str]) -> Path | None:
    """Find CUDA's compiler on ``PATH``, or in CUDA's folders below ``root``."""
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    if on_path:
        return Path(on_path)
    return next((root / name for name in _NVCC if (root / name).is_file()), None)


def missing_tools(root: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tools of a build that are not on ``PATH``."""
    stand_ins = on_macos() and not any((root / place).exists() for place in _MAC_TOOLS)

    def is_there(program: str) -> bool:
        found = shutil.which(program, path=environ.get("PATH", ""))
        return found is not None and not (stand_ins and Path(found).parent == Path("/usr/bin"))

    return tuple(
        name for name, programs in _TOOLS.items() if not any(is_there(one) for one in programs)
    )


def tools_hint(missing: Sequence[str], system: str) -> str:
    """Return the commands that install these tools on macOS, or on Debian, Ubuntu and JetPack."""
    if system == "Darwin":
        commands = dict.fromkeys(
            "brew install cmake" if name == "cmake" else "xcode-select --install"
            for name in missing
        )
        return f"`{'; '.join(commands)}` installs the missing tools."
    packages = dict.fromkeys("cmake" if name == "cmake" else "build-essential" for name in missing)
    what = "it" if len(missing) == 1 else "them"
    return f"`sudo apt-get install -y {' '.join(packages)}` installs {what}."


def _version(
    command: Sequence[str], pattern: str, environ: Mapping[str, str]
) -> tuple[int, int] | None:
    program = shutil.which(command[0], path=environ.get("PATH", ""))
    if program is None:
        return None
    try:
        ended = run_tool([program, *command[1:]], environ=environ, time_limit=_QUESTION_TIME)
    except InstallError:
        # The build itself reports the error.
        return None
    found = re.search(pattern, "\n".join(ended.lines))
    return (int(found[1]), int(found[2])) if found else None


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def dotted(version: tuple[int, int]) -> str:
    """Write a version with a dot."""
    return ".".join(map(str, version))
