"""The parts of the machine in words and numbers; what it does not report is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from cyber_inference_tui.records import (
    CpuRecord,
    DeviceKind,
    DiskRecord,
    EnergyRecord,
    ResourceSample,
    SwapRecord,
    ThrottleReason,
    TrendPoint,
)
from cyber_inference_tui.records.bench import BenchResult
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.power_modes import conditions
from cyber_inference_tui.terminal.text_width import plain
from cyber_inference_tui.tui.pages.dashboard.measures import Measure, measures
from cyber_inference_tui.tui.pages.machine.commands import Command, gpu_commands, mode_commands
from cyber_inference_tui.tui.pages.machine.rows import (
    Row,
    clock_row,
    clock_text,
    heat_row,
    mode_rows,
    percent_row,
    rate_text,
    size_row,
    watts_row,
)
from cyber_inference_tui.tui.snapshot import Snapshot, hottest, total_power
from cyber_inference_tui.units import counted, duration_text, energy_text, number_text, size_text

_FULL, _TOO_FULL = 90.0, 97.0
"""Percent of a disk that are a problem."""
_MOST_NETWORKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the machine."""

    title: str
    about: str = ""
    main: Row | None = None
    """Its most important figure; the name is the title in a short form."""
    measure: Measure | None = None
    """The graph."""
    rows: tuple[Row, ...] = ()
    small: tuple[Row, ...] = ()
    """Rows of the same kind, such as cores, for several columns."""
    notes: tuple[tuple[str, str], ...] = ()
    """Names, each with a remark."""
    commands: tuple[Command, ...] = ()


def sections(
    snapshot: Snapshot, charset: Charset, modes: Sequence[BenchResult] = ()
) -> list[Section]:
    """Return the parts of the machine, the most important first; ``modes`` as measured."""
    sample = snapshot.sample
    if sample is None:
        return []
    known = {one.name: one for one in measures(snapshot, snapshot.trend, charset)}
    found = [_gpu(sample, number, charset) for number in range(len(sample.gpus))]
    found.append(_cpu(sample.cpu, known["cpu"], charset))
    found.append(_memory(sample, known.get("memory"), charset))
    is_measured = total_power(sample) is not None or sample.power or sample.energy is not None
    if is_measured or any(mode_commands(sample.device)):
        found.append(_power(sample, known.get("power"), charset))
    if modes:
        found.append(_power_modes(modes, sample.device.power_mode, charset))
    if hottest(sample) is not None or sample.fan is not None:
        found.append(_temperatures(sample, known.get("temperature"), charset))
    found += _disks(sample.disks, charset)
    if networks := _networks(sample, charset):
        found.append(Section(title="NETWORK", rows=networks))
    if missing := _missing(sample):
        found.append(Section(title="NOT REPORTED HERE", notes=tuple(missing)))
    return found


def machine_words(sample: ResourceSample) -> list[str]:
    """Return what the machine is, in a few words each, the most important first."""
    device = sample.device
    words = [device.name, device.chip, device.processor if device.processor != device.name else ""]
    if device.jetpack:
        words.append(f"JetPack {device.jetpack}")
    if device.l4t:
        words.append(f"L4T {device.l4t}")
    words += [device.os, f"kernel {device.kernel}" if device.kernel else ""]
    if sample.uptime_seconds is not None:
        # Smaller units would change all the time.
        whole = max(60.0, sample.uptime_seconds // 60 * 60)
        words.append(f"up {duration_text(whole)}")
    return [plain(word, limit=80) for word in words if word]


# GPUs


def gpu_name(sample: ResourceSample, number: int) -> str:
    """Return ``GPU``, or ``GPU 1`` if there are several."""
    return "GPU" if len(sample.gpus) == 1 else f"GPU {number}"


def _gpu(sample: ResourceSample, number: int, charset: Charset) -> Section:
    gpu, name = sample.gpus[number], gpu_name(sample, number)
    rows = [clock_row("clock", gpu.clock_hz, gpu.max_clock_hz)]
    if gpu.memory_total is not None:
        rows.append(size_row("memory", gpu.memory_used, gpu.memory_total, charset, essential=True))
    rows.append(clock_row("memory clock", gpu.memory_clock_hz, None))
    rows.append(heat_row("temperature", gpu.temperature_c, gpu.temperature_limit_c, charset))
    if gpu.power_w is not None or gpu.power_limit_w is not None:
        rows.append(watts_row("power", gpu.power_w, gpu.power_limit_w, charset))
    if gpu.fan_percent is not None:
        rows.append(percent_row("fan", gpu.fan_percent, charset))
    shared = "shares the main memory" if gpu.shared_memory else ""
    return Section(
        title=name,
        about=_joined((plain(gpu.name, limit=60), shared), charset),
        main=percent_row(name, gpu.utilization_percent, charset),
        measure=Measure(
            name=name, title=name, reading=partial(_gpu_load, number), text=number_text
        ),
        rows=tuple(row for row in rows if row is not None),
        commands=tuple(gpu_commands(sample, number)),
    )


def _gpu_load(number: int, point: TrendPoint) -> float | None:
    return point.gpus[number].utilization_percent if number < len(point.gpus) else None


# Processors


def _cpu(cpu: CpuRecord, measure: Measure, charset: Charset) -> Section:
    clocks = _core_clocks(cpu)
    each = bool(clocks) and all(core in clocks for core in range(len(cpu.per_core)))
    fastest = max((clock for clock in cpu.frequencies_hz if clock), default=None)
    limit = max((clock for clock in cpu.max_frequencies_hz if clock), default=None)
    row = None if each else clock_row("fastest clock", fastest, limit)
    load = "load " + " ".join(f"{one:.2f}" for one in cpu.load_average) if cpu.load_average else ""
    return Section(
        title="CPU",
        about=_joined((counted(cpu.count, "core") if cpu.count else "", load), charset),
        main=percent_row("CPU", cpu.percent, charset),
        measure=measure,
        rows=() if row is None else (row,),
        small=tuple(
            replace(
                percent_row(str(core), load, charset),
                more=charset.known(clocks[core], clock_text) if each else "",
            )
            for core, load in enumerate(cpu.per_core)
        ),
    )


def _core_clocks(cpu: CpuRecord) -> dict[int, int | None]:
    """Return the clock of each core whose group is known."""
    groups = cpu.frequency_cores
    if not groups and len(cpu.frequencies_hz) == len(cpu.per_core):
        groups = tuple((core,) for core in range(len(cpu.per_core)))
    return {
        core: clock
        for clock, cores in zip(cpu.frequencies_hz, groups, strict=False)
        for core in cores
    }


# Memory


def _memory(sample: ResourceSample, measure: Measure | None, charset: Charset) -> Section:
    memory = sample.memory
    about = f"{size_text(memory.available)} available" if memory.available is not None else ""
    rows = _swap("zram", sample.zram, charset)
    if sample.zram is not None and sample.zram.memory is not None:
        rows.append(Row(name="zram takes", figure=size_text(sample.zram.memory)))
    rows += _swap("swap", sample.swap, charset)
    if sample.memory_clock_hz is not None:
        rows.append(Row(name="EMC clock", figure=clock_text(sample.memory_clock_hz)))
    return Section(
        title="MEMORY",
        about=about,
        main=size_row("Memory", memory.used, memory.total, charset),
        measure=measure,
        rows=tuple(rows),
    )


def _swap(name: str, swap: SwapRecord | None, charset: Charset) -> list[Row]:
    if swap is None or (name == "zram" and not swap.total):
        return []
    if swap.total == 0:
        return [Row(name=name, figure="none")]
    return [size_row(name, swap.used, swap.total, charset, essential=True)]


# Power and heat


def _power(sample: ResourceSample, measure: Measure | None, charset: Charset) -> Section:
    device, main = sample.device, None
    if measure is not None:
        limit = measure.maximum if measure.notes else None
        main = watts_row("Power", measure.value, limit, charset)
    about = f"{device.power_mode} mode" if device.power_mode else ""
    if not sample.power and main is not None:
        about = "the GPUs together" if len(sample.gpus) > 1 else "the GPU"
    return Section(
        title="POWER",
        about=plain(about, limit=60),
        main=main,
        measure=measure,
        rows=tuple(
            watts_row(plain(rail, limit=60), power, sample.power_limits.get(rail), charset)
            for rail, power in sample.power.items()
            if rail != "total"
        ),
        notes=() if sample.energy is None else (("energy", _energy_text(sample.energy)),),
        commands=tuple(mode_commands(device)),
    )


def _power_modes(modes: Sequence[BenchResult], present: str | None, charset: Charset) -> Section:
    return Section(
        title="POWER MODES",
        about=plain(f"{present} now", limit=60) if present else "",
        rows=tuple(mode_rows(modes, charset)),
        notes=(("measured", conditions(modes)),),
    )


def _energy_text(energy: EnergyRecord) -> str:
    """Return how much was used, of what, and how long nothing was measured."""
    parts = ", ".join(plain(part, limit=60) for part in energy.covers)
    text = f"{energy_text(energy.joules)} of the {parts} since the service started"
    if not energy.gaps:
        return text
    longest = duration_text(energy.longest_gap_seconds)
    return f"{text}; {counted(energy.gaps, 'gap')}, the longest {longest}"


def _temperatures(sample: ResourceSample, measure: Measure | None, charset: Charset) -> Section:
    rows = []
    if (fan := sample.fan) is not None:
        speed = "" if fan.rpm is None else f"{fan.rpm:,} rpm"
        part = percent_row("fan", fan.percent, charset)
        figure = speed if fan.percent is None and speed else f"{part.figure} {speed}".rstrip()
        rows.append(replace(part, figure=figure, essential=True))
    reasons = [*sample.throttling.values(), *(gpu.throttled_by for gpu in sample.gpus)]
    main = heat_row("Temperature", hottest(sample), None, charset)
    if main is not None and any(ThrottleReason.TEMPERATURE in one for one in reasons):
        main = replace(main, tone="bad")
    return Section(
        title="TEMPERATURE",
        about=counted(count, "sensor") if (count := len(sample.temperatures)) else "",
        main=main,
        measure=measure,
        rows=tuple(rows),
        small=tuple(
            row
            for name, value in sample.temperatures.items()
            if (row := heat_row(plain(name, limit=60), value, None, charset)) is not None
        ),
    )


# Disks and networks


def _disks(disks: Sequence[DiskRecord], charset: Charset) -> list[Section]:
    """Return each file system; paths on the same one are shown once, by the shortest."""
    found: dict[object, DiskRecord] = {}
    for disk in sorted(disks, key=lambda one: len(one.path)):
        same = (disk.total, disk.available, disk.read_bytes_per_second, disk.write_bytes_per_second)
        found.setdefault(disk.path if disk.total is None else same, disk)
    return [_disk(disk, charset) for disk in found.values()]


def _disk(disk: DiskRecord, charset: Charset) -> Section:
    full = disk.percent or 0.0
    tone = "" if full < _FULL else "busy" if full < _TOO_FULL else "bad"
    rates = (("reads", disk.read_bytes_per_second), ("writes", disk.write_bytes_per_second))
    return Section(
        title="DISK",
        about=plain(disk.path, limit=200),
        notes=(("SD card", "writing wears it out"),) if disk.sd_card else (),
        main=replace(size_row("Disk", disk.used, disk.total, charset), tone=tone),
        rows=(
            replace(percent_row("full", disk.percent, charset), tone=tone),
            *(Row(name=name, figure=rate_text(rate)) for name, rate in rates if rate is not None),
        ),
    )


def _networks(sample: ResourceSample, charset: Charset) -> tuple[Row, ...]:
    rows = []
    for network in sample.networks[:_MOST_NETWORKS]:
        down, up = network.receive_bytes_per_second, network.send_bytes_per_second
        if down is not None and up is not None:
            name = plain(network.name, limit=40)
            figure = f"{charset.descending} {rate_text(down)}  {charset.ascending} {rate_text(up)}"
            rows.append(Row(name=name, figure=figure))
    return tuple(rows)


# What the machine does not report


def _missing(sample: ResourceSample) -> list[tuple[str, str]]:
    """Return the figures that people look for and that are not there, each with the reason."""
    is_jetson = sample.device.kind is DeviceKind.JETSON
    found = []
    if not sample.gpus:
        found.append(("GPU", "no driver of NVIDIA or AMD answers, and this is no Jetson"))
    if not any(sample.cpu.frequencies_hz):
        found.append(("CPU clocks", "the kernel does not report them here"))
    if sample.memory_clock_hz is None and is_jetson:
        found.append(("EMC clock", "only root may read it"))
    powers = (sample.energy, *(gpu.power_w for gpu in sample.gpus))
    if not sample.power and all(one is None for one in powers):
        found.append(("power", "no power monitor here"))
    if hottest(sample) is None:
        found.append(("temperature", "no sensor here; a virtual machine has none"))
    if sample.fan is None and all(gpu.fan_percent is None for gpu in sample.gpus):
        found.append(("fan", "no sensor for the fan here"))
    return found


def _joined(texts: Iterable[str], charset: Charset) -> str:
    return f" {charset.dot} ".join(filter(None, texts))
