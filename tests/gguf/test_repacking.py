"""The weights that llama.cpp repacks for a processor, and the sizes of the copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.gguf.metadata import metadata_of
from cyber_inference_tui.gguf.quantization import TENSOR_TYPES
from cyber_inference_tui.gguf.reader import read_header
from cyber_inference_tui.gguf.repacking import (
    Matrices,
    Processor,
    Repacked,
    Role,
    matrix_kind,
    processor_of,
    read_processor,
    repacked,
)
from cyber_inference_tui.library.shards import combined
from tests.gguf import synthetic

TYPES = {kind.name: kind for kind in TENSOR_TYPES.values()}
F16, Q4_K = TYPES["F16"], TYPES["Q4_K"]

_ARM_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_ARM_82 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm"
_HASWELL = "fpu sse sse2 ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt avx f16c bmi1 avx2 bmi2"
_SKYLAKE = f"{_HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"


@pytest.mark.parametrize(
    ("name", "features", "processor"),
    [
        ("Raspberry Pi 4 (Cortex-A72)", "fp asimd evtstrm crc32 cpuid", Processor.PLAIN),
        ("Graviton 1 (Cortex-A72)", _ARM_BASE, Processor.PLAIN),
        ("Raspberry Pi 5 (Cortex-A76)", f"{_ARM_82} lrcpc dcpop asimddp", Processor.DOTPROD),
        (
            "Jetson Orin (Cortex-A78AE)",
            f"{_ARM_82} lrcpc dcpop asimddp uscat ilrcpc flagm paca pacg",
            Processor.DOTPROD,
        ),
        (
            "Jetson Thor (Neoverse V3AE)",
            f"{_ARM_82} jscvt fcma lrcpc dcpop sha3 asimddp sha512 sve asimdfhm dit uscat ilrcpc"
            " flagm ssbs sb paca pacg dcpodp sve2 sveaes svebitperm i8mm svei8mm bf16",
            Processor.DOTPROD,
        ),
        ("Graviton 2 (Neoverse N1)", f"{_ARM_82} lrcpc dcpop asimddp ssbs", Processor.DOTPROD),
        ("Apple M2", f"{_ARM_82} jscvt fcma sha3 asimddp i8mm bf16", Processor.DOTPROD),
        ("Fujitsu A64FX", f"{_ARM_82} fcma dcpop sve", Processor.PLAIN),
        ("Ivy Bridge", "fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt avx f16c", Processor.PLAIN),
        ("Haswell", _HASWELL, Processor.AVX2),
        ("Skylake-X", _SKYLAKE, Processor.AVX512),
        ("Ice Lake", f"{_SKYLAKE} avx512vbmi avx512_vnni", Processor.AVX512),
        (
            "Sapphire Rapids",
            f"{_SKYLAKE} avx512vbmi avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8",
            Processor.AMX,
        ),
        # A virtual machine may hide some features.
        ("without AVX-512", f"{_HASWELL} amx_tile amx_int8", Processor.AVX2),
    ],
)
def test_a_processor_is_known_by_its_features(
    name: str, features: str, processor: Processor
) -> None:
    label = "Features\t" if "asimd" in features else "flags\t\t"
    core = f"processor\t: 0\nmodel name\t: {name}\nbugs\t\t: fma\n{label}: {features}\n\n"
    assert processor_of(core * 4) is processor


def test_unknown_text_is_a_plain_processor(tmp_path: Path) -> None:
    assert processor_of("") is Processor.PLAIN
    assert read_processor(tmp_path / "cpuinfo") is Processor.PLAIN
    (tmp_path / "cpuinfo").write_text(f"flags : {_HASWELL}\n")
    assert read_processor(tmp_path / "cpuinfo") is Processor.AVX2


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("blk.0.ffn_gate.weight", (512, 64), Role.LAYER),
        ("blk.0.ffn_gate_inp.weight", (512, 64), Role.LAYER),
        ("blk.0.attn_qkv.weight", (512, 64, 1, 1), Role.LAYER),
        ("blk.0.ssm_in.weight", (512, 64), Role.LAYER),
        ("blk.0.shortconv.in_proj.weight", (512, 64), Role.LAYER),
        ("blk.0.time_mix_w1.weight", (512, 64), Role.LAYER),
        ("blk.0.ffn_gate_up_exps.weight", (512, 64, 8), Role.EXPERTS),
        ("blk.0.ffn_down_chexps.weight", (512, 64, 8), Role.EXPERTS),
        ("output.weight", (512, 64), Role.OUTPUT),
        ("token_embd.weight", (512, 64), Role.EMBEDDINGS),
        ("per_layer_token_embd.weight", (512, 64), None),
        ("position_embd.weight", (512, 64), None),
        ("token_types.weight", (512, 2), None),
        ("blk.0.ssm_conv1d.weight", (4, 64), None),
        ("blk.0.shortconv.conv.weight", (3, 64), None),
        ("blk.0.ssm_a", (16, 64), None),
        ("blk.0.time_mix_lerp_x.weight", (512, 1, 1), None),
        ("blk.0.time_mix_lerp_fused.weight", (512, 1, 1, 6), None),
        ("blk.0.attn_q_norm.weight", (64, 8), None),
        ("blk.0.attn_k_b.weight", (64, 256, 8), None),
        ("blk.0.ffn_gate.bias", (512, 64), None),
        ("blk.0.attn_norm.weight", (512,), None),
        ("output_norm.weight", (512, 1), None),
        ("x", (), None),
    ],
)
def test_matrices_of_multiplications(name: str, shape: tuple[int, ...], role: Role | None) -> None:
    found = matrix_kind(name, F16, shape)
    assert found == (None if role is None else ("F16", role, 32))


@pytest.mark.parametrize(
    ("rows", "step"), [(64, 32), (48, 16), (4100, 4), (1, None), (151, 1), (2**40, 32)]
)
def test_kernels_take_so_many_rows_at_once(rows: int, step: int | None) -> None:
    found = matrix_kind("blk.0.attn_q.weight", Q4_K, (512, rows))
    assert (found and found[2]) == step


def test_half_floats_in_rows_of_an_odd_length_are_not_repacked() -> None:
    assert matrix_kind("blk.0.attn_q.weight", F16, (520, 64)) == ("F16", Role.LAYER, 1)


def one(kind: str, role: Role = Role.LAYER, step: int = 32) -> Matrices:
    """Return a hundred blocks."""
    return Matrices(kind, role, step, 100 * TYPES[kind].bytes)


@pytest.mark.parametrize(
    ("kind", "block"),
    [
        ("F16", 2),
        ("Q4_0", 18),
        ("Q4_1", 20),
        ("Q8_0", 34 + 4),
        ("Q4_K", 144 + 4),
        ("Q5_K", 176 + 4),
        ("Q6_K", 210),
        ("IQ4_XS", 136 + 2),
    ],
)
def test_amx_packs_blocks_of_its_own_size(kind: str, block: int) -> None:
    """``get_row_size`` in ggml/src/ggml-cpu/amx/mmq.cpp: Q8_0 gets a 32-bit sum for each block,
    Q4_K and Q5_K unpack 12 bytes of scales to 16, IQ4_XS six to eight."""
    assert repacked([one(kind)], Processor.AMX) == Repacked(one(kind).bytes, 100 * block)


@pytest.mark.parametrize("step", [1, 2, 4, 8, 16])
def test_amx_takes_32_rows_and_no_experts(step: int) -> None:
    """Others may use a kernel of AVX2 with 8 rows (``supports_op`` in amx/amx.cpp)."""
    for few in (one("Q8_0", step=step), one("Q8_0", Role.EXPERTS)):
        assert repacked([few], Processor.AMX) == (0, 0)
    by_avx2 = one("Q4_K", step=step)
    copies = by_avx2.bytes if step >= 8 else 0
    assert repacked([by_avx2], Processor.AMX) == (copies, copies)
    experts = one("Q4_K", Role.EXPERTS)
    assert repacked([experts], Processor.AMX) == (experts.bytes, experts.bytes)


_BY_AVX2 = {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}


@pytest.mark.parametrize(
    ("processor", "steps"),
    [
        (Processor.PLAIN, {}),
        (Processor.AVX2, _BY_AVX2),
        (Processor.AVX512, {**_BY_AVX2, "Q2_K": 8}),
        (
            Processor.DOTPROD,
            {"Q4_0": 4, "Q8_0": 4, "IQ4_NL": 4, "MXFP4": 4, "Q1_0": 4}
            | {"Q4_K": 8, "Q5_K": 8, "Q6_K": 8},
        ),
    ],
)
def test_other_kernels_take_some_types_and_copies_are_as_large(
    processor: Processor, steps: dict[str, int]
) -> None:
    for kind in TYPES:
        least = next(
            (s for s in (1, 2, 4, 8, 16, 32) if repacked([one(kind, step=s)], processor).copies),
            None,
        )
        assert least == steps.get(kind), kind
        found = repacked([one(kind), one(kind, Role.EXPERTS)], processor)
        size = 2 * one(kind).bytes if kind in steps else 0
        assert found == (size, size)


def test_embeddings_are_copied_where_they_are_the_output_and_stay_as_well() -> None:
    layer, embeddings, output = (
        one("Q4_0", role) for role in (Role.LAYER, Role.EMBEDDINGS, Role.OUTPUT)
    )
    size = layer.bytes
    assert repacked([layer, embeddings], Processor.AVX2) == (size, 2 * size)
    assert repacked([layer, embeddings, output], Processor.AVX2) == (2 * size, 2 * size)
    assert repacked([layer, embeddings], Processor.AVX2, has_output=False) == (size, size)


def test_a_header_has_its_matrices(tmp_path: Path) -> None:
    model = synthetic.dense(layers=2, width=512, vocabulary=1000, feed_forward=1536)
    path = synthetic.quantized(model, "Q4_K").write(tmp_path / "m.gguf")
    found = metadata_of(read_header(path))
    by_role = {(one.role, one.step): one for one in found.matrices}
    assert by_role.keys() == {(Role.EMBEDDINGS, 8), (Role.OUTPUT, 8), (Role.LAYER, 32)}
    assert {one.type for one in found.matrices} == {"Q4_K"}
    layer = 512 * (512 + 128 + 128 + 512 + 3 * 1536) // 256 * 144
    assert by_role[Role.LAYER, 32].bytes == 2 * layer
    # The other tensors are norms, in floats.
    assert found.tensor_bytes == sum(one.bytes for one in found.matrices) + 5 * 512 * 4
    both = combined([found, found])
    assert repacked(both.matrices, Processor.AVX2).copies == 2 * (
        repacked(found.matrices, Processor.AVX2).copies
    )
