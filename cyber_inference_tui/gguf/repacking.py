"""Computes the sizes of the weights that llama.cpp repacks into a layout for the processor.

While the model is loaded, the matrices of a layer's multiplications are copied ("repacked") into a
buffer in main memory if the processor has kernels for their type; all others stay mapped from the
file. This follows ggml and llama.cpp (github.com/ggml-org/llama.cpp, builds 11434 to 11669):

- the tensors of multiplications: ``LLM_TENSOR_INFOS`` in src/llama-arch.cpp;
- the buffer type of a tensor is the first that supports its operation, AMX before repacking:
  ``ggml_backend_cpu_get_extra_buffer_types`` in ggml/src/ggml-cpu/ggml-cpu.cpp,
  ``select_weight_buft`` in src/llama-model-loader.cpp;
- AMX: ``supports_op`` in ggml/src/ggml-cpu/amx/amx.cpp;
- other kernels: ``ggml_repack_get_optimal_repack_type`` in ggml/src/ggml-cpu/repack.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from cyber_inference_tui.files import read_file
from cyber_inference_tui.gguf.quantization import TENSOR_TYPES, TensorType

MOST_STEP: Final = 32
"""The rows that AMX processes at once, the largest step of all."""

_AMX_COLUMNS: Final = 16  # TILE_N: of half floats; blocks of quantized types are longer


class Role(StrEnum):
    """The use of a matrix in a model."""

    LAYER = "layer"
    EXPERTS = "experts"
    """One matrix for each expert of a layer."""
    EMBEDDINGS = "embeddings"
    """Rows are looked up; without an output matrix this one is also used for the output."""
    OUTPUT = "output"


class Matrices(msgspec.Struct, frozen=True):
    """Similar tensors of one file, added up."""

    type: str
    role: Role
    step: int
    """The largest power of two, up to 32, that divides their number of rows; also 1 if no kernel
    accepts the length of their rows."""
    bytes: int


class Processor(StrEnum):
    """Instruction sets that decide the repacking, from the least to the most capable."""

    PLAIN = "plain"
    DOTPROD = "dotprod"
    """64-bit Arm with dot products (from Cortex-A55 and A76 on, and all Neoverse)."""
    AVX2 = "avx2"
    AVX512 = "avx512"
    AMX = "amx"
    """Intel's tiles of 8-bit integers (Xeon from Sapphire Rapids on)."""


class Repacked(NamedTuple):
    """Sizes in bytes."""

    replaced: int
    """The weights in the file that the copies replace: they need not stay in memory."""
    copies: int


# The kernel's names for what the library of each processor's family is built with: ggml's
# ``ggml_add_cpu_backend_variant`` in ggml/src/CMakeLists.txt.
_AVX512: Final = frozenset({"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"})
_NEEDED: Final = {
    Processor.AMX: _AVX512 | {"avx2", "fma", "f16c", "bmi2", "amx_int8", "avx512_vnni"},
    Processor.AVX512: _AVX512 | {"avx2", "fma", "f16c", "bmi2"},
    Processor.AVX2: frozenset({"avx2", "fma", "f16c", "bmi2"}),
    Processor.DOTPROD: frozenset({"asimd", "asimddp"}),
}
_MOST_READ: Final = 65_536
_FEATURES: Final = re.compile(r"^(?:flags|Features)[ \t]*:(.*)$", re.MULTILINE)

# Bytes that AMX adds to each block (``get_row_size`` in ggml/src/ggml-cpu/amx/mmq.cpp).
_AMX_MORE: Final = {
    **{"F16": 0, "Q4_0": 0, "Q4_1": 0, "Q6_K": 0},
    **{"Q8_0": 4, "Q4_K": 4, "Q5_K": 4, "IQ4_XS": 2},
}
_BLOCKS: Final = {kind.name: kind.bytes for kind in TENSOR_TYPES.values()}
# By type: the number of rows must be a multiple of this. These copies are as large as the weights
# (``ggml_backend_cpu_repack_buffer_type``: no ``get_alloc_size``).
_AVX2_STEPS: Final = {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}
_STEPS: Final[dict[Processor, dict[str, int]]] = {
    Processor.PLAIN: {},
    Processor.DOTPROD: {
        **{"Q4_0": 4, "Q8_0": 4, "IQ4_NL": 4, "MXFP4": 4, "Q1_0": 4},
        **{"Q4_K": 8, "Q5_K": 8, "Q6_K": 8},
    },
    Processor.AVX2: _AVX2_STEPS,
    Processor.AVX512: {**_AVX2_STEPS, "Q2_K": 8},
    Processor.AMX: {**_AVX2_STEPS, "Q2_K": 8},
}

_ROLES: Final = {"token_embd.weight": Role.EMBEDDINGS, "output.weight": Role.OUTPUT}
_EXPERTS: Final = re.compile(r"^blk\.\d+\.ffn_(?:gate|up|down|gate_up)_(?:ch)?exps\.weight$")
# Matrices for lookups, additions, convolutions or scaling, which have no such kernels.
_OTHER: Final = re.compile(
    r"norm|conv1d|shortconv\.conv\.|convnext\.\d+\.dw|posnet\.\d+\.conv|_conv_base"
    r"|^rope_|^per_layer_token_embd|^position_embd|^token_types|^d2t|markov_w1"
    r"|selector_(?:pre|suc)|\.(?:bias|scale|input_scale)$|attn_rel_b|embed_tokens|tid2eid|_ape\."
    r"|\.ssm_[ad]\b|time_mix_(?:lerp|first|decay|[avw]0|[kr]_[ark])|channel_mix_lerp"
    r"|altup_correct_scale|_res_score|(?:hc_\w+|layer_output)_(?:base|scale)|ffn\.act|z_l_init"
)


def processor_of(cpuinfo: str) -> Processor:
    """Return the processor that the text of ``/proc/cpuinfo`` describes."""
    found = _FEATURES.search(cpuinfo)
    features = frozenset(found[1].split()) if found else frozenset()
    return next((kind for kind, needed in _NEEDED.items() if needed <= features), Processor.PLAIN)


def read_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Return the processor of this machine; plain if the file is missing, as on macOS."""
    try:
        # The first core is enough: the kernel lists only features that all cores share.
        return processor_of(read_file(cpuinfo, _MOST_READ).decode("ascii", "replace"))
    except OSError:
        return Processor.PLAIN


def matrix_kind(
    name: str, kind: TensorType, shape: tuple[int, ...]
) -> tuple[str, Role, int] | None:
    """Return the type, role and step of the ``Matrices`` that a tensor belongs to.

    ``None`` = the tensor is not used in multiplications. ``shape`` begins with the length of a row.
    """
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 3 and _EXPERTS.match(name):
        role = Role.EXPERTS
    elif len(shape) != 2 or _OTHER.search(name):
        return None
    else:
        role = _ROLES.get(name, Role.LAYER)
    step = min(MOST_STEP, shape[1] & -shape[1])
    if kind.values == 1 and shape[0] % _AMX_COLUMNS:
        step = 1
    return kind.name, role, step


def repacked(
    matrices: Iterable[Matrices], processor: Processor, *, has_output: bool = True
) -> Repacked:
    """Return the sizes of the weights that ``processor`` repacks.

    ``has_output``: the model computes probabilities of tokens. Without a matrix for them it uses
    its embeddings, which are then copied and stay mapped as well (``TENSOR_DUPLICATED`` in
    src/models).
    """
    known = list(matrices)
    tied = has_output and all(one.role is not Role.OUTPUT for one in known)
    replaced = copies = 0
    for one in known:
        size = _copy(one, processor)
        if size is None or (one.role is Role.EMBEDDINGS and not tied):
            continue
        copies += size
        if one.role is not Role.EMBEDDINGS:
            replaced += one.bytes
    return Repacked(replaced, copies)


def _copy(one: Matrices, processor: Processor) -> int | None:
    """Return the size of its copy; ``None`` = it is not copied."""
    if processor is Processor.AMX and one.role is not Role.EXPERTS and one.step == MOST_STEP:
        more = _AMX_MORE.get(one.type)
        if more is not None:
            block = _BLOCKS[one.type]
            return one.bytes // block * (block + more)
    step = _STEPS[processor].get(one.type)
    return one.bytes if step is not None and one.step % step == 0 else None
