"""What the headers of adapters and vocabularies say."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.gguf.adapter import AdaptedMatrix, AdapterFacts
from cyber_inference_tui.gguf.file_writer import Tensor
from cyber_inference_tui.gguf.metadata import ModelMetadata, read_metadata
from tests.gguf.companions import demo_lora, large_demo, lora_header
from tests.gguf.demo_file import demo_bytes
from tests.gguf.headers import write_gguf
from tests.gguf.synthetic import zeros

TOKENS = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b", "c"]}


def of(path: Path, data: bytes) -> ModelMetadata:
    path.write_bytes(data)
    return read_metadata(path)


def test_the_matrices_that_an_adapter_changes(tmp_path: Path) -> None:
    parts: list[Tensor] = []
    for block in (0, 3):
        parts += [
            zeros(f"blk.{block}.attn_q.weight.lora_a", 64, 8),
            zeros(f"blk.{block}.attn_q.weight.lora_b", 8, 128),
        ]
    parts.append(zeros("blk.1.ffn_gate_exps.weight.lora_a", 64, 8, 4))
    facts = read_metadata(write_gguf(tmp_path / "a.gguf", lora_header(), parts)).adapter
    assert facts == AdapterFacts(
        kind="lora",
        matrices=(AdaptedMatrix("attn_q", 64, 128), AdaptedMatrix("ffn_gate_exps")),
        blocks=4,
    )


def test_an_adapter_with_countless_matrices_keeps_few(tmp_path: Path) -> None:
    parts = [zeros(f"odd{number}.weight.lora_a", 8, 1) for number in range(200)]
    facts = read_metadata(write_gguf(tmp_path / "a.gguf", lora_header(), parts)).adapter
    assert facts is not None
    assert len(facts.matrices) == 65
    assert facts.matrices[-1] == AdaptedMatrix("")


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    assert of(tmp_path / "a.gguf", demo_bytes()).adapter is None
    facts = of(tmp_path / "b.gguf", demo_lora())
    assert (facts.kind, facts.architecture) == ("adapter", "llama")


def test_models_with_the_same_tokens(tmp_path: Path) -> None:
    small = of(tmp_path / "a.gguf", demo_bytes())
    large = of(tmp_path / "b.gguf", large_demo())
    assert small.vocabulary_digest is not None
    assert small.vocabulary_digest == large.vocabulary_digest
    assert small.parameters is not None
    assert large.parameters is not None
    assert 8 * small.parameters <= large.parameters


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer.ggml.tokens": ["a", "c", "b"]},
        {"tokenizer.ggml.tokens": ["a", "b", "c", "d"]},
        {"tokenizer.ggml.model": "llama"},
        {"tokenizer.ggml.bos_token_id": 1},
        {"tokenizer.ggml.add_bos_token": True},
        {"tokenizer.ggml.add_eos_token": True},
    ],
)
def test_other_tokens_have_another_digest(tmp_path: Path, change: dict[str, object]) -> None:
    one = read_metadata(write_gguf(tmp_path / "a.gguf", TOKENS)).vocabulary_digest
    other = read_metadata(write_gguf(tmp_path / "b.gguf", {**TOKENS, **change})).vocabulary_digest
    assert one is not None
    assert one != other


def test_the_end_of_a_text_counts_only_if_it_is_added(tmp_path: Path) -> None:
    """A chat model ends its texts with another token than its base model."""
    ends = {**TOKENS, "tokenizer.ggml.eos_token_id": 2}
    one = read_metadata(write_gguf(tmp_path / "a.gguf", TOKENS)).vocabulary_digest
    other = read_metadata(write_gguf(tmp_path / "b.gguf", ends)).vocabulary_digest
    assert one == other


def test_no_tokens_have_no_digest(tmp_path: Path) -> None:
    assert read_metadata(write_gguf(tmp_path / "a.gguf")).vocabulary_digest is None


def test_a_long_vocabulary(tmp_path: Path) -> None:
    """It is longer than the part of the file that is in memory at once."""
    tokens = [f"token {number}" for number in range(40_000)]
    changed = [*tokens[:-1], "another"]
    digests = {
        read_metadata(
            write_gguf(tmp_path / f"{name}.gguf", {"tokenizer.ggml.tokens": some})
        ).vocabulary_digest
        for name, some in (("a", tokens), ("b", changed), ("c", tokens))
    }
    assert len(digests) == 2


def test_prediction_layers(tmp_path: Path) -> None:
    layer = zeros("blk.2.nextn.eh_proj.weight", 128, 64)
    header = {"llama.nextn_predict_layers": 1}
    assert read_metadata(write_gguf(tmp_path / "a.gguf", header, [layer])).predicts
    # A converter may leave the layers out and keep the number.
    assert not read_metadata(write_gguf(tmp_path / "b.gguf", header)).predicts
