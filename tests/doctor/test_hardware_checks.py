"""Good and bad facts about the machine, and their findings."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.doctor.facts import (
    DeviceFacts,
    GpuFacts,
    LlamaFacts,
    MemoryFacts,
    ModelFact,
    ModelsFacts,
)
from cyber_inference_tui.doctor.hardware_checks import (
    check_gpus,
    check_jetson,
    check_machine,
    check_memory,
)
from cyber_inference_tui.doctor.records import Finding, Level
from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.install.hardware import Gpu
from cyber_inference_tui.monitor.memory_reading import GpuMemory
from cyber_inference_tui.records import DeviceKind, DeviceRecord
from cyber_inference_tui.records.bench import BenchFigure
from tests.tui.world import mode_results

GIB = 1 << 30

JETSON = DeviceFacts(
    device=DeviceRecord(kind=DeviceKind.JETSON, name="Orin", l4t="36.4.3", jetpack="6.2"),
    architecture="aarch64",
    python="3.12.1",
    root_user=False,
    power_mode="MAXN_SUPER",
    power_modes={0: "15W", 1: "7W", 2: "MAXN_SUPER"},
    clocks_pinned=True,
)
CPU_BUILD = LlamaFacts(binary=LlamaBinary(path=Path("/opt/llama-server"), version="9"))
CUDA_BUILD = LlamaFacts(
    binary=LlamaBinary(path=Path("/opt/llama-server"), version="9", devices=("CUDA0",))
)
CARD = GpuFacts(
    shown=(Gpu.NVIDIA,),
    nvidia_card=True,
    nvml_library=True,
    nvidia_names=("RTX 4090",),
    memory=(GpuMemory(name="RTX 4090", total=24 * GIB, free=20 * GIB),),
)
MAC = GpuFacts(shown=(Gpu.APPLE,))
MEMORY = MemoryFacts(
    machine_total=8 * GIB, total=8 * GIB, available=6 * GIB, swap=4 * GIB, zram=2 * GIB
)


def levels(findings: list[Finding]) -> list[Level]:
    return [finding.level for finding in findings]


def bad(findings: list[Finding]) -> Finding:
    """Return the only finding that is not ok; it has a fix."""
    (found,) = [finding for finding in findings if finding.level is not Level.OK]
    assert found.fix
    return found


def test_a_machine_is_named() -> None:
    (found,) = check_machine(JETSON)
    assert found == Finding(
        check="machine",
        level=Level.OK,
        message="Orin: L4T 36.4.3, JetPack 6.2, aarch64, Python 3.12.1.",
    )


def test_a_jetson_at_its_best_has_nothing_to_repair() -> None:
    (found,) = check_jetson(JETSON)
    assert (found.check, found.level) == ("jetson", Level.OK)
    assert "MAXN_SUPER" in found.message


@pytest.mark.parametrize(
    ("mode", "modes", "number"),
    [
        ("7W", {0: "15W", 1: "7W"}, 0),
        ("MODE_20W_6CORE", {8: "MODE_20W_6CORE", 2: "MODE_15W_2CORE", 0: "MAXN"}, 0),
        ("15W", {0: "15W", 1: "25W", 2: "MAXN_SUPER"}, 2),
    ],
)
def test_a_low_power_mode(mode: str, modes: dict[int, str], number: int) -> None:
    found = bad(check_jetson(msgspec.structs.replace(JETSON, power_mode=mode, power_modes=modes)))
    assert found.level is Level.HINT
    assert mode in found.message
    assert modes[number] in found.message
    assert f"nvpmodel -m {number}`" in (found.fix or "")


@pytest.mark.parametrize(
    ("mode", "modes"),
    [("3", {}), ("CUSTOM", {0: "15W", 1: "CUSTOM"}), ("15W", {0: "15W", 1: "7W"})],
)
def test_a_mode_of_unknown_or_highest_power_is_only_named(mode: str, modes: dict[int, str]) -> None:
    facts = msgspec.structs.replace(JETSON, power_mode=mode, power_modes=modes)
    assert levels(check_jetson(facts)) == [Level.OK]


def test_measured_modes_are_compared_with_the_present_one() -> None:
    board = {"power_mode": "25W", "power_modes": {0: "15W", 1: "25W", 2: "MAXN_SUPER"}}
    facts = msgspec.structs.replace(JETSON, **board)
    now, figures, faster, thrifty = check_jetson(facts, benches=mode_results())
    assert (now.level, now.message) == (Level.OK, "The power mode is 25W.")
    assert figures.level is Level.OK
    assert figures.message.startswith(
        "Measured with qwen3-4b-q4_k_m, 8K, 2 slots, 512 + 128 tokens, 2026-03-04: "
        "MAXN_SUPER 24.9 ± 0.2 tokens/s and 1.49 ± 0.01 tokens per joule; 25W "
    )
    assert faster.message.startswith("MAXN_SUPER is 16 % faster than 25W (± ")
    assert (faster.level, "nvpmodel -m 2`" in (faster.fix or "")) == (Level.HINT, True)
    # It costs speed: nothing is wrong.
    assert thrifty.level is Level.OK
    assert thrifty.message.startswith("15W is 17 % slower than 25W (± ")
    assert "energy 21 % less" in thrifty.message


def test_a_mode_that_was_not_measured_is_judged_by_its_name() -> None:
    board = {"power_mode": "25W", "power_modes": {0: "15W", 1: "25W", 2: "MAXN_SUPER"}}
    facts = msgspec.structs.replace(JETSON, **board)
    there = [one for one in mode_results() if one.power_mode != "MAXN_SUPER"]
    guess, _, thrifty = check_jetson(facts, benches=there)
    assert "MAXN_SUPER, which is faster" in guess.message
    assert thrifty.message.startswith("15W is")
    # One round does not say which is faster.
    once = [
        msgspec.structs.replace(
            one, tokens_per_second=BenchFigure(median=9.0, spread=0.0, values=(9.0,))
        )
        for one in mode_results()
    ]
    assert "MAXN_SUPER, which is faster" in check_jetson(facts, benches=once)[0].message
    # Nothing to compare with.
    guess, figures = check_jetson(facts, benches=[there[-1]])
    assert guess.level is Level.HINT
    assert "tokens per joule." in figures.message


def test_results_without_a_meter_or_of_a_hot_machine_say_so() -> None:
    (found, *_) = mode_results()
    facts = msgspec.structs.replace(JETSON, power_mode="25W", power_modes={1: "25W"})
    hot = msgspec.structs.replace(found, joules_per_token=None, throttled=("cpu: temperature",))
    _, figures = check_jetson(facts, benches=[hot])
    assert figures.message.endswith(": 25W 21.4 ± 0.2 tokens/s while it was slowed down.")


def test_an_unknown_jetson_has_no_findings() -> None:
    facts = msgspec.structs.replace(JETSON, power_mode=None, clocks_pinned=None)
    assert check_jetson(facts, benches=mode_results()) == []


def test_clocks_that_go_down() -> None:
    found = bad(check_jetson(msgspec.structs.replace(JETSON, clocks_pinned=False)))
    assert found.level is Level.HINT
    assert "sudo jetson_clocks" in (found.fix or "")


@pytest.mark.parametrize(
    ("release", "warns"),
    [("35.4.1", False), ("36.4", False), ("36.4.4", False), ("36.4.7", True), ("36.5", True)],
)
def test_nvmap_failures_since_a_release(release: str, warns: bool) -> None:
    device = msgspec.structs.replace(JETSON.device, l4t=release)
    found = check_jetson(msgspec.structs.replace(JETSON, device=device))
    assert any("NvMap" in finding.message for finding in found) is warns


def test_zram_on_a_jetson() -> None:
    found = bad(check_jetson(JETSON, MEMORY))
    assert found.level is Level.HINT
    assert "zram may compress 2.00 GiB" in found.message
    assert "nvzramconfig" in (found.fix or "")
    assert levels(check_jetson(JETSON, msgspec.structs.replace(MEMORY, zram=0))) == [Level.OK]


def test_a_desktop_on_a_board() -> None:
    facts = msgspec.structs.replace(MEMORY, desktop=("Xorg",), desktop_bytes=GIB)
    found = bad(check_memory(facts, None, board=True))
    assert found.message == "A desktop runs (Xorg) and holds 1.00 GiB that models could use."
    assert "multi-user.target" in (found.fix or "")
    assert set(levels(check_memory(facts, None, board=False))) == {Level.OK}


def test_swap_on_an_sd_card() -> None:
    found = bad(
        check_memory(msgspec.structs.replace(MEMORY, swap_on_sd_card=True), None, board=True)
    )
    assert (found.level, "SD card" in found.message) == (Level.HINT, True)


def test_a_computer_is_no_jetson() -> None:
    computer = msgspec.structs.replace(JETSON, device=DeviceRecord(), clocks_pinned=False)
    assert check_jetson(computer) == []


def test_no_gpu_is_no_mistake() -> None:
    (found,) = check_gpus(GpuFacts(), CPU_BUILD)
    assert found.level is Level.OK
    assert "No GPU" in found.message


def test_a_gpu_that_is_used() -> None:
    (found,) = check_gpus(CARD, CUDA_BUILD)
    assert found.level is Level.OK
    assert found.message == "RTX 4090: 24.0 GiB of memory, 20.0 GiB free."


@pytest.mark.parametrize(
    ("gpus", "vulkan", "fix"),
    [
        (CARD, False, "Set llama_server_path to a build with CUDA; "),
        (CARD, True, "`cyber-inference-tui install-llama --force` gets a build with Vulkan"),
        (GpuFacts(shown=(Gpu.JETSON,)), True, "Set llama_server_path to a build with CUDA; "),
        (GpuFacts(amd_names=("AMD GPU",)), True, "Set llama_server_path to a build with ROCm"),
    ],
)
def test_a_build_for_the_cpu_beside_a_gpu(gpus: GpuFacts, vulkan: bool, fix: str) -> None:
    found = bad(check_gpus(gpus, msgspec.structs.replace(CPU_BUILD, vulkan_driver=vulkan)))
    assert (found.check, found.level) == ("gpu", Level.WARNING)
    assert "for the CPU alone" in found.message
    assert (found.fix or "").startswith(fix)


def test_a_build_that_fails_to_list_its_devices() -> None:
    binary = LlamaBinary(
        path=Path("/opt/llama-server"), version="9", devices=None, devices_problem="too slow."
    )
    llama = LlamaFacts(binary=binary)
    found = bad(check_gpus(CARD, llama))
    assert found.level is Level.WARNING
    assert found.message.startswith("There is an NVIDIA GPU, but llama-server did not list its")
    assert found.message.endswith("devices: too slow.")
    assert "driver" in (found.fix or "")
    # There may be a GPU that only llama-server knows.
    found = bad(check_gpus(GpuFacts(), llama))
    assert (found.level, found.message) == (
        Level.HINT,
        "llama-server did not list its devices: too slow.",
    )


def test_without_a_llama_server_nothing_is_said_of_its_build() -> None:
    assert levels(check_gpus(CARD, LlamaFacts(problem="none"))) == [Level.OK]
    assert levels(check_gpus(CARD, None)) == [Level.OK]


def test_an_nvidia_card_without_a_driver() -> None:
    found = bad(check_gpus(GpuFacts(nvidia_card=True), CUDA_BUILD))
    assert found.level is Level.WARNING
    assert "no NVIDIA driver" in found.message
    assert "--gpus all" in (found.fix or "")


def test_an_nvidia_driver_that_does_not_answer() -> None:
    found = bad(check_gpus(GpuFacts(shown=(Gpu.NVIDIA,), nvml_library=True), CUDA_BUILD))
    assert found.level is Level.WARNING
    assert "does not answer" in found.message
    assert "nvidia-smi" in (found.fix or "")


def test_a_gpu_that_shares_the_memory_is_listed() -> None:
    facts = GpuFacts(shown=(Gpu.NVIDIA,), nvml_library=True, nvidia_names=("NVIDIA GB10",))
    (found,) = check_gpus(facts, CUDA_BUILD)
    assert found.message == "NVIDIA GB10 shares the machine's memory."


def test_amd_compute_device_that_is_not_ours() -> None:
    facts = GpuFacts(shown=(Gpu.AMD,), amd_names=("AMD GPU 744c",), kfd_usable=False)
    found = bad(check_gpus(facts, CUDA_BUILD))
    assert found.level is Level.HINT
    assert "usermod -aG render" in (found.fix or "")


def test_memory_that_is_plenty() -> None:
    found = check_memory(MEMORY, None, board=True)
    assert [one.message for one in found] == [
        "8.00 GiB, 6.00 GiB available.",
        "Swap: 4.00 GiB on disk, 2.00 GiB compressed in memory. It does not count as room for "
        "models.",
    ]


def test_caches_that_count_as_available_are_named() -> None:
    facts = msgspec.structs.replace(MEMORY, cache=3 * GIB, zfs_cache=GIB)
    (found, _) = check_memory(facts, None, board=True)
    assert found.message == (
        "8.00 GiB, 6.00 GiB available, 3.00 GiB of file cache and 1.00 GiB of ZFS cache included."
    )


def test_little_memory_left() -> None:
    found = bad(check_memory(msgspec.structs.replace(MEMORY, available=1000), None, board=False))
    assert found.level is Level.WARNING
    assert "cyber-inference-tui unload" in (found.fix or "")


def test_a_limit_below_the_machine() -> None:
    found = bad(check_memory(msgspec.structs.replace(MEMORY, total=2 * GIB), None, board=False))
    assert found.level is Level.HINT
    assert "2.00 GiB of the machine's 8.00 GiB" in found.message
    assert "limit" in (found.fix or "")


def test_a_machine_that_hides_its_memory() -> None:
    found = bad(check_memory(MemoryFacts(), None, board=False))
    assert found.level is Level.WARNING
    assert "system_root" in (found.fix or "")


@pytest.mark.parametrize(
    ("total", "size", "board", "warns"),
    [
        (8, 9, True, True),
        (8, 7, True, False),
        (8, 9, False, False),
        (16, 17, True, False),
    ],
)
def test_no_swap_on_a_small_board(total: int, size: int, board: bool, warns: bool) -> None:
    facts = MemoryFacts(
        machine_total=total * GIB, total=total * GIB, available=2 * GIB, swap=0, zram=0
    )
    models = ModelsFacts(
        models=(ModelFact(id="big", size=size * GIB), ModelFact(id="unknown")),
        models_dir=Path("/m"),
    )
    found = check_memory(facts, models, board=board)
    if not warns:
        assert set(levels(found)) == {Level.OK}
        return
    assert bad(found).level is Level.HINT
    assert "no swap, and big is larger than the memory" in bad(found).message


def test_a_macs_gpu_and_a_build_without_metal() -> None:
    metal = LlamaFacts(
        binary=LlamaBinary(path=Path("/opt/llama-server"), version="9", devices=("MTL0",))
    )
    (found,) = check_gpus(MAC, metal)
    assert (found.level, found.message) == (
        Level.OK,
        "The Mac's GPU shares the machine's memory.",
    )
    _, found = check_gpus(MAC, CPU_BUILD)
    assert found.level is Level.WARNING
    assert "There is an Apple GPU, but" in found.message
    assert found.fix == (
        "`cyber-inference-tui install-llama --from github --force` gets a build with Metal."
    )
