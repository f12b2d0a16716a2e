"""Which names are close to a wrong one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.cli.main import COMMANDS
from cyber_inference_tui.settings.schema import KEYS, MODEL_KEYS
from cyber_inference_tui.spelling import close_names

MODELS = (
    "Qwen3-4B-Q4_K_M",
    "Llama-3.1-8B-Instruct-Q4_K_M",
    "gemma-3-27b-it-Q4_K_M",
    "unsloth/Big-VL-UD-Q4_K_XL",
    "gone",
    "tiny",
    "demo",
    "a",
)


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("qwen3-4b", "Qwen3-4B-Q4_K_M"),
        ("qwne3-4b", "Qwen3-4B-Q4_K_M"),
        ("Qwen3-4B-Q8_0", "Qwen3-4B-Q4_K_M"),
        ("Qwen3-4B-Q4_K_S", "Qwen3-4B-Q4_K_M"),
        ("Qwen3-4B-Q4_K_M.gguf", "Qwen3-4B-Q4_K_M"),
        ("QWEN3 4B Q4KM", "Qwen3-4B-Q4_K_M"),
        ("llama3", "Llama-3.1-8B-Instruct-Q4_K_M"),
        ("llama-8b", "Llama-3.1-8B-Instruct-Q4_K_M"),
        ("gemma-3-27b-it", "gemma-3-27b-it-Q4_K_M"),
        ("Big-VL", "unsloth/Big-VL-UD-Q4_K_XL"),
        ("gon", "gone"),
        ("goen", "gone"),
        ("tinny", "tiny"),
        ("demo:latest", "demo"),
    ],
)
def test_what_was_meant_comes_first(wanted: str, meant: str) -> None:
    assert close_names(wanted, MODELS)[:1] == [meant]


@pytest.mark.parametrize(
    "wanted", ["nope", "other", "no-such-model", "gpt-4o", "claude-sonnet-4", "x", "", "-", "模型"]
)
def test_unlike_names_are_not_close(wanted: str) -> None:
    assert close_names(wanted, MODELS) == []


@pytest.mark.parametrize(
    ("wanted", "known", "meant"),
    [
        ("prot", KEYS, "port"),
        ("modles_dir", KEYS, "models_dir"),
        ("ctx_size", MODEL_KEYS, "context_size"),
        ("list", COMMANDS, "list-models"),
        ("stauts", COMMANDS, "status"),
    ],
)
def test_settings_and_commands(wanted: str, known: list[str], meant: str) -> None:
    assert close_names(wanted, known, 1) == [meant]


@given(st.text(max_size=80), st.lists(st.text(max_size=80), max_size=5))
def test_any_text_can_be_compared(wanted: str, known: list[str]) -> None:
    found = close_names(wanted, known, 2)
    assert len(found) <= 2
    assert set(found) <= set(known)
