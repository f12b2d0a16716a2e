"""Models of zeros that a real llama-server loads: one for each way it keeps what it has read.

Sizes are chosen so that the cache and the buffers outweigh the weights. They talk nonsense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyber_inference_tui.gguf.writer import Tensor, gguf_bytes

_F32, _F16 = 0, 1
_WIDTH, _FEED_FORWARD, _VOCABULARY = 512, 1536, 4096


@dataclass(frozen=True)
class Synthetic:
    """A model's header and tensors."""

    metadata: dict[str, object]
    tensors: list[Tensor]

    def write(self, path: Path) -> Path:
        """Writes the model's file to ``path``."""
        path.write_bytes(gguf_bytes(self.metadata, self.tensors))
        return path


def zeros(name: str, *shape: int, kind: int | None = None) -> Tensor:
    """A tensor of zeros: half floats for a matrix, floats for a vector, unless ``kind`` says."""
    kind = (_F16 if len(shape) > 1 else _F32) if kind is None else kind
    numbers = 1
    for length in shape:
        numbers *= length
    return Tensor(name, kind, shape, bytes(numbers * (4 if kind == _F32 else 2)))


def dense(
    architecture: str = "llama",
    *,
    layers: int = 8,
    width: int = _WIDTH,
    heads: int | Sequence[int] = 8,
    kv_heads: int | Sequence[int] = 2,
    head_length: int = 64,
    feed_forward: int = _FEED_FORWARD,
    vocabulary: int = _VOCABULARY,
    extra: dict[str, object] | None = None,
) -> Synthetic:
    """A transformer in the manner of llama; qwen3's and gemma's norms come with their names."""
    norms = {"qwen3": ("attn_q_norm", "attn_k_norm"), "gemma2": (), "gemma3": ()}
    norms["gemma3"] = norms["qwen3"]
    after = ("post_attention_norm", "post_ffw_norm") if architecture.startswith("gemma") else ()
    tensors = _ends(width, vocabulary, tied=bool(after))
    for layer in range(layers):
        tensors += _attention(
            layer, width, _at(heads, layer), _at(kv_heads, layer), head_length, head_length
        )
        tensors += _feed_forward(layer, width, feed_forward)
        tensors += [
            zeros(f"blk.{layer}.{name}.weight", head_length) for name in norms.get(architecture, ())
        ]
        tensors += [zeros(f"blk.{layer}.{name}.weight", width) for name in after]
    return Synthetic(
        _metadata(
            architecture,
            {
                "block_count": layers,
                "embedding_length": width,
                "feed_forward_length": feed_forward,
                "attention.head_count": _plain(heads),
                "attention.head_count_kv": _plain(kv_heads),
                "attention.key_length": head_length,
                "attention.value_length": head_length,
                "rope.dimension_count": head_length,
                **(extra or {}),
            },
            vocabulary,
        ),
        tensors,
    )


def experts(
    *,
    layers: int = 6,
    count: int = 16,
    used: int = 4,
    inner: int = 512,
    width: int = _WIDTH,
    vocabulary: int = _VOCABULARY,
) -> Synthetic:
    """A qwen3moe: a feed-forward part of which each token uses some."""
    length = 64
    tensors = _ends(width, vocabulary)
    for layer in range(layers):
        tensors += _attention(layer, width, 8, 2, length, length)
        tensors += [
            zeros(f"blk.{layer}.attn_q_norm.weight", length),
            zeros(f"blk.{layer}.attn_k_norm.weight", length),
            zeros(f"blk.{layer}.ffn_norm.weight", width),
            zeros(f"blk.{layer}.ffn_gate_inp.weight", width, count, kind=_F32),
            zeros(f"blk.{layer}.ffn_gate_exps.weight", width, inner, count),
            zeros(f"blk.{layer}.ffn_up_exps.weight", width, inner, count),
            zeros(f"blk.{layer}.ffn_down_exps.weight", inner, width, count),
        ]
    return Synthetic(
        _metadata(
            "qwen3moe",
            {
                "block_count": layers,
                "embedding_length": width,
                "feed_forward_length": 1536,
                "attention.head_count": 8,
                "attention.head_count_kv": 2,
                "attention.key_length": length,
                "attention.value_length": length,
                "rope.dimension_count": length,
                "expert_count": count,
                "expert_used_count": used,
                "expert_feed_forward_length": inner,
            },
            vocabulary,
        ),
        tensors,
    )


def mamba(*, layers: int = 8, width: int = _WIDTH, vocabulary: int = _VOCABULARY) -> Synthetic:
    """Layers that keep a state of fixed size and no cache."""
    inner, state, convolution, rank = 2 * width, 16, 4, width // 16
    tensors = _ends(width, vocabulary)
    for layer in range(layers):
        tensors += [
            zeros(f"blk.{layer}.attn_norm.weight", width),
            zeros(f"blk.{layer}.ssm_in.weight", width, 2 * inner),
            zeros(f"blk.{layer}.ssm_conv1d.weight", convolution, inner, kind=_F32),
            zeros(f"blk.{layer}.ssm_conv1d.bias", inner),
            zeros(f"blk.{layer}.ssm_x.weight", inner, rank + 2 * state),
            zeros(f"blk.{layer}.ssm_dt.weight", rank, inner),
            zeros(f"blk.{layer}.ssm_dt.bias", inner),
            zeros(f"blk.{layer}.ssm_a", state, inner, kind=_F32),
            zeros(f"blk.{layer}.ssm_d", inner),
            zeros(f"blk.{layer}.ssm_out.weight", inner, width),
        ]
    return Synthetic(
        _metadata(
            "mamba",
            {
                "block_count": layers,
                "embedding_length": width,
                "feed_forward_length": 0,
                "attention.head_count": 0,
                "ssm.conv_kernel": convolution,
                "ssm.inner_size": inner,
                "ssm.state_size": state,
                "ssm.time_step_rank": rank,
            },
            vocabulary,
        ),
        tensors,
    )


def falcon_h1(
    *,
    feed_forward: int = _FEED_FORWARD,
    layers: int = 6,
    width: int = _WIDTH,
    vocabulary: int = _VOCABULARY,
) -> Synthetic:
    """Attention and a recurrent state side by side in every layer."""
    inner, state, convolution, groups, ssm_heads, length = 2 * width, 128, 4, 1, 16, 64
    convolved = inner + 2 * groups * state
    tensors = _ends(width, vocabulary)
    for layer in range(layers):
        tensors += _attention(layer, width, 8, 2, length, length)
        tensors += _mamba2(layer, width, inner, convolved, convolution, ssm_heads, groups)
        tensors += [
            zeros(f"blk.{layer}.ffn_norm", width)
            if tensor.name.endswith("ffn_norm.weight")
            else tensor
            for tensor in _feed_forward(layer, width, feed_forward)
        ]
    return Synthetic(
        _metadata(
            "falcon-h1",
            {
                "block_count": layers,
                "embedding_length": width,
                "feed_forward_length": feed_forward,
                "attention.head_count": 8,
                "attention.head_count_kv": 2,
                "attention.key_length": length,
                "attention.value_length": length,
                "rope.dimension_count": length,
                "ssm.conv_kernel": convolution,
                "ssm.inner_size": inner,
                "ssm.state_size": state,
                "ssm.group_count": groups,
                "ssm.time_step_rank": ssm_heads,
            },
            vocabulary,
        ),
        tensors,
    )


def lfm2(
    *,
    feed_forward: int = _FEED_FORWARD,
    layers: int = 8,
    width: int = _WIDTH,
    vocabulary: int = _VOCABULARY,
) -> Synthetic:
    """Short convolutions, with attention in every fourth layer."""
    length, memory = 64, 3
    kv_heads = [2 if layer % 4 == 3 else 0 for layer in range(layers)]
    tensors = [
        zeros("token_embd.weight", width, vocabulary),
        zeros("token_embd_norm.weight", width),
    ]
    for layer in range(layers):
        tensors += _feed_forward(layer, width, feed_forward)
        if kv_heads[layer]:
            tensors += _attention(layer, width, 8, kv_heads[layer], length, length)
            tensors += [
                zeros(f"blk.{layer}.attn_q_norm.weight", length),
                zeros(f"blk.{layer}.attn_k_norm.weight", length),
            ]
        else:
            tensors += [
                zeros(f"blk.{layer}.attn_norm.weight", width),
                zeros(f"blk.{layer}.shortconv.conv.weight", memory, width, kind=_F32),
                zeros(f"blk.{layer}.shortconv.in_proj.weight", width, 3 * width),
                zeros(f"blk.{layer}.shortconv.out_proj.weight", width, width),
            ]
    return Synthetic(
        _metadata(
            "lfm2",
            {
                "block_count": layers,
                "embedding_length": width,
                "feed_forward_length": feed_forward,
                "attention.head_count": 8,
                "attention.head_count_kv": kv_heads,
                "rope.dimension_count": length,
                "shortconv.l_cache": memory,
                "vocab_size": vocabulary,
            },
            vocabulary,
        ),
        tensors,
    )


def qwen35(
    *,
    feed_forward: int = _FEED_FORWARD,
    layers: int = 8,
    width: int = _WIDTH,
    vocabulary: int = _VOCABULARY,
) -> Synthetic:
    """Gated delta nets, with attention in every fourth layer."""
    length, state, groups, ssm_heads, convolution = 64, 64, 8, 16, 4
    keys, values = state * groups, state * ssm_heads
    tensors = _ends(width, vocabulary)
    for layer in range(layers):
        tensors += [zeros(f"blk.{layer}.post_attention_norm.weight", width)]
        tensors += [
            tensor
            for tensor in _feed_forward(layer, width, feed_forward)
            if not tensor.name.endswith("ffn_norm.weight")
        ]
        if layer % 4 == 3:
            tensors += [
                zeros(tensor.name, width, 2 * 8 * length)
                if tensor.name.endswith("attn_q.weight")
                else tensor
                for tensor in _attention(layer, width, 8, 2, length, length)
            ]
            tensors += [
                zeros(f"blk.{layer}.attn_q_norm.weight", length),
                zeros(f"blk.{layer}.attn_k_norm.weight", length),
            ]
        else:
            tensors += [
                zeros(f"blk.{layer}.attn_norm.weight", width),
                zeros(f"blk.{layer}.attn_qkv.weight", width, 2 * keys + values),
                zeros(f"blk.{layer}.attn_gate.weight", width, values),
                zeros(f"blk.{layer}.ssm_conv1d.weight", convolution, 2 * keys + values, kind=_F32),
                zeros(f"blk.{layer}.ssm_dt.bias", ssm_heads),
                zeros(f"blk.{layer}.ssm_a", ssm_heads),
                zeros(f"blk.{layer}.ssm_beta.weight", width, ssm_heads),
                zeros(f"blk.{layer}.ssm_alpha.weight", width, ssm_heads),
                zeros(f"blk.{layer}.ssm_norm.weight", state),
                zeros(f"blk.{layer}.ssm_out.weight", values, width),
            ]
    return Synthetic(
        _metadata(
            "qwen35",
            {
                "block_count": layers,
                "embedding_length": width,
                "feed_forward_length": feed_forward,
                "attention.head_count": 8,
                "attention.head_count_kv": 2,
                "attention.key_length": length,
                "attention.value_length": length,
                "rope.dimension_count": length,
                "rope.dimension_sections": [11, 11, 10, 0],
                "ssm.conv_kernel": convolution,
                "ssm.inner_size": values,
                "ssm.state_size": state,
                "ssm.group_count": groups,
                "ssm.time_step_rank": ssm_heads,
                "full_attention_interval": 4,
            },
            vocabulary,
        ),
        tensors,
    )


def deepseek2(
    *,
    feed_forward: int = _FEED_FORWARD,
    layers: int = 8,
    width: int = _WIDTH,
    vocabulary: int = _VOCABULARY,
) -> Synthetic:
    """Latent attention: one short row per token and layer is all that is cached."""
    heads, rank, rotary, plain, value, query_rank = 8, 256, 32, 64, 64, 128
    tensors = _ends(width, vocabulary)
    for layer in range(layers):
        tensors += _feed_forward(layer, width, feed_forward)
        tensors += [
            zeros(f"blk.{layer}.attn_norm.weight", width),
            zeros(f"blk.{layer}.attn_q_a_norm.weight", query_rank),
            zeros(f"blk.{layer}.attn_kv_a_norm.weight", rank),
            zeros(f"blk.{layer}.attn_q_a.weight", width, query_rank),
            zeros(f"blk.{layer}.attn_q_b.weight", query_rank, heads * (plain + rotary)),
            zeros(f"blk.{layer}.attn_kv_a_mqa.weight", width, rank + rotary),
            zeros(f"blk.{layer}.attn_k_b.weight", plain, rank, heads),
            zeros(f"blk.{layer}.attn_v_b.weight", rank, value, heads),
            zeros(f"blk.{layer}.attn_output.weight", heads * value, width),
        ]
    return Synthetic(
        _metadata(
            "deepseek2",
            {
                "block_count": layers,
                "leading_dense_block_count": layers,
                "embedding_length": width,
                "feed_forward_length": feed_forward,
                "expert_feed_forward_length": 512,
                "expert_shared_count": 1,
                "attention.head_count": heads,
                "attention.head_count_kv": 1,
                "attention.key_length": rank + rotary,
                "attention.value_length": rank,
                "attention.key_length_mla": plain + rotary,
                "attention.value_length_mla": value,
                "attention.q_lora_rank": query_rank,
                "attention.kv_lora_rank": rank,
                "rope.dimension_count": rotary,
            },
            vocabulary,
        ),
        tensors,
    )


def bert(
    *,
    feed_forward: int = _FEED_FORWARD,
    layers: int = 6,
    width: int = _WIDTH,
    vocabulary: int = _VOCABULARY,
) -> Synthetic:
    """An encoder, for embeddings: it keeps nothing."""
    context = 2048
    tensors = [
        zeros("token_embd.weight", width, vocabulary),
        zeros("token_types.weight", width, 2, kind=_F32),
        zeros("position_embd.weight", width, context, kind=_F32),
        zeros("token_embd_norm.weight", width),
        zeros("token_embd_norm.bias", width),
    ]
    for layer in range(layers):
        tensors += [
            tensor
            for tensor in _attention(layer, width, 8, 8, width // 8, width // 8)
            if not tensor.name.endswith("attn_norm.weight")
        ]
        tensors += [
            zeros(f"blk.{layer}.attn_output_norm.weight", width),
            zeros(f"blk.{layer}.attn_output_norm.bias", width),
            zeros(f"blk.{layer}.ffn_up.weight", width, feed_forward),
            zeros(f"blk.{layer}.ffn_down.weight", feed_forward, width),
            zeros(f"blk.{layer}.layer_output_norm.weight", width),
            zeros(f"blk.{layer}.layer_output_norm.bias", width),
        ]
    metadata = _metadata(
        "bert",
        {
            "block_count": layers,
            "context_length": context,
            "embedding_length": width,
            "feed_forward_length": feed_forward,
            "attention.head_count": 8,
            "attention.causal": False,
            "pooling_type": 1,
        },
        vocabulary,
    )
    metadata["tokenizer.ggml.token_type_count"] = 2
    return Synthetic(metadata, tensors)


def _at(value: int | Sequence[int], layer: int) -> int:
    return value if isinstance(value, int) else value[layer]


def _plain(value: int | Sequence[int]) -> object:
    return value if isinstance(value, int) else list(value)


def _ends(width: int, vocabulary: int, *, tied: bool = False) -> list[Tensor]:
    return [
        zeros("token_embd.weight", width, vocabulary),
        *([] if tied else [zeros("output.weight", width, vocabulary)]),
        zeros("output_norm.weight", width),
    ]


def _attention(
    layer: int, width: int, heads: int, kv_heads: int, key: int, value: int
) -> list[Tensor]:
    return [
        zeros(f"blk.{layer}.attn_norm.weight", width),
        zeros(f"blk.{layer}.attn_q.weight", width, heads * key),
        zeros(f"blk.{layer}.attn_k.weight", width, kv_heads * key),
        zeros(f"blk.{layer}.attn_v.weight", width, kv_heads * value),
        zeros(f"blk.{layer}.attn_output.weight", heads * value, width),
    ]


def _feed_forward(layer: int, width: int, inner: int) -> list[Tensor]:
    return [
        zeros(f"blk.{layer}.ffn_norm.weight", width),
        zeros(f"blk.{layer}.ffn_gate.weight", width, inner),
        zeros(f"blk.{layer}.ffn_up.weight", width, inner),
        zeros(f"blk.{layer}.ffn_down.weight", inner, width),
    ]


def _mamba2(
    layer: int, width: int, inner: int, convolved: int, kernel: int, heads: int, groups: int
) -> list[Tensor]:
    return [
        zeros(f"blk.{layer}.ssm_in.weight", width, inner + convolved + heads),
        zeros(f"blk.{layer}.ssm_conv1d.weight", kernel, convolved, kind=_F32),
        zeros(f"blk.{layer}.ssm_conv1d.bias", convolved),
        zeros(f"blk.{layer}.ssm_dt.bias", heads),
        zeros(f"blk.{layer}.ssm_a", 1, heads, kind=_F32),
        zeros(f"blk.{layer}.ssm_d", 1, heads, kind=_F32),
        zeros(f"blk.{layer}.ssm_norm.weight", inner // groups, groups, kind=_F32),
        zeros(f"blk.{layer}.ssm_out.weight", inner, width),
    ]


def _metadata(architecture: str, values: dict[str, object], vocabulary: int) -> dict[str, object]:
    controls = ["<unk>", "<s>", "</s>"]
    tokens = controls + [
        chr(byte) if 32 < byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in range(256)
    ]
    tokens += [f"word{number}" for number in range(vocabulary - len(tokens))]
    return {
        "general.architecture": architecture,
        "general.name": "Zeros",
        "general.file_type": 1,
        **{
            f"{architecture}.{key}": value
            for key, value in {
                "context_length": 262144,
                "attention.layer_norm_rms_epsilon": 1e-6,
                "attention.layer_norm_epsilon": 1e-6,
                **values,
            }.items()
        },
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3] + [1] * (vocabulary - 3),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages }}",
    }
