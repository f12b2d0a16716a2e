from __future__ import annotations

import socket
from contextlib import aclosing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import msgspec
import pytest

from cyber_inference_tui import errors
from cyber_inference_tui.client.problems import error_from_answer
from cyber_inference_tui.client.service_client import ServiceClient, base_url
from cyber_inference_tui.records import (
    CpuRecord,
    DeviceRecord,
    InstallState,
    MemoryRecord,
    ModelRecord,
    ModelStatus,
    ModelTotals,
    ModelUsage,
    RequestRecord,
    ResourceSample,
    SessionRecord,
    SwapRecord,
)
from tests.client.stand_in import StandIn


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8337"),
        ("0.0.0.0", "http://127.0.0.1:8337"),
        ("::", "http://[::1]:8337"),
        ("[::]", "http://[::1]:8337"),
        ("::1", "http://[::1]:8337"),
        ("192.0.2.7", "http://192.0.2.7:8337"),
        ("gpu-box.lan", "http://gpu-box.lan:8337"),
    ],
)
def test_a_bind_address_becomes_a_url_that_can_be_asked(host: str, url: str) -> None:
    assert base_url(host, 8337) == url


async def test_records_come_back_typed(stand_in: StandIn) -> None:
    stand_in.models["tiny"] = ModelRecord(id="tiny", aliases=("small",), size_bytes=123)
    async with ServiceClient(stand_in.url) as client:
        assert (await client.models()) == [stand_in.models["tiny"]]
        assert (await client.status()).llama_server.version == "b9999"


async def test_past_requests_sessions_and_sums(stand_in: StandIn) -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    requests = [RequestRecord(at=at, model="m", path="/", status=200, duration_seconds=1)]
    sessions = [SessionRecord(model="m", load_reason="asked", loaded_at=at, load_seconds=1)]
    totals = [
        ModelTotals(model="m", requests=1, failures=0, tokens_in=2, tokens_out=3, last_used_at=at)
    ]
    stand_in.past = {"requests": requests, "sessions": sessions, "totals": totals}
    there = at.astimezone(timezone(timedelta(hours=2)))
    async with ServiceClient(stand_in.url) as client:
        assert await client.requests() == requests
        assert await client.requests(limit=5, before=9, model="a/b&c", failed=False, since=there)
        assert await client.sessions() == sessions
        assert await client.sessions(limit=1, before=2, model="m", since=at)
        assert await client.requests(failed=True)
        assert await client.totals() == totals
    since = "since=2026-01-31T14%3A00%3A00%2B02%3A00"
    assert [path for _, path, _, _ in stand_in.requests] == [
        "/admin/requests?limit=100",
        f"/admin/requests?limit=5&before=9&model=a%2Fb%26c&{since}&failed=0",
        "/admin/sessions?limit=100",
        "/admin/sessions?limit=1&before=2&model=m&since=2026-01-31T12%3A00%3A00%2B00%3A00",
        "/admin/requests?limit=100&failed=1",
        "/admin/totals",
    ]


async def test_samples_come_back_typed(stand_in: StandIn) -> None:
    stand_in.samples = [
        ResourceSample(
            at=datetime(2026, 1, 31, 12, second, tzinfo=UTC),
            device=DeviceRecord(),
            cpu=CpuRecord(percent=12.5),
            memory=MemoryRecord(),
            swap=SwapRecord(),
            models=(ModelUsage(id="m", pid=7),),
        )
        for second in range(2)
    ]
    async with ServiceClient(stand_in.url) as client:
        assert await client.resources() == stand_in.samples[1]
        assert await client.resource_history(900) == stand_in.samples
    assert stand_in.requests[-1][1] == "/admin/resources?history=900"


async def test_ids_with_slashes_and_odd_characters_arrive_whole(stand_in: StandIn) -> None:
    for name in ("sub/Name-Q4", "a b?c#d%2F", "模型", "../up"):
        stand_in.models[name] = ModelRecord(id=name)
        async with ServiceClient(stand_in.url) as client:
            assert (await client.load(name)).status is ModelStatus.LOADED
            assert (await client.unload(name, force=True)).status is ModelStatus.UNLOADED
        assert stand_in.requests[-1][1].endswith("/unload?force=1")


async def test_writes_say_that_they_are_json_and_carry_the_key(stand_in: StandIn) -> None:
    stand_in.api_key = "secret"
    stand_in.models["tiny"] = ModelRecord(id="tiny")
    async with ServiceClient(stand_in.url) as client:
        with pytest.raises(errors.InvalidApiKeyError):
            await client.load("tiny")
    async with ServiceClient(stand_in.url, api_key="secret") as client:
        await client.load("tiny", wait=False, timeout=9)
    method, path, headers, body = stand_in.requests[-1]
    assert (method, path, body) == ("POST", "/admin/models/tiny/load?wait=0", b"{}")
    assert headers["Content-Type"] == "application/json"


async def test_nobody_there_is_one_sentence_with_the_way_out() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    async with ServiceClient(url) as client:
        with pytest.raises(errors.NoServiceError) as caught:
            await client.status()
        with pytest.raises(errors.NoServiceError):
            async with aclosing(client.events()) as events:
                await anext(events)
    assert str(caught.value) == (
        f"No service answers at {url} (connection refused). "
        "Start one with 'cyber-inference-tui serve'."
    )


async def test_the_environments_proxy_is_not_asked(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with ServiceClient(stand_in.url) as client:
        assert (await client.status()).pid == 4242


def answering(status: int, content: bytes, **headers: str) -> ServiceClient:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=content, headers=headers)

    return ServiceClient("http://127.0.0.1:1", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (404, b"<html>nginx</html>"),
        (200, b"<html>nginx</html>"),
        (200, b'{"hello": 1}'),
        (500, b"\xff\xfe"),
        (403, b'{"error": "no"}'),
    ],
)
async def test_another_program_on_the_port_is_told_apart(status: int, content: bytes) -> None:
    async with answering(status, content) as client:
        with pytest.raises(errors.NoServiceError, match=r"http://127\.0\.0\.1:1"):
            await client.status()


async def test_an_endless_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyber_inference_tui.client.service_client.MAX_ANSWER_BYTES", 1000)
    async with answering(200, b"x" * 2000) as client:
        with pytest.raises(errors.CyberError, match="exceeds 1000 bytes"):
            await client.models()


async def test_an_event_stream_that_is_none_is_refused() -> None:
    async with answering(200, b"{}", **{"content-type": "application/json"}) as client:
        with pytest.raises(errors.NoServiceError, match="application/json"):
            async with aclosing(client.events()) as events:
                await anext(events)


def body(code: str, message: str = "It is so.", **more: Any) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "code": code, **more}})


def all_errors(kind: type[errors.CyberError] = errors.CyberError) -> list[type[errors.CyberError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in all_errors(child))]


def test_every_error_a_service_sends_comes_back_as_its_class() -> None:
    for kind in all_errors():
        if kind in {errors.NoServiceError, errors.NoLlamaServerError, errors.CyberError}:
            continue  # never sent, sent as model_load_failed, and the base
        if kind.__module__ != errors.__name__:
            continue  # errors of HTTP itself, with no code of their own
        back = error_from_answer("http://x", kind.status, {}, body(kind.code, param="model"))
        assert type(back) is kind
        assert back.message == "It is so."


def test_a_failed_load_brings_its_log_along_cleaned() -> None:
    message = "The server of tiny ended (exit code 1).\nerror: \x1b[31mno such file\x1b[0m\nbye"
    back = error_from_answer("http://x", 503, {}, body("model_load_failed", message))
    assert isinstance(back, errors.ModelLoadError)
    assert back.message == "The server of tiny ended (exit code 1)."
    assert back.log_tail == ("error: no such file", "bye")


def test_a_full_queue_tells_when_to_come_back() -> None:
    back = error_from_answer("http://x", 429, {"retry-after": "7"}, body("queue_full"))
    assert isinstance(back, errors.QueueFullError)
    assert back.retry_after == 7


@pytest.mark.parametrize(
    ("status", "kind"), [(404, errors.NotFoundError), (500, errors.CyberError)]
)
def test_an_unknown_code_still_is_an_error_of_ours(
    status: int, kind: type[errors.CyberError]
) -> None:
    back = error_from_answer("http://x", status, {}, body("from_a_later_version"))
    assert type(back) is kind


async def test_log_lines_are_split_only_at_newlines(stand_in: StandIn) -> None:
    stand_in.logs["tiny"] = "one\u2028still one\ntwo\n"
    async with ServiceClient(stand_in.url) as client:
        tail = await client.log("tiny", 10)
        assert tail.lines == ("one\u2028still one", "two")
        assert (await client.log("tiny", 1)).lines == ("two",)
        stand_in.logs["tiny"] = ""
        assert (await client.log("tiny", 10)).lines == ()


async def test_a_stream_cut_by_the_service_goes_on_without_loss(stand_in: StandIn) -> None:
    stand_in.drop_after = 2
    for number in range(5):
        stand_in.publish("log", {"n": number})
    seen: list[bytes] = []
    async with (
        ServiceClient(stand_in.url) as client,
        aclosing(client.events({"log"}, after=0)) as events,
    ):
        while len(seen) < 5:
            seen.append((await anext(events)).data)
    assert seen == [b'{"n":%d}' % number for number in range(5)]
    assert stand_in.streams_opened == ["0", "2"]


async def test_getting_a_llama_server_and_the_demo(stand_in: StandIn) -> None:
    async with ServiceClient(stand_in.url) as client:
        assert (await client.install_state()).state is InstallState.IDLE
        begun = await client.install("debian")
        assert (begun.state, begun.source) == (InstallState.RUNNING, "debian")
        assert (await client.install_state()).state is InstallState.RUNNING
        assert (await client.cancel_install()).state is InstallState.CANCELLED
        assert (await client.add_demo()).id == "demo"
        assert [model.id for model in await client.models()] == ["demo"]
