"""A snapshot of the metrics in Prometheus' text format.

Only what scrapes imports this module, in a thread: it brings the library ``prometheus_client``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import ModelRecord, ModelStatus, ResourceSample
from cyber_inference_tui.service.metrics import Present, Snapshot, label
from cyber_inference_tui.service.tallies import LOAD_REASONS, UNLOAD_REASONS, Histogram, Tally

PREFIX = "cyber_inference_"

_MAX_PARTS = 64
"""GPUs, sensors, rails or disks that are told of one by one."""


def render(snapshot: Snapshot) -> bytes:
    """The text of a snapshot, with the figures of this process.

    It reads a few files under ``/proc/self``.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshots(snapshot))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Snapshots(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing: it is the only one with these names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family, also those of which nothing is known now."""
        present = self._snapshot.present
        yield from _service(present)
        # A counter that begins with its first event is one that rate() does not see.
        counted = {label(model.id): Tally() for model in present.models}
        yield from _counted({**counted, **self._snapshot.tallies})
        refused = _counter("refused_requests", "Requests that came to no model.", "code")
        for code, count in self._snapshot.refusals.items():
            refused.add_metric([code], count)
        yield refused
        yield from _models(present.models)
        yield from _scheduler_memory(present.memory)
        yield from _host(present.sample)
        yield from _gpus(present.sample)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, labels=labels)


def _service(present: Present) -> Iterator[Metric]:
    build = _gauge("build_info", "What runs; always 1.", "version", "llama_server_version")
    build.add_metric([present.version, label(present.llama_server_version or "")], 1)
    yield build
    start = _gauge("start_time_seconds", "When the service was started, in seconds since 1970.")
    start.add_metric([], present.started_at.timestamp())
    yield start


def _counted(tallies: dict[str, Tally]) -> Iterator[Metric]:
    requests = _counter("requests", "Finished requests.", "model", "endpoint", "status")
    errors = _counter("request_errors", "Requests that went wrong.", "model", "code")
    tokens = _counter("tokens", "Tokens read and written.", "model", "direction")
    loads = _counter("loads", "Times it was loaded.", "model", "reason")
    unloads = _counter("unloads", "Times it was unloaded or stopped.", "model", "reason")
    for model, tally in tallies.items():
        for (endpoint, status), count in tally.requests.items():
            requests.add_metric([model, endpoint, status], count)
        for code, count in tally.errors.items():
            errors.add_metric([model, code], count)
        tokens.add_metric([model, "input"], tally.tokens_in)
        tokens.add_metric([model, "output"], tally.tokens_out)
        for reason in sorted(LOAD_REASONS | tally.loads.keys()):
            loads.add_metric([model, reason], tally.loads[reason])
        for reason in sorted(UNLOAD_REASONS if tally.loads else ()):
            unloads.add_metric([model, reason], tally.unloads[reason])
    yield from (requests, errors, tokens, loads, unloads)
    for name, text, attribute in (
        (
            "time_to_first_token_seconds",
            "From a request's arrival to the first byte of its answer, waiting included.",
            "first_token",
        ),
        ("request_duration_seconds", "From a request's arrival to its end.", "duration"),
        ("queue_wait_seconds", "How long a request waited for its model.", "queue_wait"),
        ("tokens_per_second", "How fast an answer was written, as its server says.", "speed"),
        ("load_seconds", "How long a load took.", "load"),
    ):
        family = HistogramMetricFamily(PREFIX + name, text, labels=["model"])
        for model, tally in tallies.items():
            histogram: Histogram = getattr(tally, attribute)
            if any(histogram.counts):
                family.add_metric([model], _buckets(histogram), histogram.total)
        yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Counts up to each bound, smaller ones included."""
    found, below = [], 0
    for bound, count in zip(
        [*(str(float(one)) for one in histogram.bounds), "+Inf"], histogram.counts, strict=True
    ):
        below += count
        found.append((bound, float(below)))
    return found


def _models(models: list[ModelRecord]) -> Iterator[Metric]:
    in_flight = _gauge("requests_in_flight", "Requests that are being answered.", "model")
    queue = _gauge("queue_depth", "Requests that wait for the model.", "model")
    loaded = _gauge("model_loaded", "Whether it can answer now.", "model")
    status = _gauge("model_status", "1 for the status it has.", "model", "status")
    memory = _gauge("model_memory_bytes", "What it took when it was loaded.", "model")
    estimate = _gauge("model_memory_estimate_bytes", "What a load is expected to take.", "model")
    for model in models:
        name = label(model.id)
        in_flight.add_metric([name], model.in_flight)
        queue.add_metric([name], model.queued)
        loaded.add_metric([name], model.status is ModelStatus.LOADED)
        for one in ModelStatus:
            status.add_metric([name, one.value], model.status is one)
        _add(memory, [name], model.memory_bytes)
        _add(estimate, [name], model.memory_estimate_bytes)
    yield from (in_flight, queue, loaded, status, memory, estimate)


def _scheduler_memory(reading: MemoryReading | None) -> Iterator[Metric]:
    total = _gauge("scheduler_memory_total_bytes", "Main memory, as the scheduler read it last.")
    available = _gauge(
        "scheduler_memory_available_bytes", "Available memory, as the scheduler read it last."
    )
    if reading is not None:
        total.add_metric([], reading.total)
        available.add_metric([], reading.available)
    yield from (total, available)


def _host(sample: ResourceSample | None) -> Iterator[Metric]:
    at = _gauge("resource_sample_time_seconds", "When the machine was read, in seconds since 1970.")
    busy = _gauge("host_cpu_utilization_ratio", "How busy all cores together are, 0 to 1.")
    cores = _gauge("host_cpus", "Cores that are switched on.")
    total = _gauge("host_memory_total_bytes", "Main memory.")
    available = _gauge("host_memory_available_bytes", "Memory that can be had without swapping.")
    swap_total = _gauge("host_swap_total_bytes", "Swap.")
    swap_used = _gauge("host_swap_used_bytes", "Swap in use.")
    heat = _gauge("host_temperature_celsius", "Temperatures.", "sensor")
    power = _gauge("host_power_watts", "Power, by rail.", "rail")
    disk_total = _gauge("host_disk_total_bytes", "Size of the file system of a path.", "path")
    disk_left = _gauge("host_disk_available_bytes", "What is free there.", "path")
    if sample is not None:
        at.add_metric([], sample.at.timestamp())
        _add(busy, [], _ratio(sample.cpu.percent))
        _add(cores, [], sample.cpu.count)
        _add(total, [], sample.memory.total)
        _add(available, [], sample.memory.available)
        _add(swap_total, [], sample.swap.total)
        _add(swap_used, [], sample.swap.used)
        for name, degrees in sorted(sample.temperatures.items())[:_MAX_PARTS]:
            _add(heat, [label(name)], degrees)
        for name, watts in sorted(sample.power.items())[:_MAX_PARTS]:
            _add(power, [label(name)], watts)
        for disk in sample.disks[:_MAX_PARTS]:
            _add(disk_total, [label(disk.path)], disk.total)
            _add(disk_left, [label(disk.path)], disk.available)
    yield from (at, busy, cores, total, available, swap_total, swap_used)
    yield from (heat, power, disk_total, disk_left)


def _gpus(sample: ResourceSample | None) -> Iterator[Metric]:
    labels = ("gpu", "name")
    busy = _gauge("gpu_utilization_ratio", "How busy a GPU is, 0 to 1.", *labels)
    total = _gauge("gpu_memory_total_bytes", "A GPU's memory.", *labels)
    used = _gauge("gpu_memory_used_bytes", "Memory in use on a GPU.", *labels)
    heat = _gauge("gpu_temperature_celsius", "A GPU's temperature.", *labels)
    power = _gauge("gpu_power_watts", "What a GPU draws.", *labels)
    for number, gpu in enumerate(sample.gpus[:_MAX_PARTS] if sample else ()):
        names = [str(number), label(gpu.name)]
        _add(busy, names, _ratio(gpu.utilization_percent))
        _add(total, names, gpu.memory_total)
        _add(used, names, gpu.memory_used)
        _add(heat, names, gpu.temperature_c)
        _add(power, names, gpu.power_w)
    yield from (busy, total, used, heat, power)


def _add(family: GaugeMetricFamily, labels: list[str], value: float | None) -> None:
    """One figure; none where the machine does not tell."""
    if value is not None:
        family.add_metric(labels, value)


def _ratio(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
