"""Errors of every kind have the shapes that clients expect."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re

import msgspec
import pytest
from aiohttp import web

from cyber_inference_tui import errors
from cyber_inference_tui.errors import (
    CyberError,
    MethodNotAllowedError,
    ModelLoadError,
    ModelNotFoundError,
    NotFoundError,
    QueueFullError,
)
from cyber_inference_tui.http.error_responses import (
    error_body,
    error_event,
    error_response,
    in_ollama_shape,
)
from tests.fakes.service import FakeService, make_settings, serving
from tests.http.regenerate import PAGE
from tests.waiting import LIMIT

from .raw import ask, converse, head

ANTHROPIC_TYPES = {
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "overloaded_error",
    "api_error",
    "timeout_error",
}
ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, CyberError)
]


NEVER_SENT = {"no_service", "certificate_changed", "unreadable_model"} | {
    "install_failed",
    "install_unusable",
    "build_failed",
}
"""Errors of clients, of files that the library leaves out, and of installations, which have a
record of their own."""


def test_the_docs_have_every_error_that_is_sent() -> None:
    rows = re.findall(r"^\| (\d+) \| ((?:`\w+`(?:, )?)+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    documented = {
        (code, int(status)) for status, codes in rows for code in codes[1:-1].split("`, `")
    }
    assert documented >= {(one.code, one.status) for one in ALL if one.code not in NEVER_SENT}


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_each_shape(kind: type[CyberError]) -> None:
    error = kind("What went wrong.")
    plain = msgspec.json.decode(error_body(error, "/v1/chat/completions"))
    assert set(plain) == {"error"}
    assert plain["error"]["message"] == "What went wrong."
    assert plain["error"]["code"] == kind.code
    assert plain["error"]["param"] is None
    other = msgspec.json.decode(error_body(error, "/v1/messages"))
    assert other["type"] == "error"
    assert other["error"]["type"] in ANTHROPIC_TYPES
    assert other["error"]["code"] == kind.code
    router = msgspec.json.decode(error_body(error, "/models/load"))
    assert set(router["error"]) == {"message", "type", "code"}
    assert router["error"]["code"] == kind.status
    assert error_response(error, "/").status == kind.status
    ollama = error_response(error, "/api/chat")
    assert ollama.status == kind.status
    if ollama.content_type == "text/plain":
        assert kind.status in {404, 405}
    else:
        assert isinstance(msgspec.json.decode(error_body(error, "/api/chat"))["error"], str)


@pytest.mark.parametrize(
    ("path", "anthropic"),
    [
        ("/v1/messages", True),
        ("/v1/messages/count_tokens", True),
        ("/upstream/a/b/v1/messages", True),
        ("/v1/messagesx", False),
        ("/v1/chat/completions", False),
        ("/admin/models/v1/messages", False),
    ],
)
def test_which_paths_speak_anthropic(path: str, anthropic: bool) -> None:
    assert ("type" in msgspec.json.decode(error_body(CyberError("x"), path))) is anthropic
    event = error_event(CyberError("x"), path)
    assert event.startswith(b"event: error\ndata: {" if anthropic else b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == (3 if anthropic else 2)


def test_ollamas_words_for_unknown_models_and_paths() -> None:
    error = ModelNotFoundError("There is no model x.", hint="Near it: y.", name="x")
    result = {"error": "model 'x' not found. Near it: y."}
    assert msgspec.json.decode(error_body(error, "/api/chat")) == result
    assert error_event(error, "/api/chat") == error_body(error, "/api/chat") + b"\n"
    assert error_response(NotFoundError("x"), "/api/x").body == b"404 page not found"
    said = error_response(MethodNotAllowedError("x", allow=("POST",)), "/api/chat")
    assert (said.body, said.headers["Allow"]) == (b"405 method not allowed", "POST")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"code": 400, "message": "too long", "n_ctx": 5}}, "too long"),
        ({"code": 400, "message": "too long"}, "too long"),
        ({"error": "too long"}, "too long"),
        ({"detail": 1}, 'The model\'s server answered with status 500: {"detail":1}'),
        ([1], "The model's server answered with status 500: [1]"),
    ],
)
def test_errors_of_a_models_server_in_ollamas_shape(body: object, said: str) -> None:
    data = msgspec.json.encode(body)
    assert msgspec.json.decode(in_ollama_shape(data, 500)) == {"error": said}


def test_a_failed_load_has_its_last_lines() -> None:
    error = ModelLoadError("It did not start.", hint="Try less.", log_tail=("one", "two"))
    body = msgspec.json.decode(error_body(error, "/x"))
    assert body["error"]["message"] == "It did not start. Try less.\none\ntwo"
    assert error_event(error, "/x").count(b"\n") == 2


def test_messages_are_bounded_and_always_encodable() -> None:
    body = error_body(CyberError("ü" * 1_000_000), "/x")
    assert len(body) < 200_000
    assert b'"ab"' in error_body(CyberError("a\udcffb"), "/x")


def test_quotes_in_messages_are_harmless() -> None:
    body = error_body(CyberError("no /x\x1b[31my\x07\u202ez\nthere"), "/x")
    assert msgspec.json.decode(body)["error"]["message"] == "no /xyz\nthere"


async def test_headers_that_belong_to_errors() -> None:
    async def full(request: web.Request) -> web.StreamResponse:
        raise QueueFullError("Too many wait.", retry_after=7)

    async with serving(FakeService(), full) as front:
        async with front.client.post("/v1/chat/completions") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
            assert (await answer.json())["error"]["code"] == "queue_full"
        async with front.client.post("/v1/messages") as answer:
            assert (await answer.json())["error"]["type"] == "rate_limit_error"


async def test_a_defect_is_logged_in_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = FakeService("m")
    service.failure = RuntimeError("secret detail")
    async with serving(service) as front:
        for method, path in (("GET", "/admin/status"), ("POST", "/admin/models/m/load")):
            async with front.client.request(method, path) as answer:
                assert answer.status == 500
                text = await answer.text()
                assert msgspec.json.decode(text)["error"]["code"] == "internal_error"
                assert "secret" not in text
                assert "Traceback" not in text
        async with front.client.get("/health") as answer:
            assert answer.status == 200
    record = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.exc_info is not None
    assert "secret detail" in str(record.exc_info[1])


async def test_a_defect_in_the_middle_of_an_answer_cuts_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        raise RuntimeError("broken")

    async with serving(FakeService(), breaks) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(head("GET /v1/x HTTP/1.1", "Host: localhost"))
        received = b""
        try:
            async with asyncio.timeout(LIMIT):
                while chunk := await reader.read(1000):
                    received += chunk
        except ConnectionResetError:
            pass
        assert b"half" in received
        assert received.count(b"HTTP/1.1") == 1
        assert not received.endswith(b"0\r\n\r\n")
        writer.close()
    assert "broken" in caplog.text


async def test_errors_of_aiohttp_itself_have_the_shape() -> None:
    async def teapot(request: web.Request) -> web.StreamResponse:
        raise web.HTTPException if request.path == "/x" else web.HTTPGone

    async with serving(FakeService(), teapot) as front:
        async with front.client.get("/y") as answer:
            assert answer.status == 410
            assert (await answer.json())["error"]["code"] == "gone"
        star = await ask(front.port, "OPTIONS * HTTP/1.1", "Host: localhost")
        assert star.status == 404
        assert star.error()["code"] == "not_found"


HOSTILE = [
    b"\r\n\r\nnonsense\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-%d: y\r\n" % 1 * 500 + b"\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
]


@pytest.mark.parametrize("data", HOSTILE)
async def test_invalid_http_gets_an_error_in_shape(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(FakeService()) as front:
        (answer,) = await converse(front.port, data, count=1)
        assert 400 <= answer.status < 500
        assert answer.headers["content-type"].startswith("application/json")
        assert set(answer.error()) == {"message", "type", "param", "code"}
        assert "Traceback" not in answer.body.decode()
        async with front.client.get("/health") as other:
            assert other.status == 200
    # A client must not be able to fill the log.
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_headers_with_any_bytes_are_taken() -> None:
    settings = make_settings(api_keys=("k",))
    async with serving(FakeService(settings=settings)) as front:
        data = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx-api-key: \xff\xfe\r\n\r\n"
        (answer,) = await converse(front.port, data, count=1)
        assert answer.status == 401
        data = b"GET /health HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n"
        (answer,) = await converse(front.port, data, count=1)
        assert answer.status in {400, 403}


async def test_a_client_that_leaves_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError

    async with serving(FakeService(), waits) as front:
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(head("GET /v1/x HTTP/1.1", "Host: localhost"))
        await entered.wait()
        writer.transport.abort()
        async with asyncio.timeout(LIMIT):
            await left.wait()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_connection_without_a_request_is_closed_and_others_stay() -> None:
    async with serving(FakeService(), head_timeout=0.05) as front:
        used, user = await asyncio.open_connection("127.0.0.1", front.port)
        user.write(head("GET /health HTTP/1.1", "Host: localhost"))
        assert b" 200 " in await used.readline()
        for data in (b"", b"GET /health HTTP/1.1\r\nHost: loc"):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(data)
            async with asyncio.timeout(LIMIT):
                assert await reader.read() == b""
            writer.close()
        await used.readuntil(b"}")
        user.write(head("GET /health HTTP/1.1", "Host: localhost"))
        assert b" 200 " in await used.readline()
        await used.readuntil(b"}")
        # A later head has no more time than the first, however often a byte of it comes.
        user.write(b"GET /health HTTP/1.1\r\nHost: ")
        end = asyncio.ensure_future(used.read())
        async with asyncio.timeout(LIMIT):
            while not end.done():
                user.write(b"a")
                await asyncio.sleep(0.01)
            with contextlib.suppress(ConnectionError):
                assert await end == b""
        user.close()
