"""How to build llama-server from source: the commands, for a person to read and run."""

from __future__ import annotations

from pathlib import Path

from cyber_inference_tui.llama.install.machine import Gpu, tegra_architecture

_MEMORY_PER_JOB = 2 << 30
"""Bytes that one compiler may take, CUDA's above all."""


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
