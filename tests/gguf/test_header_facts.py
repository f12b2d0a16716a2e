"""The facts in a header, by plain names."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.gguf.architectures import is_embedding_model
from cyber_inference_tui.gguf.header_facts import facts_of
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.gguf.reader import read_header
from cyber_inference_tui.records import to_json
from tests.gguf.headers import write_gguf


def test_facts_have_plain_names_and_come_from_the_header(tmp_path: Path) -> None:
    facts = facts_of(
        read_header(
            write_gguf(
                tmp_path / "a.gguf",
                {
                    "general.license": "mit",
                    "llama.rope.freq_base": 10000.0,
                    "llama.expert_count": 8,
                    "llama.attention.sliding_window": 512,
                    "tokenizer.ggml.model": "gpt2",
                    "tokenizer.ggml.tokens": ["a", "b"],
                    "tokenizer.chat_template": "{{ x }}",
                },
            )
        )
    )
    assert facts["architecture"] == "llama"
    assert facts["name"] == "Tiny"
    assert facts["layers"] == 2
    assert facts["embedding length"] == 64
    assert (facts["attention heads"], facts["KV heads"]) == (4, 2)
    assert facts["vocabulary size"] == 2
    assert facts["rope base frequency"] == 10000.0
    assert facts["sliding window"] == 512
    assert facts["experts"] == 8
    assert facts["license"] == "mit"
    assert facts["tokenizer"] == "gpt2"
    assert (facts["chat template"], facts["chat template length"]) == (True, 7)
    assert facts["file type"] == "Q4_K_M"
    assert "experts used" not in facts
    assert facts_of(read_header(write_gguf(tmp_path / "b.gguf")))["chat template"] is False


def test_facts_are_short_clean_and_fit_for_the_wire(tmp_path: Path) -> None:
    facts = facts_of(
        read_header(
            write_gguf(
                tmp_path / "a.gguf",
                {
                    "general.name": "\x1b[31mred\n" + "x" * 5000,
                    "general.description": "\x00\x07",
                    "llama.attention.head_count_kv": [2, 0],
                    "llama.rope.freq_base": float("inf"),
                    "general.made_up": "missing",
                },
            )
        )
    )
    assert isinstance(facts["name"], str)
    assert facts["name"].startswith("red")
    assert len(facts["name"]) < 250
    assert "\x1b" not in facts["name"]
    assert "description" not in facts
    assert facts["KV heads"] == "0 to 2"
    assert "rope base frequency" not in facts
    assert "missing" not in facts.values()
    assert to_json(facts)


@pytest.mark.parametrize(
    ("facts", "vectors"),
    [
        (ModelMetadata(architecture="bert"), True),
        (ModelMetadata(architecture="nomic-bert-moe"), True),
        (ModelMetadata(architecture="t5encoder"), True),
        (ModelMetadata(architecture="qwen3", pooling="last"), True),
        (ModelMetadata(architecture="qwen3", pooling="rank"), True),
        (ModelMetadata(architecture="qwen3", pooling="none"), False),
        (ModelMetadata(architecture="qwen3"), False),
        (ModelMetadata(architecture="llada"), False),
        (ModelMetadata(), False),
    ],
)
def test_models_for_embeddings_have_their_pooling(facts: ModelMetadata, vectors: bool) -> None:
    assert is_embedding_model(facts) is vectors
