"""Describes the memory of each layer for the tokens it has read, by architecture.

Facts of llama.cpp (github.com/ggml-org/llama.cpp, build 11434): ``llama_model::create_memory`` in
``src/llama-model.cpp`` chooses the kind of memory, ``load_arch_hparams`` in ``src/models/*.cpp``
marks the layers. Names are those of ``general.architecture``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from cyber_inference_tui.gguf.metadata import ModelMetadata, RecurrentFacts

MAX_LAYERS: Final = 512
"""llama.cpp loads no model with more (``LLAMA_MAX_LAYERS``)."""


class Layer(NamedTuple):
    """The memory of one layer."""

    attention: bool
    """It keeps a key and a value for each token in reach."""
    windowed: bool = False
    """Only the last tokens are in reach."""
    recurrent: bool = False
    """It keeps a state of fixed size for each sequence."""


class _Window(NamedTuple):
    """The sliding window of an architecture whose header does not list the layers."""

    period: int | None
    """Every n-th layer attends to all tokens; ``None`` = the header must list the layers."""
    first: bool = False
    """The first layer of each period attends to all tokens, not the last."""
    tokens: int | None = None
    """The length of the window if the header lacks it."""
    fixed: int | None = None
    """The length of the window, whatever the header says (0 in the header still means none)."""


_WINDOWS: Final = {
    "afmoe": _Window(4),
    "cohere2": _Window(4),
    "cohere2moe": _Window(4, first=True),
    "exaone-moe": _Window(4, tokens=128),
    "exaone4": _Window(4, tokens=4096),
    "gemma2": _Window(2, tokens=4096),
    "gemma3": _Window(6),
    "gemma3n": _Window(5),
    "gemma4": _Window(None),
    "gpt-oss": _Window(2),
    "granite_swa": _Window(None),
    "laguna": _Window(4, first=True),
    "lfm2": _Window(0),
    "llama4": _Window(4, fixed=8192),
    "maple": _Window(None),
    "mellum": _Window(4),
    "mimo2": _Window(None),
    "muse-glimmer": _Window(4),
    "olmo2": _Window(4),
    "plamo3": _Window(8),
    "smallthinker": _Window(4, first=True, fixed=4096),
    "spark2_5": _Window(None),
    "step35": _Window(None),
}

ENCODERS: Final = frozenset(
    {"bert", "clef", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert"}
    | {"neo-bert", "nomic-bert", "nomic-bert-moe", "wavtokenizer-dec"}
)
"""They read a whole text at once and do not predict a next token."""

WITHOUT_CACHE: Final = ENCODERS | {"dream", "llada", "llada-moe", "rnd1"}
"""Architectures without any memory: encoders, and models that generate a whole text at once
(diffusion)."""

_VECTOR_MAKERS: Final = (ENCODERS - {"wavtokenizer-dec"}) | {"llama-embed", "t5encoder"}

_RECURRENT: Final = frozenset({"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"})
# A layer without key heads is recurrent.
_HYBRID_BY_HEADS: Final = frozenset(
    {"granitehybrid", "jamba", "kimi-linear", "lfm2", "lfm2moe", "plamo2"}
)
_HYBRID_BY_INTERVAL: Final = frozenset({"qwen35", "qwen35moe", "qwen3next"})
_NEMOTRON: Final = frozenset({"nemotron_h", "nemotron_h_moe"})

DELTA_NETS: Final = _HYBRID_BY_INTERVAL
"""Their recurrent layers have no separate projection into the convolution."""

# Every layer attends to all tokens; llama.cpp ignores the window of some of these (phi3).
_FULL: Final = frozenset(
    {"apertus", "arcee", "arctic", "baichuan", "bailingmoe", "bailingmoe2", "bitnet", "bloom"}
    | {"chameleon", "chatglm", "codeshell", "cogvlm", "command-r", "dbrx", "deci", "deepseek"}
    | {"deepseek2", "deepseek2-ocr", "dots1", "ernie4_5", "ernie4_5-moe", "exaone", "falcon"}
    | {"gemma", "glm4", "glm4moe", "gpt2", "gptj", "gptneox", "granite", "granitemoe", "grok"}
    | {"grovemoe", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "hy_v3", "internlm2", "jais"}
    | {"jais2", "llama", "llama-embed", "maincoder", "minicpm", "minicpm3", "minimax-m2"}
    | {"mistral3", "mistral4", "mpt", "nemotron", "olmo", "olmoe", "openelm", "orion"}
    | {"paddleocr", "pangu-embedded", "phi2", "phi3", "phimoe", "plamo", "plm", "qwen", "qwen2"}
    | {"qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe", "refact", "seed_oss"}
    | {"smollm3", "stablelm", "starcoder", "starcoder2", "xverse"}
)

# llama.cpp sets it for gemma3n (src/models/gemma3n.cpp); gemma4's header has the number.
_GEMMA3N_LAYERS_WITH_CACHE: Final = 20


def is_understood(architecture: str | None) -> bool:
    """Return whether ``layers`` knows the memory of this architecture."""
    return (
        architecture in _FULL | WITHOUT_CACHE | _RECURRENT | _HYBRID_BY_HEADS | _HYBRID_BY_INTERVAL
        or architecture in _WINDOWS
        or architecture in _NEMOTRON
        or architecture == "falcon-h1"
    )


def is_embedding_model(metadata: ModelMetadata) -> bool:
    """Return whether a model is for embeddings or reranking rather than for text.

    Encoders are, by their architecture. Others are converted from a model for text and have its
    architecture (Qwen3-Embedding is ``qwen3``). They are recognized by ``pooling_type``, which
    llama.cpp's converter writes only for models with a pooling layer (``_try_set_pooling_type`` in
    its ``convert_hf_to_gguf.py``). ``attention.causal`` is not used: diffusion models for text
    switch it off as well.
    """
    return metadata.architecture in _VECTOR_MAKERS or metadata.pooling not in {None, "none"}


def window_tokens(metadata: ModelMetadata) -> int:
    """Return the length of the sliding window in tokens; 0 = no layer has one."""
    if metadata.architecture == "exaone4" and (metadata.layers or 0) != 64:
        return 0
    window = _WINDOWS.get(metadata.architecture or "")
    if window is None or metadata.sliding_window == 0:
        return 0
    return window.fixed or metadata.sliding_window or window.tokens or 0


def layers(metadata: ModelMetadata) -> list[Layer]:
    """Return the memory of each layer, without prediction layers (llama-server does not use them).

    An architecture that is not understood counts as attending to all tokens in every layer, and as
    recurrent in every layer if its header has the size of a state.
    """
    count = _count(metadata)
    architecture = metadata.architecture or ""
    if architecture in WITHOUT_CACHE:
        return [Layer(attention=False)] * count
    if architecture in _RECURRENT:
        return [Layer(attention=False, recurrent=True)] * count
    if not is_understood(architecture) or architecture == "falcon-h1":
        return [Layer(attention=True, recurrent=metadata.recurrent is not None)] * count
    recurrent = _recurrent(metadata, count)
    windowed = _windowed(metadata, count)
    with_cache = _with_cache(metadata, count)
    return [
        Layer(
            attention=not recurrent[layer] and layer < with_cache,
            windowed=windowed[layer],
            recurrent=recurrent[layer],
        )
        for layer in range(count)
    ]


def state_numbers(metadata: ModelMetadata) -> int:
    """Return the number of values that a recurrent layer keeps for each sequence.

    Source: ``llama_hparams::n_embd_r`` and ``n_embd_s`` in ``src/llama-hparams.cpp``.
    """
    facts = metadata.recurrent
    if facts is None:
        return 0
    width = metadata.embedding_length or 0
    if facts.wkv_head_size:
        shifts = 2 if facts.token_shift_count is None else facts.token_shift_count
        return width * (shifts + facts.wkv_head_size)
    if facts.shortconv_cache:
        return width * (facts.shortconv_cache - 1)
    kernel = facts.conv_kernel or 0
    if facts.kda_head_length:
        inner = (metadata.heads or 0) * facts.kda_head_length
        return inner * (3 * (kernel - 1 if kernel else 3) + facts.kda_head_length)
    state = (facts.state_size or 0) * (facts.inner_size or 0)
    return max(0, kernel - 1) * convolved_numbers(facts) + state


def convolved_numbers(facts: RecurrentFacts) -> int:
    """Return the number of values of each token in a recurrent layer's convolution."""
    return (facts.inner_size or 0) + 2 * (facts.group_count or 0) * (facts.state_size or 0)


def _count(metadata: ModelMetadata) -> int:
    every = min(metadata.layers or 0, MAX_LAYERS)
    # A file with prediction layers only is used as a model of its own.
    return max(0, every - (metadata.predict_layers or 0)) or every


def _recurrent(metadata: ModelMetadata, count: int) -> list[bool]:
    architecture = metadata.architecture
    kv_heads = metadata.kv_heads or ()
    if architecture in _HYBRID_BY_HEADS:
        return _filled([heads == 0 for heads in kv_heads], count)
    if architecture in _NEMOTRON:
        inner = metadata.feed_forward_lengths or ()
        return _filled(
            [heads == 0 == length for heads, length in zip(kv_heads, inner, strict=False)], count
        )
    if architecture in _HYBRID_BY_INTERVAL:
        if metadata.recurrent_layers is not None:
            return _filled(metadata.recurrent_layers, count)
        interval = metadata.full_attention_interval or 4
        return [(layer + 1) % interval != 0 for layer in range(count)]
    return [False] * count


def _windowed(metadata: ModelMetadata, count: int) -> list[bool]:
    window = _WINDOWS.get(metadata.architecture or "")
    if window is None or not window_tokens(metadata):
        return [False] * count
    if metadata.sliding_window_layers is not None and window.period != 0:
        return _filled(metadata.sliding_window_layers, count)
    period = window.period
    if period is not None and period != 0 and metadata.sliding_window_period is not None:
        period = metadata.sliding_window_period
    if period is None:
        return [False] * count
    full = 0 if window.first else period - 1
    return [period == 0 or layer % period != full for layer in range(count)]


def _with_cache(metadata: ModelMetadata, count: int) -> int:
    """Return how many of the first layers have a cache of their own."""
    if metadata.architecture == "gemma3n":
        return _GEMMA3N_LAYERS_WITH_CACHE
    if metadata.architecture == "gemma4":
        return max(0, min(metadata.layers or 0, MAX_LAYERS) - (metadata.shared_kv_layers or 0))
    return count


def _filled(values: Sequence[bool], count: int) -> list[bool]:
    return [*values[:count], *[False] * (count - len(values))]
