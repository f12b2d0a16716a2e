"""The plan of a build of llama-server, by facts about the machine; and the possible methods."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.install.build_plan import (
    BuildFacts,
    find_nvcc,
    gather_build_facts,
    missing_tools,
    plan_build,
)
from cyber_inference_tui.llama.install.hardware import Gpu, VulkanBuilds
from cyber_inference_tui.llama.install.methods import (
    InstallFacts,
    gather_install_facts,
    install_methods,
)

GIB = 1 << 30
BOX = BuildFacts(
    system="Linux",
    cmake=(3, 28),
    cores=8,
    memory_total=32 * GIB,
    memory_available=20 * GIB,
)
ORIN_NANO = msgspec.structs.replace(
    BOX,
    gpus=(Gpu.JETSON,),
    nvcc=Path("/usr/local/cuda/bin/nvcc"),
    cuda=(12, 6),
    shared_memory=True,
    tegra="87",
    cores=6,
    memory_total=int(7.4 * GIB),
    memory_available=int(6.5 * GIB),
)


def test_a_small_jetson() -> None:
    plan = plan_build(ORIN_NANO)
    assert {
        "-DGGML_CUDA=ON",
        "-DCMAKE_CUDA_COMPILER=/usr/local/cuda/bin/nvcc",
        "-DCMAKE_CUDA_ARCHITECTURES=87",
        "-DCMAKE_INSTALL_RPATH=$ORIGIN;/usr/local/cuda/lib64",
        "-DGGML_CUDA_NO_VMM=ON",
        "-DCMAKE_BUILD_TYPE=Release",
    } <= set(plan.options)
    assert (plan.jobs, plan.backend, plan.note) == (3, "CUDA", "")
    assert plan.path == "/usr/local/cuda/bin"


def test_a_gpu_with_shared_memory_has_no_virtual_memory_pool() -> None:
    large = msgspec.structs.replace(ORIN_NANO, memory_total=62 * GIB, memory_available=50 * GIB)
    plan = plan_build(large)
    assert "-DGGML_CUDA_NO_VMM=ON" in plan.options
    assert plan.jobs == 6
    card = msgspec.structs.replace(BOX, gpus=(Gpu.NVIDIA,), nvcc=Path("/bin/nvcc"))
    assert "-DGGML_CUDA_NO_VMM=ON" not in plan_build(card).options


@pytest.mark.parametrize(("cuda", "architecture"), [((12, 9), "101"), ((13, 0), "110")])
def test_thor_has_two_names(cuda: tuple[int, int], architecture: str) -> None:
    thor = msgspec.structs.replace(ORIN_NANO, tegra="110", cuda=cuda)
    assert f"-DCMAKE_CUDA_ARCHITECTURES={architecture}" in plan_build(thor).options


@pytest.mark.parametrize(("cmake", "native"), [((3, 24), True), ((3, 22), False)])
def test_a_card_is_built_for_as_it_is(cmake: tuple[int, int], native: bool) -> None:
    card = msgspec.structs.replace(BOX, gpus=(Gpu.NVIDIA,), nvcc=Path("/bin/nvcc"), cmake=cmake)
    plan = plan_build(card)
    assert plan.backend == "CUDA"
    assert ("-DCMAKE_CUDA_ARCHITECTURES=native" in plan.options) is native


def test_without_cudas_compiler_it_is_for_the_cpu_and_said() -> None:
    plan = plan_build(msgspec.structs.replace(ORIN_NANO, nvcc=None))
    assert plan.backend == ""
    assert not [option for option in plan.options if "CUDA" in option]
    assert "sudo apt-get install -y nvidia-jetpack" in plan.note


def test_a_compiler_without_a_gpu_is_no_reason_for_cuda() -> None:
    plan = plan_build(msgspec.structs.replace(BOX, nvcc=Path("/bin/nvcc")))
    assert (plan.backend, plan.note) == ("", "")


@pytest.mark.parametrize(
    ("total", "available", "jobs"),
    [(1 * GIB, 1 * GIB, 1), (8 * GIB, 0, 1), (16 * GIB, 1 * GIB, 2), (64 * GIB, 60 * GIB, 8)],
)
def test_jobs_by_memory(total: int, available: int, jobs: int) -> None:
    facts = msgspec.structs.replace(BOX, memory_total=total, memory_available=available)
    assert plan_build(facts).jobs == jobs


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        (("cmake",), "sudo apt-get install -y cmake`"),
        (("make", "a C++ compiler"), "sudo apt-get install -y build-essential`"),
        (("cmake", "make"), "sudo apt-get install -y cmake build-essential`"),
    ],
)
def test_missing_tools_are_reported_with_their_command(
    missing: tuple[str, ...], command: str
) -> None:
    with pytest.raises(InstallError) as caught:
        plan_build(msgspec.structs.replace(BOX, missing=missing))
    assert command in str(caught.value)
    assert all(name in caught.value.message for name in missing)


def test_jetpack_5_brings_too_old_a_cmake() -> None:
    with pytest.raises(InstallError, match=r"3\.18 or newer.*3\.16.*pip install"):
        plan_build(msgspec.structs.replace(BOX, cmake=(3, 16)))


def test_macos() -> None:
    plan = plan_build(msgspec.structs.replace(BOX, system="Darwin", gpus=(Gpu.APPLE,)))
    assert "-DCMAKE_INSTALL_RPATH=@loader_path" in plan.options
    assert "-DGGML_METAL=ON" in plan.options
    assert plan.backend == "Metal"
    intel = plan_build(msgspec.structs.replace(BOX, system="Darwin"))
    assert "-DGGML_METAL=OFF" in intel.options
    assert intel.backend == ""
    assert not [option for option in plan_build(BOX).options if "METAL" in option]


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        (("cmake",), "`brew install cmake`"),
        (("make", "a C++ compiler"), "`xcode-select --install`"),
        (("cmake", "make"), "`brew install cmake; xcode-select --install`"),
    ],
)
def test_missing_tools_on_macos(missing: tuple[str, ...], command: str) -> None:
    with pytest.raises(InstallError) as caught:
        plan_build(msgspec.structs.replace(BOX, system="Darwin", missing=missing))
    assert command in caught.value.hint
    assert "apt" not in str(caught.value)


def test_the_stand_ins_of_macos_compile_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"make": "/usr/bin/make", "c++": "/usr/bin/c++", "cmake": "/opt/homebrew/bin/cmake"}
    monkeypatch.setattr(shutil, "which", lambda name, path: where.get(name))
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert missing_tools(tmp_path, {}) == ("make", "a C++ compiler")
    (tmp_path / "Library/Developer/CommandLineTools/usr/bin").mkdir(parents=True)
    (tmp_path / "Library/Developer/CommandLineTools/usr/bin/clang").touch()
    assert missing_tools(tmp_path, {}) == ()


def program(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_facts_of_a_machine(tmp_path: Path) -> None:
    root = tmp_path / "root"
    compatible = root / "proc/device-tree/compatible"
    compatible.parent.mkdir(parents=True)
    compatible.write_bytes(b"nvidia,p3767\0nvidia,tegra234\0")
    nvcc = program(root / "usr/local/cuda/bin/nvcc", "echo 'Cuda, release 12.6, V12.6.68'")
    tools = tmp_path / "bin"
    for name in ("make", "g++"):
        program(tools / name)
    program(tools / "cmake", "echo 'cmake version 3.22.1'")
    facts = gather_build_facts(root, {"PATH": str(tools)})
    assert (facts.nvcc, facts.cuda, facts.tegra) == (nvcc, (12, 6), "87")
    assert (facts.cmake, facts.missing) == ((3, 22), ())
    assert facts.memory_total >= facts.memory_available > 0


def test_programs_that_do_not_answer(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    program(tools / "cmake", "exit 3")
    facts = gather_build_facts(tmp_path, {"PATH": str(tools)})
    assert (facts.cmake, facts.nvcc, facts.cuda) == (None, None, None)
    assert facts.missing == ("make", "a C++ compiler")
    assert missing_tools(tmp_path, {}) == ("cmake", "make", "a C++ compiler")


def test_nvcc_on_path_goes_first(tmp_path: Path) -> None:
    on_path = program(tmp_path / "bin/nvcc")
    program(tmp_path / "usr/local/cuda/bin/nvcc")
    assert find_nvcc(tmp_path, {"PATH": str(tmp_path / "bin")}) == on_path


DEBIAN = InstallFacts(
    system="Linux",
    machine="x86_64",
    glibc=(2, 36),
    has_apt=True,
    has_mirror=True,
    has_keys=True,
    gpus=(),
    vulkan=VulkanBuilds(github=(False,), debian=(False,)),
    has_nvcc=False,
    missing_tools=(),
)
JETPACK_6 = msgspec.structs.replace(
    DEBIAN,
    machine="aarch64",
    glibc=(2, 35),
    has_mirror=False,
    has_keys=False,
    gpus=(Gpu.JETSON,),
    has_nvcc=True,
)


def possible(facts: InstallFacts) -> list[str]:
    return [method.name for method in install_methods(facts) if method.possible]


def recommended(facts: InstallFacts) -> list[str]:
    return [method.name for method in install_methods(facts) if method.recommended]


def test_the_methods_of_an_ordinary_machine() -> None:
    assert possible(DEBIAN) == ["github", "debian", "source"]
    assert recommended(DEBIAN) == ["github"]


def test_on_jetpack_6_only_a_build_will_do() -> None:
    github, debian, source = install_methods(JETPACK_6)
    assert "2.39" in (github.problem or "")
    assert "2.35" in (github.problem or "")
    assert "no Debian mirror" in (debian.problem or "")
    assert (source.possible, source.recommended) == (True, True)
    assert "CUDA" in source.summary


def test_a_jetson_without_tools_gets_the_command_for_them() -> None:
    facts = msgspec.structs.replace(JETPACK_6, missing_tools=("cmake",))
    assert possible(facts) == recommended(facts) == []
    assert "sudo apt-get install -y cmake" in (install_methods(facts)[2].problem or "")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"glibc": None}, ["debian", "source"]),
        ({"glibc": (2, 31)}, ["debian", "source"]),
        ({"machine": "riscv64"}, ["debian", "source"]),
        ({"has_apt": False}, ["github", "source"]),
        ({"has_keys": False}, ["github", "source"]),
        ({"missing_tools": ("make",)}, ["github", "debian"]),
        ({"system": "Darwin", "machine": "arm64"}, ["github", "source"]),
    ],
)
def test_conditions_that_exclude_a_method(change: dict[str, object], names: list[str]) -> None:
    facts = msgspec.structs.replace(DEBIAN, **change)
    assert possible(facts) == names
    assert recommended(facts) == names[:1]
    assert all((method.problem is None) is method.possible for method in install_methods(facts))


def test_a_mac_with_apples_chip_gets_metal() -> None:
    facts = msgspec.structs.replace(DEBIAN, system="Darwin", machine="arm64", gpus=(Gpu.APPLE,))
    github, debian, source = install_methods(facts)
    assert "GPU, with Metal" in github.summary
    assert "GPU, with Metal" in source.summary
    assert debian.problem == "Debian's packages run on Linux only."


def test_vulkan_is_promised_only_where_it_would_be_taken() -> None:
    vulkan = VulkanBuilds(github=(False,), debian=(True, False))
    github, debian, _ = install_methods(msgspec.structs.replace(DEBIAN, vulkan=vulkan))
    assert "CPU" in github.summary
    assert "Vulkan" in debian.summary
    vulkan = VulkanBuilds(github=(True, False), debian=(True, False))
    github, *_ = install_methods(msgspec.structs.replace(DEBIAN, vulkan=vulkan))
    assert "Vulkan" in github.summary


def test_this_machine_has_a_method_or_a_reason(tmp_path: Path) -> None:
    found = install_methods(gather_install_facts(tmp_path, os.environ))
    assert [method.name for method in found] == ["github", "debian", "source"]
    assert all(method.possible or method.problem for method in found)
