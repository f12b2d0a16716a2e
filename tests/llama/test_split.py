"""How a model is divided between this box and another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.gguf.repacking import Processor
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.spec import ServerSpec, resolve
from cyber_inference_tui.llama.split import Lender, SplitPlan, plan_split
from cyber_inference_tui.llama.standstill import Look
from cyber_inference_tui.llama.worker import OVERHEAD, watch_stopped, worker_program
from cyber_inference_tui.settings.schema import ModelSettings, Settings

GIB = 1 << 30


def spec(*, layers: int | None = 31, **own: Any) -> ServerSpec:
    facts = ModelMetadata(
        architecture="llama",
        layers=layers,
        embedding_length=4096,
        feed_forward_length=14_336,
        heads=32,
        kv_heads=(8,) * (layers or 1),
        key_length=128,
        value_length=128,
        vocabulary=32_000,
        context_length=8192,
        tensor_bytes=32 * GIB,
    )
    model = LocalModel(
        id="big",
        path=Path("/big.gguf"),
        size_bytes=32 * GIB,
        metadata=facts,
        settings=ModelSettings(split=("jetson",), context_size=4096, **own),
    )
    return resolve(model, Settings())


def plan(
    one: ServerSpec, here: int, there: int, *, devices: tuple[str, ...] = (), count: int = 1
) -> SplitPlan:
    found = plan_split(
        one,
        Lender(memory=there * GIB, devices=count),
        free_here=here * GIB,
        devices=devices,
        processor=Processor.PLAIN,
    )
    assert found is not None
    return found


def option(found: SplitPlan, name: str) -> str:
    return found.arguments[found.arguments.index(name) + 1]


def test_the_parts_follow_the_free_memory() -> None:
    half = plan(spec(), 20, 20)
    assert option(half, "--gpu-layers") == "16"
    assert half.share == 0.5
    assert abs(half.here.total - (half.there - OVERHEAD)) < GIB
    quarter = plan(spec(), 30, 10)
    assert option(quarter, "--gpu-layers") == "8"
    assert quarter.there < half.there
    assert quarter.here.total > half.here.total
    # Nothing is lost, and the compute buffer is on both.
    assert half.here.total + half.there == pytest.approx(
        quarter.here.total + quarter.there, rel=0.01
    )
    assert half.here.total + half.there > 32 * GIB


@pytest.mark.parametrize(("here", "there", "layers"), [(0, 50, "31"), (50, 0, "1")])
def test_each_box_has_a_layer(here: int, there: int, layers: str) -> None:
    assert option(plan(spec(), here, there), "--gpu-layers") == layers


def test_a_gpu_here_takes_the_rest_of_the_layers() -> None:
    found = plan(spec(), 10, 30, devices=("CUDA0",), count=2)
    assert option(found, "--gpu-layers") == "999"
    # The devices of the worker come first.
    assert option(found, "--device") == "RPC0,RPC1,CUDA0"
    assert option(found, "--tensor-split") == "0.3750,0.3750,0.2500"
    assert found.here.device > 0
    assert found.there > found.here.device


def test_only_whole_layers_are_divided() -> None:
    assert option(plan(spec(), 20, 20), "--split-mode") == "layer"
    assert option(plan(spec(), 20, 20), "--fit") == "off"


def test_without_a_number_of_layers_there_is_no_plan() -> None:
    lender = Lender(memory=20 * GIB)
    found = plan_split(
        spec(layers=None), lender, free_here=GIB, devices=(), processor=Processor.PLAIN
    )
    assert found is None


def test_a_split_model_is_started_in_another_way() -> None:
    model = LocalModel(id="m", path=Path("/m.gguf"), settings=ModelSettings(split=("jetson",)))
    whole = LocalModel(id="m", path=Path("/m.gguf"))
    assert resolve(model, Settings()).signature != resolve(whole, Settings()).signature


async def test_a_process_is_stopped_if_two_looks_in_a_row_show_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cyber_inference_tui.llama.worker._LOOK_INTERVAL", 0.0)
    states = iter([b"S", b"T", b"R", b"t", b"T"])
    seen: list[bytes] = []

    def look() -> Look:
        seen.append(next(states))
        return Look(ticks=0, faults=0, states=seen[-1], waits_in=b"")

    await watch_stopped(look)
    assert seen[-2:] == [b"t", b"T"]
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("server", "worker"),
    [
        ("lib/llama-server", "lib/ggml-rpc-server"),
        ("lib/llama-server", "lib/rpc-server"),
        ("bin/llama-server", "libexec/x86_64-linux-gnu/llama/bin/ggml-rpc-server"),
    ],
)
def test_the_worker_is_found_beside_its_server(tmp_path: Path, server: str, worker: str) -> None:
    for path in (server, worker):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert worker_program(tmp_path / server) == tmp_path / worker
    (tmp_path / worker).unlink()
    assert worker_program(tmp_path / server) is None
