"""Reads a model's kind and sizes, and the inputs of memory estimates, from a GGUF header."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from cyber_inference_tui.gguf.adapter import ADAPTER, AdapterFacts
from cyber_inference_tui.gguf.chat_template import TemplateFacts, read_template
from cyber_inference_tui.gguf.quantization import file_type_name
from cyber_inference_tui.gguf.reader import Header, Value, read_header
from cyber_inference_tui.gguf.repacking import Matrices
from cyber_inference_tui.text import clean_line

_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
_SHORT = 256


class ProjectorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a projector (``mmproj``)."""

    kind: str | None
    vision: bool
    audio: bool
    width: int | None
    """The length of its output, which is the embedding length of matching models."""
    image_size: int | None = None
    """Pixels on each side of its images, or of its training images."""
    patch_size: int | None = None
    """Pixels on each side of a patch."""
    merge: int | None = None
    """Patches on each side that become one token."""
    embedding_length: int | None = None
    feed_forward_length: int | None = None
    gated: bool = False
    """Its feed-forward part has a gate."""


class RecurrentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the state of recurrent layers, in values."""

    conv_kernel: int | None = None
    """``ssm.conv_kernel``, and so on below."""
    inner_size: int | None = None
    state_size: int | None = None
    group_count: int | None = None
    time_step_rank: int | None = None
    shortconv_cache: int | None = None
    """``shortconv.l_cache`` (LFM2)."""
    wkv_head_size: int | None = None
    """``wkv.head_size`` (RWKV)."""
    token_shift_count: int | None = None
    kda_head_length: int | None = None
    """``kda.head_dim`` (Kimi)."""


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The header of one file in the usual terms; ``None`` = the header lacks it.

    Lengths are in tokens for the context and in values for vectors.
    """

    architecture: str | None = None
    name: str | None = None
    kind: str = "model"
    """``general.type``: ``model``, ``mmproj``, ``adapter`` (LoRA), ``imatrix`` …"""
    parameters: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    vocabulary: int | None = None
    layers: int | None = None
    embedding_length: int | None = None
    feed_forward_length: int | None = None
    """The largest, if layers differ."""
    feed_forward_lengths: tuple[int, ...] | None = None
    """For each layer."""
    heads: int | None = None
    kv_heads: tuple[int, ...] | None = None
    """For each layer; 0 = a layer without attention cache."""
    key_length: int | None = None
    """Of one head."""
    value_length: int | None = None
    window_key_length: int | None = None
    """Of one head in layers with a window, if it differs."""
    window_value_length: int | None = None
    latent_key_length: int | None = None
    """``attention.key_length_mla``: if present, layers cache one short row for all heads."""
    latent_value_length: int | None = None
    sliding_window: int | None = None
    """In tokens; 0 = the header says that there is none."""
    sliding_window_period: int | None = None
    """Every n-th layer attends to all tokens."""
    sliding_window_layers: tuple[bool, ...] | None = None
    """For each layer whether it only attends within the window."""
    shared_kv_layers: int | None = None
    """The number of last layers that use the cache of earlier ones."""
    predict_layers: int | None = None
    """The number of prediction layers at the end (``nextn_predict_layers``)."""
    predicts: bool = False
    """The tensors of a prediction layer are in the file."""
    target_width: int | None = None
    """Of a draft head: the embedding length of its model (``target_hidden_size``)."""
    recurrent: RecurrentFacts | None = None
    recurrent_layers: tuple[bool, ...] | None = None
    """For each layer whether it is recurrent."""
    full_attention_interval: int | None = None
    """Every n-th layer has attention, the others are recurrent."""
    embedding_length_per_layer: int | None = None
    experts: int | None = None
    experts_used: int | None = None
    expert_feed_forward_length: int | None = None
    chat_template: str | None = None
    """Unchanged from the file, up to 256 KiB: clean it before showing it."""
    template: TemplateFacts | None = None
    """The abilities that the chat template shows; ``None`` = the file has no template."""
    tokenizer: str | None = None
    """``tokenizer.ggml.model``: ``llama``, ``gpt2``, ``bert`` …"""
    vocabulary_digest: str | None = None
    """Equal for models that read and write the same tokens; ``None`` = there are none."""
    infill: bool = False
    """Its vocabulary has the token that begins a text with a gap to fill."""
    pooling: str | None = None
    is_projector: bool = False
    projector: ProjectorFacts | None = None
    adapter: AdapterFacts | None = None
    """Of an adapter."""
    split_count: int = 1
    """The number of files of the model."""
    split_number: int = 0
    """The number of this file, from 0."""
    tensor_count: int = 0
    tensor_bytes: int = 0
    matrices: tuple[Matrices, ...] = ()
    """The matrices of the model's multiplications, as far as the header was read."""


def read_metadata(path: Path) -> ModelMetadata:
    """Read the header of one file. Raises ``GGUFError`` if it is not a readable GGUF file."""
    return metadata_of(read_header(path))


def metadata_of(header: Header) -> ModelMetadata:
    """Return a header's facts. A value of the wrong type counts as missing."""
    values = header.values
    architecture = _text(values.get("general.architecture"))
    kind = _text(values.get("general.type")) or "model"
    is_projector = architecture == "clip" or kind == "mmproj"

    def of_model(key: str) -> Value | None:
        return values.get(f"{architecture}.{key}")

    layers = _count(of_model("block_count"))
    embedding = _count(of_model("embedding_length"))
    heads = _first(of_model("attention.head_count"))
    per_head = embedding // heads if embedding and heads else None
    feed_forward = of_model("feed_forward_length")
    chat_template = _template(values.get("tokenizer.chat_template"))
    pattern = of_model("attention.sliding_window_pattern")
    return ModelMetadata(
        architecture=architecture,
        name=_text(values.get("general.name")),
        kind="mmproj" if is_projector else kind,
        parameters=header.tensors.parameters or None,
        quantization=_quantization(header),
        context_length=_count(of_model("context_length")),
        vocabulary=_count(of_model("vocab_size"))
        or header.array_lengths.get("tokenizer.ggml.tokens"),
        layers=layers,
        embedding_length=embedding,
        feed_forward_length=_first(feed_forward),
        feed_forward_lengths=_per_layer(feed_forward, layers, otherwise=None),
        heads=heads,
        kv_heads=_per_layer(of_model("attention.head_count_kv"), layers, otherwise=heads),
        key_length=_count(of_model("attention.key_length")) or per_head,
        value_length=_count(of_model("attention.value_length")) or per_head,
        window_key_length=_count(of_model("attention.key_length_swa")),
        window_value_length=_count(of_model("attention.value_length_swa")),
        latent_key_length=_count(of_model("attention.key_length_mla")),
        latent_value_length=_count(of_model("attention.value_length_mla")),
        sliding_window=_first(of_model("attention.sliding_window")),
        sliding_window_period=_count(pattern),
        sliding_window_layers=_flags(pattern),
        shared_kv_layers=_count(of_model("attention.shared_kv_layers")),
        predict_layers=_count(of_model("nextn_predict_layers")) or None,
        predicts=header.tensors.predicts,
        target_width=_count(of_model("target_hidden_size")),
        recurrent=_recurrent(of_model),
        recurrent_layers=_flags(of_model("attention.recurrent_layers")),
        full_attention_interval=_count(of_model("full_attention_interval")) or None,
        embedding_length_per_layer=_count(of_model("embedding_length_per_layer_input")) or None,
        experts=_count(of_model("expert_count")) or None,
        experts_used=_first(of_model("expert_used_count")) or None,
        expert_feed_forward_length=_first(of_model("expert_feed_forward_length")) or None,
        chat_template=chat_template,
        template=read_template(chat_template) if chat_template is not None else None,
        tokenizer=_text(values.get("tokenizer.ggml.model")),
        vocabulary_digest=_vocabulary_digest(header),
        infill=header.infill,
        pooling=_POOLING.get(_count(of_model("pooling_type")) or 0)
        if of_model("pooling_type") is not None
        else None,
        is_projector=is_projector,
        projector=_projector(values) if is_projector else None,
        adapter=_adapter(header) if kind == ADAPTER else None,
        split_count=_count(values.get("split.count")) or 1,
        split_number=_count(values.get("split.no")) or 0,
        tensor_count=header.tensors.count,
        tensor_bytes=header.tensors.size,
        matrices=header.tensors.matrices,
    )


def _text(value: Value | None) -> str | None:
    return (clean_line(value, limit=_SHORT).strip() or None) if isinstance(value, str) else None


def _template(value: Value | None) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Value | None) -> int | None:
    """Return a value that is a count: whole, not negative and of a plausible size."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48:
        return value
    return None


def _first(value: Value | None) -> int | None:
    """Return a single number, or the largest of a number for each layer."""
    if isinstance(value, tuple):
        counts = [count for item in value if (count := _count(item)) is not None]
        return max(counts, default=None)
    return _count(value)


def _per_layer(
    value: Value | None, layers: int | None, *, otherwise: int | None
) -> tuple[int, ...] | None:
    if isinstance(value, tuple):
        counts = tuple(count for item in value if (count := _count(item)) is not None)
        return counts if len(counts) == len(value) else None
    number = otherwise if value is None else _count(value)
    if number is None or layers is None or layers > 4096:
        return None
    return (number,) * layers


def _flags(value: Value | None) -> tuple[bool, ...] | None:
    return tuple(bool(item) for item in value) if isinstance(value, tuple) else None


def _recurrent(of_model: Callable[[str], Value | None]) -> RecurrentFacts | None:
    facts = RecurrentFacts(
        conv_kernel=_count(of_model("ssm.conv_kernel")),
        inner_size=_count(of_model("ssm.inner_size")),
        state_size=_count(of_model("ssm.state_size")),
        group_count=_count(of_model("ssm.group_count")),
        time_step_rank=_count(of_model("ssm.time_step_rank")),
        shortconv_cache=_count(of_model("shortconv.l_cache")),
        wkv_head_size=_count(of_model("wkv.head_size")),
        token_shift_count=_count(of_model("token_shift_count")),
        kda_head_length=_count(of_model("kda.head_dim")),
    )
    return facts if facts != RecurrentFacts() else None


def _quantization(header: Header) -> str | None:
    file_type = _count(header.values.get("general.file_type"))
    named = file_type_name(file_type) if file_type is not None else None
    if named is not None:
        return named
    sizes = {name: size for name, size in header.tensors.size_by_type.items() if name != "?"}
    return max(sizes, key=sizes.__getitem__, default=None)


def _vocabulary_digest(header: Header) -> str | None:
    """Return a digest of all that llama.cpp compares of a draft model's vocabulary.

    Source: ``common_speculative_are_compatible`` in common/speculative.cpp. Files that leave a
    flag to the tokenizer's default count as different from those that state it.
    """
    if header.tokens_digest is None:
        return None
    values = header.values
    bos, eos = (values.get(f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos"))
    facts = [
        *(values.get("tokenizer.ggml.model"), bos, eos),
        # Some tokenizers add the first one by default, none the last one.
        None if bos is False else values.get("tokenizer.ggml.bos_token_id"),
        values.get("tokenizer.ggml.eos_token_id") if eos is True else None,
    ]
    compared = f"{header.tokens_digest} {facts}"
    return hashlib.blake2b(compared.encode(), digest_size=16).hexdigest()


def _adapter(header: Header) -> AdapterFacts:
    return AdapterFacts(
        kind=_text(header.values.get("adapter.type")),
        matrices=header.tensors.adapted,
        blocks=header.tensors.adapted_blocks,
    )


def _projector(values: dict[str, Value]) -> ProjectorFacts:
    kinds = ("clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type")
    widths = ("clip.vision.projection_dim", "clip.audio.projection_dim")
    return ProjectorFacts(
        kind=next((kind for key in kinds if (kind := _text(values.get(key)))), None),
        vision=values.get("clip.has_vision_encoder") is True,
        audio=values.get("clip.has_audio_encoder") is True,
        width=next((width for key in widths if (width := _count(values.get(key)))), None),
        image_size=_count(values.get("clip.vision.image_size")),
        patch_size=_count(values.get("clip.vision.patch_size")),
        merge=_count(values.get("clip.vision.spatial_merge_size"))
        or _count(values.get("clip.vision.projector.scale_factor")),
        embedding_length=_count(values.get("clip.vision.embedding_length")),
        feed_forward_length=_count(values.get("clip.vision.feed_forward_length")),
        gated=values.get("clip.use_silu") is True,
    )
