"""Models of zeros for a real llama-server: one for each kind of its memory.

Sizes are chosen so that the cache and the buffers outweigh the weights. They talk nonsense.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cyber_inference_tui.gguf.file_writer import Tensor, gguf_bytes
from cyber_inference_tui.gguf.quantization import TENSOR_TYPES

F32, _F16 = 0, 1
WIDTH, FEED_FORWARD, VOCABULARY = 512, 1536, 4096


@dataclass(frozen=True)
class Synthetic:
    """A model's header and tensors."""

    metadata: dict[str, object]
    tensors: list[Tensor]

    def write(self, path: Path) -> Path:
        """Write the model's file to ``path``."""
        path.write_bytes(gguf_bytes(self.metadata, self.tensors))
        return path


def zeros(name: str, *shape: int, kind: int | None = None) -> Tensor:
    """Return a tensor of zeros: by default half floats for a matrix, floats for a vector."""
    kind = (_F16 if len(shape) > 1 else F32) if kind is None else kind
    numbers = 1
    for length in shape:
        numbers *= length
    return Tensor(name, kind, shape, bytes(numbers * (4 if kind == F32 else 2)))


def with_noise(model: Synthetic) -> Synthetic:
    """Return the model with fixed random weights, so that its output depends on its input."""
    chance = random.Random(1)
    tensors = []
    for tensor in model.tensors:
        middle = 1.0 if tensor.name.endswith("norm.weight") else 0.0
        code, size = ("f", 4) if tensor.type == F32 else ("e", 2)
        count = len(tensor.data) // size
        numbers = [chance.gauss(middle, 0.1) for _ in range(count)]
        tensors.append(tensor._replace(data=struct.pack(f"<{count}{code}", *numbers)))
    return Synthetic(model.metadata, tensors)


def quantized(model: Synthetic, kind: str) -> Synthetic:
    """Return the model with its matrices in type ``kind`` (``Q4_K``), if rows fill its blocks."""
    number, blocks = next((n, one) for n, one in TENSOR_TYPES.items() if one.name == kind)
    tensors = []
    for tensor in model.tensors:
        if tensor.type == _F16 and tensor.shape[0] % blocks.values == 0:
            count = math.prod(tensor.shape) // blocks.values
            zero = bytes(count * blocks.bytes)
            tensors.append(tensor._replace(type=number, data=zero))
        else:
            tensors.append(tensor)
    return Synthetic(model.metadata, tensors)


def with_ranks(encoder: Synthetic) -> Synthetic:
    """Return a ``bert`` that ranks how well two texts fit."""
    width = encoder.metadata["bert.embedding_length"]
    assert isinstance(width, int)
    head = [
        zeros("cls.weight", width, width),
        zeros("cls.bias", width),
        zeros("cls.output.weight", width, 1),
        zeros("cls.output.bias", 1),
    ]
    return Synthetic({**encoder.metadata, "bert.pooling_type": 4}, [*encoder.tensors, *head])


def dense(
    architecture: str = "llama",
    *,
    layers: int = 8,
    width: int = WIDTH,
    heads: int | Sequence[int] = 8,
    kv_heads: int | Sequence[int] = 2,
    head_length: int = 64,
    feed_forward: int = FEED_FORWARD,
    vocabulary: int = VOCABULARY,
    extra: Mapping[str, object] | None = None,
) -> Synthetic:
    """Return a transformer like llama; the names qwen3 and gemma add their norms."""
    norms = {"qwen3": ("attn_q_norm", "attn_k_norm"), "gemma2": (), "gemma3": ()}
    norms["gemma3"] = norms["qwen3"]
    after = ("post_attention_norm", "post_ffw_norm") if architecture.startswith("gemma") else ()
    tensors = ends(width, vocabulary, tied=bool(after))
    for layer in range(layers):
        tensors += attention(
            layer,
            width,
            heads=_at(heads, layer),
            kv_heads=_at(kv_heads, layer),
            key=head_length,
            value=head_length,
        )
        tensors += feed_forward_part(layer, width, feed_forward)
        tensors += [
            zeros(f"blk.{layer}.{name}.weight", head_length) for name in norms.get(architecture, ())
        ]
        tensors += [zeros(f"blk.{layer}.{name}.weight", width) for name in after]
    return Synthetic(
        header(
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


def uneven() -> Synthetic:
    """Layers with different numbers of key heads."""
    return dense("deci", kv_heads=[8, 4, 2, 1, 8, 4, 2, 1])


def windowed() -> Synthetic:
    """A sliding window in five of six layers."""
    return dense("gemma3", layers=12, extra={"attention.sliding_window": 512})


def experts(
    *,
    layers: int = 6,
    count: int = 16,
    used: int = 4,
    inner: int = 512,
    width: int = WIDTH,
    vocabulary: int = VOCABULARY,
) -> Synthetic:
    """A qwen3moe: each token uses some of the feed-forward parts."""
    length = 64
    tensors = ends(width, vocabulary)
    for layer in range(layers):
        tensors += attention(layer, width, heads=8, kv_heads=2, key=length, value=length)
        tensors += [
            zeros(f"blk.{layer}.attn_q_norm.weight", length),
            zeros(f"blk.{layer}.attn_k_norm.weight", length),
            zeros(f"blk.{layer}.ffn_norm.weight", width),
            zeros(f"blk.{layer}.ffn_gate_inp.weight", width, count, kind=F32),
            zeros(f"blk.{layer}.ffn_gate_exps.weight", width, inner, count),
            zeros(f"blk.{layer}.ffn_up_exps.weight", width, inner, count),
            zeros(f"blk.{layer}.ffn_down_exps.weight", inner, width, count),
        ]
    return Synthetic(
        header(
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


def deepseek2(
    *,
    feed_forward: int = FEED_FORWARD,
    layers: int = 8,
    width: int = WIDTH,
    vocabulary: int = VOCABULARY,
) -> Synthetic:
    """Latent attention: the cache has only a short row for each token and layer."""
    heads, rank, rotary, plain, value, query_rank = 8, 256, 32, 64, 64, 128
    tensors = ends(width, vocabulary)
    for layer in range(layers):
        tensors += feed_forward_part(layer, width, feed_forward)
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
        header(
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
    feed_forward: int = FEED_FORWARD,
    layers: int = 6,
    width: int = WIDTH,
    vocabulary: int = VOCABULARY,
) -> Synthetic:
    """An encoder for embeddings, without a cache."""
    context = 2048
    tensors = [
        zeros("token_embd.weight", width, vocabulary),
        zeros("token_types.weight", width, 2, kind=F32),
        zeros("position_embd.weight", width, context, kind=F32),
        zeros("token_embd_norm.weight", width),
        zeros("token_embd_norm.bias", width),
    ]
    for layer in range(layers):
        tensors += [
            tensor
            for tensor in attention(
                layer, width, heads=8, kv_heads=8, key=width // 8, value=width // 8
            )
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
    metadata = header(
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


def gpt_oss(
    *, layers: int = 8, count: int = 16, width: int = WIDTH, vocabulary: int = VOCABULARY
) -> Synthetic:
    """Experts, and a sliding window in every other layer."""
    length, inner, heads = 64, 512, 8
    tensors = ends(width, vocabulary)
    for layer in range(layers):
        tensors += attention(layer, width, heads=heads, kv_heads=2, key=length, value=length)
        tensors += [
            zeros(f"blk.{layer}.attn_output.bias", width),
            zeros(f"blk.{layer}.attn_sinks.weight", heads),
            zeros(f"blk.{layer}.post_attention_norm.weight", width),
            zeros(f"blk.{layer}.ffn_gate_inp.weight", width, count, kind=F32),
            zeros(f"blk.{layer}.ffn_gate_inp.bias", count),
            zeros(f"blk.{layer}.ffn_gate_exps.weight", width, inner, count),
            zeros(f"blk.{layer}.ffn_up_exps.weight", width, inner, count),
            zeros(f"blk.{layer}.ffn_down_exps.weight", inner, width, count),
            zeros(f"blk.{layer}.ffn_gate_exps.bias", inner, count, kind=F32),
            zeros(f"blk.{layer}.ffn_up_exps.bias", inner, count, kind=F32),
            zeros(f"blk.{layer}.ffn_down_exps.bias", width, count, kind=F32),
        ]
    return Synthetic(
        header(
            "gpt-oss",
            {
                "block_count": layers,
                "embedding_length": width,
                "feed_forward_length": inner,
                "expert_feed_forward_length": inner,
                "expert_count": count,
                "expert_used_count": 4,
                "attention.head_count": heads,
                "attention.head_count_kv": 2,
                "attention.key_length": length,
                "attention.value_length": length,
                "attention.sliding_window": 128,
                "rope.dimension_count": length,
            },
            vocabulary,
        ),
        tensors,
    )


def gemma4(*, layers: int = 12, width: int = WIDTH, vocabulary: int = VOCABULARY) -> Synthetic:
    """Windowed layers with shorter heads, layers that share a cache, embeddings per layer."""
    length, window_length, per_layer, shared = 128, 64, 128, 4
    windowed = [layer % 4 != 3 for layer in range(layers)]
    tensors = [
        *ends(width, vocabulary, tied=True),
        zeros("per_layer_token_embd.weight", per_layer * layers, vocabulary),
        zeros("per_layer_model_proj.weight", width, per_layer * layers),
        zeros("per_layer_proj_norm.weight", per_layer),
        zeros("rope_freqs.weight", length // 2),
    ]
    for layer in range(layers):
        head = window_length if windowed[layer] else length
        tensors += attention(layer, width, heads=8, kv_heads=2, key=head, value=head)
        tensors += feed_forward_part(layer, width, FEED_FORWARD)
        tensors += [
            zeros(f"blk.{layer}.attn_q_norm.weight", head),
            zeros(f"blk.{layer}.attn_k_norm.weight", head),
            zeros(f"blk.{layer}.post_attention_norm.weight", width),
            zeros(f"blk.{layer}.post_ffw_norm.weight", width),
            zeros(f"blk.{layer}.inp_gate.weight", width, per_layer),
            zeros(f"blk.{layer}.proj.weight", per_layer, width),
            zeros(f"blk.{layer}.post_norm.weight", width),
        ]
    return Synthetic(
        header(
            "gemma4",
            {
                "block_count": layers,
                "embedding_length": width,
                "embedding_length_per_layer_input": per_layer,
                "feed_forward_length": FEED_FORWARD,
                "attention.head_count": 8,
                "attention.head_count_kv": 2,
                "attention.key_length": length,
                "attention.value_length": length,
                "attention.key_length_swa": window_length,
                "attention.value_length_swa": window_length,
                "attention.shared_kv_layers": shared,
                "attention.sliding_window": 512,
                "attention.sliding_window_pattern": windowed,
                "rope.dimension_count": length,
                "rope.dimension_count_swa": window_length,
            },
            vocabulary,
        ),
        tensors,
    )


def gemma3n(*, layers: int = 24, width: int = WIDTH, vocabulary: int = VOCABULARY) -> Synthetic:
    """Four parallel streams, embeddings for each layer, and a cache in only 20 layers."""
    length, per_layer, streams, rank = 64, 256, 4, 64
    tensors = [
        *ends(width, vocabulary, tied=True),
        zeros("altup_proj.weight", width, width, streams - 1),
        zeros("altup_unembd_proj.weight", width, width, streams - 1),
        zeros("per_layer_token_embd.weight", per_layer * layers, vocabulary),
        zeros("per_layer_model_proj.weight", width, per_layer * layers),
        zeros("per_layer_proj_norm.weight", per_layer),
    ]
    for layer in range(layers):
        tensors += attention(layer, width, heads=8, kv_heads=2, key=length, value=length)
        tensors += feed_forward_part(layer, width, FEED_FORWARD)
        tensors += [
            zeros(f"blk.{layer}.{name}.weight", width)
            for name in (
                *("post_attention_norm", "post_ffw_norm", "post_norm", "altup_correct_scale"),
                *("altup_router_norm", "laurel_post_norm"),
            )
        ]
        tensors += [
            zeros(f"blk.{layer}.attn_q_norm.weight", length),
            zeros(f"blk.{layer}.attn_k_norm.weight", length),
            zeros(f"blk.{layer}.inp_gate.weight", width, per_layer),
            zeros(f"blk.{layer}.proj.weight", per_layer, width),
            zeros(f"blk.{layer}.altup_correct_coef.weight", streams, streams, kind=F32),
            zeros(f"blk.{layer}.altup_predict_coef.weight", streams, streams**2, kind=F32),
            zeros(f"blk.{layer}.altup_router.weight", width, streams),
            zeros(f"blk.{layer}.laurel_l.weight", width, rank),
            zeros(f"blk.{layer}.laurel_r.weight", rank, width),
        ]
    return Synthetic(
        header(
            "gemma3n",
            {
                "block_count": layers,
                "embedding_length": width,
                "embedding_length_per_layer_input": per_layer,
                "feed_forward_length": FEED_FORWARD,
                "attention.head_count": 8,
                "attention.head_count_kv": 2,
                "attention.key_length": length,
                "attention.value_length": length,
                "attention.sliding_window": 512,
                "rope.dimension_count": length,
            },
            vocabulary,
        ),
        tensors,
    )


def _at(value: int | Sequence[int], layer: int) -> int:
    return value if isinstance(value, int) else value[layer]


def _plain(value: int | Sequence[int]) -> object:
    return value if isinstance(value, int) else list(value)


def ends(width: int, vocabulary: int, *, tied: bool = False) -> list[Tensor]:
    return [
        zeros("token_embd.weight", width, vocabulary),
        *([] if tied else [zeros("output.weight", width, vocabulary)]),
        zeros("output_norm.weight", width),
    ]


def attention(
    layer: int, width: int, *, heads: int, kv_heads: int, key: int, value: int
) -> list[Tensor]:
    return [
        zeros(f"blk.{layer}.attn_norm.weight", width),
        zeros(f"blk.{layer}.attn_q.weight", width, heads * key),
        zeros(f"blk.{layer}.attn_k.weight", width, kv_heads * key),
        zeros(f"blk.{layer}.attn_v.weight", width, kv_heads * value),
        zeros(f"blk.{layer}.attn_output.weight", heads * value, width),
    ]


def feed_forward_part(layer: int, width: int, inner: int) -> list[Tensor]:
    return [
        zeros(f"blk.{layer}.ffn_norm.weight", width),
        zeros(f"blk.{layer}.ffn_gate.weight", width, inner),
        zeros(f"blk.{layer}.ffn_up.weight", width, inner),
        zeros(f"blk.{layer}.ffn_down.weight", inner, width),
    ]


def header(architecture: str, values: dict[str, object], vocabulary: int) -> dict[str, object]:
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
