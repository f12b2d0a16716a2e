"""Judges the machine itself: its GPUs, its memory, and a Jetson's configuration."""

from __future__ import annotations

from collections.abc import Sequence

from cyber_inference_tui.doctor.facts import (
    DeviceFacts,
    GpuFacts,
    LlamaFacts,
    MemoryFacts,
    ModelsFacts,
)
from cyber_inference_tui.doctor.power_mode import check_power_mode
from cyber_inference_tui.doctor.records import Finding, Level
from cyber_inference_tui.llama.install.hardware import Gpu
from cyber_inference_tui.monitor.gpu_memory import is_integrated
from cyber_inference_tui.monitor.memory_reading import caches_in_words
from cyber_inference_tui.records import DeviceKind
from cyber_inference_tui.records.bench import BenchResult
from cyber_inference_tui.units import size_text

GIB = 1 << 30
_SMALL_BOARD = 9 * GIB
"""Boards with 8 GB or less; the kernel sees a little less than the label."""
_LITTLE_MEMORY = 1 * GIB
_NVMAP_SINCE = (36, 4, 7)
"""The first L4T whose allocator is reported to fail although memory is free."""


def check_machine(facts: DeviceFacts) -> list[Finding]:
    """Describe the machine; there is nothing to repair here."""
    device = facts.device
    system = [
        device.os,
        f"L4T {device.l4t}" if device.l4t else None,
        f"JetPack {device.jetpack}" if device.jetpack else None,
        f"kernel {device.kernel}" if device.kernel else None,
        facts.architecture,
        f"Python {facts.python}",
    ]
    name = device.name or "An unknown machine"
    details = ", ".join(part for part in system if part)
    return [Finding.ok("machine", f"{name}: {details}.")]


def check_jetson(
    facts: DeviceFacts, memory: MemoryFacts | None = None, benches: Sequence[BenchResult] = ()
) -> list[Finding]:
    """Judge a Jetson's configuration; no findings on other machines."""
    if facts.device.kind is not DeviceKind.JETSON:
        return []
    found = check_power_mode(facts, benches)
    if memory is not None and memory.zram:
        found.append(
            Finding.hint(
                "jetson",
                f"zram may compress {size_text(memory.zram)} of memory: that takes processor "
                "time, and the weights of models hardly compress.",
                "`sudo systemctl disable nvzramconfig`, a swap file on an SSD, and a reboot leave "
                "more for models.",
            )
        )
    if facts.clocks_pinned is False:
        found.append(
            Finding.hint(
                "jetson",
                "The clocks go down when there is little to do (jetson_clocks is off).",
                "`sudo jetson_clocks` keeps them up until the next boot: quicker first "
                "tokens, at the price of more power and heat.",
            )
        )
    if facts.device.l4t and _release(facts.device.l4t) >= _NVMAP_SINCE:
        found.append(
            Finding.hint(
                "jetson",
                f"L4T {facts.device.l4t} may refuse GPU memory (NvMap error 12) although "
                "enough is free.",
                "If a load fails with it: unload other models, drop the file cache with "
                "`sudo sysctl vm.drop_caches=3`, or reboot.",
            )
        )
    return found


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def check_gpus(facts: GpuFacts, llama: LlamaFacts | None) -> list[Finding]:
    """Judge the GPUs, their drivers, and whether llama-server was built for them."""
    found = [
        Finding.ok(
            "gpu", f"{gpu.name}: {size_text(gpu.total)} of memory, {size_text(gpu.free)} free."
        )
        for gpu in facts.memory
    ]
    if Gpu.JETSON in facts.shown:
        found.append(Finding.ok("gpu", "The Jetson's GPU shares the machine's memory."))
    elif Gpu.APPLE in facts.shown:
        found.append(Finding.ok("gpu", "The Mac's GPU shares the machine's memory."))
    else:
        found += _nvidia(facts)
    found += _amd(facts)
    present = _present(facts)
    if not present:
        found.append(Finding.ok("gpu", "No GPU was found: models run on the CPU."))
    binary = llama.binary if llama is not None else None
    if binary is not None and binary.devices is None:
        found.append(_unlisted(present, binary.devices_problem))
    elif llama is not None and binary is not None and present and not binary.devices:
        found.append(_unused(present, llama, offered=bool(facts.shown)))
    return found


def _present(facts: GpuFacts) -> tuple[Gpu, ...]:
    jetson = Gpu.JETSON in facts.shown
    nvidia = not jetson and bool(
        facts.nvidia_names or facts.nvidia_card or Gpu.NVIDIA in facts.shown
    )
    amd = bool(facts.amd_names or Gpu.AMD in facts.shown)
    apple = Gpu.APPLE in facts.shown
    there = {Gpu.JETSON: jetson, Gpu.NVIDIA: nvidia, Gpu.AMD: amd, Gpu.APPLE: apple}
    return tuple(gpu for gpu, is_there in there.items() if is_there)


def _nvidia(facts: GpuFacts) -> list[Finding]:
    if facts.nvidia_names:
        shared = [name for name in facts.nvidia_names if is_integrated(name)]
        return [Finding.ok("gpu", f"{name} shares the machine's memory.") for name in shared]
    if not (facts.nvidia_card or Gpu.NVIDIA in facts.shown):
        return []
    if not facts.nvml_library:
        return [
            Finding.warning(
                "gpu",
                "There is an NVIDIA GPU, but no NVIDIA driver (libnvidia-ml.so.1).",
                "Install NVIDIA's driver; in a container, start it with the NVIDIA runtime "
                "(`--gpus all`).",
            )
        ]
    return [
        Finding.warning(
            "gpu",
            "There is an NVIDIA GPU, and its driver is installed but does not answer.",
            "`nvidia-smi` says why; after an update of the driver a reboot is needed.",
        )
    ]


def _amd(facts: GpuFacts) -> list[Finding]:
    found = []
    if facts.amd_names and not any(gpu.name in facts.amd_names for gpu in facts.memory):
        names = ", ".join(facts.amd_names)
        found.append(Finding.ok("gpu", f"{names} shares the machine's memory."))
    if facts.kfd_usable is False:
        found.append(
            Finding.hint(
                "gpu",
                "This user may not open the AMD GPU's compute device /dev/kfd.",
                "`sudo usermod -aG render,video $USER`, then log in again. Builds with ROCm "
                "need it, those with Vulkan do not.",
            )
        )
    return found


def _unlisted(present: tuple[Gpu, ...], problem: str) -> Finding:
    beginning = f"There is an {' and an '.join(present)}, but llama-server" if present else ""
    return Finding(
        check="gpu",
        level=Level.WARNING if present else Level.HINT,
        message=f"{beginning or 'llama-server'} did not list its devices: {problem}",
        fix="Check the driver, or set llama_server_path to a build that fits it.",
    )


def _unused(present: tuple[Gpu, ...], llama: LlamaFacts, *, offered: bool) -> Finding:
    names = " and an ".join(present)
    kind = "ROCm or Vulkan" if present == (Gpu.AMD,) else "CUDA"
    fix = f"Set llama_server_path to a build with {kind}"
    if offered:
        fix += "; `cyber-inference-tui install-llama --from source` builds one"
    if Gpu.APPLE in present:
        fix = "`cyber-inference-tui install-llama --from github --force` gets a build with Metal"
    elif offered and llama.vulkan_driver and Gpu.JETSON not in present:
        fix = f"`cyber-inference-tui install-llama --force` gets a build with Vulkan. Or: {fix}"
    return Finding.warning(
        "gpu",
        f"There is an {names}, but llama-server is a build for the CPU alone: models "
        "run many times slower than they could.",
        f"{fix}.",
    )


def check_memory(facts: MemoryFacts, models: ModelsFacts | None, *, board: bool) -> list[Finding]:
    """Judge main memory, its limit, and swap. ``board`` = a small computer with shared memory."""
    if facts.total is None:
        return [
            Finding.warning(
                "memory",
                "The size of the memory is unknown.",
                "Check that system_root has the machine's proc/ in it.",
            )
        ]
    free = size_text(facts.available) if facts.available is not None else "an unknown part"
    caches = caches_in_words(facts.cache, facts.zfs_cache)
    includes = f", {caches} included" if caches else ""
    found = [Finding.ok("memory", f"{size_text(facts.total)}, {free} available{includes}.")]
    if facts.available is not None and facts.available < _LITTLE_MEMORY:
        found.append(
            Finding.warning(
                "memory",
                f"Only {size_text(facts.available)} of memory are available: hardly any "
                "model fits.",
                "End other programs, or unload models with `cyber-inference-tui unload`.",
            )
        )
    if facts.machine_total is not None and facts.total < facts.machine_total:
        found.append(
            Finding.hint(
                "memory",
                f"A limit lets us use {size_text(facts.total)} of the machine's "
                f"{size_text(facts.machine_total)}.",
                "Raise the limit of the container or the systemd unit for larger models.",
            )
        )
    if board and facts.desktop:
        found.append(
            Finding.hint(
                "memory",
                f"A desktop runs ({', '.join(facts.desktop)}) and holds "
                f"{size_text(facts.desktop_bytes)} that models could use.",
                "`sudo systemctl isolate multi-user.target` ends it, `sudo systemctl set-default "
                "multi-user.target` starts without one from the next boot on.",
            )
        )
    if facts.swap_on_sd_card:
        found.append(
            Finding.hint(
                "memory",
                "There is swap on an SD card: it is very slow, and the card wears out.",
                "Put the swap file on an SSD, or use smaller quantizations.",
            )
        )
    return found + _swap(facts, facts.total, models, board=board)


def _swap(
    facts: MemoryFacts, total: int, models: ModelsFacts | None, *, board: bool
) -> list[Finding]:
    if facts.swap is None:
        return []
    if facts.swap or facts.zram:
        kinds = [
            f"{size_text(size)} {kind}"
            for size, kind in ((facts.swap, "on disk"), (facts.zram, "compressed in memory"))
            if size
        ]
        message = f"Swap: {', '.join(kinds)}. It does not count as room for models."
        return [Finding.ok("memory", message)]
    large = _larger(models, total)
    if board and total < _SMALL_BOARD and large:
        return [
            Finding.hint(
                "memory",
                f"There is no swap, and {_list(large)} larger than the memory: such a "
                "load may end other programs.",
                "Make a swap file of some gigabytes, or use smaller quantizations.",
            )
        ]
    return [Finding.ok("memory", "There is no swap.")]


def _larger(models: ModelsFacts | None, total: int) -> Sequence[str]:
    known = models.models if models is not None else ()
    return [model.id for model in known if model.size is not None and model.size > total]


def _list(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{names[0]} and {len(names) - 1} more are"
