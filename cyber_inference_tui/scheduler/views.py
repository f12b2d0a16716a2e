"""The input and the output of the policy: frozen values of one moment.

Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from cyber_inference_tui.llama.needs import Need
from cyber_inference_tui.records import ModelStatus, Priority
from cyber_inference_tui.scheduler.free_memory import Amount


class Reason(StrEnum):
    """The reason for an unload; users see the text."""

    IDLE = "idle"
    ROOM = "room for another model"
    REQUEST = "asked to unload"
    SETTINGS = "its settings changed"
    FILES = "its files changed"
    REMOVED = "its files are gone"
    LIMIT = "max_loaded_models allows no more"
    SHORTAGE = "other programs need the memory"
    SHUTDOWN = "the service stops"


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a model as far as the policy needs it."""

    id: str
    status: ModelStatus
    in_flight: int = 0
    waiting: int = 0
    arrival: int = 0
    """The number of the oldest waiting request, in the order of arrival over all models."""
    waiting_since: float = 0.0
    """The time of its arrival."""
    overtaken: float = 0.0
    """Later requests for other models that were admitted while it waited, by their weights."""
    priority: Priority = Priority.NORMAL
    """The highest priority of its requests, which wait or run."""
    last_used: float = 0.0
    idle_timeout: float = 0.0
    """Seconds; 0 = none."""
    pinned: bool = False
    leaving: Reason | None = None
    """Set if it is to be unloaded after its requests; it admits no new ones."""
    admit_before: int | None = None
    """Set by the last decision: only requests up to this arrival are admitted."""
    need: Need | None = Need()
    """``None`` = an estimate is under way."""
    only_if_free: bool = False
    """Load it only into free memory; unload nothing for it."""
    needs_exclusive_memory: bool = False
    """It ran out of memory beside others: first unload every model that can be unloaded."""
    load_seconds: float = 0.0
    """The expected duration of a load; 0 = unknown."""
    freed_on_unload: Amount = Amount()
    """The memory that becomes free when it is unloaded."""


class AwaitedMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of ended servers that no reading has shown as free yet."""

    free: Amount
    """Loads wait until so much is free …"""
    until: float
    """… but not longer than this time."""


class LoadLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits for the set of loaded models, apart from the memory."""

    max_loaded_models: int = 0
    """0 = no limit."""
    max_overtake: int = 8
    memory_changed_at: float = 0.0
    """The time of the last start or end of a server; older memory readings are invalid."""
    awaited: AwaitedMemory | None = None


class Unload(msgspec.Struct, frozen=True):
    """A model to unload, and the reason."""

    id: str
    reason: Reason


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A model that cannot be loaded, even if all others were unloaded."""

    id: str
    needed: Amount
    free_at_best: Amount | None
    """The free memory if every model were gone that may be unloaded for it; ``None`` if memory is
    not the problem."""
    visible: str | None = None
    """The model's own ``CUDA_VISIBLE_DEVICES``, which restricts it to some cards."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The next actions, and the time of the next decision if nothing happens before."""

    load: str | None = None
    unload: tuple[Unload, ...] = ()
    refuse: tuple[Refusal, ...] = ()
    admit_before: dict[str, int] = {}
    """Models that admit only requests up to the given arrival, for one that has waited enough."""
    blocked: frozenset[str] = frozenset()
    """Models that can be loaded only after others that are busy, or may get busy again."""
    read_memory: bool = False
    """The last reading of the memory is too old: read it and decide again."""
    wake_at: float | None = None
