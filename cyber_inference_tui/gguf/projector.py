"""Estimates the memory that a vision projector needs to read an image."""

from __future__ import annotations

from typing import Final

from cyber_inference_tui.gguf.metadata import ProjectorFacts

_F32: Final = 4

# Kinds that take images of any size. llama-server sizes its buffers for an image with this number
# of tokens on each side, and this number of patches on each side of a token unless the header
# differs (``set_warmup_n_tokens`` and ``n_merge`` in tools/mtmd/clip.cpp of llama.cpp, build
# 11434).
_TOKENS_AND_MERGE: Final = {
    "dots_ocr": (46, 1),
    "exaone4_5": (46, 2),
    "gemma4v": (16, 3),
    "glm4v": (46, 2),
    "glm5v": (46, 2),
    "hunyuanvl": (32, 2),
    "kimivl": (16, 2),
    "lightonocr": (16, 1),
    "mimovl": (46, 2),
    "muse-glimmer": (32, 2),
    "paddleocr": (28, 2),
    "phi4": (16, 1),
    "pixtral": (16, 1),
    "qwen2.5o": (46, 2),
    "qwen2.5vl_merger": (46, 2),
    "qwen2vl_merger": (46, 2),
    "qwen3vl_merger": (46, 2),
    "youtuvl": (16, 2),
}


def image_compute_bytes(facts: ProjectorFacts) -> int:
    """Return the size of the compute buffer for one image when the server is ready; 0 = unknown.

    For each patch of the image it holds three rows of the embedding's length, and the largest part
    of a layer (measured, with flash attention). Larger images may take more later.
    """
    width, inner = facts.embedding_length or 0, facts.feed_forward_length or 0
    rows = 3 * width + max((3 if facts.gated else 1) * inner, 4 * width)
    return _patches(facts) * rows * _F32


def _patches(facts: ProjectorFacts) -> int:
    if facts.kind in _TOKENS_AND_MERGE:
        side, merge = _TOKENS_AND_MERGE[facts.kind]
        return (side * (facts.merge or merge)) ** 2
    if not facts.image_size or not facts.patch_size:
        return 0
    return (facts.image_size // facts.patch_size) ** 2
