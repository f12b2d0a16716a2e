"""Further ports of a whole service: the same checks, the same service, changed while it runs."""

from __future__ import annotations

import socket

import httpx

from tests.real.conftest import StartFake
from tests.real.service_process import chat_body, free_low_port
from tests.waiting import LIMIT, eventually

KEYS = {"x-api-key": "second"}


def ask(port: int, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    url = f"http://127.0.0.1:{port}{path}"
    with httpx.Client(timeout=LIMIT, trust_env=False, headers=headers) as client:
        return client.post(url, json=chat_body("a")) if "chat" in path else client.get(url)


def test_further_ports_have_the_same_checks_and_their_clients_are_known(
    start_fake: StartFake,
) -> None:
    first = free_low_port(3)
    second, taken = first + 1, first + 2
    with socket.create_server(("127.0.0.1", taken)):
        service = start_fake(
            config={"api_keys": ["first", "second"], "extra_ports": [first, second, taken]}
        )
    facts = service.get("/admin/status").json()
    assert facts["port"] == service.port
    assert [(one["port"], one["problem"] is None) for one in facts["extra_ports"]] == [
        (first, True),
        (second, True),
        (taken, False),
    ]
    assert ask(first).json()["error"]["code"] == "invalid_api_key"
    refused = ask(second, "/v1/models", **KEYS, Host="evil.example")
    assert refused.json()["error"]["code"] == "forbidden_host"
    assert ask(first, **KEYS, **{"User-Agent": "ollama-python/0.5.1 (x86_64)"}).status_code == 200
    record = service.get("/admin/requests?limit=1").json()[0]
    assert record["user_agent"] == "ollama-python/0.5.1 (x86_64)"
    assert (record["port"], record["key_name"], record["client"]) == (first, "2", "127.0.0.1")
    latest = service.get("/admin/clients?limit=1").json()
    assert [(one["user_agent"], one["port"], one["requests"]) for one in latest] == [
        (record["user_agent"], first, 1)
    ]
    # A port that is left out ends at once; its running answers and other ports stay.
    with httpx.Client(timeout=LIMIT, trust_env=False, headers=KEYS) as client:
        body = chat_body("a", stream=True, fake={"tokens": 4, "interval": 0.2})
        url = f"http://127.0.0.1:{first}/v1/chat/completions"
        with client.stream("POST", url, json=body) as answer:
            changed = httpx.put(
                f"{service.url}/admin/config/extra_ports",
                json={"value": [second, taken]},
                trust_env=False,
                timeout=LIMIT,
            )
            assert changed.status_code == 200
            assert answer.read().endswith(b"data: [DONE]\n\n")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", first)) != 0
    assert ask(second, "/v1/models", **KEYS).status_code == 200
    # The file is followed, too.
    text = service.config_path.read_text()
    service.config_path.write_text(text.replace(f"{second}, {taken}", f"{first}"))
    eventually(lambda: ask_or_none(first), what="the first port")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", second)) != 0


def ask_or_none(port: int) -> httpx.Response | None:
    try:
        return ask(port, "/health")
    except httpx.TransportError:
        return None
