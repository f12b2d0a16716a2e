"""Connections to the servers are reused with care: no request fails because one was closed."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from tests.real.conftest import Starter, StartReal
from tests.real.service_process import ServiceProcess, chat_body

SWITCHES: dict[str, dict[str, Any]] = {
    "three-each": {"keepalive_requests": 3},
    "plain": {},
    "drops-reused": {"drop_reused": 5},
    "drops-fresh": {"drop_fresh": 1},
    "short-idle": {"keepalive_idle": 0.05},
}
"""The models of the shared service, each for one test."""


@pytest.fixture(scope="module")
def service(module_starter: Starter) -> ServiceProcess:
    return module_starter.fake(SWITCHES)


def test_more_requests_than_a_connection_serves(service: ServiceProcess) -> None:
    with service.client() as client:
        for _ in range(50):
            answer = client.post("/v1/chat/completions", json=chat_body("three-each"))
            assert answer.status_code == 200
    opened = service.upstream("three-each", "/fake/report")["connections"]["opened"]
    assert 17 <= opened < 50


def test_connections_are_reused_and_few_stay(service: ServiceProcess) -> None:
    with service.client() as client:
        for _ in range(50):
            client.post("/v1/chat/completions", json=chat_body("plain"))
    report = service.upstream("plain", "/fake/report")
    assert report["connections"]["opened"] < 10
    assert sum(entry["reused"] for entry in report["requests"]) > 40


def test_a_reused_connection_that_closes_under_a_request_is_retried_once(
    service: ServiceProcess,
) -> None:
    with service.client() as client:
        for _ in range(20):
            answer = client.post("/v1/chat/completions", json=chat_body("drops-reused"))
            assert answer.status_code == 200
    requests = service.upstream("drops-reused", "/fake/report")["requests"]
    assert sum(entry["state"] == "dropped" for entry in requests) == 5
    assert sum(entry["state"] == "done" for entry in requests) == 20


def test_a_fresh_connection_that_closes_is_not_retried(service: ServiceProcess) -> None:
    """The server may have begun to work on it: a second try could do the work twice."""
    service.post("/admin/models/drops-fresh/load", json={})
    statuses = [service.chat("drops-fresh").status_code for _ in range(2)]
    states = [e["state"] for e in service.upstream("drops-fresh", "/fake/report")["requests"]]
    assert sorted(statuses) == [200, 502]
    assert states == ["dropped", "done"]


def test_a_connection_that_closes_in_the_idle_time(service: ServiceProcess) -> None:
    with service.client() as client:
        for number in range(40):
            answer = client.post("/v1/chat/completions", json=chat_body("short-idle"))
            assert answer.status_code == 200
            time.sleep(0.04 + number % 5 * 0.005)


@pytest.mark.real
def test_pauses_around_llama_servers_idle_limit(start_real: StartReal) -> None:
    """The short form of benchmarks/keep_alive.py."""
    service = start_real()
    with service.client() as client:
        for pause in (4.9, 4.97, 5.0, 5.03, 5.1):
            for _ in range(25):
                answer = client.post("/v1/chat/completions", json=chat_body("demo", max_tokens=1))
                assert answer.status_code == 200, answer.text
            time.sleep(pause + random.uniform(-0.01, 0.01))
            answer = client.post("/v1/chat/completions", json=chat_body("demo", max_tokens=1))
            assert answer.status_code == 200, answer.text
            json.loads(answer.content)
