"""The errors of loads that are refused, stopped or tried too early, with their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from cyber_inference_tui.errors import CyberError, InsufficientMemoryError, ModelLoadError
from cyber_inference_tui.llama.needs import Need, NeedSource
from cyber_inference_tui.llama.worker import OVERHEAD
from cyber_inference_tui.monitor.memory_reading import MemoryReading, caches_in_words
from cyber_inference_tui.records import ModelStatus
from cyber_inference_tui.scheduler.free_memory import Amount, Excess, in_words
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.scheduler.views import Refusal
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.units import size_text

Lending = Callable[[str], Mapping[str, int]]
"""Returns the bytes that other boxes would lend to a model of this one, by box."""
NOBODY: Mapping[str, int] = MappingProxyType({})
"""No box lends memory."""


def runaway_error(model_id: str, excess: Excess, total: int, settings: Settings) -> ModelLoadError:
    """Return the error of a load that used too much; ``total`` = bytes of main memory."""
    reason = f"its server had taken {size_text(excess.taken)} of memory"
    if excess.expected is not None:
        reason += f" where {size_text(excess.expected)} were expected"
    if excess.beyond_limit:
        reason += (
            f", and {excess.used_percent:.0f} % of {size_text(total)} was in use"
            f" (max_memory_percent is {settings.max_memory_percent:g})"
        )
    return ModelLoadError(
        f"{model_id} was stopped while it loaded: {reason}.",
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
    need: Need,
    lending: Mapping[str, int] = NOBODY,
) -> CyberError:
    """Return the error of a refused load of a model with this need.

    ``lending`` are the bytes that other boxes would lend to it.
    """
    pinned = [state for state in states if state.is_pinned and state.status is ModelStatus.LOADED]
    names = ", ".join(sorted(state.model.id for state in pinned))
    if refusal.free_at_best is None or reading is None:
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
    best = in_words(refusal.free_at_best, cards=cards)
    used = int(reading.total * settings.max_memory_percent / 100)
    others = used - refusal.free_at_best.host - sum(state.freed_on_unload.host for state in pinned)
    holders = [
        f"{one.model.id} (pinned) holds {in_words(one.freed_on_unload, cards=cards)}"
        for one in pinned
    ]
    if others > 0:
        holders.append(f"other programs hold {size_text(others)}")
    if caches := caches_in_words(reading.cache, reading.zfs_cache):
        holders.append(f"{caches} counted as free")
    held = f"; {', '.join(holders)}" if holders else ""
    at_most = "up to " if need.source is NeedSource.UPPER_BOUND else ""
    least = (
        f" with {need.context:,} tokens of context, the least that auto chooses"
        if need.context
        else ""
    )
    offer = _split_offer(refusal.needed, refusal.free_at_best, lending)
    return InsufficientMemoryError(
        f"{refusal.id} needs {at_most}{needed}{least}, and at best {best} can be free"
        f"{own}: of {size_text(reading.total)} of memory {settings.max_memory_percent:g} % may be"
        f" used (max_memory_percent){held}.{offer}",
        hint="Free some, choose a smaller context_size or quantization, or raise the limit.",
    )


def _split_offer(needed: Amount, best: Amount, lending: Mapping[str, int]) -> str:
    """Return a sentence with the setting by which a model would fit; empty = it would not."""
    missing = max(0, needed.host - best.host) + max(0, needed.device - best.device)
    box = max(lending, key=lambda name: lending[name], default="")
    if not box or lending[box] < missing + OVERHEAD:
        return ""
    return f' It would fit with split = ["{box}"]: {box} lends {size_text(lending[box])}.'


def retry_later_error(failure: CyberError, seconds: float) -> ModelLoadError:
    """Return ``failure`` as the error of a request that arrives ``seconds`` before the next try."""
    tail = failure.log_tail if isinstance(failure, ModelLoadError) else ()
    hint = f"The next try is possible in {math.ceil(seconds)} s."
    error = ModelLoadError(
        failure.message,
        # A permanent failure makes another try useless.
        hint=failure.hint if failure.permanent else hint,
        log_tail=tail,
        needs_person=failure.permanent,
    )
    error.retry_after = seconds
    return error
