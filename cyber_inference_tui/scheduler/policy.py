"""Which model to load and which to unload: a pure function of what is known at one moment.

No clock, no processes, no logging: ``decide`` gets frozen views and returns what to do next. The
scheduler carries it out and asks again after every change. What models need in memory is to enter
here, as further fields of ``ModelView`` and ``Limits``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from cyber_inference_tui.records import ModelStatus

STABLE_AFTER = 60.0
"""Seconds a server must have run for its earlier failures to be forgotten."""

PATIENCE = 5.0
"""Seconds a request waits for a busy model to rest by itself before that gets no new ones."""

_BACKOFF_MOST = 60.0


class Reason(StrEnum):
    """Why a model is unloaded; shown to people as it is."""

    IDLE = "idle"
    ROOM = "room for another model"
    REQUEST = "asked to unload"


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """One model as the policy sees it; times are seconds of one monotonic clock."""

    id: str
    status: ModelStatus
    in_flight: int = 0
    waiting: int = 0
    waiting_since: float = 0.0
    """When the oldest waiting request came (meaningful while ``waiting``)."""
    last_used: float = 0.0
    idle_timeout: float = 0.0
    """Seconds; 0 = never unload for being idle."""
    pinned: bool = False
    leaving: bool = False
    """Somebody asked to unload it: no new requests are let in until it is gone."""
    draining: bool = False
    """The last decision let no new requests in, to make room for another model."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds the set of loaded models."""

    max_loaded_models: int = 0
    """0 = no bound by count."""


class Unload(msgspec.Struct, frozen=True):
    """Unload this model, for this reason."""

    id: str
    reason: Reason


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now, and when to ask again if nothing happens before."""

    load: str | None = None
    unload: tuple[Unload, ...] = ()
    drain: str | None = None
    """Let no new requests into this one: it never comes to rest, and another has waited enough."""
    wake_at: float | None = None


def decide(models: Sequence[ModelView], limits: Limits, now: float) -> Decision:
    """The next steps.

    * A model that was asked to leave goes as soon as it is not busy; an idle one after its time.
    * Loads are one at a time: llama-server fits itself to the memory it finds free at its start.
    * The model whose request has waited longest is loaded next. Where ``max_loaded_models`` are
      there already, the one idle for the longest makes room; a busy or pinned one never does.
    * A model that is busy without a pause cannot starve another: after ``PATIENCE`` seconds it
      gets no new requests, ends those it has, and makes room. Its own then wait in their turn.
    """
    unload = [
        Unload(model.id, Reason.REQUEST if model.leaving else Reason.IDLE)
        for model in models
        if _free_to_go(model) and (model.leaving or (_idles_out(model) and now >= _ends(model)))
    ]
    going = {step.id for step in unload}
    load = drain = None
    deadlines = []
    wanted = [model for model in models if _wants_load(model)]
    if wanted and not any(model.status is ModelStatus.LOADING for model in models):
        room = _room(models, limits, bool(going))
        if room > 0:
            load = min(wanted, key=lambda model: (model.waiting_since, model.id)).id
        elif not going and not any(model.status is ModelStatus.UNLOADING for model in models):
            # Only when nothing is on its way out already: as many victims as needed, no more.
            victims = sorted(
                (model for model in models if _free_to_go(model) and not model.pinned),
                key=lambda model: (model.last_used, model.id),
            )
            unload += [Unload(victim.id, Reason.ROOM) for victim in victims[: 1 - room]]
            going |= {step.id for step in unload}
            if not victims:
                patient_until = min(model.waiting_since for model in wanted) + PATIENCE
                if now >= patient_until:
                    drain = _to_drain(models)
                else:
                    deadlines.append(patient_until)
    deadlines += [
        _ends(model)
        for model in models
        if _free_to_go(model) and _idles_out(model) and model.id not in going
    ]
    return Decision(
        load=load, unload=tuple(unload), drain=drain, wake_at=min(deadlines, default=None)
    )


def _to_drain(models: Sequence[ModelView]) -> str | None:
    """The busy model to bring to rest: the one chosen before, else the one with least to do."""
    busy = [model for model in models if model.status is ModelStatus.LOADED and not model.pinned]
    chosen = min(
        busy, key=lambda model: (not model.draining, model.in_flight, model.id), default=None
    )
    return chosen.id if chosen else None


def _wants_load(model: ModelView) -> bool:
    return model.waiting > 0 and model.status in {
        ModelStatus.UNLOADED,
        ModelStatus.QUEUED,
        ModelStatus.FAILED,
    }


def _free_to_go(model: ModelView) -> bool:
    return (
        model.status is ModelStatus.LOADED
        and model.in_flight == 0
        and (model.waiting == 0 or model.leaving or model.draining)
    )


def _idles_out(model: ModelView) -> bool:
    return model.idle_timeout > 0 and not model.pinned


def _ends(model: ModelView) -> float:
    return model.last_used + model.idle_timeout


def _room(models: Sequence[ModelView], limits: Limits, going: bool) -> int:
    """How many more models may be loaded now; what is still on its way out counts as there."""
    if limits.max_loaded_models == 0:
        # A model that leaves gives its memory to the next one, so that one waits for it.
        leaving = going or any(model.status is ModelStatus.UNLOADING for model in models)
        return 0 if leaving else 1
    there = sum(
        model.status in {ModelStatus.LOADED, ModelStatus.LOADING, ModelStatus.UNLOADING}
        for model in models
    )
    return limits.max_loaded_models - there


def backoff(failures: int) -> float:
    """Seconds to wait after the ``failures``-th failure in a row: none, then 1, 2, 4 … 60."""
    if failures <= 1:
        return 0.0
    return min(_BACKOFF_MOST, 2.0 ** min(failures - 2, 10))
