"""Answers of a model's server, translated into those of Ollama's API."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.http.framing import BadResponseError
from cyber_inference_tui.http.ollama.answers import Answer, ChatAnswer
from cyber_inference_tui.http.ollama.embed import read_embed, read_embeddings_of_prompt
from cyber_inference_tui.http.ollama.generate import GenerateAnswer, read_generate

TIMINGS = {
    "cache_n": 90,
    "prompt_n": 6,
    "prompt_ms": 1.028,
    "predicted_n": 4,
    "predicted_ms": 2.065999,
}
COUNTS = {
    "prompt_eval_count": 96,
    "prompt_eval_duration": 1_028_000,
    "eval_count": 4,
    "eval_duration": 2_065_999,
}
DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields).encode()


def delta(finish: str | None = None, logprobs: object = None, **said: object) -> bytes:
    choice = {"index": 0, "delta": said, "finish_reason": finish, "logprobs": logprobs}
    return event(choices=[choice], id="chatcmpl-1", object="chat.completion.chunk")


def last(finish: str = "stop") -> bytes:
    choice = {"index": 0, "delta": {}, "finish_reason": finish}
    return event(choices=[choice], timings=TIMINGS) + DONE


def lines_of(answer: Answer, *pieces: bytes) -> list[Any]:
    """Feed pieces of a stream, and return the lines."""
    text = b"".join([*map(answer.feed, pieces), answer.rest()])
    assert text.endswith(b"\n")
    # A client reads each line as JSON, so none may be empty.
    return [json.loads(line) for line in text[:-1].split(b"\n")]


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    assert len(line.pop("created_at")) == 30
    if line["done"]:
        assert line.pop("total_duration") >= line.pop("load_duration") > 0
    return line


def test_a_stream_of_a_chat() -> None:
    stream = (
        delta(role="assistant", content=None),
        delta(content=" a"),
        delta(content=" „x“\n"),
        last("length"),
    )
    lines = [without_times(line) for line in lines_of(ChatAnswer("tiny"), *stream)]
    assert lines == [
        {"model": "tiny", "message": {"role": "assistant", "content": " a"}, "done": False},
        {"model": "tiny", "message": {"role": "assistant", "content": " „x“\n"}, "done": False},
        {
            "model": "tiny",
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "length",
            **COUNTS,
        },
    ]


def test_a_line_leaves_with_the_event_that_it_is_for() -> None:
    answer = ChatAnswer("m")
    assert answer.feed(delta(role="assistant", content=None)) == b""
    for text in ("a", "b"):
        (line,) = answer.feed(delta(content=text)).splitlines()
        assert json.loads(line)["message"]["content"] == text
    (line,) = answer.feed(last()).splitlines()
    assert json.loads(line)["done"] is True
    assert answer.rest() == b""


def test_thoughts_and_probabilities() -> None:
    token = {"id": 5, "token": " a", "logprob": -1.5, "bytes": [32, 97], "top_logprobs": []}
    token["top_logprobs"] = [{"id": 6, "token": " b", "logprob": -2.0, "bytes": [32, 98]}]
    shown = {"token": " a", "logprob": -1.5, "bytes": [32, 97]}
    shown["top_logprobs"] = [{"token": " b", "logprob": -2.0, "bytes": [32, 98]}]
    stream = (
        delta(reasoning_content="hm"),
        delta(content=" a", logprobs={"content": [token]}),
        last(),
    )
    thinking, text, _ = lines_of(ChatAnswer("m"), *stream)
    assert thinking["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert (text["message"]["content"], text["logprobs"]) == (" a", [shown])
    whole = {"message": {"content": " a", "reasoning_content": "hm"}, "finish_reason": "stop"}
    body = {"choices": [{**whole, "logprobs": {"content": [token]}}], "timings": TIMINGS}
    answered = json.loads(ChatAnswer("m").whole(json.dumps(body).encode()))
    assert answered["message"] == {"role": "assistant", "content": " a", "thinking": "hm"}
    assert answered["logprobs"] == [shown]


def call_part(index: int, **fields: object) -> bytes:
    return delta(tool_calls=[{"index": index, **fields}])


def test_calls_of_tools_come_whole() -> None:
    stream = (
        call_part(0, id="c0", type="function", function={"name": "w", "arguments": ""}),
        call_part(0, function={"arguments": '{"c": "'}),
        call_part(0, function={"arguments": 'x"}'}),
        call_part(1, id="c1", function={"name": "v", "arguments": "{}"}),
        # The answer ended in the middle of this one.
        call_part(2, id="c2", function={"name": "u", "arguments": '{"c": '}),
        last("tool_calls"),
    )
    calls, end = lines_of(ChatAnswer("m"), *stream)
    assert calls["message"]["tool_calls"] == [
        {"id": "c0", "function": {"index": 0, "name": "w", "arguments": {"c": "x"}}},
        {"id": "c1", "function": {"index": 1, "name": "v", "arguments": {}}},
    ]
    assert calls["done"] is False
    assert (end["done"], end["done_reason"]) == (True, "stop")
    assert "tool_calls" not in end["message"]


@pytest.mark.parametrize("arguments", ['{"n": 1234567890123456789012}', {"c": 1}, None, "[1]"])
def test_a_whole_answer_with_a_call(arguments: object) -> None:
    said = {"content": None, "tool_calls": [{"function": {"name": "w", "arguments": arguments}}]}
    body = {"choices": [{"message": said, "finish_reason": "tool_calls"}], "timings": TIMINGS}
    answered = json.loads(ChatAnswer("m").whole(json.dumps(body).encode()))
    assert answered["message"]["content"] == ""
    if arguments == "[1]":
        assert "tool_calls" not in answered["message"]
        return
    shown = json.loads(arguments) if isinstance(arguments, str) else arguments or {}
    (call,) = answered["message"]["tool_calls"]
    assert call == {"function": {"index": 0, "name": "w", "arguments": shown}}


def test_other_servers_have_usage_and_other_line_ends() -> None:
    events = (
        b'event: message\r\ndata:{"choices":[{"delta":{"content":"a"}}]}\r\n\r\n'
        b': a comment\r\n\r\ndata: {"choices":[{"delta":{},"finish_reason":"eos"}]}\r\n\r\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\r\n\r\n'
    )
    for end in (b"data: [DONE]\r\n\r\n", b"data: [DONE]", b""):
        text, done = map(without_times, lines_of(ChatAnswer("m"), events, end))
        assert text["message"]["content"] == "a"
        assert done.pop("message") == {"role": "assistant", "content": ""}
        counts = {"prompt_eval_count": 3, "eval_count": 1}
        assert done == {"model": "m", "done": True, "done_reason": "stop", **counts}


def test_an_error_in_a_stream_is_its_last_line() -> None:
    stream = delta(content="a") + event(error={"code": 500, "message": "no\x1b[31m memory"})
    text, error = lines_of(ChatAnswer("m"), stream, delta(content="b"), DONE)
    assert text["message"]["content"] == "a"
    assert error == {"error": "no memory"}


def test_a_stream_without_an_end_is_an_error() -> None:
    for rest in (b"", b'data: {"cho'):
        text, error = lines_of(ChatAnswer("m"), delta(content="a"), rest)
        assert text["message"]["content"] == "a"
        assert "ended its answer early" in error["error"]


def test_what_is_no_answer_is_refused() -> None:
    for broken in (b"data: {\n\n", b'data: {"choices": 5}\n\n', b"data: \xff\n\n"):
        with pytest.raises(BadResponseError):
            ChatAnswer("m").feed(broken)
    for body in (b"", b"<html>", b"[]"):
        with pytest.raises(BadResponseError):
            ChatAnswer("m").whole(body)
        with pytest.raises(BadResponseError):
            read_embed(b'{"model":"m","input":"x"}').answer.whole(body)
    endless = ChatAnswer("m")
    with pytest.raises(BadResponseError, match="endless"):
        for _ in range(100):
            endless.feed(b"data: " + b"x" * (1 << 20))


def test_a_wait_and_a_load_say_nothing() -> None:
    for answer, empty in (
        (ChatAnswer("m"), {"message": {"role": "assistant", "content": ""}}),
        (GenerateAnswer("m", None, None), {"response": ""}),
    ):
        line = answer.waiting()
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        answered = json.loads(line)
        del answered["created_at"]
        assert answered == {"model": "m", **empty, "done": False}
        answered = json.loads(answer.nothing("load"))
        del answered["created_at"]
        assert answered == {"model": "m", **empty, "done": True, "done_reason": "load"}


# Completions


def test_an_infill_in_llama_servers_own_shape() -> None:
    stream = (
        event(index=0, content=" a", tokens=[5], stop=False),
        event(content="", stop=True, stop_type="limit", timings=TIMINGS),
    )
    text, end = map(without_times, lines_of(GenerateAnswer("m", None, None), *stream))
    assert text == {"model": "m", "response": " a", "done": False}
    assert end == {"model": "m", "response": "", "done": True, "done_reason": "length", **COUNTS}
    body = json.dumps({"content": " a", "stop": True, "stop_type": "eos", "timings": TIMINGS})
    answered = without_times(json.loads(GenerateAnswer("m", None, None).whole(body.encode())))
    assert (answered["response"], answered["done_reason"]) == (" a", "stop")


def test_a_raw_completion() -> None:
    stream = (event(choices=[{"text": " a", "finish_reason": None}]), last())
    text, end = lines_of(GenerateAnswer("m", None, None), *stream)
    assert text["response"] == " a"
    assert "context" not in end


@given(st.text(), st.text(), st.lists(st.text(min_size=1)))
def test_the_context_continues_the_conversation(
    prompt: str, system: str, said: Sequence[str]
) -> None:
    prompt, system = "p" + prompt, "s" + system
    asked = {"model": "m", "prompt": prompt, "system": system}
    call = read_generate(json.dumps(asked).encode())
    *_, end = lines_of(call.answer, *(delta(content=part) for part in said), last())
    asked = {"model": "m", "prompt": "next", "context": end["context"]}
    call = read_generate(json.dumps(asked).encode())
    messages = [(one.role, one.content) for one in call.fields["messages"][:-1]]
    reply = ("assistant", "".join(said))
    assert messages == [("system", system), ("user", prompt), reply]
    assert call.fields["messages"][-1] == {"role": "user", "content": "next"}


# Streams, cut anywhere

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(st.lists(_TEXT, max_size=6), st.lists(_TEXT, max_size=3), st.data())
def test_a_stream_says_the_same_wherever_it_is_cut(
    said: list[str], thoughts: list[str], data: st.DataObject
) -> None:
    stream = b"".join(
        [delta(role="assistant", content=None)]
        + [delta(reasoning_content=text) for text in thoughts]
        + [delta(content=text) for text in said]
        + [call_part(0, id="c", function={"name": "w", "arguments": '{"a":'})]
        + [call_part(0, function={"arguments": "1}"}), last()]
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    lines = lines_of(ChatAnswer("m"), *pieces)
    assert [line["message"].get("thinking") for line in lines[: len(thoughts)]] == thoughts
    assert "".join(line["message"]["content"] for line in lines) == "".join(said)
    assert len(lines) == len(thoughts) + len(said) + 2
    assert lines[-2]["message"]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    message = {"content": "".join(said), "reasoning_content": "".join(thoughts)}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "timings": TIMINGS}
    whole = json.loads(ChatAnswer("m").whole(json.dumps(body).encode()))
    assert whole["message"]["content"] == "".join(said)
    assert whole["message"].get("thinking", "") == "".join(thoughts)
    assert whole.keys() == lines[-1].keys()


# Embeddings


def embeddings(*vectors: list[float]) -> bytes:
    data = [{"embedding": one, "index": at} for at, one in enumerate(vectors)]
    return json.dumps({"data": data[::-1], "usage": {"prompt_tokens": 7}}).encode()


def test_vectors_are_those_of_the_server() -> None:
    call = read_embed(b'{"model":"m","input":["a","b"]}')
    answered = json.loads(call.answer.whole(embeddings([0.6, 0.8], [1, 0])))
    assert answered.pop("total_duration") >= answered.pop("load_duration") > 0
    assert answered == {"model": "m", "embeddings": [[0.6, 0.8], [1, 0]], "prompt_eval_count": 7}
    assert json.loads(call.answer.nothing("load")) == {"model": "m", "embeddings": []}
    call = read_embeddings_of_prompt(b'{"model":"m","prompt":"a"}')
    assert json.loads(call.answer.whole(embeddings([0.6, 0.8]))) == {"embedding": [0.6, 0.8]}
    assert json.loads(call.answer.nothing("load")) == {"embedding": []}
    with pytest.raises(BadResponseError):
        call.answer.whole(embeddings())


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.integers(1, 10))
def test_a_cut_vector_has_the_length_1(vector: list[float], dimensions: int) -> None:
    asked = json.dumps({"model": "m", "input": "a", "dimensions": dimensions})
    answered = json.loads(read_embed(asked.encode()).answer.whole(embeddings(vector)))
    (cut,) = answered["embeddings"]
    if dimensions >= len(vector):
        assert cut == vector
        return
    assert len(cut) == dimensions
    assert math.hypot(*cut) == pytest.approx(1) or not any(cut)
