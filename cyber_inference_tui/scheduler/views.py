"""What the policy sees, and what it says: frozen values of one moment. Times are seconds of one
monotonic clock."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from cyber_inference_tui.llama.needs import Need
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.free_memory import Amount


class Reason(StrEnum):
    """Why a model is unloaded; shown to people as it is."""

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
    """One model as the policy sees it."""

    id: str
    status: ModelStatus
    in_flight: int = 0
    waiting: int = 0
    arrival: int = 0
    """The number of the oldest waiting request, counted over all models in order of arrival."""
    waiting_since: float = 0.0
    """When that one came."""
    overtaken: int = 0
    """Later requests for other models that were let in while that one waited."""
    last_used: float = 0.0
    idle_timeout: float = 0.0
    """Seconds; 0 = never unload for being idle."""
    pinned: bool = False
    leaving: Reason | None = None
    """It is to go when its requests have ended; no new ones are let in until it is gone."""
    admit_before: int | None = None
    """By the last decision: requests that came after this arrival are not let in."""
    need: Need | None = Need()
    """``None`` = not known yet; somebody is finding out."""
    only_if_free: bool = False
    """It is wanted only if there is room for it: nothing is unloaded for it."""
    needs_exclusive_memory: bool = False
    """It ran out of memory beside others: every model that may go has to go before it loads."""
    load_seconds: float = 0.0
    """What a load of it is expected to take; 0 = unknown."""
    freed_on_unload: Amount = Amount()
    """What the machine gets back when it is unloaded."""


class AwaitedMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of servers that ended, not seen to be back yet."""

    free: Amount
    """There should be this much room again …"""
    until: float
    """… or, if not, loads go on at this time."""


class LoadLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds the set of loaded models, beside the memory."""

    max_loaded_models: int = 0
    """0 = no bound by count."""
    max_overtake: int = 8
    memory_changed_at: float = 0.0
    """When a server was last started or ended: older readings of the memory say nothing."""
    awaited: AwaitedMemory | None = None


class Unload(msgspec.Struct, frozen=True):
    """Unload this model, for this reason."""

    id: str
    reason: Reason


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """This model cannot be loaded, whatever idle or busy model would go for it."""

    id: str
    needed: Amount
    free_at_best: Amount | None
    """The room if every model that may go were gone; ``None`` = it is not memory that lacks."""
    visible: str | None = None
    """The model's own ``CUDA_VISIBLE_DEVICES``, by which it sees less cards or others."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now, and when to ask again if nothing happens before."""

    load: str | None = None
    unload: tuple[Unload, ...] = ()
    refuse: tuple[Refusal, ...] = ()
    admit_before: dict[str, int] = {}
    """Models that get no request that came after the given arrival: someone has waited enough."""
    blocked: frozenset[str] = frozenset()
    """Models that cannot be loaded before others are gone, which are busy or may get busy again."""
    read_memory: bool = False
    """Read the memory and ask again: what is known of it is too old."""
    wake_at: float | None = None
