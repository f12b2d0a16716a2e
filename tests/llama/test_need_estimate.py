"""Estimates of needs: their sources, and their division between memories."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.gguf.metadata import ModelMetadata, read_metadata
from cyber_inference_tui.gguf.repacking import Processor, Role
from cyber_inference_tui.kernel import Ruleset
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.binary import LlamaBinary, find_llama_server
from cyber_inference_tui.llama.need_estimate import (
    NeedEstimator,
    formula_need,
    memory_parts,
)
from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.llama.spec import ServerSpec, resolve
from cyber_inference_tui.settings.schema import ModelSettings, Settings
from cyber_inference_tui.storage import silent_storage
from tests.gguf.synthetic import windowed
from tests.gguf.synthetic_projector import projector
from tests.llama.demo import write_demo
from tests.llama.test_launcher import Room

MIB = 1 << 20
REAL = "CYBER_TEST_LLAMA_SERVER"
SETTINGS = Settings()
MEASURED = Footprint(mapped=1, host=2, device=3)
FIT_HELP = (
    "--model F\n--ctx-size N\n--gpu-layers N\n--parallel N\n--kv-unified\n--fit-print [on|off]"
)


@pytest.fixture
def demo(tmp_path: Path) -> LocalModel:
    path = tmp_path / "demo.gguf"
    write_demo(path)
    return LocalModel(
        id="demo", path=path, size_bytes=path.stat().st_size, metadata=read_metadata(path)
    )


def size_of(path: Path | None) -> int:
    return path.stat().st_size if path else 0


def with_settings(model: LocalModel, mmproj: Path | None = None, **own: Any) -> LocalModel:
    return LocalModel(
        id=model.id,
        path=model.path,
        size_bytes=size_of(model.path) + size_of(mmproj),
        mmproj=mmproj,
        projector_bytes=size_of(mmproj),
        projector_facts=read_metadata(mmproj).projector if mmproj else None,
        metadata=model.metadata,
        settings=ModelSettings(**own),
    )


def spec_of(model: LocalModel) -> ServerSpec:
    return resolve(model, SETTINGS)


def build(folder: Path, *, devices: tuple[str, ...] | None = ()) -> LlamaBinary:
    return LlamaBinary(path=folder / "llama-server", version="x", devices=devices)


def expectations(
    measured: Callable[[str], Footprint | None] = lambda _: None,
) -> NeedEstimator:
    return NeedEstimator(measured=measured, environ={"PATH": os.defpath})


def write_fit_params(folder: Path, *, row: str = "CUDA0 7 20 30", options: str = FIT_HELP) -> None:
    """A llama-fit-params that counts its runs."""
    program = folder / "llama-fit-params"
    program.write_text(
        f"#!/bin/sh\n[ \"$1\" = --help ] && {{ echo '{options}'; exit 0; }}\n"
        f'echo "$@" >> {folder}/asked\nprintf "{row} \\nHost 5 0 1 \\n"\n'
    )
    program.chmod(0o755)


# Sources


async def test_measurements_come_first(demo: LocalModel, tmp_path: Path) -> None:
    write_fit_params(tmp_path)
    known = {spec_of(demo).signature: MEASURED}
    found = await expectations(known.get).need(spec_of(demo), build(tmp_path))
    assert found == Need(footprint=MEASURED, source=NeedSource.MEASURED)
    assert not (tmp_path / "asked").exists()
    # Another context has no measurement.
    found = await expectations(known.get).need(spec_of(demo).with_context(4096), build(tmp_path))
    assert found.source is NeedSource.ENGINE


async def test_the_engine_comes_next_and_is_asked_once(demo: LocalModel, tmp_path: Path) -> None:
    write_fit_params(tmp_path)
    known = expectations()
    binary = build(tmp_path, devices=("CUDA0",))
    for _ in range(3):
        assert await known.need(spec_of(demo).with_context(1024), binary) == Need(
            footprint=Footprint(mapped=5 * MIB, host=MIB, device=57 * MIB),
            source=NeedSource.ENGINE,
            spills=True,
        )
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert asked.split() == [
        *("--model", str(demo.path), "--ctx-size", "1024", "--parallel", "4", "--kv-unified"),
        *("--fit-print", "on"),
    ]


async def test_a_chosen_context_has_the_needs_of_smaller_ones(
    demo: LocalModel, tmp_path: Path
) -> None:
    write_fit_params(tmp_path, row="CUDA0 7 200 30")
    spec = spec_of(with_settings(demo, context_size="auto"))
    found = await expectations().need(spec, build(tmp_path, devices=("CUDA0",)))
    assert (found.source, found.context, found.spills) == (NeedSource.ENGINE, 32768, False)
    sizes = [one.footprint.device for one in found.smaller]
    assert sizes == sorted(sizes)
    # The formula has the difference, the engine the rest.
    half, least = found.smaller[16], found.smaller[0]
    assert (least.context, half.context) == (8192, 16384)
    formula = {
        size: formula_need(spec.with_context(size), devices=("CUDA0",)).footprint.device
        for size in (8192, 32768)
    }
    assert found.footprint.device - least.footprint.device == formula[32768] - formula[8192]
    # Only the least moves layers to main memory.
    assert [one.spills for one in found.smaller] == [True] + [False] * (len(found.smaller) - 1)


async def test_the_engine_knows_nothing_of_projectors(demo: LocalModel, tmp_path: Path) -> None:
    write_fit_params(tmp_path)
    mmproj = projector().write(tmp_path / "mmproj.gguf")
    model = with_settings(demo, mmproj)
    on_gpu = await expectations().need(spec_of(model), build(tmp_path, devices=("CUDA0",)))
    assert on_gpu.source is NeedSource.ENGINE
    assert on_gpu.footprint.device > 57 * MIB + mmproj.stat().st_size
    assert on_gpu.footprint.host == MIB
    kept_back = spec_of(model).with_projector_kept_back()
    in_memory = await expectations().need(kept_back, build(tmp_path, devices=("CUDA0",)))
    assert on_gpu.with_projector_kept_back() == in_memory


async def test_the_engine_knows_nothing_of_weights_for_the_processor(
    demo: LocalModel, tmp_path: Path
) -> None:
    write_fit_params(tmp_path)
    plain = await expectations().need(spec_of(demo), build(tmp_path))
    room = NeedEstimator(
        measured=lambda _: None, environ={"PATH": os.defpath}, processor=Processor.AMX
    )
    on_amx = await room.need(spec_of(demo), build(tmp_path))
    copies = memory_parts(spec_of(demo), processor=Processor.AMX).repacked
    assert on_amx.source is plain.source is NeedSource.ENGINE
    assert copies > 3 * MIB
    assert on_amx.footprint.host == plain.footprint.host + copies
    assert on_amx.footprint.mapped == plain.footprint.mapped


async def test_the_engine_is_not_asked_while_the_storage_hangs(
    demo: LocalModel, tmp_path: Path
) -> None:
    async def silent(spec: ServerSpec, binary: LlamaBinary) -> Ruleset | None:
        raise silent_storage(tmp_path)

    write_fit_params(tmp_path)
    room = NeedEstimator(measured=lambda _: None, environ={"PATH": os.defpath}, ruleset=silent)
    assert (await room.need(spec_of(demo), build(tmp_path))).source is NeedSource.FORMULA
    assert not (tmp_path / "asked").exists()


async def test_an_engine_that_cannot_count_slots_is_not_asked_where_they_matter(
    demo: LocalModel, tmp_path: Path
) -> None:
    write_fit_params(tmp_path, options=FIT_HELP.replace("--parallel", "--other"))
    assert (await expectations().need(spec_of(demo), build(tmp_path))).source is NeedSource.ENGINE
    facts = ModelMetadata(architecture="gemma3", sliding_window=512)
    windowed = LocalModel(id="w", path=demo.path, metadata=facts)
    found = await expectations().need(spec_of(windowed), build(tmp_path))
    assert found.source is not NeedSource.ENGINE


async def test_else_the_formula_is_used(demo: LocalModel, tmp_path: Path) -> None:
    for binary in (build(tmp_path), None):
        found = await expectations().need(spec_of(demo), binary)
        assert (found.source, found.spills) == (NeedSource.FORMULA, False)
        assert found.footprint.device == 0


async def test_a_build_that_did_not_list_its_gpus_may_have_some(
    demo: LocalModel, tmp_path: Path
) -> None:
    room = expectations()
    unknown = await room.need(spec_of(demo), build(tmp_path, devices=None))
    gpu = await room.need(spec_of(demo), build(tmp_path, devices=("CUDA0",)))
    assert unknown == gpu
    assert gpu.footprint.device > 0
    # On a machine without GPUs the sum counts, and is the same.
    none = await room.need(spec_of(demo), build(tmp_path, devices=()))
    sums = [one.mapped + one.host + one.device for one in (unknown.footprint, none.footprint)]
    assert sums[0] == sums[1]


async def test_another_programs_server_is_unknown_until_it_was_measured(tmp_path: Path) -> None:
    model = LocalModel(id="c", settings=ModelSettings(command=("serve", "{port}")))
    assert await expectations().need(spec_of(model), None) == Need()
    known = {spec_of(model).signature: MEASURED}
    found = await expectations(known.get).need(spec_of(model), None)
    assert found == Need(footprint=MEASURED, source=NeedSource.MEASURED)


async def test_a_model_whose_files_are_gone_is_unknown(tmp_path: Path) -> None:
    model = LocalModel(id="m", path=tmp_path / "gone.gguf")
    found = await expectations().need(spec_of(model), build(tmp_path))
    assert found == Need()


# Places


def test_on_the_cpu_weights_are_mapped_unless_asked_otherwise(demo: LocalModel) -> None:
    found = formula_need(spec_of(demo))
    assert demo.metadata is not None
    assert found.footprint.mapped == demo.metadata.tensor_bytes
    # The KV cache of 8192 tokens (20 MiB) and buffers.
    assert 20 * MIB < found.footprint.host < 60 * MIB
    plain = formula_need(spec_of(with_settings(demo, args=("--no-mmap",)))).footprint
    assert plain == Footprint(host=found.footprint.host + found.footprint.mapped)


def test_weights_for_the_processor_are_allocated_and_not_mapped(demo: LocalModel) -> None:
    """The demo is in Q8_0: in matrices for AMX, 34 bytes become 38."""
    assert demo.metadata is not None
    plain = formula_need(spec_of(demo)).footprint
    copied = sum(
        one.bytes
        for one in demo.metadata.matrices
        if one.step == 32 and one.role is not Role.EMBEDDINGS
    )
    assert copied > 3 * MIB

    def on_amx(model: LocalModel, devices: tuple[str, ...] = ()) -> Footprint:
        found = formula_need(spec_of(model), devices=devices, processor=Processor.AMX)
        return found.footprint

    copies = copied // 34 * 38
    assert on_amx(demo) == Footprint(mapped=plain.mapped - copied, host=plain.host + copies)
    read = on_amx(with_settings(demo, args=("--no-mmap",)))
    assert read == Footprint(host=on_amx(demo).total)
    for without in ({"args": ("--no-repack",)}, {"env": {"LLAMA_ARG_REPACK": "0"}}):
        assert on_amx(with_settings(demo, **without)) == plain
    # With a GPU nothing is repacked.
    for layers in (None, 0):
        model = with_settings(demo, gpu_layers=layers)
        plainly = formula_need(spec_of(model), devices=("CUDA0",)).footprint
        assert on_amx(model, ("CUDA0",)) == plainly
    parts = memory_parts(spec_of(demo), processor=Processor.AMX)
    assert (parts.weights, parts.repacked) == (on_amx(demo).mapped + copies, copies)


def test_layers_on_the_gpu_take_their_share_along(demo: LocalModel) -> None:
    cpu = formula_need(spec_of(demo)).footprint
    gpu = formula_need(spec_of(demo), devices=("CUDA0",))
    assert gpu.footprint == Footprint(device=cpu.total)
    assert gpu.spills
    none = formula_need(spec_of(with_settings(demo, gpu_layers=0)), devices=("CUDA0",))
    assert (none.footprint, none.spills) == (cpu, False)
    # One of two: a layer and the output.
    half = formula_need(spec_of(with_settings(demo, gpu_layers=1)), devices=("CUDA0",)).footprint
    assert half.mapped == pytest.approx(cpu.mapped / 2, abs=1)
    assert half.total == cpu.total


def test_a_cap_on_the_context_and_arguments_change_the_cache(demo: LocalModel) -> None:
    whole = formula_need(spec_of(demo))
    less = formula_need(spec_of(demo).with_context(4096))
    assert 10 * MIB <= whole.footprint.host - less.footprint.host < 20 * MIB
    small = with_settings(demo, args=("-ctk", "q8_0", "-ctv", "q8_0"))
    assert formula_need(spec_of(small)).footprint.host < whole.footprint.host - 9 * MIB


def test_without_a_header_it_is_the_file_and_a_tenth() -> None:
    model = LocalModel(id="m", path=Path("/m.gguf"), size_bytes=101 * MIB, projector_bytes=MIB)
    found = formula_need(spec_of(model))
    assert found.source is NeedSource.UPPER_BOUND
    assert found.footprint == Footprint(mapped=100 * MIB, host=11 * MIB)


def test_nothing_is_known_without_the_size_of_the_files() -> None:
    for path in (Path("/m.gguf"), None):
        assert formula_need(spec_of(LocalModel(id="m", path=path))) == Need()


@pytest.mark.real
@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no llama-server")
async def test_the_formula_is_close_to_a_real_server(tmp_path: Path) -> None:
    binary = find_llama_server(setting=os.environ[REAL], data_dir=tmp_path, environ=os.environ)
    room = Room(tmp_path, lambda: binary)
    path = windowed().write(tmp_path / "m.gguf")
    mmproj = projector().write(tmp_path / "mmproj.gguf")
    model = with_settings(LocalModel(id="m", path=path, metadata=read_metadata(path)), mmproj)
    expected = await room.launcher.need(spec_of(model))
    assert expected.source is NeedSource.FORMULA
    server = await room.launch(model)
    real = server.footprint()
    await server.stop(30)
    assert real is not None
    assert expected.footprint.mapped == pytest.approx(real.mapped, rel=0.01)
    assert expected.footprint.host == pytest.approx(real.host, rel=0.1)
    assert real.device == 0
