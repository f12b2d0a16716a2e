from __future__ import annotations

import errno
import socket
import subprocess
import sys
import tomllib
from contextlib import aclosing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import msgspec
import pytest

from cyber_inference_tui import errors
from cyber_inference_tui.client.answer_errors import error_from_answer
from cyber_inference_tui.client.completions import ChatDelta
from cyber_inference_tui.client.service_client import ServiceClient, model_key
from cyber_inference_tui.client.service_url import base_url, is_same_service
from cyber_inference_tui.client.transport import failure_reason
from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ConfigCheckRecord,
    CpuRecord,
    DeviceRecord,
    InstallState,
    LogEvent,
    LogLevel,
    LogPage,
    LogRecord,
    LogRun,
    MemoryRecord,
    ModelDetails,
    ModelRecord,
    ModelStatus,
    ModelTotals,
    ModelUsage,
    NumberedLine,
    RequestPhase,
    RequestRecord,
    ResourceSample,
    SessionRecord,
    SettingEffect,
    SwapRecord,
    endpoints,
    queries,
)
from tests.fakes.service import Front


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


@pytest.mark.parametrize(
    ("bound", "url", "same"),
    [
        ("http://0.0.0.0:1", "http://127.0.0.1:1", True),
        ("http://[::]:1", "http://[::1]:1", True),
        ("http://127.0.0.1:1", "http://localhost:1", True),
        ("http://192.0.2.7:1", "http://192.0.2.7:1", True),
        ("http://127.0.0.1:1", "http://127.0.0.1:2", False),
        ("http://192.0.2.7:1", "http://127.0.0.1:1", False),
        ("http://0.0.0.0:1", "http://192.0.2.7:1", False),
        ("http://127.0.0.1:1", "https://127.0.0.1:1", False),
        ("http://127.0.0.1:1", "http://127.0.0.1:x", False),
        ("nonsense", "http://127.0.0.1:1", False),
    ],
)
def test_a_token_is_for_the_service_that_wrote_it(bound: str, url: str, same: bool) -> None:
    assert is_same_service(bound, url) == same


async def test_records_come_back_typed(front: Front) -> None:
    models = front.service.world.models
    models["tiny"] = ModelRecord(id="tiny", aliases=("small",), size_bytes=123)
    async with ServiceClient(front.url) as client:
        assert (await client.call(endpoints.MODELS)) == [models["tiny"]]
        assert (await client.call(endpoints.STATUS)).llama_server.version == "b9999"


async def test_past_requests_sessions_and_sums(front: Front) -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    requests = [RequestRecord(at=at, model="m", path="/", status=200, duration_seconds=1)]
    world = front.service.world
    sessions = [SessionRecord(model="m", load_reason="asked", loaded_at=at, load_seconds=1)]
    totals = [
        ModelTotals(model="m", requests=1, failures=0, tokens_in=2, tokens_out=3, last_used_at=at)
    ]
    world.requests, world.sessions, world.totals = requests, sessions, totals
    there = at.astimezone(timezone(timedelta(hours=2)))
    async with ServiceClient(front.url) as client:
        assert await client.call(endpoints.REQUESTS) == requests
        of_model = queries.RequestQuery(limit=5, before=9, model="a/b&c", failed=False, since=there)
        assert await client.call(endpoints.REQUESTS, query=of_model) == []
        assert await client.call(endpoints.SESSIONS) == sessions
        newest = queries.HistoryQuery(limit=1, before=2, model="m", since=at)
        assert await client.call(endpoints.SESSIONS, query=newest) == sessions
        failed = queries.RequestQuery(failed=True)
        assert await client.call(endpoints.REQUESTS, query=failed) == []
        assert await client.call(endpoints.TOTALS) == totals
    assert [query for name, query in front.service.reads if name == "requests"] == [
        queries.RequestQuery(),
        of_model,
        failed,
    ]
    since = "since=2026-01-31T14%3A00%3A00%2B02%3A00"
    assert [request.path_qs for request in front.requests] == [
        "/admin/requests",
        f"/admin/requests?limit=5&before=9&model=a%2Fb%26c&{since}&failed=0",
        "/admin/sessions",
        "/admin/sessions?limit=1&before=2&model=m&since=2026-01-31T12%3A00%3A00%2B00%3A00",
        "/admin/requests?failed=1",
        "/admin/totals",
    ]


async def test_samples_come_back_typed(front: Front) -> None:
    samples = front.service.world.samples = [
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
    async with ServiceClient(front.url) as client:
        assert await client.call(endpoints.RESOURCES) == samples[1]
        assert (
            await client.call(endpoints.RESOURCE_HISTORY, query=queries.TimeQuery(history=900))
            == samples
        )
    assert front.service.reads == [("resource_history", 900)]


async def test_ids_with_slashes_and_odd_characters_arrive_unchanged(front: Front) -> None:
    for name in ("sub/Name-Q4", "a b?c#d%2F", "模型", "../up"):
        front.service.world.models[name] = ModelRecord(id=name)
        async with ServiceClient(front.url) as client:
            assert (await client.call(endpoints.LOAD, name)).status is ModelStatus.LOADED
            assert (
                await client.call(endpoints.UNLOAD, name, query=queries.UnloadQuery(force=True))
            ).status is ModelStatus.UNLOADED
        assert front.service.calls[-1] == ("unload", name, True)


async def test_writes_say_that_they_are_json(front: Front) -> None:
    front.service.world.models["tiny"] = ModelRecord(id="tiny")
    async with ServiceClient(front.url) as client:
        await client.call(endpoints.LOAD, "tiny", query=queries.LoadQuery(wait=False), timeout=9)
    assert front.service.calls == [("load", "tiny", False)]
    (request,) = front.requests
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Content-Length"] == "2"
    assert "Authorization" not in request.headers


async def test_a_missing_service_is_an_error_with_a_hint() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    async with ServiceClient(url) as client:
        with pytest.raises(errors.NoServiceError) as caught:
            await client.call(endpoints.STATUS)
        with pytest.raises(errors.NoServiceError):
            async with aclosing(client.events()) as events:
                await anext(events)
    assert str(caught.value) == (
        f"No service answers at {url} (connection refused). "
        "Start one with 'cyber-inference-tui serve'."
    )


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        (
            "http://jetson.invalid:9000",
            "If it runs there, --attach 'ssh://jetson.invalid?port=9000' reaches it by ssh.",
        ),
        (
            "https://jetson.invalid:8337",
            "If it runs there, open a tunnel with "
            "'ssh -N -L 18337:127.0.0.1:8337 jetson.invalid', and use https://127.0.0.1:18337.",
        ),
    ],
)
async def test_a_service_elsewhere_may_need_a_tunnel(url: str, hint: str) -> None:
    async with ServiceClient(url) as client:
        with pytest.raises(errors.NoServiceError) as caught:
            await client.call(endpoints.STATUS)
    assert caught.value.hint == hint


def test_a_failed_connection_has_its_reason() -> None:
    error = httpx.ConnectError("All connection attempts failed")
    error.__cause__ = OSError(errno.ENETUNREACH, "Connect call failed ('192.0.2.1', 8337)")
    assert failure_reason(error) == "network is unreachable"
    broken = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    assert failure_reason(broken) == "server disconnected without sending a response"


async def test_the_environments_proxy_is_not_used(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with ServiceClient(front.url) as client:
        assert (await client.call(endpoints.STATUS)).pid == 4242


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
async def test_another_program_on_the_port_is_recognized(status: int, content: bytes) -> None:
    async with answering(status, content) as client:
        with pytest.raises(errors.NoServiceError, match=r"http://127\.0\.0\.1:1"):
            await client.call(endpoints.STATUS)


CHAT = (
    b": loading m 42%\n\n"
    b'data: {"choices":[{"delta":{"reasoning_content":"Hm."}}]}\n\n'
    b":\n\n"
    b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2},"timings":{"predicted_per_second":9.5}}\n\n'
    b"data: [DONE]\n\n"
)


async def test_a_chat_is_streamed() -> None:
    async with answering(200, CHAT) as client, aclosing(client.chat("m", [])) as chat:
        assert [delta async for delta in chat] == [
            ChatDelta(waiting="loading m 42%"),
            ChatDelta(thinking="Hm."),
            ChatDelta(text="Hello"),
            ChatDelta(finish_reason="stop", tokens_in=3, tokens_out=2, tokens_per_second=9.5),
        ]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b'{"error":{"message":"It died.","code":"upstream_failed"}}', errors.UpstreamError),
        (b'{"error":"no"}', errors.CyberError),
        (b"\xff", errors.CyberError),
    ],
)
async def test_a_chat_ends_with_the_error_in_its_stream(
    event: bytes, kind: type[errors.CyberError]
) -> None:
    async with answering(200, b"data: %b\n\n" % event) as client:
        with pytest.raises(errors.CyberError) as caught:
            async with aclosing(client.chat("m", [])) as chat:
                await anext(chat)
    assert type(caught.value) is kind


async def test_an_endless_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyber_inference_tui.client.transport.MAX_ANSWER_BYTES", 1000)
    async with answering(200, b"x" * 2000) as client:
        with pytest.raises(errors.CyberError, match="exceeds 1000 bytes"):
            await client.call(endpoints.MODELS)


async def test_an_answer_that_is_no_event_stream_is_refused() -> None:
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
        if kind in {errors.NoServiceError, errors.NoServiceThereError}:
            continue  # never sent
        if kind in {errors.NoLlamaServerError, errors.CyberError}:
            continue  # sent as model_load_failed, and the base
        if kind is errors.HubAnswerError:
            continue  # sent as hub_failed
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


def test_a_full_queue_has_its_retry_after() -> None:
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


async def test_log_lines_are_split_only_at_newlines(front: Front) -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    log = [
        NumberedLine(number=number, at=at, text=text)
        for number, text in enumerate(("one\u2028still one", "two"))
    ]
    logs = front.service.world.logs
    logs["tiny"] = log
    async with ServiceClient(front.url) as client:
        tail = await client.log("tiny", 10)
        assert tail.lines == ("one\u2028still one", "two")
        assert (await client.log("tiny", 1)).lines == ("two",)
        logs["tiny"] = []
        assert (await client.log("tiny", 10)).lines == ()


async def test_logs_and_parts_of_one(front: Front) -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    runs = (LogRun(first=4, started_at=at, pid=7),)
    lines = [
        NumberedLine(number=number, at=at, text="E bad", level=LogLevel.ERROR)
        for number in range(3, 9)
    ]
    front.service.world.logs = {"sub/tiny": lines}
    front.service.world.runs = {"sub/tiny": runs}
    log = LogRecord(id="sub/tiny", first=3, end=9, last_at=at, last_error=8, runs=runs)
    query = queries.LinesQuery(before=8, after=5, limit=1, level=LogLevel.WARNING, q=("bA",))
    async with ServiceClient(front.url) as client:
        assert await client.call(endpoints.LOGS) == [log]
        whole = LogPage(log=log, lines=tuple(lines), searched_to=3)
        assert await client.call(endpoints.LOG_LINES, "sub/tiny") == whole
        part = LogPage(log=log, lines=(lines[2],), searched_to=6)
        assert await client.call(endpoints.LOG_LINES, "sub/tiny", query=query) == part
    assert front.service.reads[-1] == ("log_lines", "sub/tiny", query)


async def test_events_of_chosen_logs_are_requested(front: Front) -> None:
    front.service.world.logs = {"sub/m": [], "a b": []}
    for log in ("another", "a b"):
        front.service.publish("log", LogEvent(id=log, lines=()))
    async with (
        ServiceClient(front.url) as client,
        aclosing(client.events({"log"}, after=0, logs={"sub/m", "a b"})) as events,
    ):
        assert b'"a b"' in (await anext(events)).data


async def test_a_stream_cut_by_the_service_resumes_without_loss(front: Front) -> None:
    def publish(*numbers: int) -> None:
        for number in numbers:
            front.service.publish("config", {"n": number})

    publish(0, 1)
    async with (
        ServiceClient(front.url) as client,
        aclosing(client.events({"config"}, after=0)) as events,
    ):
        seen = [(await anext(events)).data for _ in range(2)]
        assert front.requests[0].transport is not None
        front.requests[0].transport.abort()
        publish(2, 3, 4)
        seen += [(await anext(events)).data for _ in range(3)]
    assert seen == [b'{"n":%d}' % number for number in range(5)]
    assert [request.headers.get("Last-Event-ID") for request in front.requests] == ["0", "2"]


async def test_getting_a_llama_server_and_the_demo(front: Front) -> None:
    async with ServiceClient(front.url) as client:
        assert (await client.call(endpoints.INSTALLATION)).state is InstallState.IDLE
        begun = await client.call(endpoints.INSTALL, body=queries.InstallRequest("debian"))
        assert (begun.state, begun.source) == (InstallState.RUNNING, "debian")
        assert (await client.call(endpoints.INSTALLATION)).state is InstallState.RUNNING
        assert (await client.call(endpoints.CANCEL_INSTALL)).state is InstallState.CANCELLED
        assert (await client.call(endpoints.ADD_DEMO)).id == "demo"
        assert [model.id for model in await client.call(endpoints.MODELS)] == ["demo"]


@pytest.mark.parametrize(
    "model_id", ["m", "a.b/c", 'say "hi" \\ there', "with blank", "sub/Name-Q4_K_M", "ä", "x\x7fy"]
)
def test_the_key_of_a_models_setting_is_toml(model_id: str) -> None:
    key = model_key(model_id, "context_size")
    assert tomllib.loads(f"{key} = 1") == {"models": {model_id: {"context_size": 1}}}


async def test_details_memory_and_active_requests(front: Front) -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    world = front.service.world
    world.models["a/b c"] = ModelRecord(id="a/b c")
    world.details["a/b c"] = ModelDetails(model=world.models["a/b c"], facts={"layers": 2})
    world.active = [
        ActiveRequestRecord(
            number=1, at=at, model="m", path="/", phase=RequestPhase.ANSWERING, stream=True
        )
    ]
    async with ServiceClient(front.url) as client:
        assert await client.call(endpoints.DETAILS, "a/b c") == world.details["a/b c"]
        assert await client.call(endpoints.MEMORY) == world.rooms
        assert await client.call(endpoints.PROBLEMS) == world.problems
        assert await client.call(endpoints.ACTIVE_REQUESTS) == world.active


async def test_settings_are_checked_and_reset(front: Front) -> None:
    check = ConfigCheckRecord(
        key='models."a/b".threads',
        value=3,
        effect=SettingEffect.RESTARTS_MODELS,
        models=("a/b",),
    )
    key = model_key("a/b", "threads")
    async with ServiceClient(front.url) as client:
        assert await client.check_config(key, 3) == check
        assert (await client.call(endpoints.UNSET_CONFIG, key)).value is None
    assert front.service.calls == [("unset_config", key)]


def test_httpx_waits_for_the_first_request() -> None:
    """Its import takes longer than a first page may take."""
    code = (
        "import sys\n"
        "from cyber_inference_tui.client.service_client import ServiceClient, model_key\n"
        "ServiceClient('http://127.0.0.1:1')\n"
        "print('httpx._client' in sys.modules)\n"
        "from cyber_inference_tui.client.lazy_httpx import httpx\n"
        "httpx.Timeout(1)\n"
        "print('httpx._client' in sys.modules, 'pygments' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
