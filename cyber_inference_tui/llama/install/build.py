"""How to build llama-server from source: the commands, for a person to read and run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cyber_inference_tui.llama.install.machine import Gpu, tegra_architecture

_MEMORY_PER_JOB = 2 << 30
"""Bytes that one compiler may take, CUDA's above all."""

_NVCC = ("usr/local/cuda/bin/nvcc", "opt/cuda/bin/nvcc")
"""Where it is when it is not on ``PATH``: NVIDIA's packages and JetPack put no link there."""

_TOOLS = {"cmake": ("cmake",), "make": ("make", "ninja"), "a C++ compiler": ("c++", "g++")}
"""What a build needs, and the programs of which one will do."""


def find_nvcc(root: Path, environ: Mapping[str, str]) -> Path | None:
    """CUDA's compiler: on ``PATH``, or where CUDA is installed below ``root``."""
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    if on_path:
        return Path(on_path)
    return next((root / name for name in _NVCC if (root / name).is_file()), None)


def missing_tools(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What a build needs and ``PATH`` does not have."""
    path = environ.get("PATH", "")
    return tuple(
        name
        for name, programs in _TOOLS.items()
        if not any(shutil.which(program, path=path) for program in programs)
    )


def tools_hint(missing: Sequence[str]) -> str:
    """The command that installs them on Debian, Ubuntu and JetPack."""
    packages = dict.fromkeys("cmake" if name == "cmake" else "build-essential" for name in missing)
    return f"`sudo apt-get install -y {' '.join(packages)}` installs them."


def build_commands(
    *, gpus: tuple[Gpu, ...], cores: int, memory_bytes: int, root: Path
) -> tuple[str, ...]:
    """Shell commands that build llama-server for this machine and make the program use it.

    Sources: llama.cpp's ``docs/build.md``. CUDA's compiler is looked for on ``PATH``.
    """
    jobs = max(1, min(cores, memory_bytes // _MEMORY_PER_JOB))
    options = ["-DCMAKE_BUILD_TYPE=Release"]
    if Gpu.JETSON in gpus or Gpu.NVIDIA in gpus:
        options.append("-DGGML_CUDA=ON")
        architecture = tegra_architecture(root) if Gpu.JETSON in gpus else None
        options.append(f"-DCMAKE_CUDA_ARCHITECTURES={architecture or 'native'}")
        if Gpu.JETSON in gpus and memory_bytes < 9 << 30:
            options.append("-DGGML_CUDA_NO_VMM=ON")
    elif Gpu.AMD in gpus:
        options.append("-DGGML_HIP=ON")
    path = ["export PATH=/usr/local/cuda/bin:$PATH"] if "-DGGML_CUDA=ON" in options else []
    return (
        *path,
        "git clone --depth 1 https://github.com/ggml-org/llama.cpp",
        f"cmake -S llama.cpp -B llama.cpp/build {' '.join(options)}",
        f"cmake --build llama.cpp/build --target llama-server -j {jobs}",
        'cyber-inference-tui config set llama_server_path "$PWD/llama.cpp/build/bin/llama-server"',
    )
