"""The metrics of a whole service: they agree with what was answered, and asking changes nothing."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.real.conftest import StartFake, StartReal
from tests.real.service_process import ServiceProcess, sse_data
from tests.waiting import eventually

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(service: ServiceProcess) -> Samples:
    answer = service.get("/metrics")
    assert answer.status_code == 200
    return {
        (
            sample.name.removeprefix("cyber_inference_"),
            frozenset(sample.labels.items()),
        ): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


@pytest.mark.real
def test_counters_agree_with_what_was_answered(start_real: StartReal) -> None:
    service = start_real()
    usages: list[dict[str, Any]] = [
        service.chat("demo", "hello " * number).json()["usage"] for number in (1, 2, 3)
    ]
    with service.stream("demo", stream_options={"include_usage": True}) as response:
        usages.append(sse_data(response.read().decode())[-2]["usage"])
    answer = service.post("/v1/completions", json={"model": "demo", "prompt": "a", "max_tokens": 3})
    usages.append(answer.json()["usage"])
    assert service.chat("demo", temperature="hot").status_code == 400

    def settled() -> Samples | None:
        samples = scrape(service)
        done = value(samples, "request_duration_seconds_count", model="demo") == 6
        return samples if done else None

    samples = eventually(settled)
    chat = {"model": "demo", "endpoint": "chat_completions"}
    assert value(samples, "requests_total", **chat, status="2xx") == 4
    assert value(samples, "requests_total", **chat, status="4xx") == 1
    completions = {"model": "demo", "endpoint": "completions", "status": "2xx"}
    assert value(samples, "requests_total", **completions) == 1
    assert value(samples, "request_errors_total", model="demo", code="server_error") == 1
    tokens_in = sum(usage["prompt_tokens"] for usage in usages)
    tokens_out = sum(usage["completion_tokens"] for usage in usages)
    assert value(samples, "tokens_total", model="demo", direction="input") == tokens_in
    assert value(samples, "tokens_total", model="demo", direction="output") == tokens_out
    assert value(samples, "time_to_first_token_seconds_count", model="demo") == 5
    assert value(samples, "tokens_per_second_count", model="demo") == 5
    assert value(samples, "model_loaded", model="demo") == 1
    assert (
        value(samples, "model_memory_bytes", model="demo") == service.model("demo")["memory_bytes"]
    )
    assert value(samples, "loads_total", model="demo", reason="request") == 1

    assert service.post("/admin/models/demo/unload").status_code == 200
    samples = scrape(service)
    assert value(samples, "loads_total", model="demo", reason="request") == 1
    assert value(samples, "load_seconds_count", model="demo") == 1
    assert value(samples, "unloads_total", model="demo", reason="asked") == 1
    assert value(samples, "model_status", model="demo", status="unloaded") == 1


@pytest.mark.real
def test_scrapes_neither_load_a_model_nor_keep_it(start_real: StartReal) -> None:
    service = start_real({"model_idle_timeout": 2})
    for _ in range(50):
        scrape(service)
    assert service.servers() == []
    assert service.model("demo")["status"] == "unloaded"
    service.chat("demo")
    used = eventually(lambda: service.model("demo")["last_used_at"])
    assert service.model("demo")["status"] == "loaded"
    count = 0
    deadline = time.monotonic() + 60
    while value(scrape(service), "unloads_total", model="demo", reason="idle") != 1:
        assert time.monotonic() < deadline, "it is kept"
        count += 1
    assert count > 0
    record = service.model("demo")
    assert (record["status"], record["last_used_at"]) == ("unloaded", used)
    for _ in range(50):
        scrape(service)
    assert service.servers() == []
    assert value(scrape(service), "loads_total", model="demo", reason="request") == 1


def test_a_crash_and_a_failed_load_are_told(start_fake: StartFake) -> None:
    service = start_fake({"a": {}, "b": {"die": {"exit": 1}}})
    assert service.chat("a").status_code == 200
    (server, *_) = service.servers()
    assert isinstance(server, psutil.Process)
    server.kill()
    eventually(lambda: value(scrape(service), "unloads_total", model="a", reason="crashed") == 1)
    assert service.chat("b").status_code == 503
    samples = scrape(service)
    assert value(samples, "request_errors_total", model="b", code="model_load_failed") == 1
    assert value(samples, "model_status", model="b", status="failed") == 1
    assert value(samples, "load_seconds_count", model="b") is None


def listening_port(pid: int) -> int | None:
    """The first TCP port on which a process listens."""
    for connection in psutil.Process(pid).net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            return int(connection.laddr.port)
    return None


@pytest.mark.real
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no prometheus here")
def test_a_real_prometheus_takes_it(start_real: StartReal, tmp_path: Path) -> None:
    service = start_real({"api_keys": ["secret"]})
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "scrape_configs:\n"
        "  - job_name: cyber-inference\n"
        "    scrape_interval: 1s\n"
        "    authorization: {credentials: secret}\n"
        f'    static_configs: [{{targets: ["127.0.0.1:{service.port}"]}}]\n'
    )
    key = {"Authorization": "Bearer secret"}
    body = {"model": "demo", "prompt": "a", "max_tokens": 3}
    assert service.post("/v1/completions", json=body, headers=key).status_code == 200
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        port = eventually(lambda: listening_port(process.pid), what="Prometheus's port")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

            def ask(query: str) -> str | None:
                try:
                    answer = client.get("/api/v1/query", params={"query": query})
                except httpx.TransportError:
                    return None
                result = answer.json()["data"]["result"] if answer.status_code == 200 else []
                return str(result[0]["value"][1]) if result else None

            tokens = 'cyber_inference_tokens_total{model="demo",direction="output"}'
            assert eventually(lambda: ask(tokens)) == "3"
            assert ask('up{job="cyber-inference"}') == "1"
            count = 'cyber_inference_load_seconds_bucket{model="demo",le="+Inf"}'
            assert ask(count) == "1"
            assert ask("count(cyber_inference_model_status)") == "6"
    finally:
        process.terminate()
        process.wait(60)
