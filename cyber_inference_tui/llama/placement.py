"""Predicts the share of a model that llama-server puts on GPUs."""

from __future__ import annotations

import msgspec

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.llama.spec import ServerSpec


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


def placement(spec: ServerSpec, devices: tuple[str, ...] | None) -> Placement:
    """Where llama-server puts the model on a machine with these GPUs.

    ``None`` = they are not known. It is placed on GPUs then: whoever compares it with the machine
    counts that as main memory where no GPU with memory of its own is seen.
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
        # Not known: all of it, which is the most that the GPUs may have to hold.
        return 1.0
    return min(1.0, layers / (facts.layers + 1))
