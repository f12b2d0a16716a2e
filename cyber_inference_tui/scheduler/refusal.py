"""What is told about a model that cannot be loaded: needed, free, and who holds the rest. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cyber_inference_tui.errors import CyberError, InsufficientMemoryError, ModelLoadError
from cyber_inference_tui.monitor.memory_reading import MemoryReading, caches_in_words
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.memory import Excess, in_words
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.scheduler.views import Refusal
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.units import size_text


def runaway_error(model_id: str, excess: Excess, total: int, settings: Settings) -> ModelLoadError:
    """The error for a load that was ended for what it took. ``total`` = bytes of main memory."""
    told = f"its server had taken {size_text(excess.taken)} of memory"
    if excess.expected is not None:
        told += f" where {size_text(excess.expected)} were expected"
    if excess.beyond_limit:
        told += (
            f", and {excess.used_percent:.0f} % of {size_text(total)} was in use"
            f" (max_memory_percent is {settings.max_memory_percent:g})"
        )
    return ModelLoadError(
        f"{model_id} was stopped while it loaded: {told}.",
        hint="Check its command and arguments; choose a smaller context_size or quantization, or"
        " raise the limit.",
        needs_person=True,
    )


def refusal_error(
    refusal: Refusal,
    states: Sequence[ModelState],
    reading: MemoryReading | None,
    settings: Settings,
    *,
    at_most: bool,
) -> CyberError:
    """The error for those who wait for the refused model. ``at_most``: it may need less."""
    pinned = [one for one in states if one.is_pinned and one.status is ModelStatus.LOADED]
    names = ", ".join(sorted(one.model.id for one in pinned))
    if refusal.at_best is None or reading is None:
        return ModelLoadError(
            f"{refusal.id} cannot be loaded: max_loaded_models is {settings.max_loaded_models},"
            f" and {names} cannot be unloaded (pinned).",
            hint="Unpin one, or raise max_loaded_models.",
            needs_person=True,
        )
    seen = reading.gpus_by_variable.get(refusal.visible or "", reading.gpus)
    cards = bool(seen)
    own = f" with CUDA_VISIBLE_DEVICES={refusal.visible}" if refusal.visible is not None else ""
    needed = in_words(refusal.needed, cards=cards)
    best = in_words(refusal.at_best, cards=cards)
    used = int(reading.total * settings.max_memory_percent / 100)
    others = used - refusal.at_best.host - sum(one.gives.host for one in pinned)
    holders = [
        f"{one.model.id} (pinned) holds {in_words(one.gives, cards=cards)}" for one in pinned
    ]
    if others > 0:
        holders.append(f"other programs hold {size_text(others)}")
    if caches := caches_in_words(reading.cache, reading.zfs_cache):
        holders.append(f"{caches} counted as free")
    held = f"; {', '.join(holders)}" if holders else ""
    return InsufficientMemoryError(
        f"{refusal.id} needs {'up to ' if at_most else ''}{needed}, and at best {best} can be free"
        f"{own}: of {size_text(reading.total)} of memory {settings.max_memory_percent:g} % may be"
        f" used (max_memory_percent){held}.",
        hint="Free some, choose a smaller context_size or quantization, or raise the limit.",
    )
