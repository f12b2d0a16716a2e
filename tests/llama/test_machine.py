"""Which GPUs a machine has, which a build lists, and how to build for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.llama.install.build import build_commands
from cyber_inference_tui.llama.install.machine import (
    Gpu,
    gpus,
    has_vulkan_driver,
    listed_devices,
    unused_gpus,
)

ORIN = b"nvidia,p3768-0000+p3767-0003\0nvidia,p3767-0003\0nvidia,tegra234\0nvidia,tegra23x\0"
GIB = 1 << 30


def root_with(tmp_path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, ()),
        ({"dev/nvidia0": b""}, (Gpu.NVIDIA,)),
        ({"proc/driver/nvidia/version": b"NVRM"}, (Gpu.NVIDIA,)),
        ({"proc/device-tree/compatible": ORIN}, (Gpu.JETSON,)),
        ({"proc/device-tree/compatible": ORIN, "dev/nvidia0": b""}, (Gpu.JETSON,)),
        ({"dev/nvhost-ctrl-gpu": b""}, (Gpu.JETSON,)),
        ({"dev/nvidia0": b"", "dev/kfd": b""}, (Gpu.NVIDIA, Gpu.AMD)),
        ({"proc/device-tree/compatible": b"raspberrypi,5-model-b\0brcm,bcm2712\0"}, ()),
    ],
)
def test_gpus(tmp_path: Path, files: dict[str, bytes], found: tuple[Gpu, ...]) -> None:
    assert gpus(root_with(tmp_path, files)) == found


def test_vulkan_driver(tmp_path: Path) -> None:
    assert not has_vulkan_driver(tmp_path)
    assert has_vulkan_driver(root_with(tmp_path, {"etc/vulkan/icd.d/nvidia_icd.json": b"{}"}))


def test_listed_devices() -> None:
    output = (
        "ggml_cuda_init: found 1 CUDA devices:\n  Device 0: not: a device\n"
        "Available devices:\n"
        "  CUDA0: NVIDIA H100 (81559 MiB, 80000 MiB free)\n"
        "  Vulkan0: \x1b[31mllvmpipe\x1b[0m (LLVM 15)\n"
    )
    assert listed_devices(output) == (
        "CUDA0: NVIDIA H100 (81559 MiB, 80000 MiB free)",
        "Vulkan0: llvmpipe (LLVM 15)",
    )
    assert listed_devices("Available devices:\n  (none)\n") == ()
    assert listed_devices("something else\n  A: B\n") == ()


@pytest.mark.parametrize(
    ("present", "devices", "unused"),
    [
        ((), (), ()),
        ((Gpu.NVIDIA,), (), (Gpu.NVIDIA,)),
        ((Gpu.NVIDIA,), ("CUDA0: H100",), ()),
        ((Gpu.NVIDIA,), ("Vulkan0: NVIDIA GeForce RTX 4090 (24564 MiB)",), ()),
        ((Gpu.NVIDIA,), ("Vulkan0: llvmpipe (LLVM 15)",), (Gpu.NVIDIA,)),
        ((Gpu.JETSON,), ("CUDA0: Orin (7620 MiB, 5000 MiB free)",), ()),
        ((Gpu.AMD,), ("Vulkan0: AMD Radeon RX 7900 (RADV)",), ()),
        ((Gpu.AMD, Gpu.NVIDIA), ("ROCm0: gfx1100",), (Gpu.NVIDIA,)),
    ],
)
def test_unused_gpus(
    present: tuple[Gpu, ...], devices: tuple[str, ...], unused: tuple[Gpu, ...]
) -> None:
    assert unused_gpus(present, devices) == unused


def test_build_commands_for_a_small_jetson(tmp_path: Path) -> None:
    root = root_with(tmp_path, {"proc/device-tree/compatible": ORIN})
    commands = build_commands(gpus=(Gpu.JETSON,), cores=6, memory_bytes=8 * GIB, root=root)
    text = "\n".join(commands)
    for option in ("GGML_CUDA=ON", "CUDA_ARCHITECTURES=87", "NO_VMM=ON", "-j 4", "/cuda/bin"):
        assert option in text
    assert "llama_server_path" in commands[-1]


def test_build_commands_without_a_gpu(tmp_path: Path) -> None:
    commands = build_commands(gpus=(), cores=2, memory_bytes=GIB, root=tmp_path)
    text = "\n".join(commands)
    assert "CUDA" not in text
    assert "-j 1" in text


def test_build_commands_for_amd(tmp_path: Path) -> None:
    commands = build_commands(gpus=(Gpu.AMD,), cores=16, memory_bytes=64 * GIB, root=tmp_path)
    assert any("GGML_HIP=ON" in command and "CUDA" not in command for command in commands)
