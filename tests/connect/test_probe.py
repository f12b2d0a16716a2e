"""The request of a client, and answers that it could not use."""

from __future__ import annotations

import json

import httpx
import pytest

from cyber_inference_tui.connect.client import Api
from cyber_inference_tui.connect.connection import Connection, Model
from cyber_inference_tui.connect.probe import ask, request
from cyber_inference_tui.errors import CyberError

MODEL = Model("m", 8192)
CONNECTION = Connection("http://x", "sk-1", MODEL, MODEL, (MODEL,))


def answered(status: int, *events: object) -> httpx.MockTransport:
    text = "".join(
        f": a comment\n\ndata: {event if event == '[DONE]' else json.dumps(event)}\n\n"
        for event in events
    )
    return httpx.MockTransport(lambda request: httpx.Response(status, text=text))


@pytest.mark.parametrize("api", Api)
def test_the_request_has_model_key_and_tool(api: Api) -> None:
    url, headers, body = request(api, CONNECTION)
    assert url.startswith("http://x/v1/")
    assert headers["Authorization"] == "Bearer sk-1"
    assert (body["model"], body["stream"], len(body["tools"])) == ("m", True, 1)
    plain = Connection("http://x", "", MODEL, MODEL, (MODEL,))
    assert request(api, plain)[1]["Authorization"] == "Bearer none"


def test_whole_answers_are_accepted() -> None:
    chunk = {"choices": [{"delta": {"content": "Hi"}, "finish_reason": None}]}
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    ask(Api.CHAT, CONNECTION, answered(200, chunk, last, {"choices": []}, "[DONE]"))
    ask(
        Api.MESSAGES, CONNECTION, answered(200, {"type": "message_start"}, {"type": "message_stop"})
    )
    ask(
        Api.RESPONSES,
        CONNECTION,
        answered(200, {"type": "response.created"}, {"type": "response.completed"}),
    )


@pytest.mark.parametrize("api", Api)
@pytest.mark.parametrize(
    ("events", "words"),
    [
        ((), "not a whole stream"),
        (({"type": "message_start"}, {"type": "response.created"}), "not a whole stream"),
        (({"choices": [{"delta": {}}]}, "[DONE]"), "not a whole stream"),
        (({"error": {"message": "It died."}},), "answered 200: It died."),
    ],
)
def test_others_are_not(api: Api, events: tuple[object, ...], words: str) -> None:
    with pytest.raises(CyberError, match=words):
        ask(api, CONNECTION, answered(200, *events))


def test_refusals_and_silence_are_sentences() -> None:
    refusing = httpx.MockTransport(
        lambda request: httpx.Response(401, json={"error": {"message": "Wrong key."}})
    )
    with pytest.raises(CyberError, match="answered 401: Wrong key"):
        ask(Api.CHAT, CONNECTION, refusing)
    with pytest.raises(CyberError, match="answered 502: no reason"):
        ask(Api.CHAT, CONNECTION, answered(502))
    nobody = Connection("http://127.0.0.1:1", "", MODEL, MODEL, (MODEL,))
    with pytest.raises(CyberError, match="does not answer"):
        ask(Api.CHAT, nobody)
    garbled = httpx.MockTransport(lambda request: httpx.Response(200, text="data: {\n\n"))
    with pytest.raises(CyberError, match="not JSON"):
        ask(Api.CHAT, CONNECTION, garbled)
