"""Computes the memory that a llama-server needs for a model from the model's header. Pure.

The sizes follow llama.cpp's own (github.com/ggml-org/llama.cpp, build 11434); each function names
its source. The cache is exact for architectures that ``architectures`` understands. The compute
buffer is the largest set of intermediate results in memory at once, found by comparison with a real
server: see docs/memory.md.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from cyber_inference_tui.gguf.architectures import (
    DELTA_NETS,
    ENCODERS,
    MAX_LAYERS,
    WITHOUT_CACHE,
    Layer,
    convolved_numbers,
    is_understood,
    layers,
    state_numbers,
    window_tokens,
)
from cyber_inference_tui.gguf.arguments import ServerOptions
from cyber_inference_tui.gguf.metadata import ModelMetadata, ProjectorFacts
from cyber_inference_tui.gguf.projector import image_compute_bytes
from cyber_inference_tui.gguf.quantization import TENSOR_TYPES
from cyber_inference_tui.gguf.repacking import Processor, repacked

DEFAULT_SLOTS: Final = 4
"""llama-server's default (``--parallel -1``): four slots that share one cache."""

_CACHE_TYPES: Final = {
    kind.name.lower(): kind
    for kind in TENSOR_TYPES.values()
    if kind.name in {"F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"}
}
_F32, _F16 = 4, 2
_CELLS: Final = 256  # cache sizes are multiples of this
# Headers may claim anything: each part is limited to this, so that all sums fit into 64 bits.
_MOST: Final = 2**60

# Architectures without gated feed-forward parts that are small enough for it to matter.
_UNGATED: Final = frozenset({"bert", "jina-bert-v3"})


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of a server, in bytes, by purpose."""

    weights: int
    """All shards' tensors; some of them are copies for the processor."""
    kv_cache: int
    """The attention cache of all layers, and the state of recurrent ones."""
    projector: int
    """The projector's weights and, if known, its compute buffer for one image."""
    compute: int
    """The buffers for one batch's intermediate results and for the output."""
    upper_bound: bool
    """The architecture is not fully understood: the real use may be lower."""
    note: str | None
    """A short phrase on why it is an upper bound."""
    repacked: int = 0
    """The bytes of repacked weights: allocated, not mapped from the file."""
    draft: int = 0
    """The draft model or head: its weights, cache and buffers."""
    adapters: int = 0
    """The weights of LoRA adapters."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        own = self.weights + self.kv_cache + self.projector + self.compute
        return own + self.draft + self.adapters


class _Batch(NamedTuple):
    """The work of one step of the server."""

    tokens: int
    outputs: int
    """The number of tokens whose probabilities are returned."""
    slots: int
    streams: int
    """Separate caches: 1, or one for each slot."""
    cells: int
    """The cells of each stream."""
    window_cells: int
    """The cells of each stream in layers with a sliding window."""
    embedding: bool


def estimate(
    metadata: ModelMetadata,
    *,
    weights_bytes: int,
    projector_bytes: int = 0,
    projector: ProjectorFacts | None = None,
    context_size: int,
    slots: int = 0,
    unified: bool | None = None,
    cache_type_k: str = "f16",
    cache_type_v: str = "f16",
    batch_size: int = 2048,
    ubatch_size: int = 512,
    swa_full: bool = False,
    flash_attention: bool = True,
    embedding: bool = False,
    pooling: str | None = None,
    processor: Processor = Processor.PLAIN,
) -> MemoryEstimate:
    """Return the memory that a llama-server with these settings needs for this model, in bytes.

    ``context_size`` 0 is the model's own length. ``slots`` 0 is llama-server's default: four slots
    that share one cache of ``context_size`` cells. Otherwise each slot has an equal part of its
    own, unless ``unified``. ``embedding``: the server is started for embeddings or reranking, with
    ``pooling`` (``None`` = as in the header). ``processor``: the processor that the weights are
    repacked for.

    Never raises, for any header. Missing sizes count as 0, with a note.
    """
    slots = max(0, slots)
    batch = _batch(
        context=max(0, context_size) or metadata.context_length or 0,
        slots=slots or DEFAULT_SLOTS,
        unified=unified if unified is not None else slots == 0,
        batch_size=max(1, batch_size),
        ubatch_size=max(1, ubatch_size),
        window=window_tokens(metadata),
        swa_full=swa_full,
        embedding=embedding,
        pooled=(pooling or metadata.pooling) not in {None, "none"},
        causal=metadata.architecture not in WITHOUT_CACHE,
    )
    kept = layers(metadata)
    cache = _cache(
        metadata,
        kept,
        batch,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
        flash_attention=flash_attention,
    )
    state = state_bytes(metadata, batch.slots)
    note = _note(metadata, kept, batch.cells)
    found = repacked(metadata.matrices, processor, has_output=metadata.architecture not in ENCODERS)
    copies = _bounded(found.copies)
    return MemoryEstimate(
        weights=_bounded(max(0, weights_bytes - found.replaced) + copies),
        kv_cache=_bounded(cache + state),
        projector=_bounded(projector_bytes + (image_compute_bytes(projector) if projector else 0)),
        compute=_bounded(_compute(metadata, kept, batch, flash_attention=flash_attention)),
        upper_bound=note is not None,
        note=note,
        repacked=copies,
    )


def state_bytes(metadata: ModelMetadata, slots: int) -> int:
    """Return the size of the states of all recurrent layers; ``slots`` 0 is the default number."""
    recurrent = sum(layer.recurrent for layer in layers(metadata))
    return _bounded((slots or DEFAULT_SLOTS) * _F32 * state_numbers(metadata) * recurrent)


def context_of_a_request(cache: ServerOptions, trained: int | None) -> int | None:
    """Return the tokens of context for one request at a server with the options ``cache``.

    ``trained`` = the model's trained length. ``None`` = nothing is known. No slot gets more than
    the trained length (``n_ctx_slot`` in tools/server), scaled by YaRN if that is on; with ``-c 0``
    each slot gets all of it.
    """
    most = tokens = longest_request(cache, trained)
    if cache.context_size:
        tokens = _cells(cache.context_size, separate_caches(cache))
    known = [size for size in (tokens, most, cache.slot_context) if size is not None]
    return min(known, default=None)


def longest_request(cache: ServerOptions, trained: int | None) -> int | None:
    """Return the most tokens of context that any ``context_size`` gives to one request."""
    if trained is None or not cache.yarn:
        return trained
    return int(trained * max(1.0, cache.rope_scale))


def separate_caches(cache: ServerOptions) -> int:
    """Return the number of caches that share the context size: 1, or one for each slot."""
    # Slots whose number llama-server chooses share one cache.
    return 1 if cache.unified or not cache.slots else cache.slots


def _cells(context: int, streams: int) -> int:
    """Return the tokens in each of ``streams`` caches (``n_ctx_seq`` in src/llama-context.cpp)."""
    return _padded(_padded(context, _CELLS) // streams, _CELLS)


def _note(metadata: ModelMetadata, kept: list[Layer], cells: int) -> str | None:
    if not is_understood(metadata.architecture):
        return f"the memory of {metadata.architecture or 'its architecture'} is not known"
    if (metadata.layers or 0) > MAX_LAYERS:
        return "it has more layers than llama.cpp loads"
    attending = any(layer.attention for layer in kept)
    complete = (
        metadata.embedding_length
        and kept
        and not (attending and (metadata.key_length is None or cells == 0))
        and not (attending and len(metadata.kv_heads or ()) < len(kept))
        and not (_has_state(kept) and not state_numbers(metadata))
    )
    return None if complete else "its header lacks sizes"


def _batch(
    *,
    context: int,
    slots: int,
    unified: bool,
    batch_size: int,
    ubatch_size: int,
    window: int,
    swa_full: bool,
    embedding: bool,
    pooled: bool,
    causal: bool,
) -> _Batch:
    """Choose sizes as ``llama_context`` (src/llama-context.cpp) and ``llama_kv_cache_iswa`` do.

    Outputs: one for each slot, or every token for embeddings without pooling
    (tools/server/server-context.cpp, ``server_output_limits``).
    """
    tokens = min(batch_size, ubatch_size)
    if causal:
        tokens = min(tokens, max(1, context))
    streams = 1 if unified else slots
    cells = _cells(context, streams)
    within = window * (slots if unified else 1) + tokens
    return _Batch(
        tokens=_padded(tokens, slots),
        outputs=tokens if embedding and not pooled else min(tokens, slots),
        slots=slots,
        streams=streams,
        cells=cells,
        window_cells=cells if swa_full else _padded(min(cells, within), _CELLS),
        embedding=embedding,
    )


def _cache(
    metadata: ModelMetadata,
    kept: list[Layer],
    batch: _Batch,
    *,
    cache_type_k: str,
    cache_type_v: str,
    flash_attention: bool,
) -> int:
    """Return the size of the keys and values: ``llama_kv_cache`` in src/llama-kv-cache.cpp.

    With latent attention (MLA) only keys are stored. Without flash attention values are stored
    transposed, in rows as long as those of the longest layer.
    """
    keys, values = [], []
    for layer, kv_heads in zip(kept, metadata.kv_heads or (), strict=False):
        key, value = _head_lengths(metadata, windowed=layer.windowed)
        keys.append(kv_heads * key)
        values.append(kv_heads * value)
    if _is_latent(metadata):
        values = [0] * len(values)
    elif not flash_attention:
        values = [max(values, default=0)] * len(values)
    return sum(
        batch.streams
        * (batch.window_cells if layer.windowed else batch.cells)
        * (_row_bytes(key, cache_type_k) + _row_bytes(value, cache_type_v))
        for layer, key, value in zip(kept, keys, values, strict=False)
        if layer.attention
    )


def _compute(
    metadata: ModelMetadata, kept: list[Layer], batch: _Batch, *, flash_attention: bool
) -> int:
    """Return the size of the compute buffer and the output buffer.

    ``ggml-alloc`` reuses the memory of intermediate results after their last use. The maximum at
    one time, measured, is: the mask of each kind of cache, five rows of the embedding's length for
    each token (three of them inputs, ``build_inp_embd`` in src/llama-graph.cpp), and the largest
    part of a layer, or the scores of all tokens at the end. The output buffer (``output_reserve``
    in src/llama-context.cpp) holds the scores for one token of each slot.
    """
    width = metadata.embedding_length or 0
    vocabulary = 0 if metadata.architecture in ENCODERS else metadata.vocabulary or 0
    reach = _reach(metadata, kept, batch)
    scores = 0 if flash_attention else max(reach, default=0) * (metadata.heads or 0)
    largest = max(
        _attention_numbers(metadata) + scores,
        _feed_forward_numbers(metadata),
        _recurrent_numbers(metadata, kept),
    )
    numbers = max(
        batch.tokens * (5 * width + largest + _beside_numbers(metadata, kept, largest)),
        batch.tokens * 3 * width + batch.outputs * vocabulary,
    )
    if _has_state(kept):
        # A copy of all states; a third more where each layer has two kinds of memory.
        numbers += batch.slots * state_numbers(metadata) * 4 // 3
    numbers += batch.slots * ((metadata.vocabulary or 0) + width * batch.embedding)
    masks = batch.tokens * sum(reach) * (_F16 if flash_attention else _F32)
    return _F32 * numbers + masks


def _reach(metadata: ModelMetadata, kept: list[Layer], batch: _Batch) -> list[int]:
    """Return the number of cells that one token may attend to, for each mask.

    Source: ``build_attn_inp_kq_mask`` and ``build_attn_inp_no_cache`` in src/llama-graph.cpp.
    """
    if metadata.architecture in WITHOUT_CACHE:
        return [batch.tokens] * (2 if metadata.sliding_window else 1)
    reach = [batch.cells] if any(layer.attention for layer in kept) else []
    return reach + ([batch.window_cells] if any(layer.windowed for layer in kept) else [])


def _attention_numbers(metadata: ModelMetadata) -> int:
    """Count for each token the queries, keys and values of a layer, some before rotation, too."""
    heads, kv_heads = metadata.heads or 0, max(metadata.kv_heads or (), default=0)
    key, value = _head_lengths(metadata, windowed=False)
    window_key, window_value = _head_lengths(metadata, windowed=True)
    key, value = max(key, window_key), max(value, window_value)
    if _is_latent(metadata):
        return heads * (key + value + (metadata.latent_key_length or 0))
    queries = heads * key
    return queries + max(queries, heads * value, kv_heads * (2 * key + value))


def _feed_forward_numbers(metadata: ModelMetadata) -> int:
    """Count for each token both inputs and the product of a gated part, for each expert in use."""
    width, inner = metadata.embedding_length or 0, metadata.feed_forward_length or 0
    facts = metadata.recurrent
    if metadata.architecture in _UNGATED or (facts is not None and facts.wkv_head_size):
        return inner + width
    if not metadata.experts:
        return 3 * inner
    used, each = metadata.experts_used or 0, metadata.expert_feed_forward_length
    routed = max(3 * used * (each or inner), used * width) + metadata.experts
    return max(routed, 3 * inner) if each else routed


def _beside_numbers(metadata: ModelMetadata, kept: list[Layer], largest: int) -> int:
    """Count for each token the values of gemma3n and gemma4 besides ``largest``, a layer's part.

    These are embeddings for all layers at once, several copies at the start. gemma3n also has four
    streams, with their predictions and corrections.
    """
    inputs = len(kept) * (metadata.embedding_length_per_layer or 0)
    if metadata.architecture != "gemma3n":
        return max(inputs, 3 * inputs - largest)
    width, inner = metadata.embedding_length or 0, metadata.feed_forward_length or 0
    mixed = 15 * width + 2 * inputs + inner
    return max(8 * width + inputs, mixed - largest, 4 * inputs - largest)


def _recurrent_numbers(metadata: ModelMetadata, kept: list[Layer]) -> int:
    """Count for each token the intermediate results of a recurrent layer, by its kind."""
    facts = metadata.recurrent
    if facts is None or not _has_state(kept):
        return 0
    width, inner = metadata.embedding_length or 0, facts.inner_size or 0
    if facts.wkv_head_size:
        return 15 * width
    if facts.shortconv_cache:
        return 4 * width
    if facts.kda_head_length:
        return 8 * (metadata.heads or 0) * facts.kda_head_length
    convolved = convolved_numbers(facts)
    if metadata.architecture in DELTA_NETS:
        return 2 * convolved + inner
    return 2 * inner + 3 * convolved + (facts.time_step_rank or 0)


def _has_state(kept: list[Layer]) -> bool:
    return any(layer.recurrent for layer in kept)


def _head_lengths(metadata: ModelMetadata, *, windowed: bool) -> tuple[int, int]:
    key, value = metadata.key_length or 0, metadata.value_length or 0
    if windowed:
        return metadata.window_key_length or key, metadata.window_value_length or value
    return key, value


def _is_latent(metadata: ModelMetadata) -> bool:
    return bool(metadata.latent_key_length and metadata.latent_value_length) and is_understood(
        metadata.architecture
    )


def _row_bytes(numbers: int, cache_type: str) -> int:
    """Return the size of a cache row in blocks (``ggml_row_size``). Unknown types count as F32."""
    kind = _CACHE_TYPES.get(cache_type.lower(), _CACHE_TYPES["f32"])
    return -(-numbers // kind.values) * kind.bytes


def _padded(number: int, to: int) -> int:
    return -(-number // to) * to


def _bounded(size: int) -> int:
    return max(0, min(size, _MOST))
