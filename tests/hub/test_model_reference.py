"""The ways to type a model of the hub."""

from __future__ import annotations

import pytest

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.hub.model_reference import ModelReference, parse_reference


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("org/name", ModelReference("org/name")),
        (" org/name ", ModelReference("org/name")),
        ("org/name:Q4_K_M", ModelReference("org/name", "Q4_K_M")),
        ("gpt2", ModelReference("gpt2")),
        ("https://huggingface.co/org/name", ModelReference("org/name")),
        ("https://huggingface.co/org/name/", ModelReference("org/name")),
        ("https://huggingface.co/org/name?x=1#readme", ModelReference("org/name")),
        ("https://huggingface.co/org/name/tree/main", ModelReference("org/name", None, "main")),
        ("https://huggingface.co/org/name/discussions/3", ModelReference("org/name")),
        (
            "https://huggingface.co/org/name/blob/main/sub/a%20b.gguf",
            ModelReference("org/name", "sub/a b.gguf", "main"),
        ),
        (
            "https://huggingface.co/org/name/resolve/refs%2Fpr%2F1/a.gguf?download=true",
            ModelReference("org/name", "a.gguf", "refs/pr/1"),
        ),
        ("hf.co/org/name:Q8_0", ModelReference("org/name", "Q8_0")),
        ("huggingface.co/org/name", ModelReference("org/name")),
        ("http://127.0.0.1:8080/org/name", ModelReference("org/name")),
    ],
)
def test_it_is_understood(text: str, wanted: ModelReference) -> None:
    assert parse_reference(text, endpoint="http://127.0.0.1:8080") == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/b/c",
        "../x",
        "https://example.com/org/name",
        "ftp://huggingface.co/org/name",
        "http://[bad/org/name",
        "https://huggingface.co/org",
        "https://huggingface.co/datasets/org/name",
        "hf.co/",
        "a b/c",
        "https://huggingface.co/..%2f..%2fetc/name",
    ],
)
def test_or_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_reference(text)


def test_options_may_not_contradict_the_address() -> None:
    assert parse_reference("o/n:Q8_0", filename="Q8_0", revision="x") == ModelReference(
        "o/n", "Q8_0", "x"
    )
    with pytest.raises(InvalidRequestError, match="Q8_0 or Q4_0"):
        parse_reference("o/n:Q8_0", filename="Q4_0")


def test_an_endpoint_that_is_none_is_no_hindrance() -> None:
    assert parse_reference("org/name", endpoint="http://[bad") == ModelReference("org/name")
