"""Tunings: the search for better settings of a model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

_MOST_TOKENS = 1 << 20


class Goal(StrEnum):
    """What a tuning makes better."""

    SPEED = "speed"
    """The time from a request to the end of its answer."""
    ENERGY = "energy"
    """Joules per token."""
    MEMORY = "memory"
    """The most memory of the model's server."""


class TuneRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to tune (``POST /admin/tune``). The tokens are those of each measurement."""

    model: Annotated[str, Meta(min_length=1)]
    """Its id or an alias."""
    goal: Goal = Goal.SPEED
    prompt: Annotated[int, Meta(ge=1, le=_MOST_TOKENS)] = 512
    """Tokens of each prompt."""
    tokens: Annotated[int, Meta(ge=2, le=_MOST_TOKENS)] = 128
    """Tokens of each answer."""
    parallel: Annotated[int, Meta(ge=1, le=64)] = 1
    """Requests at once."""


class TuneTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A change that was tried, compared with the best settings until then."""

    change: str
    """The change in a few words, such as ``4 threads``."""
    gain: float | None = None
    """How much better it is, as a share: 0.06 = 6 %; ``None`` = not known."""
    noise: float | None = None
    """How far the 95 % confidence interval reaches from ``gain`` towards 0."""
    taken: bool = False
    reason: str
    """Why it was taken or not, in a few words."""


class TuneOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a tuning."""

    values: dict[str, Any] = {}
    """The settings that were written to the model's table; none = it keeps those that it had."""
    gain: float | None = None
    """How much better they are than the former settings, as a share."""
    noise: float | None = None
    trials: tuple[TuneTrial, ...] = ()
    summary: str
    """A sentence about the result."""


class TuneUndone(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that a model has back (``DELETE /admin/tune/{name}``)."""

    model: str
    values: dict[str, Any]
    """By setting; ``None`` = its line was removed."""
    changed_since: tuple[str, ...] = ()
    """Settings that somebody has changed after the tuning; they stay as they are."""
