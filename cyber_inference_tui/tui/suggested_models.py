"""Models to try first, by the memory of the machine.

Sizes are those of the published files, rounded. The Hub page finds all other models.
"""

from __future__ import annotations

from dataclasses import dataclass

GB = 1_000_000_000
_CONTEXT_SHARE = 0.12
"""Approximate KV cache at 8,192 tokens, as a share of the file's size."""
_FIXED = 600_000_000
"""Bytes for the server itself, its compute buffers and a reserve."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A repository, and the quantization that a download from it gets by default."""

    title: str
    repo: str
    quantization: str
    size_bytes: int
    good_for: str

    @property
    def need_bytes(self) -> int:
        """Approximate memory of the loaded model."""
        return int(self.size_bytes * (1 + _CONTEXT_SHARE)) + _FIXED


SUGGESTIONS = (
    Suggestion("Qwen3 0.6B", "Qwen/Qwen3-0.6B-GGUF", "Q8_0", int(0.64 * GB), "tiny and quick"),
    Suggestion("Gemma 3 1B", "ggml-org/gemma-3-1b-it-GGUF", "Q4_K_M", int(0.81 * GB), "small talk"),
    Suggestion("Qwen3 1.7B", "Qwen/Qwen3-1.7B-GGUF", "Q8_0", int(1.83 * GB), "small and quick"),
    Suggestion("Qwen3 4B", "Qwen/Qwen3-4B-GGUF", "Q4_K_M", int(2.5 * GB), "all-round"),
    Suggestion(
        "Gemma 3 4B", "ggml-org/gemma-3-4b-it-GGUF", "Q4_K_M", int(3.34 * GB), "sees pictures"
    ),
    Suggestion("Qwen3 8B", "Qwen/Qwen3-8B-GGUF", "Q4_K_M", int(5.03 * GB), "all-round"),
    Suggestion(
        "Gemma 3 12B", "ggml-org/gemma-3-12b-it-GGUF", "Q4_K_M", int(8.15 * GB), "sees pictures"
    ),
    Suggestion("Qwen3 14B", "Qwen/Qwen3-14B-GGUF", "Q4_K_M", int(9.0 * GB), "all-round"),
    Suggestion("gpt-oss 20B", "ggml-org/gpt-oss-20b-GGUF", "MXFP4", int(12.1 * GB), "thinks"),
    Suggestion("Qwen3 30B A3B", "Qwen/Qwen3-30B-A3B-GGUF", "Q4_K_M", int(18.6 * GB), "quick"),
    Suggestion("Qwen3 32B", "Qwen/Qwen3-32B-GGUF", "Q4_K_M", int(19.8 * GB), "all-round"),
)
"""Smallest first."""


def suggest(free_bytes: int | None, count: int = 3) -> tuple[Suggestion, ...]:
    """Return the largest model that fits in ``free_bytes``, then smaller and faster ones.

    If no model fits, or the memory is unknown, return the smallest models.
    """
    fitting = [one for one in SUGGESTIONS if free_bytes and one.need_bytes <= free_bytes]
    if not fitting:
        return SUGGESTIONS[:count]
    best = fitting[-1]
    chosen = [best]
    for one in reversed(fitting[:-1]):
        # Each is clearly smaller than the one before, so that there is a real choice.
        if one.size_bytes <= chosen[-1].size_bytes * 0.6 and len(chosen) < count:
            chosen.append(one)
    return tuple(chosen)
