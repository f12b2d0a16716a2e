"""Models worth trying first, by the memory that a machine has for them.

Sizes are those of the files as their makers publish them, rounded; the Hub page has all others.
"""

from __future__ import annotations

from dataclasses import dataclass

GB = 1_000_000_000
_CONTEXT_SHARE = 0.12
"""Of the file's size: the KV cache at 8,192 tokens, roughly, for models of this kind."""
_FIXED = 600_000_000
"""The server itself, its compute buffers and some air, in bytes."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A model in a repository whose preferred quantization is the one named here."""

    title: str
    repo: str
    quantization: str
    size_bytes: int
    good_for: str

    @property
    def need_bytes(self) -> int:
        """What it takes when it is loaded, roughly."""
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
    """The largest model that fits in ``free_bytes``, then smaller ones, quicker each.

    Where nothing fits, or nothing is known of the memory, the smallest ones are named.
    """
    fitting = [one for one in SUGGESTIONS if free_bytes and one.need_bytes <= free_bytes]
    if not fitting:
        return SUGGESTIONS[:count]
    best = fitting[-1]
    chosen = [best]
    for one in reversed(fitting[:-1]):
        # Each clearly smaller than the one before: otherwise there is nothing to choose.
        if one.size_bytes <= chosen[-1].size_bytes * 0.6 and len(chosen) < count:
            chosen.append(one)
    return tuple(chosen)
