"""What people type for a model on the hub."""

from __future__ import annotations

import pytest

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.hub.address import Wanted, wanted_of


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("org/name", Wanted("org/name")),
        (" org/name ", Wanted("org/name")),
        ("org/name:Q4_K_M", Wanted("org/name", "Q4_K_M")),
        ("gpt2", Wanted("gpt2")),
        ("https://huggingface.co/org/name", Wanted("org/name")),
        ("https://huggingface.co/org/name/", Wanted("org/name")),
        ("https://huggingface.co/org/name?x=1#readme", Wanted("org/name")),
        ("https://huggingface.co/org/name/tree/main", Wanted("org/name", None, "main")),
        ("https://huggingface.co/org/name/discussions/3", Wanted("org/name")),
        (
            "https://huggingface.co/org/name/blob/main/sub/a%20b.gguf",
            Wanted("org/name", "sub/a b.gguf", "main"),
        ),
        (
            "https://huggingface.co/org/name/resolve/refs%2Fpr%2F1/a.gguf?download=true",
            Wanted("org/name", "a.gguf", "refs/pr/1"),
        ),
        ("hf.co/org/name:Q8_0", Wanted("org/name", "Q8_0")),
        ("huggingface.co/org/name", Wanted("org/name")),
        ("http://127.0.0.1:8080/org/name", Wanted("org/name")),
    ],
)
def test_it_is_understood(text: str, wanted: Wanted) -> None:
    assert wanted_of(text, endpoint="http://127.0.0.1:8080") == wanted


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
        wanted_of(text)


def test_what_is_said_twice_must_be_the_same() -> None:
    assert wanted_of("o/n:Q8_0", filename="Q8_0", revision="x") == Wanted("o/n", "Q8_0", "x")
    with pytest.raises(InvalidRequestError, match="Q8_0 or Q4_0"):
        wanted_of("o/n:Q8_0", filename="Q4_0")


def test_an_endpoint_that_is_none_is_no_hindrance() -> None:
    assert wanted_of("org/name", endpoint="http://[bad") == Wanted("org/name")
