"""What a llama-server needs in memory for a model: pure arithmetic on what its header tells."""

from __future__ import annotations

from typing import Final

import msgspec

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.gguf.quantization import TENSOR_TYPES

DEFAULT_SLOTS: Final = 4
"""llama-server's own choice (``--parallel -1``): four slots that share one cache."""

_CACHE_TYPES: Final = {
    kind.name.lower(): (kind.values, kind.bytes)
    for kind in TENSOR_TYPES.values()
    if kind.name in {"F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"}
}
_F32: Final = 4


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a server takes, in bytes, by what it is for."""

    weights: int
    """All shards' tensors."""
    kv_cache: int
    """The attention cache of all layers, and the state of recurrent ones."""
    projector: int
    """The projector's weights and what computing with it needs."""
    compute: int
    """Buffers for one batch's intermediate results and for the output."""
    upper_bound: bool
    """The architecture is not fully understood: it may take less."""
    note: str | None
    """Why it is an upper bound, in a short phrase."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.projector + self.compute


def estimate(
    metadata: ModelMetadata,
    *,
    weights_bytes: int,
    projector_bytes: int = 0,
    context_size: int,
    slots: int = 0,
    cache_type_k: str = "f16",
    cache_type_v: str = "f16",
    ubatch_size: int = 512,
) -> MemoryEstimate:
    """What a llama-server with these settings needs for the model of this header.

    ``slots=0`` is llama-server's own choice. Never raises: what the header does not tell counts
    as nothing, with a note.
    """
    cells = _padded(context_size, 256)
    key, value = metadata.key_length or 0, metadata.value_length or 0
    cache = sum(
        cells * (_row_bytes(heads * key, cache_type_k) + _row_bytes(heads * value, cache_type_v))
        for heads in metadata.kv_heads or ()
    )
    compute = ubatch_size * _F32 * (metadata.vocabulary or 0)
    unknown = metadata.kv_heads is None or not key
    return MemoryEstimate(
        weights=weights_bytes,
        kv_cache=cache,
        projector=projector_bytes,
        compute=compute,
        upper_bound=unknown,
        note="its header does not tell the size of its attention" if unknown else None,
    )


def _row_bytes(numbers: int, cache_type: str) -> int:
    values, size = _CACHE_TYPES.get(cache_type, (1, _F32))
    return -(-numbers // values) * size


def _padded(number: int, to: int) -> int:
    return -(-number // to) * to
