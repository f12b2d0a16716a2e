"""The metrics as Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/. The library ``prometheus_client``
would cost each request several times as much as counting does here, and the start its import.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

import msgspec
import psutil

from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import (
    EnergyRecord,
    ModelRecord,
    ModelStatus,
    ResourceSample,
    SessionRecord,
)
from cyber_inference_tui.service.metric_counters import (
    COUNTERS,
    HISTOGRAMS,
    Histogram,
    KeyCounters,
    ModelCounters,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "cyber_inference_"

_MAX_PARTS = 64
"""GPUs, sensors, rails or disks with samples of their own."""
_HOST = {
    "resource_sample_time_seconds": "When the machine was read, in seconds since 1970.",
    "host_cpu_utilization_ratio": "How busy all cores together are, 0 to 1.",
    "host_cpus": "Cores that are switched on.",
    "host_memory_total_bytes": "Main memory.",
    "host_memory_available_bytes": "Memory that can be had without swapping.",
    "host_swap_total_bytes": "Swap.",
    "host_swap_used_bytes": "Swap in use.",
}
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class MetricsState(msgspec.Struct, frozen=True, kw_only=True):
    """The service and its machine at a scrape."""

    version: str
    llama_server_version: str | None
    started_at: datetime
    models: list[ModelRecord]
    running: list[SessionRecord]
    """Sessions that have not ended."""
    memory: MemoryReading | None
    """The last reading that a decision of the scheduler was based on."""
    sample: ResourceSample | None
    """The machine; ``None`` = not known."""
    energy: EnergyRecord | None = None
    """The energy up to the last reading, which is newer than ``sample``."""


class _Sample(NamedTuple):
    value: float | None
    """``None`` = not known: the sample is left out."""
    labels: Mapping[str, str] = {}
    suffix: str = ""
    """Of the family's name."""


class _Family(NamedTuple):
    name: str
    kind: str
    text: str
    samples: Iterable[_Sample]


def render(
    state: MetricsState,
    counters: Mapping[str, ModelCounters],
    refusals: Mapping[str, int],
    keys: Mapping[str, KeyCounters],
) -> bytes:
    """Return the text.

    ``counters`` are by the model's label, ``refusals`` by the error's code, ``keys`` by the label
    of the API key.

    It has every family, also those without samples, and the figures of this process.
    """
    lines = []
    for name, kind, text, samples in _families(state, counters, refusals, keys):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [
            f"{name}{sample.suffix}{_label_text(sample.labels)} {float(sample.value)!r}"
            for sample in samples
            if sample.value is not None
        ]
    return "\n".join([*lines, ""]).encode()


def label(text: str) -> str:
    """Return ``text`` as a label's value; bytes of a file's name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _label_text(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{labels[name].translate(_ESCAPES)}"' for name in sorted(labels))
    return f"{{{','.join(pairs)}}}"


def _gauge(name: str, text: str, *samples: _Sample) -> _Family:
    return _Family(PREFIX + name, "gauge", text, samples)


def _counter(name: str, text: str, samples: Iterable[_Sample]) -> _Family:
    return _Family(f"{PREFIX}{name}_total", "counter", text, samples)


def _families(
    state: MetricsState,
    counters: Mapping[str, ModelCounters],
    refusals: Mapping[str, int],
    keys: Mapping[str, KeyCounters],
) -> Iterator[_Family]:
    build = {
        "version": state.version,
        "llama_server_version": label(state.llama_server_version or ""),
    }
    yield _gauge("build_info", "What runs; always 1.", _Sample(1, build))
    yield _gauge(
        "start_time_seconds",
        "When the service was started, in seconds since 1970.",
        _Sample(state.started_at.timestamp()),
    )
    unused = {label(model.id): ModelCounters() for model in state.models}
    yield from _counted({**unused, **counters})
    yield _counter(
        "refused_requests",
        "Requests that came to no model.",
        (_Sample(count, {"code": code}) for code, count in refusals.items()),
    )
    yield from _keys(keys)
    yield from _models(state.models)
    yield from _scheduler_memory(state.memory)
    yield from _host(state.sample)
    yield _counter(
        "host_energy_joules",
        "Energy that the machine used while it was measured.",
        [_Sample(None if state.energy is None else state.energy.joules)],
    )
    yield from _gpus(state.sample)
    # Without a free descriptor nothing can be read; the other figures are wanted most then.
    with suppress(OSError, psutil.Error):
        yield from _process()


def _counted(counters: Mapping[str, ModelCounters]) -> Iterator[_Family]:
    for name, (text, labels) in COUNTERS.items():
        yield _counter(
            name,
            text,
            [
                _Sample(count, {"model": model, **dict(zip(labels, values, strict=True))})
                for model, model_counters in counters.items()
                for values, count in model_counters.counters[name].items()
            ],
        )
    yield _counter(
        "energy_joules",
        "Its requests' shares of the energy that the machine used.",
        (
            _Sample(model_counters.energy_j, {"model": model})
            for model, model_counters in counters.items()
        ),
    )
    for name, (text, _) in HISTOGRAMS.items():
        samples = [
            sample
            for model, model_counters in counters.items()
            if any(model_counters.histograms[name].counts)
            for sample in _histogram(model, model_counters.histograms[name])
        ]
        yield _Family(PREFIX + name, "histogram", text, samples)


def _histogram(model: str, histogram: Histogram) -> Iterator[_Sample]:
    """Yield the counts up to each bound, smaller values included, then count and sum."""
    bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    below = 0
    for bound, count in zip(bounds, histogram.counts, strict=True):
        below += count
        yield _Sample(below, {"model": model, "le": bound}, "_bucket")
    yield _Sample(below, {"model": model}, "_count")
    yield _Sample(histogram.total, {"model": model}, "_sum")


def _keys(keys: Mapping[str, KeyCounters]) -> Iterator[_Family]:
    yield _counter(
        "key_requests",
        "Finished requests, by the name of their API key.",
        (_Sample(counters.requests, {"key": key}) for key, counters in keys.items()),
    )
    yield _counter(
        "key_tokens",
        "Tokens read and written, by the name of the API key.",
        (
            _Sample(count, {"key": key, "direction": direction})
            for key, counters in keys.items()
            for direction, count in (
                ("input", counters.tokens_in),
                ("output", counters.tokens_out),
            )
        ),
    )
    yield _counter(
        "key_energy_joules",
        "Energy of its requests, by the name of the API key.",
        (_Sample(counters.energy_j, {"key": key}) for key, counters in keys.items()),
    )


def _models(models: Sequence[ModelRecord]) -> Iterator[_Family]:
    named = [({"model": label(model.id)}, model) for model in models]

    def gauge(name: str, text: str, figure: str) -> _Family:
        samples = (_Sample(getattr(model, figure), labels) for labels, model in named)
        return _gauge(name, text, *samples)

    yield gauge("requests_in_flight", "Requests that are being answered.", "in_flight")
    yield gauge("queue_depth", "Requests that wait for the model.", "queued")
    yield _gauge(
        "model_loaded",
        "Whether it can answer now.",
        *(_Sample(model.status is ModelStatus.LOADED, labels) for labels, model in named),
    )
    yield _gauge(
        "model_status",
        "1 for the status it has.",
        *(
            _Sample(model.status is status, {**labels, "status": status.value})
            for labels, model in named
            for status in ModelStatus
        ),
    )
    yield gauge("model_memory_bytes", "What it took when it was loaded.", "memory_bytes")
    yield gauge(
        "model_memory_estimate_bytes", "What a load is expected to take.", "memory_estimate_bytes"
    )


def _scheduler_memory(reading: MemoryReading | None) -> Iterator[_Family]:
    total, available = (reading.total, reading.available) if reading else (None, None)
    yield _gauge(
        "scheduler_memory_total_bytes",
        "Main memory, as the scheduler read it last.",
        _Sample(total),
    )
    yield _gauge(
        "scheduler_memory_available_bytes",
        "Available memory, as the scheduler read it last.",
        _Sample(available),
    )


def _host(sample: ResourceSample | None) -> Iterator[_Family]:
    known: dict[str, float | None] = {}
    if sample is not None:
        known = {
            "resource_sample_time_seconds": sample.at.timestamp(),
            "host_cpu_utilization_ratio": _ratio(sample.cpu.percent),
            "host_cpus": sample.cpu.count,
            "host_memory_total_bytes": sample.memory.total,
            "host_memory_available_bytes": sample.memory.available,
            "host_swap_total_bytes": sample.swap.total,
            "host_swap_used_bytes": sample.swap.used,
        }
    for name, text in _HOST.items():
        yield _gauge(name, text, _Sample(known.get(name)))
    heat = sorted(sample.temperatures.items())[:_MAX_PARTS] if sample else []
    power = sorted(sample.power.items())[:_MAX_PARTS] if sample else []
    disks = sample.disks[:_MAX_PARTS] if sample else ()
    yield _gauge(
        "host_temperature_celsius",
        "Temperatures.",
        *(_Sample(degrees, {"sensor": label(name)}) for name, degrees in heat),
    )
    yield _gauge(
        "host_power_watts",
        "Power, by rail.",
        *(_Sample(watts, {"rail": label(name)}) for name, watts in power),
    )
    yield _gauge(
        "host_disk_total_bytes",
        "Size of the file system of a path.",
        *(_Sample(disk.total, {"path": label(disk.path)}) for disk in disks),
    )
    yield _gauge(
        "host_disk_available_bytes",
        "What is free there.",
        *(_Sample(disk.available, {"path": label(disk.path)}) for disk in disks),
    )


def _gpus(sample: ResourceSample | None) -> Iterator[_Family]:
    gpus = [
        ({"gpu": str(number), "name": label(gpu.name)}, gpu)
        for number, gpu in enumerate(sample.gpus[:_MAX_PARTS] if sample else ())
    ]
    yield _gauge(
        "gpu_utilization_ratio",
        "How busy a GPU is, 0 to 1.",
        *(_Sample(_ratio(gpu.utilization_percent), labels) for labels, gpu in gpus),
    )
    for name, text, figure in (
        ("gpu_memory_total_bytes", "A GPU's memory.", "memory_total"),
        ("gpu_memory_used_bytes", "Memory in use on a GPU.", "memory_used"),
        ("gpu_temperature_celsius", "A GPU's temperature.", "temperature_c"),
        ("gpu_power_watts", "What a GPU draws.", "power_w"),
    ):
        yield _gauge(name, text, *(_Sample(getattr(gpu, figure), labels) for labels, gpu in gpus))


def _process() -> Iterator[_Family]:
    """Yield the figures of this process under the names that all Prometheus clients use."""
    process = psutil.Process()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with process.oneshot():
        memory, times = process.memory_info(), process.cpu_times()
        for name, kind, text, value in (
            ("virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", memory.vms),
            ("resident_memory_bytes", "gauge", "Resident memory size in bytes.", memory.rss),
            (
                "start_time_seconds",
                "gauge",
                "Start time of the process since unix epoch in seconds.",
                process.create_time(),
            ),
            (
                "cpu_seconds_total",
                "counter",
                "Total user and system CPU time spent in seconds.",
                times.user + times.system,
            ),
            ("open_fds", "gauge", "Number of open file descriptors.", process.num_fds()),
            (
                "max_fds",
                "gauge",
                "Maximum number of open file descriptors.",
                None if limit == resource.RLIM_INFINITY else limit,
            ),
        ):
            yield _Family(f"process_{name}", kind, text, [_Sample(value)])


def _ratio(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
