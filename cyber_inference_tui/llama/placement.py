"""Predicts the share of a model that llama-server puts on GPUs."""

from __future__ import annotations

import msgspec

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.llama.spec import ServerSpec


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The places of the parts of a model."""

    share: float
    """The share of the layers on GPUs: 0 to 1."""
    cache_share: float
    projector_on_device: bool
    mapped: bool
    """Weights in main memory are mapped from their file."""
    repacked: bool
    """Weights in main memory are repacked for the processor. Next to a GPU they are not: its buffer
    in main memory has precedence (``make_cpu_buft_list`` in llama.cpp's src/llama-model.cpp)."""
    spills: bool
    """Parts that do not fit on the GPUs stay in main memory."""


def placement(spec: ServerSpec, devices: tuple[str, ...] | None) -> Placement:
    """Predict the places of the model's parts on a machine with these GPUs.

    ``None`` = the GPUs are unknown. The model then counts as placed on GPUs; without a GPU that has
    its own memory, the caller counts that as main memory.
    """
    options = spec.options
    if devices == () or not options.gpus:
        return Placement(
            share=0.0,
            cache_share=0.0,
            projector_on_device=False,
            mapped=options.mapped,
            repacked=True,
            spills=False,
        )
    layers = options.gpu_layers
    share = 1.0 if layers is None else _share(layers, spec.metadata)
    return Placement(
        share=share,
        cache_share=share if options.cache_on_device else 0.0,
        projector_on_device=options.projector_on_gpu,
        mapped=options.mapped,
        repacked=False,
        spills=(layers is None and options.fits_itself) or options.keeps_parts_back,
    )


def _share(layers: int, facts: ModelMetadata | None) -> float:
    if layers == 0:
        return 0.0
    if facts is None or not facts.layers:
        # Unknown: count all layers, the most that the GPUs may have to hold.
        return 1.0
    return min(1.0, layers / (facts.layers + 1))
