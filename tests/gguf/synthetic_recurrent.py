"""Models of zeros with recurrent layers: they keep a state of fixed size for each sequence."""

from __future__ import annotations

from cyber_inference_tui.gguf.file_writer import Tensor
from tests.gguf.synthetic import (
    F32,
    FEED_FORWARD,
    VOCABULARY,
    WIDTH,
    Synthetic,
    attention,
    ends,
    feed_forward_part,
    header,
    zeros,
)


def mamba(*, layers: int = 8, width: int = WIDTH, vocabulary: int = VOCABULARY) -> Synthetic:
    """Layers that keep a state of fixed size and no cache."""
    inner, state, convolution, rank = 2 * width, 16, 4, width // 16
    tensors = ends(width, vocabulary)
    for layer in range(layers):
        tensors += [
            zeros(f"blk.{layer}.attn_norm.weight", width),
            zeros(f"blk.{layer}.ssm_in.weight", width, 2 * inner),
            zeros(f"blk.{layer}.ssm_conv1d.weight", convolution, inner, kind=F32),
            zeros(f"blk.{layer}.ssm_conv1d.bias", inner),
            zeros(f"blk.{layer}.ssm_x.weight", inner, rank + 2 * state),
            zeros(f"blk.{layer}.ssm_dt.weight", rank, inner),
            zeros(f"blk.{layer}.ssm_dt.bias", inner),
            zeros(f"blk.{layer}.ssm_a", state, inner, kind=F32),
            zeros(f"blk.{layer}.ssm_d", inner),
            zeros(f"blk.{layer}.ssm_out.weight", inner, width),
        ]
    return Synthetic(
        header(
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
    feed_forward: int = FEED_FORWARD,
    layers: int = 6,
    width: int = WIDTH,
    vocabulary: int = VOCABULARY,
) -> Synthetic:
    """Attention and a recurrent state side by side in every layer."""
    inner, state, convolution, groups, ssm_heads, length = 2 * width, 128, 4, 1, 16, 64
    convolved = inner + 2 * groups * state
    tensors = ends(width, vocabulary)
    for layer in range(layers):
        tensors += attention(layer, width, heads=8, kv_heads=2, key=length, value=length)
        tensors += _mamba2(
            layer,
            width,
            inner=inner,
            convolved=convolved,
            kernel=convolution,
            heads=ssm_heads,
            groups=groups,
        )
        tensors += [
            zeros(f"blk.{layer}.ffn_norm", width)
            if tensor.name.endswith("ffn_norm.weight")
            else tensor
            for tensor in feed_forward_part(layer, width, feed_forward)
        ]
    return Synthetic(
        header(
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
    feed_forward: int = FEED_FORWARD,
    layers: int = 8,
    width: int = WIDTH,
    vocabulary: int = VOCABULARY,
) -> Synthetic:
    """Short convolutions, with attention in every fourth layer."""
    length, memory = 64, 3
    kv_heads = [2 if layer % 4 == 3 else 0 for layer in range(layers)]
    tensors = [
        zeros("token_embd.weight", width, vocabulary),
        zeros("token_embd_norm.weight", width),
    ]
    for layer in range(layers):
        tensors += feed_forward_part(layer, width, feed_forward)
        if kv_heads[layer]:
            tensors += attention(
                layer, width, heads=8, kv_heads=kv_heads[layer], key=length, value=length
            )
            tensors += [
                zeros(f"blk.{layer}.attn_q_norm.weight", length),
                zeros(f"blk.{layer}.attn_k_norm.weight", length),
            ]
        else:
            tensors += [
                zeros(f"blk.{layer}.attn_norm.weight", width),
                zeros(f"blk.{layer}.shortconv.conv.weight", memory, width, kind=F32),
                zeros(f"blk.{layer}.shortconv.in_proj.weight", width, 3 * width),
                zeros(f"blk.{layer}.shortconv.out_proj.weight", width, width),
            ]
    return Synthetic(
        header(
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
    feed_forward: int = FEED_FORWARD,
    layers: int = 8,
    width: int = WIDTH,
    vocabulary: int = VOCABULARY,
) -> Synthetic:
    """Gated delta nets, with attention in every fourth layer."""
    length, state, groups, ssm_heads, convolution = 64, 64, 8, 16, 4
    keys, values = state * groups, state * ssm_heads
    tensors = ends(width, vocabulary)
    for layer in range(layers):
        tensors += [zeros(f"blk.{layer}.post_attention_norm.weight", width)]
        tensors += [
            tensor
            for tensor in feed_forward_part(layer, width, feed_forward)
            if not tensor.name.endswith("ffn_norm.weight")
        ]
        if layer % 4 == 3:
            tensors += [
                zeros(tensor.name, width, 2 * 8 * length)
                if tensor.name.endswith("attn_q.weight")
                else tensor
                for tensor in attention(layer, width, heads=8, kv_heads=2, key=length, value=length)
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
                zeros(f"blk.{layer}.ssm_conv1d.weight", convolution, 2 * keys + values, kind=F32),
                zeros(f"blk.{layer}.ssm_dt.bias", ssm_heads),
                zeros(f"blk.{layer}.ssm_a", ssm_heads),
                zeros(f"blk.{layer}.ssm_beta.weight", width, ssm_heads),
                zeros(f"blk.{layer}.ssm_alpha.weight", width, ssm_heads),
                zeros(f"blk.{layer}.ssm_norm.weight", state),
                zeros(f"blk.{layer}.ssm_out.weight", values, width),
            ]
    return Synthetic(
        header(
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


def rwkv7(*, layers: int = 8, width: int = WIDTH, vocabulary: int = VOCABULARY) -> Synthetic:
    """Only states, of a matrix for each head."""
    head, rank = 64, 32
    tensors = [
        *ends(width, vocabulary),
        zeros("output_norm.bias", width),
        zeros("token_embd_norm.weight", width),
        zeros("token_embd_norm.bias", width),
    ]
    for layer in range(layers):
        tensors += [
            zeros(f"blk.{layer}.{name}", width)
            for name in (
                *("attn_norm.weight", "attn_norm.bias", "attn_norm_2.weight", "attn_norm_2.bias"),
                *("time_mix_w0.weight", "time_mix_a0.weight", "time_mix_v0.weight"),
                *("time_mix_k_k.weight", "time_mix_k_a.weight", "time_mix_r_k.weight"),
                *("time_mix_ln.weight", "time_mix_ln.bias", "channel_mix_lerp_k.weight"),
            )
        ]
        tensors += [zeros(f"blk.{layer}.time_mix_{name}1.weight", width, rank) for name in "wavg"]
        tensors += [zeros(f"blk.{layer}.time_mix_{name}2.weight", rank, width) for name in "wavg"]
        tensors += [
            zeros(f"blk.{layer}.time_mix_{name}.weight", width, width)
            for name in ("key", "value", "receptance", "output")
        ]
        tensors += [
            zeros(f"blk.{layer}.time_mix_lerp_fused.weight", width, 1, 1, 6, kind=F32),
            zeros(f"blk.{layer}.channel_mix_key.weight", width, FEED_FORWARD),
            zeros(f"blk.{layer}.channel_mix_value.weight", FEED_FORWARD, width),
        ]
    return Synthetic(
        header(
            "rwkv7",
            {
                "block_count": layers,
                "embedding_length": width,
                "feed_forward_length": FEED_FORWARD,
                "attention.head_count": 0,
                "wkv.head_size": head,
                "attention.decay_lora_rank": rank,
                "attention.iclr_lora_rank": rank,
                "attention.value_residual_mix_lora_rank": rank,
                "attention.gate_lora_rank": rank,
            },
            vocabulary,
        ),
        tensors,
    )


def _mamba2(
    layer: int, width: int, *, inner: int, convolved: int, kernel: int, heads: int, groups: int
) -> list[Tensor]:
    return [
        zeros(f"blk.{layer}.ssm_in.weight", width, inner + convolved + heads),
        zeros(f"blk.{layer}.ssm_conv1d.weight", kernel, convolved, kind=F32),
        zeros(f"blk.{layer}.ssm_conv1d.bias", convolved),
        zeros(f"blk.{layer}.ssm_dt.bias", heads),
        zeros(f"blk.{layer}.ssm_a", 1, heads, kind=F32),
        zeros(f"blk.{layer}.ssm_d", 1, heads, kind=F32),
        zeros(f"blk.{layer}.ssm_norm.weight", inner // groups, groups, kind=F32),
        zeros(f"blk.{layer}.ssm_out.weight", inner, width),
    ]
