"""``X-Request-Id``: in every answer, at the model's server, and in the records."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cyber_inference_tui.http import lean_path
from tests.http.client_side import CHAT, post, to_the_end
from tests.http.raw import head
from tests.http.test_records import recorded
from tests.http.upstream import EVENTS, LAST, Recorder, answer, event, forwarding

WHOLE = answer("Content-Type: application/json", "X-Request-Id: of-the-server", body=b"{}")
BODY = b'{"model":"m"}'


def ids(received: bytes) -> list[str]:
    """Return the ids in the heads of the answer that ends with ``received``."""
    text = received.decode("latin-1").partition("\r\n\r\n")[0]
    return re.findall(r"(?im)^x-request-id: (\S+)\r?$", text)


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    return head(f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines)


CLOSE = "Connection: close"
WEBSOCKET = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {'A' * 22}==")
ANY = {
    "the lean path": post(BODY, CLOSE),
    "a translation": post(BODY, CLOSE, path="/api/show"),
    "a whole translation": post(b'{"model":"m","messages":[]}', CLOSE, path="/api/embed"),
    "aiohttp": post(BODY, CLOSE, "Origin: http://localhost"),
    "an unknown model": post(b'{"model":"none"}', CLOSE),
    "a body that is too large": post(b"x" * (2 << 20), CLOSE),
    "a model's path": get("/v1/nothing"),
    "the service's path": get("/admin/nothing"),
    "an admin endpoint": get("/admin/models"),
    "health": get("/health"),
    "another method": get("/health", method="DELETE"),
    "another host": head("GET /health HTTP/1.1", "Host: evil.example", CLOSE),
    "a preflight": get(
        CHAT,
        "Origin: http://localhost",
        "Access-Control-Request-Method: POST",
        method="OPTIONS",
    ),
    "no WebSocket": get("/ws/status"),
}


@pytest.mark.parametrize("request_bytes", ANY.values(), ids=ANY)
async def test_every_answer_has_the_id_of_its_request(request_bytes: bytes) -> None:
    first, rest = request_bytes.split(b"\r\n", 1)
    async with forwarding(Recorder(WHOLE)) as world:
        answers = []
        for line in (b"", b"", b"X-Request-Id: my/own:1\r\n", b"X-Request-Id: my own\r\n"):
            received = await to_the_end(world.front.port, first + b"\r\n" + line + rest)
            answers += ids(received)
    one, other, own, insane = answers
    assert own == "my/own:1"
    assert len({one, other, insane}) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", made) for made in (one, other, insane))


@pytest.mark.parametrize("data", [b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nBad\x01: x\r\n\r\n"])
async def test_answers_to_what_is_no_request_have_an_id(data: bytes) -> None:
    async with forwarding(Recorder(WHOLE)) as world:
        assert len(ids(await to_the_end(world.front.port, data))) == 1


async def test_a_websocket_has_an_id() -> None:
    async with forwarding(Recorder(WHOLE)) as world:
        headers = {"X-Request-Id": "socket-1"}
        async with world.front.client.ws_connect("/ws/status", headers=headers) as socket:
            assert socket._response.headers["X-Request-Id"] == "socket-1"


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("own", ["mine-1", None])
async def test_the_server_and_the_records_get_the_id(lean: bool, own: str | None) -> None:
    lines = [CLOSE, *([] if lean else ["Origin: http://localhost"])]
    lines += [] if own is None else [f"x-request-id: {own}"]
    server = Recorder(answer(*EVENTS) + event('{"x":1}') + LAST)
    async with forwarding(server) as world:
        for _ in range(3):
            (shown,) = ids(await to_the_end(world.front.port, post(BODY, *lines)))
            assert own in {None, shown}
            assert server.seen[-1].headers["x-request-id"] == shown
            records = await recorded(world, len(server.seen))
            assert records[-1].request_id == shown
        (shown,) = ids(await to_the_end(world.front.port, post(b'{"model":"none"}', *lines)))
        ((refused, _),) = world.refusals
        assert refused.request_id == shown


async def test_a_head_with_another_id_is_a_known_head(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    parse = lean_path._parse

    def note(line: bytes, *rest: Any) -> Any:
        parsed.append(line)
        return parse(line, *rest)

    monkeypatch.setattr(lean_path, "_parse", note)
    async with forwarding(Recorder(WHOLE)) as world:
        for number in range(3):
            request = post(BODY, CLOSE, f"X-Request-Id: number-{number}")
            assert ids(await to_the_end(world.front.port, request)) == [f"number-{number}"]
        await recorded(world, 3)
    assert len(parsed) == 1
