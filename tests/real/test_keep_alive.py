"""Connections to the servers are reused with care: no request fails because one was closed."""

from __future__ import annotations

import json
import random
import time

import pytest

from tests.real.conftest import StartFake, StartReal
from tests.real.service_process import chat_body


def test_more_requests_than_a_connection_serves(start_fake: StartFake) -> None:
    service = start_fake({"a": {"keepalive_requests": 3}})
    with service.client() as client:
        for _ in range(50):
            answer = client.post("/v1/chat/completions", json=chat_body("a"))
            assert answer.status_code == 200
    opened = service.upstream("a", "/fake/report")["connections"]["opened"]
    assert 17 <= opened < 50


def test_connections_are_reused_and_few_stay(start_fake: StartFake) -> None:
    service = start_fake()
    with service.client() as client:
        for _ in range(50):
            client.post("/v1/chat/completions", json=chat_body("a"))
    report = service.upstream("a", "/fake/report")
    assert report["connections"]["opened"] < 10
    assert sum(entry["reused"] for entry in report["requests"]) > 40


def test_a_reused_connection_that_closes_under_a_request_is_retried_once(
    start_fake: StartFake,
) -> None:
    service = start_fake({"a": {"drop_reused": 5}})
    with service.client() as client:
        for _ in range(20):
            answer = client.post("/v1/chat/completions", json=chat_body("a"))
            assert answer.status_code == 200
    requests = service.upstream("a", "/fake/report")["requests"]
    assert sum(entry["state"] == "dropped" for entry in requests) == 5
    assert sum(entry["state"] == "done" for entry in requests) == 20


def test_a_fresh_connection_that_closes_is_not_retried(start_fake: StartFake) -> None:
    """The server may have begun to work on it: a second try could do the work twice."""
    service = start_fake({"a": {"drop_fresh": 1}})
    service.post("/admin/models/a/load", json={})
    statuses = [service.chat("a").status_code for _ in range(2)]
    states = [e["state"] for e in service.upstream("a", "/fake/report")["requests"]]
    assert sorted(statuses) == [200, 502]
    assert states == ["dropped", "done"]


def test_a_connection_that_closes_in_the_idle_time(start_fake: StartFake) -> None:
    service = start_fake({"a": {"keepalive_idle": 0.05}})
    with service.client() as client:
        for number in range(40):
            answer = client.post("/v1/chat/completions", json=chat_body("a"))
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
