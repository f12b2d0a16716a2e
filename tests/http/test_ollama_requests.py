"""Requests of Ollama's API, translated for llama-server."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import CyberError, InvalidRequestError
from cyber_inference_tui.http.error_responses import HttpError
from cyber_inference_tui.http.ollama.call import Call
from cyber_inference_tui.http.ollama.chat import _Chat, _Message
from cyber_inference_tui.http.ollama.embed import _Embed
from cyber_inference_tui.http.ollama.generate import _Generate
from cyber_inference_tui.http.ollama.inference import TRANSLATORS
from cyber_inference_tui.http.ollama.options import llama_options
from cyber_inference_tui.http.ollama.values import AT_ONCE, NEVER, Clock, duration, idle_timeout

JPEG = base64.b64encode(b"\xff\xd8\xff\xe0 not really").decode()
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n not really").decode()
TOOL = {"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}


def read(path: str, **fields: Any) -> Call:
    return TRANSLATORS[path](json.dumps({"model": "m", **fields}).encode())


def chat(**fields: Any) -> Call:
    return read("/api/chat", **{"messages": [{"role": "user", "content": "hi"}], **fields})


def generate(**fields: Any) -> Call:
    return read("/api/generate", **{"prompt": "hi", **fields})


def as_json(call: Call) -> Any:
    """Return the request that llama-server gets, without what all have."""
    fields = json.loads(msgspec.json.encode(call.fields))
    fields.pop("stream", None)
    return fields


# Chats


def test_a_chat() -> None:
    call = chat(tools=[TOOL], options={"num_predict": 4, "temperature": 0, "num_ctx": 8192})
    assert (call.model, call.path, call.stream) == ("m", "/v1/chat/completions", True)
    assert call.fields["stream"] is True
    assert as_json(call) == {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [TOOL],
        "max_tokens": 4,
        "temperature": 0,
    }
    assert not call.asks_nothing
    assert call.answer.idle_timeout is None
    assert chat(stream=False).fields["stream"] is False


def test_the_messages_of_a_chat_with_tools() -> None:
    messages = [
        {"role": "SYSTEM", "content": "be brief", "extra": 1},
        {"role": "user", "content": None},
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [
                {"id": "c1", "function": {"name": "w", "arguments": {"c": "Köln", "n": 1.50}}},
                {"function": {"name": "v", "arguments": '{"c": 1}'}},
                {"function": {"name": "u"}},
            ],
        },
        {"role": "tool", "tool_name": "w", "tool_call_id": "c1", "content": "sunny"},
    ]
    system, user, assistant, tool = as_json(chat(messages=messages))["messages"]
    assert system == {"role": "system", "content": "be brief"}
    assert user == {"role": "user", "content": ""}
    calls = assistant.pop("tool_calls")
    assert assistant == {"role": "assistant", "content": "", "reasoning_content": "hm"}
    assert [call["function"]["name"] for call in calls] == ["w", "v", "u"]
    assert calls[0]["id"] == "c1"
    assert "id" not in calls[1]
    arguments = [json.loads(call["function"]["arguments"]) for call in calls]
    assert arguments == [{"c": "Köln", "n": 1.5}, {"c": 1}, {}]
    assert tool == {"role": "tool", "content": "sunny", "name": "w", "tool_call_id": "c1"}


def test_images() -> None:
    lines = "\n".join((PNG[:8], PNG[8:]))
    message = {"role": "user", "content": "see", "images": [JPEG, lines]}
    call = chat(messages=[message])
    (said,) = as_json(call)["messages"]
    assert said["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{JPEG}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    call.check(("completion", "vision"))
    with pytest.raises(InvalidRequestError, match='"m" does not support images'):
        call.check(("completion",))
    assert as_json(generate(images=[JPEG]))["messages"][0]["content"][1] == said["content"][1]


@pytest.mark.parametrize(
    ("image", "place"), [("data:image/png;base64," + PNG, 4), ("AA=A", 4), ("AAA", 3)]
)
def test_a_broken_image(image: str, place: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"illegal base64 data at input byte {place}"):
        chat(messages=[{"role": "user", "content": "x", "images": [image]}])


@pytest.mark.parametrize(
    ("think", "arguments", "needs_thinking"),
    [
        (True, {"enable_thinking": True}, True),
        (False, {"enable_thinking": False}, False),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}, True),
        ("max", {"enable_thinking": True, "reasoning_effort": "max"}, True),
    ],
)
def test_thinking(think: object, arguments: object, needs_thinking: bool) -> None:
    call = chat(think=think)
    assert as_json(call)["chat_template_kwargs"] == arguments
    call.check(("completion", "thinking"))
    if needs_thinking:
        with pytest.raises(InvalidRequestError, match='"m" does not support thinking'):
            call.check(("completion",))
    else:
        call.check(("completion",))


@pytest.mark.parametrize("think", ["extreme", "", 1, [], {"a": 10**30}])
def test_another_value_for_thinking(think: object) -> None:
    with pytest.raises(InvalidRequestError, match="invalid think value"):
        chat(think=think)


def test_the_format() -> None:
    schema = {"type": "object", "properties": {"c": {"enum": ["red"]}}}
    assert as_json(chat(format="json"))["response_format"] == {"type": "json_object"}
    found = as_json(chat(format=schema))["response_format"]
    assert found["type"] == "json_schema"
    assert found["json_schema"]["schema"] == schema
    for none in ("", None):
        assert "response_format" not in chat(format=none).fields
    for wrong in ("xml", 5, ["json"]):
        with pytest.raises(HttpError, match="invalid format") as caught:
            chat(format=wrong)
        assert caught.value.status == 500


def test_probabilities() -> None:
    fields = chat(logprobs=True, top_logprobs=2).fields
    assert (fields["logprobs"], fields["top_logprobs"]) == (True, 2)
    assert "logprobs" not in chat(top_logprobs=2).fields
    # llama-server has none without alternatives.
    assert chat(logprobs=True).fields["top_logprobs"] == 1
    with pytest.raises(InvalidRequestError, match="between 0 and 20"):
        chat(logprobs=True, top_logprobs=21)


def test_what_is_null_or_empty_is_not_given() -> None:
    nothing = dict.fromkeys(
        ("stream", "format", "options", "keep_alive", "tools", "think", "logprobs", "top_logprobs")
    )
    empty = {"format": "", "tools": [], "options": {"temperature": None}, "images": []}
    plain = chat()
    for fields in (nothing, empty, {"unknown": 5}):
        call = chat(**fields)
        assert (call.fields, call.stream, call.needs) == (plain.fields, True, plain.needs)


def test_tools_and_text_need_a_model_for_them() -> None:
    call = chat(tools=[TOOL])
    call.check(())
    call.check(("completion", "tools"))
    with pytest.raises(InvalidRequestError, match='"m" does not support tools'):
        call.check(("completion",))
    with pytest.raises(InvalidRequestError, match='"m" does not support chat'):
        chat().check(("embeddings",))
    with pytest.raises(InvalidRequestError, match='"m" does not support generate'):
        generate().check(("embeddings",))


# Completions


def test_a_prompt_is_a_chat_of_one_message() -> None:
    call = generate(system="be brief", template="{{ .Prompt }}")
    assert call.path == "/v1/chat/completions"
    assert as_json(call)["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]


def test_a_raw_prompt_passes_no_template() -> None:
    call = generate(raw=True, think=True, format={"type": "object"}, logprobs=True)
    assert call.path == "/v1/completions"
    fields = {"prompt": "hi", "json_schema": {"type": "object"}, "logprobs": 1}
    assert as_json(call) == fields
    for more in ({"system": "x"}, {"template": "x"}, {"context": [1]}, {"images": [PNG]}):
        with pytest.raises(InvalidRequestError, match="raw mode does not support"):
            generate(raw=True, **more)


def test_a_suffix_is_an_infill() -> None:
    call = generate(suffix="}", options={"stop": "\n"}, format="json")
    assert call.path == "/infill"
    fields = {"input_prefix": "hi", "input_suffix": "}", "stop": ["\n"], "json_schema": {}}
    assert as_json(call) == fields
    call.check(("completion", "infill"))
    with pytest.raises(InvalidRequestError, match='"m" does not support insert'):
        call.check(("completion",))
    assert not generate(prompt="", suffix="}").asks_nothing


def test_a_context_that_is_not_ours() -> None:
    for context in ([229, 153, 132], [1 << 40], [91, 93, 0], [-1]):
        with pytest.raises(InvalidRequestError, match="context is not one of this service"):
            generate(context=context)
    assert as_json(generate(context=[])) == as_json(generate())


# Embeddings


def test_texts_for_embeddings() -> None:
    for given_input, texts in (("a", ["a"]), (["a", "b"], ["a", "b"]), (["", "b"], ["", "b"])):
        call = read("/api/embed", input=given_input)
        assert (call.path, call.fields["input"]) == ("/v1/embeddings", texts)
        assert not call.asks_nothing
        assert not call.stream
    for nothing in ("", [], None, [""]):
        assert read("/api/embed", input=nothing).asks_nothing
    for wrong in (5, [5], {"a": 1}, ["a", None], True):
        with pytest.raises(InvalidRequestError, match="invalid input type"):
            read("/api/embed", input=wrong)
    call = read("/api/embeddings", prompt="a")
    assert (call.path, call.fields["input"]) == ("/v1/embeddings", ["a"])
    assert read("/api/embeddings").asks_nothing
    call.check(("embeddings",))
    with pytest.raises(HttpError, match='"m" does not support embeddings') as caught:
        call.check(("completion",))
    assert caught.value.status == 501


# Options


def test_all_options() -> None:
    options = {
        "num_predict": 5.0,
        "num_keep": 4,
        "seed": -1,
        "top_k": 40,
        "repeat_last_n": 64,
        "stop": ["a", "b"],
        "temperature": 1,
        "top_p": 0.9,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        # Unknown ones, and those of a load, are ignored, whatever their values are.
        "num_ctx": "x",
        "mirostat": 1,
    }
    found = llama_options(options)
    assert found.pop("max_tokens") == 5
    assert found.pop("n_keep") == 4
    assert found == {name: options[name] for name in found}
    assert len(found) == 11
    assert llama_options({"num_predict": -1}) == llama_options(None) == {}


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("num_predict", "x", "integer"),
        ("num_predict", True, "integer"),
        ("seed", 10**30, "integer"),
        ("temperature", "hot", "float32"),
        ("stop", 5, "array"),
        ("stop", ["a", 5], "array"),
    ],
)
def test_an_option_of_a_wrong_type(name: str, value: object, kind: str) -> None:
    with pytest.raises(HttpError, match=f'option "{name}" must be of type {kind}') as caught:
        llama_options({name: value})
    assert caught.value.status == 500


# Times


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        (None, None),
        (0, AT_ONCE),
        ("0s", AT_ONCE),
        ("0", AT_ONCE),
        (-1, NEVER),
        ("-1m", NEVER),
        (300, 300),
        (0.5, 0.5),
        ("300s", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1500ms", 1.5),
        ("+2µs3us", AT_ONCE),
        (10**30, NEVER),
        ("99999999999h", NEVER),
    ],
)
def test_keep_alive(keep_alive: object, seconds: float | None) -> None:
    assert idle_timeout(keep_alive) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("keep_alive", "said"),
    [
        ("10", 'time: missing unit in duration "10"'),
        ("abc", 'time: invalid duration "abc"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("1x", 'time: unknown unit "x" in duration "1x"'),
        ("1..5s", "time: missing unit"),
        ("1s.", "time: invalid duration"),
        ("1" * 5000 + ".", "time: invalid duration"),
        (True, "no duration"),
        ([], "no duration"),
    ],
)
def test_a_keep_alive_that_is_no_duration(keep_alive: object, said: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        idle_timeout(keep_alive)
    assert said in caught.value.message


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h"]))))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    sizes = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    text = "".join(f"{number}{unit}" for number, unit in parts[:8])
    total = math.fsum(number * sizes[unit] for number, unit in parts[:8])
    assert duration(text or "0") == pytest.approx(total)


def test_times_have_nine_digits() -> None:
    clock = Clock()
    times = [clock.now() for _ in range(100)]
    assert times == sorted(times)
    assert {len(time) for time in times} == {len(b"2026-11-28T21:49:04.279547366Z")}
    assert {time[-1:] for time in times} == {b"Z"}


# Anything


def test_bodies_that_are_no_request() -> None:
    for path in TRANSLATORS:
        with pytest.raises(InvalidRequestError, match="missing request body"):
            TRANSLATORS[path](b"")
        for body in (b"{bad", b"\xff", b'{"a":' * 100_000):
            with pytest.raises(InvalidRequestError, match="not valid JSON"):
                TRANSLATORS[path](body)
        for body in (b"[]", b'"x"', b'{"model":5}'):
            with pytest.raises(InvalidRequestError, match="wrong type"):
                TRANSLATORS[path](body)
    for messages in ("hi", [{"role": "user", "content": [{}]}]):
        with pytest.raises(InvalidRequestError, match="wrong type"):
            chat(messages=messages)


def test_a_request_without_a_model() -> None:
    for path in TRANSLATORS:
        for body in (b"{}", b'{"model":""}', b'{"model":null}'):
            if path == "/api/generate":
                # The models' list says that there is none with this name.
                assert TRANSLATORS[path](body).model == ""
                continue
            with pytest.raises(InvalidRequestError, match="model is required"):
                TRANSLATORS[path](body)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_NAMES = [*_Chat.__struct_fields__, *_Generate.__struct_fields__, *_Embed.__struct_fields__]
_FIELDS = st.dictionaries(st.sampled_from(_NAMES), _VALUES)
_MESSAGES = st.dictionaries(st.sampled_from(_Message.__struct_fields__), _VALUES)
_OPTIONS = st.dictionaries(st.sampled_from(["num_predict", "temperature", "stop"]), _VALUES)


@given(
    st.sampled_from(sorted(TRANSLATORS)),
    _FIELDS
    | st.fixed_dictionaries({"model": st.just("m"), "messages": st.lists(_MESSAGES, max_size=3)})
    | st.fixed_dictionaries({"model": st.just("m"), "prompt": st.text(), "options": _OPTIONS}),
)
def test_any_request_is_translated_or_refused(path: str, fields: dict[str, Any]) -> None:
    try:
        call = TRANSLATORS[path](json.dumps(fields).encode())
    except CyberError as error:
        assert error.message
        return
    msgspec.json.encode(call.fields)
