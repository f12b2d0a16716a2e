"""Chooses the LoRA adapters of a model: those its table names, else those beside it. Pure.

llama-server refuses an adapter whose shapes differ from the model's, and with it the whole load
(``llama_adapter_lora_init_impl`` in src/llama-adapter.cpp of llama.cpp). So an adapter beside a
model is used only if all its matrices certainly fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.scan import ModelFile
from cyber_inference_tui.records.queries import MOST_SCALE

MOST_BESIDE: Final = 8
"""Adapters beside a model that are loaded with it; more have to be named in its table."""


class AdapterFile(NamedTuple):
    """An adapter's file and its header."""

    file: ModelFile
    metadata: ModelMetadata


def beside(folder: Path, model: ModelMetadata, files: Sequence[AdapterFile]) -> list[AdapterFile]:
    """Return the adapters in a model's folder that certainly fit it, by name, eight at most."""
    fitting = [
        one for one in files if one.file.path.parent == folder and adapts(one.metadata, model)
    ]
    return sorted(fitting, key=lambda one: one.file.path.name)[:MOST_BESIDE]


def path_and_scale(entry: Path) -> tuple[Path, float]:
    """Parse an item of the setting ``lora``, ``PATH`` or ``PATH:SCALE``; without one it is 1."""
    name, _, number = entry.name.rpartition(":")
    try:
        scale = float(number) if name else math.nan
    except ValueError:
        scale = math.nan
    return (entry.with_name(name), scale) if abs(scale) <= MOST_SCALE else (entry, 1.0)


def path_problem(path: Path) -> str | None:
    """Return why llama-server cannot be given this path; its option takes lists with scales."""
    sign = next((sign for sign in ",:" if sign in str(path)), None)
    return f"has a {sign!r} in its path, which llama-server cannot take" if sign else None


def adapts(adapter: ModelMetadata, model: ModelMetadata) -> bool:
    """Return whether every matrix that the adapter changes certainly has the model's shape."""
    facts = adapter.adapter
    if facts is None or facts.kind != "lora" or adapter.architecture != model.architecture:
        return False
    if facts.blocks > (model.layers or 0):
        return False
    shapes = _shapes(model)
    return bool(facts.matrices) and all(
        shapes.get(one.name) == (one.inputs, one.outputs) for one in facts.matrices
    )


def _shapes(model: ModelMetadata) -> dict[str, tuple[int | None, int | None]]:
    """Return the inputs and outputs of the matrices whose shape the header gives."""
    width, heads, inner = model.embedding_length, model.heads, model.feed_forward_length
    found: dict[str, tuple[int | None, int | None]] = {"output": (width, model.vocabulary)}
    if len(set(model.feed_forward_lengths or ())) == 1:
        found |= {"ffn_gate": (width, inner), "ffn_up": (width, inner), "ffn_down": (inner, width)}
    kv_heads = set(model.kv_heads or ())
    if heads and model.key_length and model.value_length and len(kv_heads) == 1:
        each = kv_heads.pop()
        found |= {
            "attn_q": (width, heads * model.key_length),
            "attn_k": (width, each * model.key_length),
            "attn_v": (width, each * model.value_length),
            "attn_output": (heads * model.value_length, width),
        }
    return found
