"""What a GGUF header tells of its model, in the terms the rest of the program uses."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from cyber_inference_tui.gguf.reader import Header, read_header
from cyber_inference_tui.text import clean_line

# llama.cpp, include/llama.h: enum llama_ftype.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
    38: "MXFP4_MOE",
}  # fmt: skip
_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
_QUANTIZATION = re.compile(
    r"(?:UD-)?(?:IQ\d(?:_[A-Z0-9]+)*|Q\d(?:_[A-Z0-9]+)*|BF16|F16|F32|FP16|MXFP4(?:_MOE)?|TQ\d_\d)",
    re.IGNORECASE,
)
_BOUNDARY_BEFORE = r"(?:^|[-_./])"
_BOUNDARY_AFTER = r"(?:$|[-_./])"
_NAMED = re.compile(_BOUNDARY_BEFORE + rf"({_QUANTIZATION.pattern})(?=[-.]|$)", re.IGNORECASE)


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one model; ``None`` where its header does not tell."""

    architecture: str | None = None
    name: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    layers: int | None = None
    embedding_length: int | None = None
    heads: int | None = None
    kv_heads: tuple[int, ...] | None = None
    """Per layer."""
    key_length: int | None = None
    value_length: int | None = None
    sliding_window: int | None = None
    chat_template: str | None = None
    pooling: str | None = None
    is_projector: bool = False
    has_vision: bool = False
    """A projector that understands images."""
    has_audio: bool = False
    """A projector that understands sound."""
    projection_dim: int | None = None
    tensor_bytes: int = 0


def read_metadata(path: Path) -> ModelMetadata:
    """The facts in a file's header. Raises ``GGUFError``, or ``OSError`` if it is unreadable."""
    return from_header(read_header(path), file_name=path.name)


def from_header(header: Header, *, file_name: str = "") -> ModelMetadata:
    """The facts in a header; ``file_name`` may name a finer quantization than the header does."""
    facts = _Facts(header)
    architecture = facts.text("general.architecture")
    prefix = f"{architecture}."
    layers = facts.number(f"{prefix}block_count")
    heads = facts.number(f"{prefix}attention.head_count")
    embedding = facts.number(f"{prefix}embedding_length")
    per_head = embedding // heads if embedding and heads else None
    pooling = facts.number(f"{prefix}pooling_type")
    # Split models count their tensors in the first shard only for themselves.
    counted = sum(tensor.count for tensor in header.tensors)
    template = header.values.get("tokenizer.chat_template")
    return ModelMetadata(
        architecture=architecture,
        name=facts.text("general.name"),
        parameters=facts.number("general.parameter_count") or counted or None,
        quantization=quantization_of(file_name) or _file_type(facts.number("general.file_type")),
        context_length=facts.number(f"{prefix}context_length"),
        layers=layers,
        embedding_length=embedding,
        heads=heads,
        kv_heads=facts.per_layer(f"{prefix}attention.head_count_kv", layers, heads),
        key_length=facts.number(f"{prefix}attention.key_length") or per_head,
        value_length=facts.number(f"{prefix}attention.value_length") or per_head,
        sliding_window=facts.number(f"{prefix}attention.sliding_window") or None,
        chat_template=template if isinstance(template, str) else None,
        pooling=None if pooling is None else _POOLING.get(pooling, f"type {pooling}"),
        is_projector=architecture == "clip" or facts.text("general.type") == "mmproj",
        has_vision=header.values.get("clip.has_vision_encoder") is True,
        has_audio=header.values.get("clip.has_audio_encoder") is True,
        projection_dim=facts.number("clip.vision.projection_dim")
        or facts.number("clip.audio.projection_dim"),
        tensor_bytes=header.tensor_bytes,
    )


def quantization_of(file_name: str) -> str | None:
    """The quantization that a file's name ends with, such as ``Q4_K_M`` or ``UD-IQ2_XXS``."""
    found = _NAMED.findall(file_name.removesuffix(".gguf"))
    return found[-1].upper() if found else None


def _file_type(number: int | None) -> str | None:
    return None if number is None else _FILE_TYPES.get(number)


class _Facts:
    """Typed look-ups: a value of another type counts as absent."""

    def __init__(self, header: Header) -> None:
        self._values = header.values

    def number(self, key: str) -> int | None:
        value = self._values.get(key)
        if isinstance(value, tuple) and value:
            # Some keys are one number or one a layer: the largest is the upper bound.
            value = max(value)
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        return value if 0 <= value < 1 << 62 else None

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        return clean_line(value, limit=200) or None if isinstance(value, str) else None

    def per_layer(self, key: str, layers: int | None, heads: int | None) -> tuple[int, ...] | None:
        """One count a layer, from a list or from one number for all (default: ``heads``)."""
        value = self._values.get(key)
        if isinstance(value, tuple) and all(type(one) is int and one >= 0 for one in value):
            return tuple(int(one) for one in value)
        single = self.number(key) or heads
        if single is None or layers is None or layers > 4096:
            return None
        return (single,) * layers
