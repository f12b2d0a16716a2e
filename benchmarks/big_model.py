"""The built-in model, made as big as wanted by layers of zeros: it loads like one of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from cyber_inference_tui.gguf import demo
from cyber_inference_tui.gguf.file_writer import Tensor, f32_vector, gguf_bytes

_Q8_0 = 8
_LAYER_BYTES = 50_000_000
_BYTES_PER_VALUE = 34 / 32


def write_models(folder: Path, megabytes: int) -> None:
    """``demo.gguf`` and, unless ``megabytes`` is 0, ``big.gguf`` of about that size."""
    demo.write_demo(folder / "demo.gguf")
    if megabytes:
        _write_big(folder / "big.gguf", megabytes * 1_000_000)


def _demo_parts() -> tuple[dict[str, Any], list[Tensor]]:
    """What the demo model's file is made of, caught on its way into the file."""
    caught: list[tuple[dict[str, Any], list[Tensor]]] = []

    def catch(metadata: dict[str, Any], tensors: list[Tensor]) -> bytes:
        caught.append((dict(metadata), list(tensors)))
        return b""

    with mock.patch.object(demo, "gguf_bytes", catch):
        demo.demo_bytes()
    return caught[0]


def _write_big(path: Path, size: int) -> None:
    metadata, tensors = _demo_parts()
    width = metadata["llama.embedding_length"]
    heads = metadata["llama.attention.head_count"] * metadata["llama.attention.key_length"]
    layers = max(1, size // _LAYER_BYTES)
    attention = 4 * width * heads * _BYTES_PER_VALUE
    per_row = 3 * width * _BYTES_PER_VALUE
    feed_forward = max(32, int((size / layers - attention) / per_row) // 32 * 32)
    metadata["llama.block_count"] = 1 + layers
    metadata["llama.feed_forward_length"] = feed_forward
    shapes = {
        "attn_q": (width, heads),
        "attn_k": (width, heads),
        "attn_v": (width, heads),
        "attn_output": (heads, width),
        "ffn_gate": (width, feed_forward),
        "ffn_up": (width, feed_forward),
        "ffn_down": (feed_forward, width),
    }
    zeros = {name: bytes(columns // 32 * 34 * rows) for name, (columns, rows) in shapes.items()}
    # All layers are of one width, the first one's (empty) feed-forward part included.
    have = {tensor.name for tensor in tensors if not tensor.name.startswith("blk.0.ffn_")}
    have.add("blk.0.ffn_norm.weight")
    tensors = [tensor for tensor in tensors if tensor.name in have]
    for layer in range(1 + layers):
        added = [
            f32_vector(f"blk.{layer}.{name}.weight", [1.0] * width)
            for name in ("attn_norm", "ffn_norm")
        ]
        added += [
            Tensor(f"blk.{layer}.{name}.weight", _Q8_0, shape, zeros[name])
            for name, shape in shapes.items()
        ]
        tensors += [tensor for tensor in added if tensor.name not in have]
    path.write_bytes(gguf_bytes(metadata, tensors))
