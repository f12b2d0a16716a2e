"""API keys with names and limits."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

MOST_KEYS = 1000
"""Keys with names that a service may have."""
MOST_PER_MINUTE = 1_000_000
MOST_PER_DAY = 1_000_000_000_000

_Name = Annotated[str, Meta(min_length=1, max_length=64)]
_ModelName = Annotated[str, Meta(min_length=1, max_length=500)]
_Models = Annotated[tuple[_ModelName, ...], Meta(max_length=100)]
_PerMinute = Annotated[int, Meta(ge=0, le=MOST_PER_MINUTE)]
_PerDay = Annotated[int, Meta(ge=0, le=MOST_PER_DAY)]


class Priority(StrEnum):
    """The share that a request gets while others wait."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of an API key; a day begins at midnight UTC."""

    models: _Models = ()
    """The ids or aliases of the models that it may use; empty = all."""
    requests_per_minute: _PerMinute = 0
    """0 = no limit."""
    tokens_per_day: _PerDay = 0
    """Tokens read and written; 0 = no limit."""
    priority: Priority = Priority.NORMAL
    expires: date | None = None
    """The last day on which it is valid; ``None`` = it does not expire."""

    @property
    def changes(self) -> bool:
        """Whether the answer to "may it be used" can change from one request to the next."""
        return bool(self.requests_per_minute or self.tokens_per_day or self.expires)


NO_LIMITS = KeyLimits()


class NewKey(KeyLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to create (``POST /admin/keys``)."""

    name: _Name


class KeyRecord(KeyLimits, frozen=True, kw_only=True):
    """A key (``GET /admin/keys``), without the key itself, which is not stored."""

    name: str
    created_at: datetime
    expired: bool = False
    last_used_at: datetime | None = None
    requests_today: int | None = None
    """``None`` = not known, because no service runs."""
    tokens_today: int | None = None


class CreatedKey(KeyRecord, frozen=True, kw_only=True):
    """A new key. It is in no other answer."""

    key: str


class KeyTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the requests with a key in the history (``GET /admin/totals/keys``)."""

    key_name: str
    """The name; of a key in ``api_keys`` its place there, from 1."""
    requests: int
    failures: int
    """Requests with a status of 400 or more, or with an error."""
    tokens_in: int
    tokens_out: int
    energy_j: float | None = None
    """The sum over requests whose energy is known, in J; ``None`` = of none."""
    last_used_at: datetime
    """The arrival of the latest request."""
