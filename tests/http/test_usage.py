from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.http.body_tap import HEAD_BYTES, TAIL_BYTES, BodyTap
from cyber_inference_tui.http.framing import BodyScanner, Framing
from cyber_inference_tui.http.usage import Usage

# Bodies of llama-server (build 11669), without irrelevant parts.

TIMINGS = {"cache_n": 11, "prompt_n": 1, "prompt_ms": 0.6, "predicted_n": 6}
TIMINGS |= {"predicted_ms": 1.5, "predicted_per_second": 4000.5}
CHAT_USAGE = {"completion_tokens": 6, "prompt_tokens": 12, "total_tokens": 18}
MESSAGE_START = {"type": "message_start", "message": {"type": "message", "content": []}}
MESSAGE_START["message"]["usage"] = {  # type: ignore[index]
    "cache_read_input_tokens": 11,
    "input_tokens": 1,
    "output_tokens": 0,
}
MESSAGE_DELTA = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 6}}
RESPONSE_USAGE = {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}
RESPONSE_USAGE["input_tokens_details"] = {"cached_tokens": 4}  # type: ignore[assignment]

FOOLING = 'x\n\ndata: {"usage":{"prompt_tokens":9,"completion_tokens":9}}\n\n,"timings":{}}]'


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def stream(*values: Any, last: bytes = b"data: [DONE]\n\n") -> list[bytes]:
    """Return events in llama-server's form, each in a chunk."""
    events = [b"data: " + compact(value) + b"\n\n" for value in values]
    return [*events, last] if last else events


def token(text: str = "hi") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}], "object": "chunk"}


def framed(chunks: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in chunks) + b"0\r\n\r\n"


def passed(pieces: list[bytes], framing: Framing, *, decode: bool = False) -> BodyTap:
    """Pass the pieces through a scanner, like reads of a connection."""
    length = sum(map(len, pieces))
    scanner = BodyScanner(framing, length if framing is Framing.LENGTH else 0, decode=decode)
    clock = iter(range(1, 1000))
    chunked = framing is Framing.CHUNKED and not decode
    body_tap = BodyTap(scanner if chunked else None, clock=lambda: float(next(clock)))
    for piece in pieces:
        if data := scanner.feed(piece):
            body_tap.take(data)
    return body_tap


def of_stream(chunks: list[bytes]) -> Usage:
    return passed(reads(framed(chunks), 1000), Framing.CHUNKED).usage(events=True)


def of_json(value: Any) -> Usage:
    return passed(reads(compact(value), 1000), Framing.LENGTH).usage(events=False)


def reads(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (stream(token(), {**token(""), "timings": TIMINGS}), Usage(12, 6, 4000.5)),
        (
            stream(token(), {"choices": [], "usage": CHAT_USAGE, "timings": TIMINGS}),
            (12, 6, 4000.5),
        ),
        # Other servers send no timings, and null in every event except the last.
        (stream({**token(), "usage": None}, {"choices": [], "usage": CHAT_USAGE}), (12, 6, None)),
        (stream(MESSAGE_START, token(FOOLING), MESSAGE_DELTA), (12, 6, None)),
        (
            stream(
                {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
                {"type": "response.output_text.delta", "delta": "usage"},
                {
                    "type": "response.completed",
                    "response": {"output": [], "usage": RESPONSE_USAGE},
                    "timings": TIMINGS,
                },
                last=b"",
            ),
            (5, 6, 4000.5),
        ),
        (
            stream({"type": "response.completed", "response": {"usage": RESPONSE_USAGE}}, last=b""),
            (5, 6, None),
        ),
        (
            stream(
                {"content": " is", "tokens_predicted": 5, "tokens_evaluated": 12},
                {"content": "", "tokens_predicted": 6, "tokens_evaluated": 12, "timings": TIMINGS},
            ),
            (12, 6, 4000.5),
        ),
    ],
    ids=["chat", "chat-usage", "others", "messages", "responses", "responses-bare", "completion"],
)
def test_streams(chunks: list[bytes], expected: tuple[object, ...]) -> None:
    assert of_stream(chunks)[:3] == expected[:3]
    # Also after half a megabyte of text.
    begun = chunks[:1] + stream(*[token(FOOLING)] * 4000, last=b"") + chunks[-2:]
    assert of_stream(begun)[:3] == expected[:3]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"choices": [], "usage": CHAT_USAGE, "id": "x", "timings": TIMINGS}, (12, 6, 4000.5)),
        ({"choices": [], "usage": CHAT_USAGE}, (12, 6, None)),
        (
            {"usage": {"input_tokens": 1, "cache_read_input_tokens": 11, "output_tokens": 6}},
            (12, 6),
        ),
        ({"object": "response", "usage": RESPONSE_USAGE, "error": None}, (5, 6, None)),
        ({"content": "", "tokens_predicted": 6, "tokens_evaluated": 2}, (2, 6, None)),
        ({"usage": {"prompt_tokens": 2, "total_tokens": 2}, "data": [{}]}, (2, None, None)),
        (
            [
                {"tokens_predicted": 6, "tokens_evaluated": 2},
                {"tokens_predicted": 3, "tokens_evaluated": 1},
            ],
            (3, 9, None),
        ),
        # An answer that only counts tokens has no usage.
        ({"input_tokens": 12}, (None, None, None)),
        # An older server does not report the cached tokens of the prompt.
        ({"timings": {"prompt_n": 1, "predicted_n": 6, "predicted_per_second": 9}}, (None, 6, 9)),
        # A single token has no rate.
        ({"timings": {"predicted_n": 1, "predicted_per_second": 1e6}}, (None, 1, None)),
    ],
)
def test_whole_answers(value: Any, expected: tuple[object, ...]) -> None:
    usage = of_json(value)
    assert usage[: len(expected)] == expected
    assert usage.error is None


@pytest.mark.parametrize("filling", ["x" * 100_000, FOOLING * 2000])
@pytest.mark.parametrize("first", [False, True])
def test_large_answers_have_usage_at_their_beginning_or_end(filling: str, first: bool) -> None:
    told = {"model": "m", "usage": CHAT_USAGE | {"details": {"cached": 1}}}
    text = {"data": [{"content": filling}] * 3}
    value = told | text | {"id": "x"} if first else text | told | {"id": "x", "timings": TIMINGS}
    body = compact(value)
    for size in (1000, 50_000, len(body)):
        usage = passed(reads(body, size), Framing.LENGTH).usage(events=False)
        assert usage[:2] == (12, 6)
        assert (usage.tokens_per_second is None) == first


FALSE: dict[str, Any] = {"usage": {"prompt_tokens": 9, "completion_tokens": 9, "input_tokens": 9}}
FALSE["timings"] = {"predicted_n": 9, "cache_n": 9, "prompt_n": 9}
FALSE["tokens_evaluated"] = 9


@pytest.mark.parametrize("filling", [0, HEAD_BYTES, TAIL_BYTES, 100_000])
@pytest.mark.parametrize(
    "inner",
    [
        pytest.param({"text": FOOLING}, id="text"),
        pytest.param({"text": json.dumps(FALSE)}, id="json in text"),
        pytest.param({"text": "\\" + FOOLING}, id="backslash"),
        # Anthropic's tool calls are objects written by the model.
        pytest.param({"input": FALSE}, id="object"),
        pytest.param({"input": {"usage": FALSE}, "x": [FALSE] * 50}, id="objects"),
    ],
)
def test_text_of_the_model_is_never_usage(filling: int, inner: dict[str, Any]) -> None:
    room = {"room": "r" * filling}
    for members in ([room, inner], [inner, room], [room, inner, room]):
        # Not even if the server reports nothing itself.
        assert of_json({"content": members, "id": "x"}) == Usage()
        assert of_json({"id": "x", "input": room | FALSE}) == Usage()
        told = of_json({"content": members, "usage": CHAT_USAGE})
        assert told[:2] == (12, 6)


@pytest.mark.parametrize("cut", [20_000, 100_000])
def test_a_partial_event_gives_its_known_numbers(cut: int) -> None:
    final = {"type": "response.completed", "response": {"output": ["y" * cut]}}
    for told, expected in (
        ({"usage": RESPONSE_USAGE}, (5, 6)),
        ({"usage": RESPONSE_USAGE, "inner": FALSE}, (5, 6)),
        ({"inner": {"deeper": FALSE}}, (None, None)),
    ):
        last = {**final, "response": {**final["response"], **told}}  # type: ignore[dict-item]
        chunks = stream(*[token()] * 100, last, last=b"")
        assert of_stream(chunks)[:2] == expected
    chunks = stream(token(), {**final, "timings": TIMINGS}, last=b"")
    assert of_stream(chunks)[:3] == (12, 6, 4000.5)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_last_event_is_known_before_the_end_of_the_body(chunked: bool) -> None:
    framing = Framing.CHUNKED if chunked else Framing.CLOSE
    events = stream(token(), token())
    whole = framed(events) if chunked else b"".join(events)
    open_end = whole.removesuffix(b"0\r\n\r\n")
    assert passed([whole], framing).says_done
    assert passed([open_end], framing).says_done
    assert not passed([open_end[:-12]], framing).says_done
    fooling = stream(token("data: [DONE]"), last=b"")
    assert not passed([framed(fooling) if chunked else b"".join(fooling)], framing).says_done


def test_a_cut_stream_gives_its_last_numbers() -> None:
    # output_tokens of the first event does not count the answer.
    assert of_stream(stream(MESSAGE_START, token(), last=b""))[:2] == (12, None)
    assert of_stream(stream(token(), token(), last=b""))[:2] == (None, None)
    counting = {"content": "x", "tokens_predicted": 3, "tokens_evaluated": 2}
    assert of_stream(stream(counting, last=b'data: {"content":"y","tokens_pre'))[:2] == (2, 3)


ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}
PROGRESS = {**ROLE, "timings": {"cache_n": 3, "prompt_n": 9, "predicted_n": 0}}
MESSAGE_TOKEN = {"type": "content_block_delta", "index": 0, "delta": {"text": FOOLING}}
RESPONSE_TOKEN = {"type": "response.output_text.delta", "item_id": "m", "delta": FOOLING}


def named(*values: dict[str, Any]) -> list[bytes]:
    """Return events with names, each in a chunk."""
    return [b"event: %b\ndata: %b\n\n" % (one["type"].encode(), compact(one)) for one in values]


@pytest.mark.parametrize("tokens", [0, 1, 7, 1000])
@pytest.mark.parametrize(
    ("begun", "chunks"),
    [
        (stream(PROGRESS, PROGRESS, ROLE, last=b""), stream(token(FOOLING), last=b"")),
        (
            named(MESSAGE_START, {"type": "content_block_start"}),
            named(MESSAGE_TOKEN),
        ),
        (
            named({"type": "response.created"}, {"type": "response.in_progress"}),
            named(RESPONSE_TOKEN),
        ),
        ([], stream({"choices": [{"text": FOOLING, "index": 0}]}, last=b"")),
    ],
    ids=["chat", "messages", "responses", "completions"],
)
def test_tokens_of_a_running_stream_are_counted(
    begun: list[bytes], chunks: list[bytes], tokens: int
) -> None:
    body = framed([*begun, *chunks * tokens]).removesuffix(b"0\r\n\r\n")
    assert passed(reads(body, 300), Framing.CHUNKED).tokens_so_far() == pytest.approx(
        # A token whose mark is divided between two reads may be lost, once in some 16 KiB.
        tokens,
        rel=0.02,
    )


def test_looks_at_a_running_stream_change_nothing() -> None:
    body_tap = BodyTap(None, clock=lambda: 1.0)
    body_tap.take(b": loading\n\n")
    assert body_tap.tokens_so_far() == 0
    for count, chunk in enumerate(stream(ROLE, *[token("x" * 200)] * 2000, last=b"")):
        body_tap.take(chunk)
        if count % 100 == 0:
            assert body_tap.tokens_so_far() == count


def test_tokens_that_the_server_reports_all_along_count() -> None:
    chunks = [ROLE, *({**token(), "timings": {"predicted_n": 3 * n}} for n in range(1, 500))]
    assert passed([framed(stream(*chunks, last=b""))], Framing.CHUNKED).tokens_so_far() == 3 * 499
    counting = [{"content": "x", "tokens_predicted": n} for n in range(1, 9)]
    assert passed([framed(stream(*counting, last=b""))], Framing.CHUNKED).tokens_so_far() == 8


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"error": {"code": 400, "message": "too \x1b[31mlong\n"}}, "too long"),
        ({"error": "plain"}, "plain"),
        ({"error": {"message": "m" * 5000}}, "m" * 300 + "… (+4700 characters)"),
        ({"error": {"code": 1}}, None),
        ({"error": 5}, None),
    ],
)
def test_errors(value: Any, words: str | None) -> None:
    assert of_json(value).error == words
    assert of_stream(stream(token(), value, last=b"")).error == words


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'"usage"',
        b'{"usage":5}',
        b'{"usage":{"prompt_tokens":-1}}',
        b'{"usage":{"prompt_tokens":1e999}}',
        b'{"usage":{"prompt_tokens":' + b"9" * 30 + b"}}",
        b'{"usage":{"prompt_tokens":"7"}}',
        b"{" * 100_000,
        b'{"usage":' * 100_000,
        b'\xff{"usage":{}}',
        b"[1,2]",
        b'{"message":"text","response":"text","usage":null}',
    ],
)
def test_other_bodies_have_no_usage(body: bytes) -> None:
    assert passed([body] if body else [], Framing.CLOSE).usage(events=False) == Usage()
    lines = [b"data: " + body + b"\n\n"] * 2
    assert of_stream(lines) == Usage()


def test_it_keeps_little_and_notes_the_first_byte() -> None:
    times = iter([5.0])
    body_tap = BodyTap(None, clock=lambda: next(times))
    piece = b"x" * 1000
    for _ in range(10_000):
        body_tap.take(piece)
    assert body_tap.first_at == 5.0
    kept = body_tap._older + body_tap._newer
    assert TAIL_BYTES <= sum(map(len, kept)) <= 2 * TAIL_BYTES + len(piece)
    assert all(data is piece for data in kept)


BODIES = [
    stream(MESSAGE_START, token(), MESSAGE_DELTA),
    stream(token(), {"choices": [], "usage": CHAT_USAGE, "timings": TIMINGS}),
]


@pytest.mark.parametrize("chunks", BODIES, ids=["messages", "chat"])
@pytest.mark.parametrize("decode", [False, True])
def test_every_boundary(chunks: list[bytes], decode: bool) -> None:
    content = b"".join(chunks)
    for at in range(1, len(content)):
        body = framed([content[:at], content[at:]])
        usage = passed([body], Framing.CHUNKED, decode=decode).usage(events=True)
        assert usage[:2] == (12, 6)
    body = framed(chunks)
    for at in range(1, len(body)):
        usage = passed([body[:at], body[at:]], Framing.CHUNKED, decode=decode).usage(events=True)
        assert usage[:2] == (12, 6)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = draw(st.lists(st.integers(0, len(data)), max_size=30))
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@given(st.data())
def test_any_boundaries(data: st.DataObject) -> None:
    filling = data.draw(st.sampled_from([0, 10, 1000]))
    begun, final = data.draw(st.sampled_from([(body[:1], body[1:]) for body in BODIES]))
    whole = b"".join(begun + stream(*[token(FOOLING)] * filling, last=b"") + final)
    body = framed(data.draw(cut(whole)))
    pieces = data.draw(cut(body))
    decode = data.draw(st.booleans())
    body_tap = passed(pieces, Framing.CHUNKED, decode=decode)
    assert body_tap.usage(events=True)[:2] == (12, 6)
    cut_short = passed(pieces[:-1], Framing.CHUNKED, decode=decode)
    usage = cut_short.usage(events=True)
    assert usage.tokens_in in {12, None}
    assert usage.tokens_out in {6, None}


@given(st.binary(max_size=200) | st.text('{}[],:"\\usage0 \n', max_size=200).map(str.encode))
def test_no_body_breaks_it(body: bytes) -> None:
    for events in (False, True):
        passed([body, body] if body else [], Framing.CLOSE).usage(events=events)
