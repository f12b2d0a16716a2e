"""The memory that a model's server needs before a load, and uses after it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from cyber_inference_tui.errors import ModelLoadError

LoadWatch = Callable[[Callable[[], Awaitable[tuple[int, ...]]]], Awaitable[ModelLoadError | None]]
"""Watches a server's memory during its load. It returns a reason to end the load, or ``None`` if it
cannot watch. Its argument returns the pids at the roots of the server's process trees."""


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that a model's server holds, by their place."""

    mapped: int = 0
    """Weights read through the page cache. The kernel counts them as available because it can drop
    them, but a model is slow without them: here they count as used."""
    host: int = 0
    """Allocated in main memory."""
    device: int = 0
    """Allocated through a GPU's driver: in the GPU's own memory or, if the GPU has none (Jetson),
    in main memory."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.mapped + self.host + self.device


class NeedSource(StrEnum):
    """The source of an estimate, from the most to the least reliable."""

    MEASURED = "measured"
    """Measured earlier, with the same arguments."""
    ENGINE = "engine"
    """The output of the engine's own ``llama-fit-params``."""
    FORMULA = "formula"
    """Computed from the file's header."""
    UPPER_BOUND = "upper bound"
    """Computed for an architecture that is not fully understood: the real use may be lower."""
    UNKNOWN = "unknown"
    """No estimate before the first load (another program's server)."""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that a model needs, as estimated or measured."""

    footprint: Footprint = Footprint()
    source: NeedSource = NeedSource.UNKNOWN
    spills: bool = False
    """Parts that do not fit on the GPUs may go to main memory (llama-server chooses the layers)."""
    projector: int = 0
    """The bytes on the GPUs that a load moves to main memory if it cannot fit otherwise."""
    visible: str | None = None
    """The model's own ``CUDA_VISIBLE_DEVICES``; ``None`` = it sees the cards that the service sees.
    """
    context: int = 0
    """The tokens of context, if the service chooses them (``context_size = "auto"``)."""
    smaller: tuple[Need, ...] = ()
    """The needs with the smaller contexts that it may choose, ascending."""

    def with_projector_kept_back(self) -> Need:
        """Return the need with the projector in main memory instead of on the GPUs."""
        found = self.footprint
        moved = msgspec.structs.replace(
            found, host=found.host + self.projector, device=found.device - self.projector
        )
        return msgspec.structs.replace(self, footprint=moved, projector=0)


def largest_context(needs: Sequence[Need], fits: Callable[[Need], bool]) -> Need:
    """Return the need with the largest context that fits, or with the least if none does.

    ``needs`` are ascending by context. ``fits`` must hold for every smaller context than one for
    which it holds.
    """
    first_too_large = bisect_left(needs, True, key=lambda need: not fits(need))
    return needs[max(0, first_too_large - 1)]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that a model used after a load, and the time that the load took."""

    signature: str
    """Identifies the model's files and its server's arguments."""
    model: str
    footprint: Footprint
    context_size: int | None
    load_seconds: float
    size_bytes: int | None
    """The size of the model's files."""
    at: datetime
