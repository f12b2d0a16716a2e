"""Lists the facts in a model's header under plain names, for a user to read. Pure.

Keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md and ``gguf-py/gguf/constants.py`` in
llama.cpp. Facts that the header lacks are left out.
"""

from __future__ import annotations

import math
from typing import Final

from cyber_inference_tui.gguf.metadata import metadata_of
from cyber_inference_tui.gguf.reader import Header, Value
from cyber_inference_tui.text import clean_line

Fact = bool | int | float | str

_LONGEST: Final = 200
"""The maximum number of characters of a text."""

# ``*`` is the architecture. The order is that of the page.
_KEYS: Final = (
    ("name", "general.name"),
    ("base name", "general.basename"),
    ("size label", "general.size_label"),
    ("fine-tuned for", "general.finetune"),
    ("version", "general.version"),
    ("author", "general.author"),
    ("organization", "general.organization"),
    ("license", "general.license"),
    ("license link", "general.license.link"),
    ("source", "general.source.url"),
    ("quantized by", "general.quantized_by"),
    ("description", "general.description"),
    ("architecture", "general.architecture"),
    ("context length", "*.context_length"),
    ("layers", "*.block_count"),
    ("embedding length", "*.embedding_length"),
    ("feed-forward length", "*.feed_forward_length"),
    ("attention heads", "*.attention.head_count"),
    ("KV heads", "*.attention.head_count_kv"),
    ("key length", "*.attention.key_length"),
    ("value length", "*.attention.value_length"),
    ("sliding window", "*.attention.sliding_window"),
    ("causal attention", "*.attention.causal"),
    ("experts", "*.expert_count"),
    ("experts used", "*.expert_used_count"),
    ("shared experts", "*.expert_shared_count"),
    ("rope base frequency", "*.rope.freq_base"),
    ("rope dimensions", "*.rope.dimension_count"),
    ("rope scaling", "*.rope.scaling.type"),
    ("rope scaling factor", "*.rope.scaling.factor"),
    ("rope original context", "*.rope.scaling.original_context_length"),
    ("state size", "*.ssm.state_size"),
    ("tokenizer", "tokenizer.ggml.model"),
    ("tokenizer kind", "tokenizer.ggml.pre"),
)


def facts_of(header: Header) -> dict[str, Fact]:
    """Return the facts, about forty at most: each is a number, a truth value or a clean line.

    A number that differs between layers is given as its minimum and maximum.
    """
    metadata = metadata_of(header)
    found: dict[str, Fact | None] = {}
    for name, key in _KEYS:
        value = header.values.get(key.replace("*", str(metadata.architecture), 1))
        found[name] = _fact(value)
    template = header.values.get("tokenizer.chat_template")
    found |= {
        "file type": metadata.quantization,
        "parameters": metadata.parameters,
        "vocabulary size": metadata.vocabulary,
        "pooling": metadata.pooling,
        "tensors": metadata.tensor_count,
        "chat template": isinstance(template, str) and bool(template),
        "chat template length": len(template) if isinstance(template, str) else None,
        "GGUF version": header.version,
    }
    return {name: value for name, value in found.items() if value is not None}


def _fact(value: Value | None) -> Fact | None:
    if isinstance(value, str):
        return clean_line(value, limit=_LONGEST).strip() or None
    if isinstance(value, tuple):
        if not value:
            return None
        least, greatest = min(value), max(value)
        return _number(least) if least == greatest else f"{least} to {greatest}"
    return None if value is None else _number(value)


def _number(value: bool | int | float) -> Fact | None:
    """Return a number for JSON, which has no infinite numbers."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
