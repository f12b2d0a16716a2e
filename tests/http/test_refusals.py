"""Requests without a known model are recorded once, so that users find a misconfigured client."""

from __future__ import annotations

import pytest

from cyber_inference_tui.errors import QueueFullError
from tests.fakes.service import FakeService, make_settings, serving
from tests.http.client_side import CHAT, post
from tests.http.raw import ask, converse, head
from tests.http.upstream import Recorder, answer, forwarding
from tests.scheduler.virtual import model as a_model

GPT = b'{"model":"gpt-4o"}'


@pytest.mark.parametrize(
    ("data", "status", "code", "model", "words"),
    [
        (post(GPT), 404, "model_not_found", "gpt-4o", 'There is no model "gpt-4o"'),
        (
            post(b"{}", path="/upstream/other/v1/chat/completions"),
            404,
            "model_not_found",
            "other",
            "There is no model",
        ),
        (post(b"{}", path=f"{CHAT}?model=q"), 404, "model_not_found", "q", "There is no model"),
        (post(b"{}", "X-Model: h"), 404, "model_not_found", "h", "There is no model"),
        (post(b"{}"), 400, "invalid_request_error", "", "names no model"),
        (post(b"not JSON"), 400, "invalid_request_error", "", "not valid JSON"),
        (post(b"not JSON", "X-Model: m"), 400, "invalid_request_error", "m", "not valid JSON"),
        (post(GPT, "Content-Encoding: gzip"), 400, "invalid_request_error", "", "compressed"),
        (post(b" " * 3000), 413, "request_too_large", "", "larger than"),
        (post(GPT, path="/v1/v1/chat/completions"), 404, "not_found", "", "no endpoint"),
        (head(f"GET {CHAT} HTTP/1.1", "Host: localhost"), 405, "method_not_allowed", "", "POST"),
        (head(f"GET {CHAT} HTTP/1.1", "Host: evil.example"), 403, "forbidden_host", "", "evil"),
    ],
)
async def test_a_refused_request_is_noted(
    data: bytes, status: int, code: str, model: str, words: str
) -> None:
    # A single model would not have to be named.
    async with forwarding(Recorder(), a_model("m"), a_model("n"), max_body_size=2000) as world:
        (got,) = await converse(world.front.port, data, count=1)
        (noted,) = world.refusals
        assert world.records == []
    assert got.status == status
    record, noted_code = noted
    assert (record.status, noted_code, record.model) == (status, code, model)
    assert data.split()[1].decode().startswith(record.path)
    assert record.client == "127.0.0.1"
    assert words in (record.error or "")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/admin/models/a%0Ab/load", "There is no model"),
        ("/admin/models/a%0Ab", "/admin/models/a\\nb takes"),
        ("/nothing/a%0Ab", "There is no endpoint /nothing/a\\nb."),
    ],
)
async def test_a_name_with_a_line_break_is_shown_on_one_line(path: str, sentence: str) -> None:
    headers = ("Host: localhost", "Content-Type: application/json", "Content-Length: 0")
    async with serving(FakeService("m")) as front:
        got = await ask(front.port, f"POST {path} HTTP/1.1", *headers)
    assert got.error()["message"].startswith(sentence)


async def test_requests_of_a_model_are_not_recorded_twice() -> None:
    refusal = answer(body=b'{"error":{"message":"no"}}', status="400 Bad Request")
    async with forwarding(Recorder(refusal)) as world:
        assert (await converse(world.front.port, post(b'{"model":"m"}'), count=1))[0].status == 400
        world.launcher.failure = QueueFullError("Too many wait.")
        await world.launcher.servers[0].stop(0)
        assert (await converse(world.front.port, post(b'{"model":"m"}'), count=1))[0].status == 429
        assert len(world.records) == 2
        assert world.refusals == []


async def test_a_wrong_key_is_noted() -> None:
    service = FakeService("m", settings=make_settings(api_keys=("right",)))
    async with serving(service) as front:
        got = await ask(front.port, "GET /v1/models HTTP/1.1", "Host: localhost", "X-Api-Key: bad")
        assert got.status == 401
    ((record, code),) = service.refusals
    assert (record.status, record.path, code) == (401, "/v1/models", "invalid_api_key")
    assert "bad" not in (record.error or "")


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/health", ()),
        ("/admin/nothing", ()),
        ("/favicon.ico", ("Sec-Fetch-Dest: image",)),
    ],
)
async def test_requests_for_no_model_are_not_recorded(target: str, lines: tuple[str, ...]) -> None:
    async with forwarding(Recorder()) as world:
        data = head(f"PATCH {target} HTTP/1.1", "Host: localhost", *lines)
        (got,) = await converse(world.front.port, data, count=1)
        assert got.status in {404, 405}
        assert world.refusals == []


async def test_names_and_paths_are_short_and_harmless() -> None:
    name = "\\u001b[31m" + "x" * 5000
    async with forwarding(Recorder()) as world:
        body = b'{"model":"%b"}' % name.encode().replace(b"\\\\", b"\\")
        await converse(world.front.port, post(body), count=1)
        await converse(world.front.port, post(GPT, path="/x%1b%0a" + "y" * 5000), count=1)
        (by_name, _), (by_path, _) = world.refusals
    assert by_name.model.startswith("xxx")
    assert len(by_name.model) < 300
    assert by_path.path.startswith("/xyyy")
    assert len(by_path.path) < 300
    assert len(by_path.error or "") < 600
