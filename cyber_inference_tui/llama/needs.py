"""What a model takes of the machine's memory: expected before a load, seen after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum

import msgspec

from cyber_inference_tui.errors import ModelLoadError

LoadWatch = Callable[[Callable[[], Awaitable[tuple[int, ...]]]], Awaitable[ModelLoadError | None]]
"""Watches what a server takes while it loads: it returns with the reason why the load has to end,
or with ``None`` if it cannot watch. It is given a function that returns the pids at the roots of
the server's process trees."""


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that a model's server holds, by where they lie and who else sees them as taken."""

    mapped: int = 0
    """Weights read through the page cache. The kernel counts them as available, for it could drop
    them, but a model whose weights are dropped is slow: here they count as taken."""
    host: int = 0
    """Allocated in main memory."""
    device: int = 0
    """Allocated through a GPU's driver: in the GPU's own memory, or on a machine whose GPU has
    none (Jetson) in main memory."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.mapped + self.host + self.device


class NeedSource(StrEnum):
    """Where an expectation comes from, from the surest to the least sure."""

    MEASURED = "measured"
    """It took that much before, started with these arguments."""
    ENGINE = "engine"
    """The engine's own ``llama-fit-params`` says so."""
    FORMULA = "formula"
    """Reckoned from the file's header."""
    UPPER_BOUND = "upper bound"
    """Reckoned, but the architecture is not understood: it may take less."""
    UNKNOWN = "unknown"
    """Nothing is known before it has been loaded once (another program's server)."""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is expected to take."""

    footprint: Footprint = Footprint()
    source: NeedSource = NeedSource.UNKNOWN
    spills: bool = False
    """What finds no place on the GPUs may lie in main memory (llama-server's own choice of
    layers)."""
    visible: str | None = None
    """The model's own ``CUDA_VISIBLE_DEVICES``; ``None`` = it sees the cards that the service
    sees."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What a model took when it was loaded, and how long that lasted."""

    signature: str
    """Identifies the model's files and its server's arguments."""
    model: str
    footprint: Footprint
    context_size: int | None
    load_seconds: float
    size_bytes: int | None
    """Of the model's files."""
    at: datetime
