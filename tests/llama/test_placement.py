"""The places of the parts of a model, by the arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.placement import Placement, placement
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.settings.schema import ModelSettings, Settings

GPU = ("CUDA0",)


def place(
    *words: str, devices: tuple[str, ...] | None = GPU, layers: int = 31, **own: Any
) -> Placement:
    model = LocalModel(
        id="m",
        path=Path("/m.gguf"),
        metadata=ModelMetadata(layers=layers),
        settings=ModelSettings(args=words, **own),
    )
    return placement(resolve(model, Settings()), devices)


def test_without_gpus_everything_is_in_main_memory() -> None:
    nothing = Placement(
        share=0, cache_share=0, projector_on_device=False, mapped=True, repacked=True, spills=False
    )
    assert place(devices=()) == nothing
    assert place("--device", "none") == nothing
    assert not place("--no-mmap", devices=()).mapped


def test_by_default_everything_goes_to_the_gpus_as_far_as_there_is_room() -> None:
    assert place() == Placement(
        share=1, cache_share=1, projector_on_device=True, mapped=True, repacked=False, spills=True
    )
    assert place("-ngl", "auto") == place("--gpu-layers", "-1") == place()
    assert not place("--fit", "off").spills
    assert not place("-ngl", "all").spills


def test_gpus_that_are_not_known_are_not_none() -> None:
    assert place(devices=None) == place()
    assert place("-ngl", "8", devices=None) == place("-ngl", "8")
    assert place("--device", "none", devices=None) == place(devices=())


@pytest.mark.parametrize(
    ("layers", "share"), [(0, 0.0), (8, 0.25), (16, 0.5), (32, 1.0), (99, 1.0)]
)
def test_a_number_of_layers_is_a_share(layers: int, share: float) -> None:
    found = place(gpu_layers=layers)
    assert (found.share, found.cache_share, found.spills) == (share, share, False)
    assert place("-ngl", str(layers), gpu_layers=5) == found


def test_a_model_of_unknown_depth_may_go_there_whole() -> None:
    assert place(layers=0, gpu_layers=8).share == 1
    assert place(layers=0, gpu_layers=0).share == 0


def test_weights_are_repacked_for_the_processor_where_no_gpu_is_used() -> None:
    assert place(devices=()).repacked
    assert place("--device", "none").repacked
    for devices in (GPU, None):
        assert not place(devices=devices, gpu_layers=0).repacked


def test_parts_can_be_kept_back() -> None:
    assert place("--no-kv-offload").cache_share == 0
    assert place("--no-kv-offload").share == 1
    assert not place("--no-mmproj-offload").projector_on_device
    assert place("-ngl", "99", "--n-cpu-moe", "10").spills
    assert place("-ngl", "99", "-ot", "exps=CPU").spills
