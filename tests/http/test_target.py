"""The models of requests, and their changes by the models' rules."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.http.body_fields import BOM
from cyber_inference_tui.http.llama_paths import methods_of
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.settings.schema import RequestRules
from tests.fakes.service import make_settings
from tests.http.client_side import CHAT, events_of, post, to_the_end, unchunked
from tests.http.raw import Answer, ask
from tests.http.test_form import multipart, part
from tests.http.upstream import EVENTS, LAST, Recorder, World, answer, event, forwarding
from tests.scheduler.virtual import model


def named(model_id: str, *aliases: str, **settings: Any) -> LocalModel:
    names = settings.setdefault("aliases", aliases)
    return msgspec.structs.replace(model(model_id, **settings), aliases=tuple(names))


PLAIN = named("plain", "llama-alias")
CUSTOM = named("sd/xl", "tts-1", "Ä b", command=("engine",))


async def send(
    world: World,
    method: str,
    target: str,
    body: bytes = b"",
    *lines: str,
) -> Answer:
    length = [f"Content-Length: {len(body)}"] if body or method == "POST" else []
    return await ask(
        world.front.port,
        f"{method} {target} HTTP/1.1",
        "Host: localhost",
        *length,
        *lines,
        body=body,
    )


FORM = "Content-Type: multipart/form-data; boundary=abc"
NAMES_IT: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "json": ("", b'{"x": 1.50 ,"model" : "tts-1" }', ()),
    "odd case": ("", b'{"model":"TTS-1"}', ()),
    "bom": ("", BOM + b'{"model":"tts-1"}', ("Content-Type: application/json",)),
    "form": (
        "",
        multipart(
            "abc", part("file", b"\x00\r\n--x", more='; filename="a"'), part("model", b"tts-1")
        ),
        (FORM,),
    ),
    "query": ("?a=%2F&model=tts-1&b=", b"\x00\xff", ()),
    "query in odd letters": ("?model=%C3%84+b&model=tts-1", b"", ()),
    "header": ("", b"\x00", ("X-Model: tts-1",)),
}
REACHES: dict[str, tuple[str, bytes]] = {
    "json": ("", b'{"x": 1.50 ,"model" : "sd/xl" }'),
    "odd case": ("", b'{"model":"sd/xl"}'),
    "bom": ("", BOM + b'{"model":"sd/xl"}'),
    "form": ("", NAMES_IT["form"][1].replace(b"tts-1", b"sd/xl")),
    "query": ("?a=%2F&model=sd%2Fxl&b=", b"\x00\xff"),
    "query in odd letters": ("?model=sd%2Fxl&model=sd%2Fxl", b""),
    "header": ("", b"\x00"),
}


@pytest.mark.parametrize("where", NAMES_IT)
@pytest.mark.parametrize(
    "path", ["/sdapi/v1/txt2img", "/v2/rerank", "/v1/audio/speech", "/api/a%20b/%2F", "/x"]
)
async def test_a_command_answers_on_any_path_when_it_is_named(path: str, where: str) -> None:
    query, body, lines = NAMES_IT[where]
    server = Recorder()
    async with forwarding(server, PLAIN, CUSTOM) as world:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            got = await send(world, method, path + query, body, *lines)
            assert got.status == 200, got.body
        got = await send(world, "GET", f"{path}?model=tts-1")
        assert got.status == 200
        # The same with the prefix, if the path names the model.
        got = await send(world, "POST", f"/upstream/sd/xl{path}{query}", body, *lines)
        assert got.status == 200
    query, body = REACHES[where]
    methods = ["POST", "PUT", "DELETE", "PATCH", "GET", "POST"]
    assert [one.method for one in server.seen] == methods
    for one in server.seen:
        if one.method == "GET":
            assert (one.target, one.body) == (f"{path}?model=sd%2Fxl", b"")
        else:
            assert (one.target, one.body) == (path + query, body)


async def test_a_command_takes_any_method_on_the_paths_of_llama_server() -> None:
    server = Recorder()
    async with forwarding(server, PLAIN, CUSTOM) as world:
        for method in ("GET", "PUT", "DELETE"):
            got = await send(world, method, f"{CHAT}?model=tts-1")
            assert got.status == 200
            got = await send(world, method, f"{CHAT}?model=plain")
            assert (got.status, got.headers["allow"]) == (405, "post")
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        ("/sdapi/v1/txt2img", b'{"model":"plain"}', 404),
        ("/v1/audio/speech", b'{"model":"llama-alias"}', 404),
        ("/sdapi/v1/txt2img?model=plain", b"", 404),
        ("/sdapi/v1/txt2img?model=none", b"", 404),
        ("/sdapi/v1/txt2img", b'{"prompt":"x"}', 404),
        ("/sdapi/v1/txt2img", b'{"model":1}', 404),
        ("/sdapi/v1/txt2img", b'{"model":', 404),
        # The service's own paths stay its own.
        ("/admin", b'{"model":"tts-1"}', 404),
        ("/ws", b'{"model":"tts-1"}', 404),
        ("/upstream", b'{"model":"tts-1"}', 404),
        ("/upstream/?model=tts-1", b"", 404),
        ("/admin%2Fmodels?model=tts-1", b"", 404),
        ("//admin/models?model=tts-1", b"", 404),
        ("/admin/models?model=tts-1", b"", 405),
        ("/health?model=tts-1", b"", 405),
        ("/metrics?model=tts-1", b"", 405),
        ("/v1/models?model=tts-1", b"", 405),
    ],
)
async def test_other_paths_are_no_endpoints(target: str, body: bytes, status: int) -> None:
    server = Recorder()
    async with forwarding(server, PLAIN, CUSTOM) as world:
        got = await send(world, "POST", target, body, "Content-Type: application/json")
    assert got.status == status, got.body
    assert server.seen == []
    if status == 405:
        assert "get" in got.headers["allow"]


async def test_other_paths_need_a_name_where_there_are_several_models() -> None:
    async with forwarding(Recorder(), PLAIN, CUSTOM) as world:
        assert (await send(world, "POST", "/x", b'{"model":"tts-1"}')).status == 200
        assert (await send(world, "POST", "/x", b"{}")).status == 404
        assert (await send(world, "GET", "/favicon.ico")).status == 404
        nameless = await send(world, "POST", "/x", b"{}")
        assert "A model with a command takes any path" in nameless.error()["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"model":"tts-1",}', "not valid JSON"),
        (b'{"model":"tts-1","x":"\\ud800"}', "not valid JSON"),
        (b'{"model":5}', "model must be a string"),
    ],
)
async def test_an_unknown_path_names_the_problem_of_the_body(body: bytes, words: str) -> None:
    async with forwarding(Recorder(), PLAIN, CUSTOM) as world:
        got = await send(world, "POST", "/x", body)
        assert got.status == 404
        assert words in got.error()["message"]
        assert (await send(world, "POST", "/x?model=tts-1", body)).status == 200


async def test_the_only_model_is_the_default() -> None:
    async with forwarding(Recorder(), CUSTOM) as world:
        # First not loaded, then loaded.
        for _ in range(2):
            assert (await send(world, "POST", "/sdapi/v1/txt2img", b'{"prompt":""}')).status == 200
            assert (await send(world, "POST", "/completion", b'{"prompt":""}')).status == 200


# Without a name


@pytest.mark.parametrize(
    "target", ["GET /lora-adapters", "GET /slots", "POST /infill", "POST /completion"]
)
async def test_the_only_usable_model_is_loaded_for_it(target: str) -> None:
    broken = msgspec.structs.replace(model("broken"), problem="its file is no GGUF")
    async with forwarding(Recorder(), model("m"), broken) as world:
        method, path = target.split()
        got = await send(world, method, path, b"{}" if method == "POST" else b"")
        assert got.status == 200, got.body
        assert list(world.scheduler.loaded_ids) == ["m"]


async def test_the_only_loaded_model_is_the_default() -> None:
    async with forwarding(Recorder(), model("a"), model("b")) as world:
        refused = await send(world, "POST", "/infill", b"{}")
        assert refused.status == 400
        assert "a, b" in refused.error()["message"]
        assert "?model=" in refused.error()["message"]
        assert (await send(world, "POST", "/infill", b'{"model":"b"}')).status == 200
        assert (await send(world, "POST", "/infill", b"{}")).status == 200
        assert (await send(world, "POST", "/infill", b'{"model":"a"}')).status == 200
        refused = await send(world, "POST", "/infill", b"{}")
        assert "2 are loaded: a, b" in refused.error()["message"]


# Rules


RULED = named(
    "m",
    request_defaults={"top_k": 1, "seed": 1},
    request_overrides={"temperature": 0},
    request_strip=("user", "seed"),
    aliases={
        "fast": RequestRules(request_overrides={"temperature": 1, "stream": True}),
        "Plain": RequestRules(request_strip=("top_p",), request_defaults={"top_k": 9}),
        "same": RequestRules(),
    },
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m", {"temperature": 0, "top_k": 1, "seed": 1, "top_p": 1}),
        ("same", {"temperature": 0, "top_k": 1, "seed": 1, "top_p": 1}),
        ("fast", {"temperature": 1, "stream": True, "top_k": 1, "seed": 1, "top_p": 1}),
        ("FAST", {"temperature": 1, "stream": True, "top_k": 1, "seed": 1, "top_p": 1}),
        ("plain", {"temperature": 0, "top_k": 9, "seed": 1}),
    ],
)
async def test_an_alias_has_rules_of_its_own_over_the_models(
    name: str, expected: dict[str, Any]
) -> None:
    client: dict[str, Any] = {"user": "u", "seed": 7, "top_p": 1, "temperature": 0.5}
    server = Recorder()
    async with forwarding(server, RULED, model("other")) as world:
        body = json.dumps(client).encode()
        for target in (f"{CHAT}?model={name}", f"/upstream/{name}{CHAT}"):
            assert (await send(world, "POST", target, body)).status == 200
        assert (await send(world, "POST", CHAT, body, f"X-Model: {name}")).status == 200
        body = json.dumps({"model": name, **client}).encode()
        for target in (CHAT, f"/upstream/m{CHAT}"):
            assert (await send(world, "POST", target, body)).status == 200
        # Requests without work for the model, or without JSON, do not change.
        body = b'{"content":"x","temperature":0.5}'
        assert (await send(world, "POST", f"/tokenize?model={name}", body)).status == 200
    *asked, tokenized = server.seen
    assert [json.loads(one.body) for one in asked] == [expected] * 3 + [
        {"model": "m", **expected}
    ] * 2
    assert tokenized.body == body


BRIEF = {"request_defaults": {"system": "be brief", "seed": 1}}
PROMPT = {"role": "system", "content": "be brief"}
HI = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("target", "sent", "expected"),
    [
        (CHAT, {"messages": [HI]}, {"messages": [PROMPT, HI]}),
        ("/chat/completions", {"messages": []}, {"messages": [PROMPT]}),
        (CHAT, {"messages": [{"role": "system", "content": "x"}, HI]}, None),
        (CHAT, {"messages": [{"role": "developer", "content": "x"}, HI]}, None),
        (CHAT, {"messages": "hi"}, None),
        (CHAT, {"messages": ["hi"]}, None),
        (CHAT, {}, None),
        ("/v1/messages", {"messages": [HI]}, {"messages": [HI], "system": "be brief"}),
        ("/v1/messages", {"messages": [HI], "system": "x"}, None),
        ("/v1/responses", {"input": "hi"}, {"input": "hi", "instructions": "be brief"}),
        ("/v1/responses", {"input": "hi", "instructions": "x"}, None),
        ("/v1/completions", {"prompt": "hi"}, {"prompt": "hi", "system": "be brief"}),
    ],
)
async def test_a_system_prompt_has_the_form_of_each_api(
    target: str, sent: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    server = Recorder()
    async with forwarding(server, named("m", **BRIEF)) as world:
        assert (await send(world, "POST", target, json.dumps(sent).encode())).status == 200
    (got,) = server.seen
    body = json.loads(got.body)
    assert body.pop("seed") == 1
    assert body == (sent if expected is None else expected)


async def test_the_changed_request_decides_whether_it_streams() -> None:
    """Its comments and its record depend on the request that the server gets."""
    reply = answer(*EVENTS) + event('{"x":1}') + event("[DONE]") + LAST
    async with forwarding(Recorder(reply), RULED) as world:
        received = await to_the_end(
            world.front.port, post(b'{"model":"fast"}', "Connection: close")
        )
        assert events_of(unchunked(received).replace(b"data: [DONE]\n\n", b"")) == [{"x": 1}]
        (record,) = world.records
    assert record.stream


async def test_rules_of_a_command_hold_for_json_on_any_path() -> None:
    server = Recorder()
    ruled = named("c", command=("x",), request_overrides={"a": 1}, request_strip=("b",))
    form = multipart("abc", part("model", b"c"), part("b", b"1"))
    async with forwarding(server, ruled, model("m")) as world:
        assert (await send(world, "POST", "/v2/x", b'{"model":"c","b":2}')).status == 200
        assert (await send(world, "PUT", "/upstream/c/y", b'{"a":2}')).status == 200
        assert (await send(world, "POST", "/v2/x", form, FORM)).status == 200
        assert (await send(world, "POST", "/upstream/c/z", b"[1]")).status == 200
    assert [one.body for one in server.seen] == [
        b'{"a":1,"model":"c"}',
        b'{"a":1}',
        form,
        b"[1]",
    ]


async def test_a_byte_order_mark_is_no_mistake_anywhere() -> None:
    async with forwarding(Recorder()) as world:
        lines = ("Content-Type: application/json",)
        for target, body in (
            ("/admin/downloads", b'{"repo":"o/n"}'),
            ("/admin/models/m/load", b"{}"),
            ("/admin/models/m/load", b""),
            ("/tokenize?model=m", b'{"content":""}'),
            ("/lora-adapters?model=m", b"[]"),
        ):
            got = await send(world, "POST", target, BOM + body, *lines)
            assert got.status in {200, 202}, (target, got.body)


async def test_a_request_that_needs_no_change_passes_byte_for_byte() -> None:
    server = Recorder()
    body = b' {"model":"m", "temperature" :0,"top_k":5,\n"seed":1,"n":1e400,"z":[ {} ]}\r\n'
    rules = {"request_defaults": {"top_k": 1}, "request_overrides": {"temperature": 0}}
    async with forwarding(server, named("m", request_strip=("user",), **rules)) as world:
        assert (await send(world, "POST", CHAT, body)).status == 200
        assert (await send(world, "POST", CHAT, BOM + body.lstrip())).status == 200
    assert [one.body for one in server.seen] == [body, BOM + body.lstrip()]


# A name in an answer is the id


async def test_a_llama_server_gets_the_id_for_any_name() -> None:
    """A llama-server repeats the name of the request in embeddings and reranking."""
    server = Recorder()
    async with forwarding(server, PLAIN, CUSTOM) as world:
        for target in ("/v1/embeddings", "/upstream/plain/v1/embeddings"):
            for name in ("llama-alias", "PLAIN", "plain"):
                body = json.dumps({"input": "x", "model": name}).encode()
                assert (await send(world, "POST", target, body)).status == 200
        # With the prefix any name is allowed.
        body = b'{"model":"gpt-4","input":""}'
        assert (await send(world, "POST", "/upstream/plain/v1/embeddings", body)).status == 200
        # Another engine may have its own names.
        assert (await send(world, "POST", "/upstream/tts-1/v1/embeddings", body)).status == 200
    *own, custom = server.seen
    assert {json.loads(one.body)["model"] for one in own} == {"plain"}
    assert custom.body == body


@pytest.mark.parametrize("model_id", ["a,b", ",", 'é",\\,'])
@pytest.mark.parametrize("cut", [1, 2, 3, 1000])
async def test_a_name_that_the_server_cannot_say_is_put_into_its_answers(
    model_id: str, cut: int
) -> None:
    alias = model_id.replace(",", "\x7f")
    data = json.dumps({"model": alias, "x": f"{alias}\x7f", "y": "a"}, ensure_ascii=False).encode()
    expected = {"model": model_id, "x": f"{alias}\x7f", "y": "a"}
    whole = answer(body=data)
    streamed = answer(*EVENTS) + b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data) + LAST

    for reply in (whole, streamed):

        async def script(talk: Any, reply: bytes = reply) -> None:
            await talk.request()
            for start in range(0, len(reply), cut):
                await talk.say(reply[start : start + cut])

        async with forwarding(script, model(model_id)) as world:
            body = json.dumps({"model": model_id}).encode()
            received = await to_the_end(world.front.port, post(body, "Connection: close"))
        if reply is streamed:
            assert events_of(unchunked(received)) == [expected]
        else:
            assert json.loads(received.partition(b"\r\n\r\n")[2]) == expected


# Heads and codings


async def test_a_conversation_is_not_kept_on_when_its_client_is_gone() -> None:
    server = Recorder()
    async with forwarding(server) as world:
        for line in ("X-Conversation-Id: a", "x-CONVERSATION-id: b"):
            for target in (CHAT, f"/upstream/m{CHAT}"):
                assert (await send(world, "POST", target, b'{"model":"m"}', line)).status == 200
    assert len(server.seen) == 4
    assert not [one for one in server.seen if "x-conversation-id" in one.headers]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


BIG = b'{"model":"m","x":"' + b"y" * 600_000 + b'"}'
PACKED = [
    ("gzip", gzip.compress(BIG)),
    ("x-gzip", gzip.compress(BIG)),
    ("GZip", gzip.compress(BIG[:100]) + gzip.compress(BIG[100:])),
    ("deflate", zlib.compress(BIG)),
    ("Deflate", raw_deflate(BIG)),
    ("identity", BIG),
    ("", BIG),
    ("gzip, gzip", gzip.compress(gzip.compress(BIG))),
    ("deflate , identity,x-gzip", gzip.compress(zlib.compress(BIG))),
]


@pytest.mark.parametrize(("coding", "body"), PACKED, ids=[coding for coding, _ in PACKED])
async def test_a_packed_body_is_unpacked(coding: str, body: bytes) -> None:
    server = Recorder()
    async with forwarding(server) as world:
        got = await send(world, "POST", CHAT, body, f"Content-Encoding: {coding}")
        assert got.status == 200, got.body
        first, _, second = coding.partition(",")
        lines = (f"Content-Encoding: {first}", f"Content-Encoding: {second or 'identity'}")
        assert (await send(world, "POST", CHAT, body, *lines)).status == 200
    for seen in server.seen:
        assert seen.body == BIG
        assert "content-encoding" not in seen.headers


async def test_a_large_body_is_changed_like_a_small_one() -> None:
    server = Recorder()
    rules = {"request_defaults": {"t": 1}, "request_overrides": {"k": 2}, "request_strip": ["x"]}
    many = named("many", "other", **rules)
    fill = b"y" * (2 << 20)
    async with forwarding(server, many, CUSTOM) as world:
        for size in (10, 2 << 20):
            said = b'{"model": "other", "x": [1], "k": 1, "y":"%b"}' % fill[:size]
            assert (await send(world, "POST", CHAT, said)).status == 200
            made = b'{"t":1,"model": "many", "k": 2, "y":"%b"}' % fill[:size]
            assert server.seen.pop().body == made
            form = multipart("abc", part("file", fill[:size]), part("model", b"tts-1"))
            assert (await send(world, "POST", "/x", form, FORM)).status == 200
            assert server.seen.pop().body == form.replace(b"tts-1", b"sd/xl")


def endpoints() -> Iterator[tuple[str, tuple[str, ...]]]:
    yield CHAT, ()
    yield "/upstream/m/x", ()
    yield "/v1/audio/transcriptions?model=m", (FORM,)
    yield "/admin/models/m/load", ("Content-Type: application/json",)
    yield "/admin/downloads", ("Content-Type: application/json",)


@pytest.mark.parametrize(("target", "lines"), endpoints())
@pytest.mark.parametrize(
    ("coding", "status"),
    [
        ("br", 415),
        ("zstd", 415),
        ("compress", 415),
        ("gzip, br", 415),
        ("é\u00e9", 415),
        (", ".join(["gzip"] * 9), 415),
        ("gzip", 400),
        ("deflate", 400),
    ],
)
async def test_a_broken_compressed_body_is_refused_with_our_message(
    target: str,
    lines: tuple[str, ...],
    coding: str,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Recorder()
    async with forwarding(server) as world:
        for body in (b"junk", gzip.compress(b"{}")[:-3]):
            if (body, coding) == (b"junk", "deflate") or body == b"junk" or status == 415:
                got = await send(world, "POST", target, body, f"Content-Encoding: {coding}", *lines)
                assert got.status == status, got.body
                message = got.error()["message"]
                assert "nstall" not in message
                assert ("gzip or deflate" in message) == (status == 415)
    assert server.seen == []
    assert "Traceback" not in caplog.text


async def test_a_refused_request_with_a_packed_body_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = make_settings(api_keys=("k",))
    async with forwarding(Recorder(), front_settings=settings, api_keys=("k",)) as world:
        got = await send(world, "POST", CHAT, b"abc", "Content-Encoding: gzip")
        assert got.status == 401
    assert "Traceback" not in caplog.text


async def test_a_small_body_cannot_unpack_to_more_than_a_body_may_have() -> None:
    server = Recorder()
    bomb = gzip.compress(b"x" * 3_000_000)
    # Decompresses to very much in the first step, and to nothing in the second.
    hidden = gzip.compress(gzip.compress(b"") * 100_000)
    async with forwarding(server, max_body_size=1_000_000) as world:
        for body, coding in (
            (bomb, "gzip"),
            (gzip.compress(bomb), "gzip, gzip"),
            (hidden, "gzip, gzip"),
        ):
            got = await send(world, "POST", CHAT, body, f"Content-Encoding: {coding}")
            assert (got.status, got.error()["code"]) == (413, "request_too_large")
    assert server.seen == []


async def test_a_target_in_absolute_form_is_passed_on_as_a_path() -> None:
    server = Recorder()
    async with forwarding(server) as world:
        body = b'{"model":"m"}'
        for target in (
            f"http://localhost:1{CHAT}?a=%2F",
            f"https://127.0.0.1/upstream/m{CHAT}?a=%2F",
        ):
            got = await ask(
                world.front.port,
                f"POST {target} HTTP/1.1",
                "Host: evil.example",
                f"Content-Length: {len(body)}",
                body=body,
            )
            assert got.status == 200, got.body
    assert [one.target for one in server.seen] == [f"{CHAT}?a=%2F"] * 2
    assert {one.headers["host"] for one in server.seen} == {f"127.0.0.1:{world.launcher.port}"}


# Methods


PATHS = [
    *("/", "/health", "/v1/health", "/metrics", "/v1/models", "/models", "/v1/models/m"),
    *("/models/m", "/ws/logs", "/ws/status"),
    *("/admin/login", "/admin/events", "/admin/status", "/admin/resources", "/admin/memory"),
    *("/admin/queue", "/admin/models", "/admin/models/m", "/admin/models/m/load"),
    *("/admin/hub/search", "/admin/hub/files", "/admin/downloads", "/admin/downloads/abc"),
    *("/admin/downloads/abc/pause", "/admin/logs", "/admin/logs/m", "/admin/log-lines/m"),
    *("/admin/requests", "/admin/requests/active", "/admin/sessions", "/admin/totals"),
    *("/admin/config", "/admin/config/max_queue", "/admin/install"),
    "/admin/demo",
    *(CHAT, "/completion", "/props", "/slots", "/slots/0", "/lora-adapters", "/tools"),
    *("/v1/stream", "/v1/streams/lookup", "/v1/systemone", "/cors-proxy", "/tokenize"),
]
METHODS = ["HEAD", "OPTIONS", "GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"]


@pytest.mark.parametrize("path", PATHS)
async def test_every_405_has_the_allowed_methods(path: str) -> None:
    refused: dict[str, list[str]] = {}
    async with forwarding(Recorder()) as world:
        for method in METHODS:
            if (method, path) in {("GET", "/admin/events")}:
                continue
            got = await _head_of(world, method, path)
            assert got.status != 500
            if got.status == 405:
                refused[method] = got.headers["allow"].upper().split(", ")
    assert refused
    if path == "/admin/models/m/load":
        assert refused["PUT"] == ["DELETE", "GET", "HEAD", "POST"]
    known = methods_of(path)
    for method, allowed in refused.items():
        assert allowed
        assert method not in allowed
        assert not set(allowed) & set(refused)
        assert not known or set(allowed) == known


async def _head_of(world: World, method: str, path: str) -> Answer:
    """Read an answer's head. The answer to a HEAD has a length, but no body."""
    received = await to_the_end(
        world.front.port,
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        "Content-Type: application/json\r\nContent-Length: 0\r\n\r\n".encode(),
    )
    first, *lines = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), headers, b"")


# Slots


@pytest.mark.parametrize(
    "target",
    ["/slots/0?action=save&model=plain", "/upstream/plain/slots/0", "/upstream/plain/slots/0x"],
)
async def test_only_a_folder_of_the_users_own_is_for_clients(target: str) -> None:
    server = Recorder()
    own = named("plain", args=("--slot-save-path", "/mine"))
    async with forwarding(server, PLAIN) as world:
        for path in (target, target.replace("slots/", "slots%2F"), target.replace("sl", "%73l")):
            refused = await send(world, "POST", path, b'{"filename": "slot-0"}')
            assert refused.status in {400, 404}
        assert refused.status == 400
        assert b"--slot-save-path" in refused.body
    assert server.seen == []
    async with forwarding(server, own) as world:
        assert (await send(world, "POST", target, b'{"filename": "slot-0"}')).status == 200


# The id auto


AUTO_RULES = named("ruled", "quick", request_defaults={"top_k": 1})


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/chat/completions", b'{"model": "auto"}'),
        ("/v1/chat/completions", b'{"model": "Auto"}'),
        ("/v1/chat/completions?model=auto", b"{}"),
        ("/upstream/auto/v1/chat/completions", b'{"model": "auto"}'),
        ("/upstream/auto/v1/chat/completions", b"{}"),
    ],
)
async def test_auto_is_the_model_that_was_used_last(target: str, body: bytes) -> None:
    server = Recorder()
    async with forwarding(server, PLAIN, AUTO_RULES, default_model="plain") as world:
        refused = await send(world, "POST", CHAT, b'{"model": "automatic"}')
        assert refused.status == 404
        for name in (b"quick", b"plain"):
            used = b'{"model": "%b"}' % name
            assert (await send(world, "POST", CHAT, used)).status == 200
            assert (await send(world, "POST", target, body)).status == 200
            before, now = server.seen[-2:]
            # The server gets the request as if it named the model: with its id, and its rules.
            got = msgspec.json.decode(now.body)
            expected = msgspec.json.decode(before.body)
            assert got in (expected, {k: v for k, v in expected.items() if k != "model"})
            assert "auto" not in now.target


async def test_auto_loads_the_default_model() -> None:
    async with forwarding(Recorder(), PLAIN, AUTO_RULES, default_model="Quick") as world:
        assert (await send(world, "POST", CHAT, b'{"model": "auto"}')).status == 200
        assert world.scheduler.loaded_ids == ["ruled"]


async def test_auto_without_a_meaning_is_not_found() -> None:
    async with forwarding(Recorder(), PLAIN, AUTO_RULES) as world:
        for target in (CHAT, "/upstream/auto/props"):
            method = "POST" if target == CHAT else "GET"
            got = await send(world, method, target, b'{"model": "auto"}' if target == CHAT else b"")
            assert got.status == 404
            assert b"default_model" in got.body
        assert world.scheduler.loaded_ids == []
