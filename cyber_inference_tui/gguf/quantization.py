"""Names quantizations, from a header's numbers and from file names."""

from __future__ import annotations

import re
from typing import NamedTuple


class TensorType(NamedTuple):
    """A ``ggml`` tensor type: its name, and the values and bytes of a block."""

    name: str
    values: int
    bytes: int


# ggml/include/ggml.h (enum ggml_type) and ggml/src/ggml-common.h (block sizes) in ggml-org/ggml.
TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 36),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
}

# include/llama.h (enum llama_ftype) in ggml-org/llama.cpp: the value of general.file_type.
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
_GUESSED = 1024  # a flag: the writer guessed the number

_WORD = (
    r"(?:^|[-._ ])((?:UD[-_])?(?:"
    r"I?Q\d(?:_(?:\d(?:_\d)*|K(?:_(?:XXL|XL|[SML]))?|XXS|XS|NL|XL|[SML]))*"
    r"|TQ\d_\d|BF16|F(?:P)?16|F(?:P)?32|MXFP4(?:_MOE)?|NVFP4))"
)
_IN_NAME = re.compile(f"{_WORD}$", re.IGNORECASE)
_ANYWHERE = re.compile(rf"{_WORD}(?=$|[-._ ])", re.IGNORECASE)


def file_type_name(file_type: int) -> str | None:
    """Return the name of a header's ``general.file_type``; ``None`` = an unknown number."""
    return _FILE_TYPES.get(file_type & ~_GUESSED)


def split_quantization(stem: str) -> tuple[str, str | None]:
    """Split a file's stem into its name and its quantization in capitals (``None`` = it has none).

    ``Qwen3-4B-UD-Q4_K_XL`` is ``("Qwen3-4B", "UD-Q4_K_XL")``.
    """
    found = _IN_NAME.search(stem)
    if found is None:
        return stem, None
    return stem[: found.start()], _normalized(found[1])


def named_quantization(stem: str) -> str | None:
    """Return the last quantization in a name: ``Model-q4_k_m-v2`` is ``Q4_K_M``."""
    found = _ANYWHERE.findall(stem)
    return _normalized(found[-1]) if found else None


def _normalized(text: str) -> str:
    return text.upper().replace("UD_", "UD-")
