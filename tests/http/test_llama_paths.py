from __future__ import annotations

import pytest

from cyber_inference_tui.http.llama_paths import Kind, kind_of, methods_of

INFERENCE = [
    "/completion",
    "/completions",
    "/v1/completions",
    "/chat/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/responses",
    "/infill",
    "/embedding",
    "/embeddings",
    "/v1/embeddings",
    "/rerank",
    "/v1/rerank",
    "/reranking",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/systemone",
]


@pytest.mark.parametrize("path", INFERENCE)
def test_inference_is_posted(path: str) -> None:
    assert methods_of(path) == {"POST"}
    assert kind_of(path) is Kind.INFERENCE


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/tokenize", {"POST"}),
        ("/detokenize", {"POST"}),
        ("/apply-template", {"POST"}),
        ("/v1/audio/transcriptions", {"POST"}),
        ("/props", {"GET", "HEAD", "POST"}),
        ("/lora-adapters", {"GET", "HEAD", "POST"}),
        ("/slots", {"GET", "HEAD"}),
        ("/tools", {"GET", "HEAD", "POST"}),
        ("/cors-proxy", {"GET", "HEAD", "POST"}),
        ("/v1/stream", {"GET", "HEAD", "DELETE"}),
        ("/v1/streams/lookup", {"POST"}),
        ("/slots/0", {"POST"}),
        ("/slots/17", {"POST"}),
    ],
)
def test_other_paths_take_no_defaults(path: str, methods: set[str]) -> None:
    assert methods_of(path) == methods
    assert kind_of(path) is Kind.OTHER


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completion",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/V1/CHAT/COMPLETIONS",
        "/v1/tokenize",
        "/slots/",
        "/slots/x",
        "/slots/1/2",
        "/slots/-1",
        "/slots/0\n",
        "/slots/" + "1" * 30,
        "/models/load",
        "/index.html",
        "/",
        "",
    ],
)
def test_other_paths_are_not_known(path: str) -> None:
    assert methods_of(path) == frozenset()
    assert kind_of(path) is Kind.OTHER
