"""The metadata of models in headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.errors import GGUFError
from cyber_inference_tui.gguf.chat_template import TemplateFacts
from cyber_inference_tui.gguf.metadata import ProjectorFacts, RecurrentFacts, read_metadata
from cyber_inference_tui.gguf.quantization import file_type_name, split_quantization
from tests.gguf.headers import write_gguf


def test_a_model(tmp_path: Path) -> None:
    facts = read_metadata(
        write_gguf(
            tmp_path / "a.gguf", {"tokenizer.ggml.tokens": ["a", "b"], "general.name": "T\x1b[31mx"}
        )
    )
    assert facts.architecture == "llama"
    assert facts.name == "Tx"
    assert facts.kind == "model"
    assert facts.parameters == 256
    assert facts.quantization == "Q4_K_M"
    assert facts.context_length == 4096
    assert facts.vocabulary == 2
    assert (facts.layers, facts.heads, facts.kv_heads) == (2, 4, (2, 2))
    assert (facts.key_length, facts.value_length) == (16, 16)
    assert not facts.is_projector
    assert facts.tensor_bytes == 256 + 204


def test_per_layer_heads_windows_and_experts(tmp_path: Path) -> None:
    facts = read_metadata(
        write_gguf(
            tmp_path / "a.gguf",
            {
                "llama.attention.head_count_kv": [2, 0],
                "llama.attention.sliding_window": 512,
                "llama.attention.sliding_window_pattern": [1, 0],
                "llama.attention.key_length": 48,
                "llama.expert_count": 8,
                "llama.expert_used_count": 2,
                "llama.pooling_type": 1,
                "tokenizer.chat_template": "{{ x }}",
            },
        )
    )
    assert facts.kv_heads == (2, 0)
    assert facts.sliding_window == 512
    assert facts.sliding_window_layers == (True, False)
    assert (facts.key_length, facts.value_length) == (48, 16)
    assert (facts.experts, facts.experts_used) == (8, 2)
    assert facts.pooling == "mean"
    assert facts.chat_template == "{{ x }}"


@pytest.mark.parametrize(
    ("added", "infill"),
    [
        ({"tokenizer.ggml.tokens": ["a", "<|fim_prefix|>", "b"]}, True),
        ({"tokenizer.ggml.tokens": ["▁<PRE>"]}, True),
        ({"tokenizer.ggml.tokens": ["x<PRE>", "<PRE>>", "<|fim_suffix|>"]}, False),
        ({"tokenizer.ggml.merges": ["<PRE>"]}, False),
        ({"tokenizer.ggml.fim_pre_token_id": 7}, True),
        ({"tokenizer.ggml.prefix_token_id": 7}, True),
        ({}, False),
    ],
)
def test_the_vocabulary_shows_whether_a_model_fills_gaps(
    tmp_path: Path, added: dict[str, object], infill: bool
) -> None:
    assert read_metadata(write_gguf(tmp_path / "a.gguf", added)).infill is infill


def test_a_token_for_infilling_is_found_anywhere_in_a_long_vocabulary(tmp_path: Path) -> None:
    for before in range(262_080, 262_160, 3):
        words = ["x" * before, "<|fim_prefix|>", "y" * 300_000]
        path = write_gguf(tmp_path / "a.gguf", {"tokenizer.ggml.tokens": words})
        assert read_metadata(path).infill, before


def test_the_chat_template_is_kept_in_short(tmp_path: Path) -> None:
    facts = read_metadata(
        write_gguf(
            tmp_path / "a.gguf",
            {"tokenizer.chat_template": "{% if tools %}x{% endif %}", "tokenizer.ggml.model": "t5"},
        )
    )
    assert (facts.template, facts.tokenizer) == (TemplateFacts(tools=True), "t5")
    assert read_metadata(write_gguf(tmp_path / "b.gguf")).template is None


def test_inputs_of_memory_estimates(tmp_path: Path) -> None:
    facts = read_metadata(
        write_gguf(
            tmp_path / "a.gguf",
            {
                "llama.attention.sliding_window": 0,
                "llama.attention.sliding_window_pattern": 6,
                "llama.attention.key_length_swa": 32,
                "llama.attention.value_length_swa": 24,
                "llama.attention.key_length_mla": 192,
                "llama.attention.value_length_mla": 128,
                "llama.attention.shared_kv_layers": 1,
                "llama.attention.recurrent_layers": [1, 0],
                "llama.nextn_predict_layers": 1,
                "llama.full_attention_interval": 4,
                "llama.embedding_length_per_layer_input": 256,
                "llama.expert_feed_forward_length": 512,
                "llama.feed_forward_length": [128, 0],
                "llama.ssm.conv_kernel": 4,
                "llama.ssm.inner_size": 1024,
                "llama.ssm.state_size": 16,
                "llama.ssm.group_count": 2,
                "llama.ssm.time_step_rank": 8,
            },
        )
    )
    assert (facts.sliding_window, facts.sliding_window_period) == (0, 6)
    assert facts.sliding_window_layers is None
    assert (facts.window_key_length, facts.window_value_length) == (32, 24)
    assert (facts.latent_key_length, facts.latent_value_length) == (192, 128)
    assert (facts.shared_kv_layers, facts.predict_layers) == (1, 1)
    assert facts.recurrent_layers == (True, False)
    assert facts.full_attention_interval == 4
    assert facts.embedding_length_per_layer == 256
    assert facts.expert_feed_forward_length == 512
    assert (facts.feed_forward_length, facts.feed_forward_lengths) == (128, (128, 0))
    assert facts.recurrent == RecurrentFacts(
        conv_kernel=4, inner_size=1024, state_size=16, group_count=2, time_step_rank=8
    )


def test_values_of_the_wrong_type_count_as_not_there(tmp_path: Path) -> None:
    facts = read_metadata(
        write_gguf(
            tmp_path / "a.gguf",
            {
                "general.name": 7,
                "general.file_type": "Q4",
                "llama.context_length": "long",
                "llama.block_count": True,
                "llama.attention.head_count": [],
                "llama.attention.head_count_kv": -1 * 1.0,
                "tokenizer.chat_template": 3,
            },
        )
    )
    assert facts.name is None
    assert facts.context_length is None
    assert facts.layers is None
    assert facts.heads is None
    assert facts.kv_heads is None
    assert facts.chat_template is None
    # Without a file type, the type with the most bytes names the quantization.
    assert facts.quantization == "F32"


def test_a_projector(tmp_path: Path) -> None:
    facts = read_metadata(
        write_gguf(
            tmp_path / "mmproj.gguf",
            {
                "general.architecture": "clip",
                "clip.projector_type": "qwen2vl_merger",
                "clip.has_vision_encoder": True,
                "clip.vision.projection_dim": 2048,
                "clip.vision.image_size": 560,
                "clip.vision.patch_size": 14,
                "clip.vision.spatial_merge_size": 2,
                "clip.vision.embedding_length": 1280,
                "clip.vision.feed_forward_length": 3420,
                "clip.use_silu": True,
            },
        )
    )
    assert facts.is_projector
    assert facts.kind == "mmproj"
    expected = ProjectorFacts(
        kind="qwen2vl_merger",
        vision=True,
        audio=False,
        width=2048,
        image_size=560,
        patch_size=14,
        merge=2,
        embedding_length=1280,
        feed_forward_length=3420,
        gated=True,
    )
    assert facts.projector == expected


def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"<html>" * 20)
    with pytest.raises(GGUFError, match="not a GGUF file"):
        read_metadata(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("Name-Q4_K_M", ("Name", "Q4_K_M")),
        ("name.q8_0", ("name", "Q8_0")),
        ("Qwen3-4B-UD-Q4_K_XL", ("Qwen3-4B", "UD-Q4_K_XL")),
        ("gpt-oss-20b-mxfp4", ("gpt-oss-20b", "MXFP4")),
        ("m-IQ2_XXS", ("m", "IQ2_XXS")),
        ("m-Q4_0_4_8", ("m", "Q4_0_4_8")),
        ("m-f16", ("m", "F16")),
        ("m-BF16", ("m", "BF16")),
        ("m-fp16", ("m", "FP16")),
        ("llama-3.2-1b-instruct", ("llama-3.2-1b-instruct", None)),
        ("faq4", ("faq4", None)),
        ("F16", ("", "F16")),
    ],
)
def test_quantizations_in_names(stem: str, expected: tuple[str, str | None]) -> None:
    assert split_quantization(stem) == expected


def test_file_types() -> None:
    assert file_type_name(15) == "Q4_K_M"
    assert file_type_name(1024 + 7) == "Q8_0"
    assert file_type_name(999) is None
