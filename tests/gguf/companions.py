"""Files that go with the demo model: a LoRA adapter, and a larger model that it drafts for."""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

from cyber_inference_tui.gguf.demo import _Demo
from cyber_inference_tui.gguf.file_writer import Row, Tensor, gguf_bytes, q8_0_matrix

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
