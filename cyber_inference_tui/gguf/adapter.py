"""Reads the matrices that a LoRA adapter changes from the names and shapes of its tensors. Pure.

Names: ``llama_adapter_lora_init_impl`` in src/llama-adapter.cpp of llama.cpp.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

ADAPTER: Final = "adapter"
"""``general.type`` of an adapter's file."""

_MOST: Final = 64
"""Shapes of matrices that are kept."""
_PART: Final = re.compile(
    r"^(?:blk\.(?P<block>\d{1,4})\.)?(?P<matrix>\w+)\.weight\.lora_(?P<half>[ab])$"
)


class AdaptedMatrix(msgspec.Struct, frozen=True):
    """A matrix of the model that an adapter changes, such as ``attn_q``; 0 = not known."""

    name: str
    inputs: int = 0
    outputs: int = 0


class AdapterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a model that an adapter changes."""

    kind: str | None
    """``adapter.type``: ``lora``."""
    matrices: tuple[AdaptedMatrix, ...] = ()
    """Each shape of each kind of matrix once."""
    blocks: int = 0
    """The number of its last block, from 1; 0 = it changes no block."""


class AdaptedTensors:
    """Collects the matrices that an adapter changes, from the names and shapes of its tensors."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], AdaptedMatrix] = {}
        self.blocks = 0

    def add(self, name: str, shape: tuple[int, ...]) -> None:
        """Add a tensor: ``NAME.lora_a`` has the inputs first, ``NAME.lora_b`` the outputs last."""
        part = _PART.match(name) if ".lora_" in name else None
        if part is None:
            return
        key = (part["block"] or "", part["matrix"])
        known = self._found.get(key, AdaptedMatrix(part["matrix"]))
        if len(shape) == 2:
            changed = {"inputs": shape[0]} if part["half"] == "a" else {"outputs": shape[1]}
            known = msgspec.structs.replace(known, **changed)
        self._found[key] = known
        if part["block"] is not None:
            self.blocks = max(self.blocks, int(part["block"]) + 1)

    @property
    def matrices(self) -> tuple[AdaptedMatrix, ...]:
        """Each shape of each kind of matrix once, in the order of the file.

        No model has as many as the bound: the last one then stands for others, and fits no model.
        """
        found = list(dict.fromkeys(self._found.values()))
        return tuple(found if len(found) <= _MOST else [*found[:_MOST], AdaptedMatrix("")])
