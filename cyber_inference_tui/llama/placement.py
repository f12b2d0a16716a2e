"""Where llama-server puts the parts of a model on a machine with GPUs: pure, from the arguments."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cyber_inference_tui.gguf.arguments import cache_settings
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.command import further_arguments
from cyber_inference_tui.settings.schema import Settings

_LAYERS = frozenset({"-ngl", "--gpu-layers", "--n-gpu-layers"})
_DEVICES = frozenset({"-dev", "--device"})
_FIT = frozenset({"-fit", "--fit"})
_NO_PROJECTOR_OFFLOAD = frozenset({"--no-mmproj-offload"})
# Parts of layers that a person keeps in main memory: how large they are is not told here.
_KEPT_BACK = frozenset(
    {"-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe", "-ncffn", "--n-cpu-ffn"}
    | {"-ot", "--override-tensor"}
)


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where llama-server puts the parts of a model."""

    share: float
    """Of the layers, how much lies on GPUs: 0 to 1."""
    cache_share: float
    projector_on_device: bool
    mapped: bool
    """Weights in main memory are mapped from their file."""
    repacked: bool
    """Weights in main memory are repacked for the processor. Beside a GPU they are not: its buffer
    in main memory comes first (``make_cpu_buft_list`` in llama.cpp's src/llama-model.cpp)."""
    spills: bool
    """What finds no place on the GPUs stays in main memory."""


def placement(model: LocalModel, settings: Settings, devices: tuple[str, ...] | None) -> Placement:
    """Where llama-server puts the model on a machine with these GPUs.

    ``None`` = they are not known. It is placed on GPUs then: whoever compares it with the machine
    counts that as main memory where no GPU with memory of its own is seen.
    """
    words = further_arguments(model, settings)
    cache = cache_settings(words)
    if devices == () or _value(words, _DEVICES) == "none":
        return Placement(
            share=0.0,
            cache_share=0.0,
            projector_on_device=False,
            mapped=cache.mapped,
            repacked=True,
            spills=False,
        )
    layers = _gpu_layers(model, settings, words)
    share = 1.0 if layers is None else _share(layers, model.metadata)
    fits_itself = layers is None and _value(words, _FIT) != "off"
    return Placement(
        share=share,
        cache_share=share if cache.cache_on_device else 0.0,
        projector_on_device=_NO_PROJECTOR_OFFLOAD.isdisjoint(words),
        mapped=cache.mapped,
        repacked=False,
        spills=fits_itself or not _KEPT_BACK.isdisjoint(words),
    )


def _gpu_layers(model: LocalModel, settings: Settings, words: Sequence[str]) -> int | None:
    """Layers that are to be on GPUs; ``None`` = as many as possible."""
    asked = _value(words, _LAYERS)
    if asked == "all":
        return 2**31
    own = model.settings.gpu_layers
    number = settings.llama_gpu_layers if own is None else own
    if asked is not None:
        try:
            number = int(asked)
        except ValueError:
            number = -1
    return None if number < 0 else number


def _share(layers: int, facts: ModelMetadata | None) -> float:
    if layers == 0:
        return 0.0
    if facts is None or not facts.layers:
        # Not known: all of it, which is the most that the GPUs may have to hold.
        return 1.0
    return min(1.0, layers / (facts.layers + 1))


def _value(words: Sequence[str], options: frozenset[str]) -> str | None:
    """The value of the last of these options."""
    for at in reversed(range(len(words) - 1)):
        if words[at] in options:
            return words[at + 1]
    return None
