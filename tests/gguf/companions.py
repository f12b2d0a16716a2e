"""Files that go together: the demo with a LoRA adapter and a larger model, a model with a head."""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

from cyber_inference_tui.gguf.demo import _Demo
from cyber_inference_tui.gguf.file_writer import Row, Tensor, gguf_bytes, q8_0_matrix
from tests.gguf.synthetic import (
    FEED_FORWARD,
    WIDTH,
    Synthetic,
    attention,
    ends,
    feed_forward_part,
    zeros,
)
from tests.gguf.synthetic_recurrent import qwen35

WORD = " and"
"""With the adapter at full strength, the demo model writes only this."""

_FEED_FORWARD = 12_288


def f32_matrix(name: str, rows: Sequence[Row], columns: int) -> Tensor:
    """Return a matrix of 32-bit floats."""
    data = b"".join(
        struct.pack(f"<{columns}f", *(row.get(column, 0.0) for column in range(columns)))
        for row in rows
    )
    return Tensor(name, 0, (columns, len(rows)), data)


def lora_header(**more: object) -> dict[str, object]:
    """Return the header of an adapter for a llama."""
    return {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "And",
        "adapter.type": "lora",
        "adapter.lora.alpha": 1.0,
        **more,
    }


@functools.cache
def demo_lora() -> bytes:
    """Return an adapter for the demo model: one word is likelier than all others."""
    demo = _Demo()
    word = demo.id_of[WORD]
    likelier: list[Row] = [{0: 60.0} if token == word else {} for token in range(len(demo.tokens))]
    return gguf_bytes(
        lora_header(),
        [
            f32_matrix("output.weight.lora_a", [{0: 1.0}], demo._width),
            f32_matrix("output.weight.lora_b", likelier, 1),
        ],
    )


@functools.cache
def large_demo() -> bytes:
    """Return a model with nine times the demo's parameters that writes the same: most are zero."""
    return _LargeDemo().file()


def hybrid_with_head() -> tuple[Synthetic, Synthetic]:
    """Return a qwen35 of zeros, and the head of its prediction layer as a file of its own."""
    layer, width, length, vocabulary = 8, WIDTH, 64, 1024
    trunk = qwen35(layers=layer, vocabulary=vocabulary)
    head = ends(width, vocabulary)
    head += [
        zeros(tensor.name, width, 2 * 8 * length) if "attn_q.weight" in tensor.name else tensor
        for tensor in (
            *attention(layer, width, heads=8, kv_heads=2, key=length, value=length),
            *feed_forward_part(layer, width, FEED_FORWARD),
        )
        if not tensor.name.endswith("ffn_norm.weight")
    ]
    for name, *shape in (
        ("post_attention_norm", width),
        ("attn_q_norm", length),
        ("attn_k_norm", length),
        ("nextn.eh_proj", 2 * width, width),
        ("nextn.enorm", width),
        ("nextn.hnorm", width),
        ("nextn.shared_head_norm", width),
    ):
        head.append(zeros(f"blk.{layer}.{name}.weight", *shape))
    header = {"qwen35.block_count": layer + 1, "qwen35.nextn_predict_layers": 1}
    return trunk, Synthetic({**trunk.metadata, **header}, head)


class _LargeDemo(_Demo):
    def _no_feed_forward(self) -> list[Tensor]:
        wide: list[Row] = [{} for _ in range(_FEED_FORWARD)]
        narrow: list[Row] = [{} for _ in range(self._width)]
        return [
            q8_0_matrix("blk.0.ffn_gate.weight", wide, self._width),
            q8_0_matrix("blk.0.ffn_up.weight", wide, self._width),
            q8_0_matrix("blk.0.ffn_down.weight", narrow, _FEED_FORWARD),
        ]

    def _metadata(self) -> dict[str, object]:
        return {**super()._metadata(), "llama.feed_forward_length": _FEED_FORWARD}
