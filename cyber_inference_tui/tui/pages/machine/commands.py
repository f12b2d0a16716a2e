"""Commands that change the machine's power and clocks: shown as text, never run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cyber_inference_tui.records import (
    DeviceKind,
    DeviceRecord,
    GpuRecord,
    ResourceSample,
)
from cyber_inference_tui.terminal.text_width import plain


@dataclass(frozen=True, slots=True)
class Command:
    """A command for the machine's shell."""

    text: str
    about: str


def mode_commands(device: DeviceRecord) -> Iterable[Command]:
    """Yield the commands for the power modes of a Jetson, and for its clocks."""
    if device.kind is not DeviceKind.JETSON:
        return
    for number, name in sorted(device.power_modes.items()):
        if name != device.power_mode:
            yield Command(f"sudo nvpmodel -m {number}", f"{plain(name, limit=40)} mode")
    if not device.power_modes:
        yield Command("sudo nvpmodel -q", "the power mode")
    yield Command("sudo jetson_clocks", "highest clocks")


def gpu_commands(sample: ResourceSample, number: int) -> Iterable[Command]:
    """Yield the command for the power limit of an NVIDIA GPU, with its present limit."""
    gpu = sample.gpus[number]
    if gpu.power_limit_w is not None and _is_nvidia(gpu):
        index = sum(_is_nvidia(one) for one in sample.gpus[:number])
        about = "the power limit in W"
        yield Command(f"sudo nvidia-smi -i {index} -pl {gpu.power_limit_w:.0f}", about)


def _is_nvidia(gpu: GpuRecord) -> bool:
    # Only this driver lists processes; old ones do not put their name before the GPU's.
    return gpu.processes is not None or gpu.name.startswith("NVIDIA")


def all_commands(sample: ResourceSample | None) -> list[Command]:
    """Return all commands for this machine."""
    if sample is None:
        return []
    found = [one for number in range(len(sample.gpus)) for one in gpu_commands(sample, number)]
    return [*mode_commands(sample.device), *found]
