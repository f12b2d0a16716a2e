"""Choose the best quantization of a repository for this machine. Pure.

More bits give better answers, with diminishing returns: above Q6_K there is hardly any difference,
below Q4_K_M answers get visibly worse. So, of the models that fit:

1. the best of Q8_0 to Q4_K_M that uses at most three quarters of the available memory, which leaves
   some for a larger context and for other models; Q8_0 may use a quarter;
2. else the smallest of Q6_K to Q4_K_M;
3. else the best below Q4_K_M;
4. else the smallest of the rest: Q8_0, half and full precision, unknown names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from cyber_inference_tui.records import Fit

# From the best to the worst, by perplexity (llama.cpp, tools/quantize/README.md).
_BETTER: Final = ("Q8_0",)
_GOOD: Final = ("Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M")
_WORSE: Final = (
    "Q4_K_S",
    "IQ4_NL",
    "IQ4_XS",
    "Q4_1",
    "Q4_0",
    "Q3_K_L",
    "Q3_K_M",
    "IQ3_M",
    "IQ3_S",
    "Q3_K_S",
    "IQ3_XS",
    "IQ3_XXS",
    "Q2_K",
    "IQ2_M",
    "IQ2_S",
    "IQ2_XS",
    "IQ2_XXS",
    "IQ1_M",
    "IQ1_S",
)
# Mixtures with their own names, and the quantizations closest to them.
_LIKE: Final = {
    "Q8_K_XL": "Q8_0",
    "Q6_K_XL": "Q6_K",
    "Q6_K_L": "Q6_K",
    "Q5_K_XL": "Q5_K_M",
    "Q5_K_L": "Q5_K_M",
    "Q4_K_XL": "Q4_K_M",
    "Q4_K_L": "Q4_K_M",
    "MXFP4": "Q4_K_M",
    "MXFP4_MOE": "Q4_K_M",
    "Q3_K_XL": "Q3_K_L",
    "Q2_K_XL": "Q2_K",
    "Q2_K_L": "Q2_K",
}
_COMFORT: Final = 0.75
_LAVISH: Final = 0.25


class QuantizationOption(NamedTuple):
    """One model to choose from."""

    quantization: str | None
    need_bytes: int | None
    fits: Fit | None


def suggest(choices: Sequence[QuantizationOption], room_bytes: int | None) -> int | None:
    """Return the index of the best option; ``None`` if none is known to fit.

    ``room_bytes`` is the memory that models may use in all; ``None`` = unknown.
    """
    fitting = [
        at for at, choice in enumerate(choices) if choice.fits in {Fit.NOW, Fit.AFTER_UNLOADING}
    ]
    if not fitting:
        return None

    def rank(at: int) -> int:
        return _rank(choices[at].quantization)

    def size(at: int) -> int:
        return choices[at].need_bytes or 0

    def comfortable(at: int) -> bool:
        if not room_bytes:
            return False
        lavish = _ORDER[rank(at)] in _BETTER
        return size(at) <= room_bytes * (_LAVISH if lavish else _COMFORT)

    known = [at for at in fitting if rank(at) < len(_ORDER)]
    top = [at for at in known if _ORDER[rank(at)] in (*_BETTER, *_GOOD) and comfortable(at)]
    if top:
        return min(top, key=lambda at: (rank(at), size(at)))
    good = [at for at in known if _ORDER[rank(at)] in _GOOD]
    if good:
        return min(good, key=lambda at: (size(at), rank(at)))
    worse = [at for at in known if _ORDER[rank(at)] in _WORSE]
    if worse:
        return min(worse, key=lambda at: (rank(at), size(at)))
    return min(fitting, key=size)


_ORDER: Final = (*_BETTER, *_GOOD, *_WORSE)


def _rank(quantization: str | None) -> int:
    """Return the position in the order; ``len(_ORDER)`` for unknown names."""
    name = (quantization or "").removeprefix("UD-")
    name = _LIKE.get(name, name)
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)
