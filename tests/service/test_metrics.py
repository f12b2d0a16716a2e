"""The metrics: their counters, the text of a scrape, and its bounds."""

from __future__ import annotations

import asyncio
import json
import re
import resource
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cyber_inference_tui.monitor.memory_reading import MemoryReading
from cyber_inference_tui.records import (
    CpuRecord,
    DeviceRecord,
    DiskRecord,
    EnergyRecord,
    GpuRecord,
    MemoryRecord,
    ModelRecord,
    ModelStatus,
    ResourceSample,
    SwapRecord,
)
from cyber_inference_tui.scheduler.views import Reason
from cyber_inference_tui.service import metric_counters
from cyber_inference_tui.service.metrics import MAX_KEYS, MAX_MODELS, Metrics
from cyber_inference_tui.service.metrics_text import MetricsState
from tests.service.history_records import NOW, request, session

ROOT = Path(__file__).parent.parent.parent
PREFIX = "cyber_inference_"
SAMPLE = ResourceSample(
    at=NOW,
    device=DeviceRecord(),
    cpu=CpuRecord(percent=25.0, count=4),
    memory=MemoryRecord(total=100, available=40),
    swap=SwapRecord(total=10, used=1),
    gpus=(
        GpuRecord(
            name='GPU "A"',
            utilization_percent=50.0,
            memory_total=8,
            memory_used=3,
            temperature_c=61.5,
            power_w=120.0,
        ),
        GpuRecord(name="GPU B", power_w=5.0),
    ),
    temperatures={"cpu": 50.0, "broken": None},
    power={"total": 12.5},
    disks=(DiskRecord(path="/", total=1000, available=400),),
)
"""A machine with all sensors."""

ENERGY = EnergyRecord(joules=800.0, seconds=64.0, covers=("board",))

Labels = dict[str, str]


class Counting:
    """Metrics with a state that the test sets."""

    def __init__(self, *models: ModelRecord) -> None:
        self.state = MetricsState(
            version="1.2.3",
            llama_server_version=None,
            started_at=NOW,
            models=list(models),
            running=[],
            memory=None,
            sample=None,
        )
        self.metrics = Metrics(lambda: self.state)

    def change(self, **fields: Any) -> None:
        self.state = msgspec.structs.replace(self.state, **fields)

    async def values(self, name: str) -> list[tuple[Labels, float]]:
        """All samples of one name, as a parser reads them."""
        text = (await self.metrics.scrape()).decode()
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == PREFIX + name
        ]

    async def value(self, name: str, **labels: str) -> float | None:
        """The sample with these labels; ``None`` = there is none."""
        found = [value for has, value in await self.values(name) if has == labels]
        assert len(found) < 2
        return found[0] if found else None


def full() -> Counting:
    """Metrics with a sample in every family."""
    counting = Counting(
        ModelRecord(
            id="m",
            status=ModelStatus.LOADED,
            memory_bytes=10,
            memory_estimate_bytes=12,
            in_flight=2,
        )
    )
    counting.metrics.note_refusal("model_not_found")
    counting.metrics.note_request(
        request(3, tokens_out=4, tokens_per_second=9.0, time_to_first_token_seconds=0.3)
    )
    failed = request(status=502, key_name="alice", energy_j=1.5)
    counting.metrics.note_request(failed, "upstream_failed")
    counting.metrics.note_session(session())
    counting.change(memory=MemoryReading(total=100, available=30), sample=SAMPLE, energy=ENERGY)
    return counting


async def test_requests_are_counted_by_model_endpoint_and_status() -> None:
    counting = Counting(ModelRecord(id="m"), ModelRecord(id="n"))
    note = counting.metrics.note_request
    note(request(), None)
    note(request(), None)
    note(request(path="/upstream/m/v1/chat/completions", status=503), "model_load_failed")
    note(request(model="n", path="/v1/embeddings", status=499), "client_left")
    ok = {"model": "m", "endpoint": "chat_completions", "status": "2xx"}
    assert await counting.value("requests_total", **ok) == 2
    assert await counting.value("requests_total", **{**ok, "status": "5xx"}) == 1
    assert await counting.value("request_errors_total", model="m", code="model_load_failed") == 1
    assert await counting.value("request_errors_total", model="n", code="client_left") == 1
    embedded = {"model": "n", "endpoint": "embeddings", "status": "4xx"}
    assert await counting.value("requests_total", **embedded) == 1
    assert len(await counting.values("requests_total")) == 3


async def test_energy_is_summed_and_not_exported_where_nothing_is_known() -> None:
    counting = Counting(ModelRecord(id="m"), ModelRecord(id="n"))
    counting.metrics.note_request(request(energy_j=2.5, key_name="alice"))
    counting.metrics.note_request(request(key_name="alice"))
    counting.metrics.note_request(request(energy_j=4.0))
    counting.metrics.note_request(request(model="n", key_name="bob"))
    assert await counting.values("energy_joules_total") == [({"model": "m"}, 6.5)]
    assert await counting.values("key_energy_joules_total") == [({"key": "alice"}, 2.5)]
    assert await counting.values("host_energy_joules_total") == []
    counting.change(energy=ENERGY)
    assert await counting.values("host_energy_joules_total") == [({}, 800.0)]


async def test_tokens_are_summed_and_unknown_ones_left_out() -> None:
    counting = Counting(ModelRecord(id="m"))
    counting.metrics.note_request(request(7, tokens_out=5))
    counting.metrics.note_request(request(tokens_in=None, tokens_out=1))
    assert await counting.value("tokens_total", model="m", direction="input") == 7
    assert await counting.value("tokens_total", model="m", direction="output") == 6


async def test_histograms_have_cumulative_buckets_with_their_bounds_included() -> None:
    counting = Counting(ModelRecord(id="m"))
    for seconds in (0.05, 0.06, 5.0, 10_000.0):
        counting.metrics.note_request(request(duration_seconds=seconds))
    buckets = {
        labels["le"]: value
        for labels, value in await counting.values("request_duration_seconds_bucket")
    }
    assert (buckets["0.05"], buckets["0.1"], buckets["2.5"], buckets["5.0"]) == (1, 2, 2, 3)
    assert (buckets["600.0"], buckets["+Inf"]) == (3, 4)
    assert await counting.value("request_duration_seconds_count", model="m") == 4
    assert await counting.value("request_duration_seconds_sum", model="m") == 10_005.11
    # Nothing is known of these.
    assert await counting.values("time_to_first_token_seconds_count") == []
    assert await counting.values("tokens_per_second_count") == []


async def test_a_load_counts_at_once_and_only_once() -> None:
    counting = Counting(ModelRecord(id="m"))
    running = session(load_reason="preload", unload_reason=None, unloaded_at=None)
    counting.change(running=[running])
    for _ in range(2):
        assert await counting.value("loads_total", model="m", reason="preload") == 1
        assert await counting.value("load_seconds_count", model="m") == 1
    unloads = await counting.values("unloads_total")
    assert {labels["reason"] for labels, _ in unloads} == set(metric_counters.UNLOAD_REASONS)
    assert sum(value for _, value in unloads) == 0
    counting.change(running=[])
    counting.metrics.note_session(session(load_reason="preload", unload_reason=Reason.ROOM.value))
    assert await counting.value("loads_total", model="m", reason="preload") == 1
    assert await counting.value("load_seconds_sum", model="m") == 2.5
    assert await counting.value("unloads_total", model="m", reason="room") == 1


async def test_counters_of_an_unused_model_are_zero() -> None:
    counting = Counting(ModelRecord(id="m"))
    loads = await counting.values("loads_total")
    assert {labels["reason"] for labels, _ in loads} == set(metric_counters.LOAD_REASONS)
    assert {value for _, value in loads} == {0}
    assert await counting.value("tokens_total", model="m", direction="input") == 0
    assert await counting.values("unloads_total") == []


def test_every_reason_has_a_label_of_its_own() -> None:
    labels = [metric_counters.unload_reason(reason.value) for reason in Reason]
    assert len(set(labels)) == len(labels)
    assert metric_counters.OTHER not in labels
    assert metric_counters.unload_reason("stopped: its server exited with code 1") == "crashed"
    assert metric_counters.unload_reason("whatever comes") == "other"
    assert {*labels, "crashed", "other"} == set(metric_counters.UNLOAD_REASONS)
    assert metric_counters.load_reason("a new one") == "other"


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/v1/chat/completions", "chat_completions"),
        ("/v1/completions", "completions"),
        ("/completion", "completions"),
        ("/embedding", "embeddings"),
        ("/v1/responses", "responses"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "other"),
        ("/v1/reranking", "rerank"),
        ("/v1/audio/transcriptions", "transcriptions"),
        ("/upstream/a/b/infill", "infill"),
        ("/props", "other"),
        ("", "other"),
    ],
)
def test_endpoints(path: str, endpoint: str) -> None:
    assert metric_counters.endpoint_of(path) == endpoint


@pytest.mark.parametrize(
    ("status", "label"), [(200, "2xx"), (499, "4xx"), (0, "other"), (999, "other")]
)
def test_status_classes(status: int, label: str) -> None:
    assert metric_counters.status_class(status) == label


async def test_refused_requests_are_counted_by_code_alone() -> None:
    counting = Counting(ModelRecord(id="m"))
    for code in ("model_not_found", "invalid_api_key", "model_not_found"):
        counting.metrics.note_refusal(code)
    assert await counting.values("refused_requests_total") == [
        ({"code": "model_not_found"}, 2),
        ({"code": "invalid_api_key"}, 1),
    ]
    assert await counting.values("requests_total") == []


async def test_models_as_they_stand() -> None:
    counting = Counting(
        ModelRecord(id="a", status=ModelStatus.LOADED, in_flight=2, queued=1, memory_bytes=7),
        ModelRecord(id="b", memory_estimate_bytes=9),
    )
    assert await counting.value("requests_in_flight", model="a") == 2
    assert await counting.value("queue_depth", model="a") == 1
    assert await counting.value("model_loaded", model="a") == 1
    assert await counting.value("model_loaded", model="b") == 0
    assert await counting.value("model_memory_bytes", model="a") == 7
    assert await counting.value("model_memory_bytes", model="b") is None
    assert await counting.value("model_memory_estimate_bytes", model="b") == 9
    states = [
        (labels["model"], labels["status"])
        for labels, value in await counting.values("model_status")
        if value
    ]
    assert states == [("a", "loaded"), ("b", "unloaded")]
    assert len(await counting.values("model_status")) == 2 * len(ModelStatus)


async def test_the_machine() -> None:
    counting = Counting()
    assert await counting.values("host_memory_total_bytes") == []
    assert await counting.values("scheduler_memory_total_bytes") == []
    counting.change(memory=MemoryReading(total=100, available=30), sample=SAMPLE)
    assert await counting.value("scheduler_memory_available_bytes") == 30
    assert await counting.value("host_cpu_utilization_ratio") == 0.25
    assert await counting.value("host_memory_available_bytes") == 40
    assert await counting.value("host_swap_used_bytes") == 1
    assert await counting.values("host_temperature_celsius") == [({"sensor": "cpu"}, 50.0)]
    assert await counting.value("host_power_watts", rail="total") == 12.5
    assert await counting.value("host_disk_available_bytes", path="/") == 400
    first, second = {"gpu": "0", "name": 'GPU "A"'}, {"gpu": "1", "name": "GPU B"}
    assert await counting.values("gpu_utilization_ratio") == [(first, 0.5)]
    assert await counting.values("gpu_power_watts") == [(first, 120.0), (second, 5.0)]
    assert await counting.value("resource_sample_time_seconds") == NOW.timestamp()


async def test_the_service_itself() -> None:
    counting = Counting()
    counting.change(llama_server_version="b1", started_at=datetime(2026, 1, 1, tzinfo=UTC))
    build = {"version": "1.2.3", "llama_server_version": "b1"}
    assert await counting.value("build_info", **build) == 1
    assert await counting.value("start_time_seconds") == 1767225600
    assert b"\nprocess_resident_memory_bytes " in await counting.metrics.scrape()


async def test_without_a_free_descriptor_all_other_figures_are_there() -> None:
    counting = full()
    await counting.metrics.scrape()  # the thread for it is started
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        text = await counting.metrics.scrape()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert b"\nprocess_" not in text
    assert b"gpu_power_watts" in text


HOSTILE = [
    'a"} 1\nevil{x="',
    "back\\slash",
    "line\r\nbreak\n",
    "日本/モデル",
    "not utf-8 \udcff",
    " ",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_name_breaks_out_of_its_label(name: str) -> None:
    counting = Counting(ModelRecord(id=name))
    counting.metrics.note_request(request(model=name), "queue_full")
    counting.metrics.note_session(session(model=name))
    shown = name.replace("\udcff", "\\udcff")
    assert await counting.values("model_loaded") == [({"model": shown}, 0)]
    assert await counting.value("request_errors_total", model=shown, code="queue_full") == 1
    families = text_string_to_metric_families((await counting.metrics.scrape()).decode())
    assert all(one.name.startswith((PREFIX, "process_")) for one in families)


async def test_a_deleted_model_is_forgotten_and_one_that_still_runs_is_not() -> None:
    counting = Counting(ModelRecord(id="m"), ModelRecord(id="n"))
    for model in ("m", "n"):
        counting.metrics.note_request(request(model=model))
    running = session(model="n", unload_reason=None, unloaded_at=None)
    counting.change(models=[], running=[running])
    assert [labels["model"] for labels, _ in await counting.values("requests_total")] == ["n"]
    counting.change(running=[])
    assert await counting.values("requests_total") == []
    counting.change(models=[ModelRecord(id="m")])
    assert await counting.values("requests_total") == []


async def test_the_number_of_models_is_bounded() -> None:
    records = [ModelRecord(id=f"m{number:04}") for number in range(MAX_MODELS + 50)]
    records[-1] = msgspec.structs.replace(records[-1], status=ModelStatus.LOADED)
    counting = Counting(*records)
    counting.metrics.note_request(request(model="m0000"))
    for record in records:
        counting.metrics.note_request(request(model="m0001"))
        counting.metrics.note_request(request(model=record.id))
    loaded = await counting.values("model_loaded")
    assert len(loaded) == MAX_MODELS
    # Those in use come first.
    assert ({"model": records[-1].id}, 1) in loaded
    counted = {labels["model"]: value for labels, value in await counting.values("requests_total")}
    assert len(counted) == MAX_MODELS
    # One that is used all the time is not pushed out.
    assert counted["m0001"] == len(records) + 1
    assert "m0000" not in counted


async def test_what_comes_during_a_scrape_does_not_change_it() -> None:
    counting = Counting(ModelRecord(id="m"))
    counting.metrics.note_request(request(1))
    _, counters = counting.metrics.snapshot()
    counting.metrics.note_request(request(1))
    assert counters["m"].counters["tokens"] == {("input",): 1, ("output",): 0}
    assert sum(counters["m"].histograms["request_duration_seconds"].counts) == 1
    assert sum(counters["m"].counters["requests"].values()) == 1


async def test_scrapes_at_one_time_share_one_look() -> None:
    counting = full()
    looks = 0

    def look() -> MetricsState:
        nonlocal looks
        looks += 1
        return counting.state

    metrics = Metrics(look)
    waiting = [asyncio.create_task(metrics.scrape()) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    texts = await asyncio.gather(*waiting[1:])
    assert looks == 1
    assert len(set(texts)) == 1
    await metrics.scrape()
    assert looks == 2
    await metrics.close()


# The documents

_NAME = re.compile(PREFIX + r"[a-z0-9_]+|process_[a-z_]+")


async def exported() -> tuple[set[str], set[str]]:
    """Families (counters with their ``_total``), and every name that a query can use."""
    families: set[str] = set()
    names: set[str] = set()
    text = (await full().metrics.scrape()).decode()
    for family in text_string_to_metric_families(text):
        names.update(sample.name for sample in family.samples)
        families.add(family.name + ("_total" if family.type == "counter" else ""))
    return families, names


async def test_every_family_has_a_sample_when_all_is_known() -> None:
    families, names = await exported()
    assert not {one for one in families if one not in names and f"{one}_count" not in names}


async def test_the_page_names_every_family_and_no_other() -> None:
    families, names = await exported()
    page = set(_NAME.findall((ROOT / "docs" / "monitoring.md").read_text("utf-8")))
    assert families - page == set()
    assert page - families - names == set()


async def test_the_dashboard_uses_what_there_is() -> None:
    _, names = await exported()
    dashboard = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text("utf-8"))
    panels, variables = dashboard["panels"], dashboard["templating"]["list"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [one["query"]["query"] for one in variables if one["type"] == "query"]
    used = {name for query in queries for name in _NAME.findall(query)}
    assert len(queries) > 10
    assert used - names == set()
    # Every query asks for something of ours.
    assert all(_NAME.search(query) for query in queries)


@pytest.mark.parametrize("size", [1, 700])
async def test_many_requests_are_counted_as_one_by_one(size: int) -> None:
    counting = Counting(ModelRecord(id="m"), ModelRecord(id="n"))
    seconds = [0.0, 0.05, 0.06, 0.1, 599.0, 600.0, 601.0]
    records = [
        request(
            number % 5,
            model="mn"[number % 3 == 0],
            duration_seconds=seconds[number % len(seconds)],
            time_to_first_token_seconds=None if number % 2 else 0.01,
        )
        for number in range(size)
    ]
    counting.metrics.note_requests([(record, None) for record in records])
    for model in "mn":
        own = [one for one in records if one.model == model]
        for bound in ("0.05", "0.1", "600.0", "+Inf"):
            found = await counting.value("request_duration_seconds_bucket", model=model, le=bound)
            assert (found or 0) == sum(one.duration_seconds <= float(bound) for one in own)
        total = await counting.value("request_duration_seconds_sum", model=model)
        assert (total or 0) == pytest.approx(sum(one.duration_seconds for one in own))
        first = await counting.value("time_to_first_token_seconds_count", model=model)
        known = [one for one in own if one.time_to_first_token_seconds is not None]
        assert (first or 0) == len(known)
        tokens = await counting.value("tokens_total", model=model, direction="input")
        assert (tokens or 0) == sum(one.tokens_in or 0 for one in own)


async def test_keys_are_counted_by_name_and_are_few() -> None:
    counting = Counting(ModelRecord(id="m"))
    counting.metrics.note_request(request(7, key_name='z"oë', tokens_out=3))
    counting.metrics.note_request(request(1, key_name='z"oë', tokens_in=None, status=500))
    counting.metrics.note_request(request(1))
    assert await counting.values("key_requests_total") == [({"key": 'z"oë'}, 2.0)]
    assert await counting.values("key_tokens_total") == [
        ({"direction": "input", "key": 'z"oë'}, 7.0),
        ({"direction": "output", "key": 'z"oë'}, 3.0),
    ]
    for number in range(MAX_KEYS):
        counting.metrics.note_request(request(key_name=f"key {number}"))
    found = {labels["key"] for labels, _ in await counting.values("key_requests_total")}
    assert found == {f"key {number}" for number in range(MAX_KEYS)}
