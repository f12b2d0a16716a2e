"""The GPUs of a machine and of a build, and the software for them."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from cyber_inference_tui.llama.binary import listed_devices
from cyber_inference_tui.llama.install.hardware import (
    Gpu,
    gpus,
    has_render_device,
    has_shared_memory,
    has_vulkan_driver,
    tegra_architecture,
    unused_gpus,
    vulkan_builds,
)

ORIN = b"nvidia,p3768-0000+p3767-0003\0nvidia,p3767-0003\0nvidia,tegra234\0nvidia,tegra23x\0"


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
        ({"sys/firmware/devicetree/base/compatible": ORIN}, (Gpu.JETSON,)),
        ({"dev/nvhost-ctrl-gpu": b""}, (Gpu.JETSON,)),
        ({"dev/nvidia0": b"", "dev/kfd": b""}, (Gpu.NVIDIA, Gpu.AMD)),
        ({"proc/device-tree/compatible": b"raspberrypi,5-model-b\0brcm,bcm2712\0"}, ()),
    ],
)
def test_gpus(tmp_path: Path, files: dict[str, bytes], found: tuple[Gpu, ...]) -> None:
    assert gpus(root_with(tmp_path, files)) == found


@pytest.mark.parametrize(
    ("system", "machine", "found"),
    [("Darwin", "arm64", (Gpu.APPLE,)), ("Darwin", "x86_64", ()), ("Linux", "arm64", ())],
)
def test_a_mac_with_apples_chip_has_a_gpu(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, found: tuple[Gpu, ...]
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert tuple(gpu for gpu in gpus(Path("/")) if gpu is Gpu.APPLE) == found
    # A mount of another machine's files is not a Mac.
    assert Gpu.APPLE not in gpus(Path("/nonexistent"))


@pytest.mark.parametrize("device", ["MTL0: Apple M4 (12124 MiB, 12123 MiB free)", "Metal: M1"])
def test_metal_has_an_old_and_a_new_name(device: str) -> None:
    assert unused_gpus((Gpu.APPLE,), (device,)) == ()
    assert unused_gpus((Gpu.APPLE,), ("BLAS: Accelerate",)) == (Gpu.APPLE,)


@pytest.mark.parametrize("tree", ["proc/device-tree", "sys/firmware/devicetree/base"])
def test_the_architecture_of_a_jetson(tmp_path: Path, tree: str) -> None:
    assert tegra_architecture(tmp_path) is None
    assert tegra_architecture(root_with(tmp_path, {f"{tree}/compatible": ORIN})) == "87"


@pytest.mark.parametrize(
    ("files", "shared"),
    [
        ({"proc/device-tree/compatible": ORIN}, True),
        ({"proc/driver/nvidia/gpus/0009:01:00.0/information": b"Model: \t NVIDIA GB10\n"}, True),
        ({"proc/driver/nvidia/gpus/0000:01:00.0/information": b"Model: \t NVIDIA L4\n"}, False),
        ({}, False),
    ],
)
def test_shared_memory(tmp_path: Path, files: dict[str, bytes], shared: bool) -> None:
    assert has_shared_memory(root_with(tmp_path, files)) is shared


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


RENDER = {
    "dev/dri/renderD128": b"",
    "sys/class/drm/renderD128/device/vendor": b"0x1002\n",
}
DRIVER = {"usr/share/vulkan/icd.d/radeon.json": b"{}"}
LOADER = {"usr/lib/x86_64-linux-gnu/libvulkan.so.1": b""}


@pytest.mark.parametrize(
    ("vendor", "found"),
    [(b"0x1002\n", True), (b"0x8086\n", True), (b"0x10de\n", True), (b"0x1af4\n", False)],
)
def test_render_devices(tmp_path: Path, vendor: bytes, found: bool) -> None:
    assert not has_render_device(tmp_path)
    name = "sys/class/drm/renderD128/device/vendor"
    assert has_render_device(root_with(tmp_path, {**RENDER, name: vendor})) is found


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ({}, ((False,), (False,))),
        ({**DRIVER, **LOADER}, ((False,), (False,))),
        (RENDER | LOADER, ((False,), (False,))),
        (RENDER | DRIVER, ((False,), (True, False))),
        (RENDER | DRIVER | LOADER, ((True, False), (True, False))),
        ({"dev/nvidia0": b""} | DRIVER | LOADER, ((True, False), (True, False))),
    ],
)
def test_vulkan_only_with_all_it_needs(
    tmp_path: Path, files: dict[str, bytes], chosen: tuple[tuple[bool, ...], tuple[bool, ...]]
) -> None:
    assert vulkan_builds(root_with(tmp_path, files)) == chosen
