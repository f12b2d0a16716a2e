"""The API keys with names: their changes, their use, and the limits by rate."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec

from cyber_inference_tui.cancellation import to_its_end
from cyber_inference_tui.errors import CyberError, InvalidApiKeyError, RateLimitedError
from cyber_inference_tui.records import CreatedKey, KeyRecord, KeyTotals, NewKey, RequestRecord
from cyber_inference_tui.records.keys import KeyLimits
from cyber_inference_tui.service.allowance import Allowance
from cyber_inference_tui.service.audit_log import AuditLog
from cyber_inference_tui.service.history import History
from cyber_inference_tui.service.key_file import (
    Keys,
    has_expired,
    read_keys,
    record_of,
    with_new,
    without,
    write_keys,
)
from cyber_inference_tui.units import duration_text

_MINUTE = 60.0

_logger = logging.getLogger(__name__)


class _Use:
    """The use of a key: today, and its last request."""

    __slots__ = ("allowance", "last_at", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self.last_at: datetime | None = None
        self.allowance: Allowance | None = None
        """Its requests per minute, once one was admitted."""


class ApiKeys:
    """The keys in ``data_dir``; ``read`` and ``recall`` come first. ``audit`` notes changes.

    The use of a name stays when its key is removed, until the service ends. ``now`` returns the
    time in UTC, ``clock`` the seconds of a monotonic clock.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        now: Callable[[], datetime],
        audit: AuditLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._now = now
        self._audit = audit
        self._clock = clock
        self.present: Keys = ()
        """The keys. Each change replaces the tuple."""
        self._use: dict[str, _Use] = {}
        self._day: date = now().date()
        self._changing = asyncio.Lock()

    async def read(self) -> None:
        """Read the stored keys. Raises ``ConfigError`` for an unreadable file."""
        self.present = await asyncio.to_thread(read_keys, self._data_dir)

    async def recall(self, history: History) -> None:
        """Take over the use in earlier runs of the service."""
        if not self.present:
            return
        midnight = datetime.combine(self._today(), datetime.min.time(), UTC)
        try:
            for ever in await history.key_totals():
                self._of(ever.key_name).last_at = ever.last_used_at
            for today in await history.key_totals(midnight):
                self._recall_today(today)
        except CyberError as error:
            _logger.warning("the earlier use of the API keys is not known: %s", error)

    def _recall_today(self, totals: KeyTotals) -> None:
        use = self._of(totals.key_name)
        use.requests = totals.requests
        use.tokens = totals.tokens_in + totals.tokens_out

    # Changes

    def records(self) -> list[KeyRecord]:
        """Return the keys and their use, in the order of their creation."""
        self._today()
        now = self._now()
        found = []
        for key in self.present:
            use = self._use.get(key.name) or _Use()
            last = use.last_at
            found.append(
                msgspec.structs.replace(
                    record_of(key, now),
                    # A former key of this name may have been used before.
                    last_used_at=last if last is not None and last >= key.created_at else None,
                    requests_today=use.requests,
                    tokens_today=use.tokens,
                )
            )
        return found

    async def add(self, new: NewKey) -> CreatedKey:
        """Create a key. Raises the errors of ``with_new`` and ``write_keys``.

        A change that has begun is made, even if this is cancelled.
        """
        return await to_its_end(self._add(new))

    async def _add(self, new: NewKey) -> CreatedKey:
        async with self._changing:
            keys, secret = with_new(self.present, new, self._now())
            await self._write(keys)
        await self._audit.note("key_created", name=new.name)
        return CreatedKey(**msgspec.structs.asdict(self.records()[-1]), key=secret)

    async def remove(self, name: str) -> KeyRecord:
        """Remove a key, which is invalid from now on. Raises ``NotFoundError``; see ``add``."""
        return await to_its_end(self._remove(name))

    async def _remove(self, name: str) -> KeyRecord:
        async with self._changing:
            keys, gone = without(self.present, name)
            record = next(one for one in self.records() if one.name == gone.name)
            await self._write(keys)
        await self._audit.note("key_removed", name=gone.name)
        return record

    async def _write(self, keys: Keys) -> None:
        await asyncio.to_thread(write_keys, self._data_dir, keys)
        self.present = keys

    # Limits

    def is_over(self, limits: KeyLimits) -> bool:
        """Check whether a key has expired."""
        return has_expired(limits, self._now())

    def admit(self, name: str, limits: KeyLimits) -> None:
        """Count a request that begins.

        Raises ``RateLimitedError`` if a limit is used up, and ``InvalidApiKeyError`` if the key has
        expired; such a request does not count. Tokens are counted at the end of a request, so a
        request that was admitted is finished.
        """
        if self.is_over(limits):
            raise expired(limits)
        self._today()
        use, now = self._of(name), self._clock()
        per_minute, per_day = limits.requests_per_minute, limits.tokens_per_day
        if per_day and use.tokens >= per_day:
            raise self._refusal(use, limits, f"{per_day:,} tokens per day", self._until_midnight())
        if not per_minute:
            return
        if use.allowance is None or use.allowance.burst != per_minute:
            use.allowance = Allowance(per_minute, _MINUTE / per_minute)
        if not use.allowance.take(now):
            wait = use.allowance.wait(now)
            raise self._refusal(use, limits, f"{per_minute:,} requests per minute", wait)

    def _refusal(self, use: _Use, limits: KeyLimits, limit: str, wait: float) -> RateLimitedError:
        seconds = max(1, math.ceil(wait))
        left: dict[str, str] = {}
        if limits.requests_per_minute:
            allowance, now = use.allowance, self._clock()
            requests = limits.requests_per_minute if allowance is None else allowance.left(now)
            reset = 0.0 if allowance is None else allowance.wait(now)
            left |= _headers("requests", limits.requests_per_minute, requests, reset)
        if limits.tokens_per_day:
            tokens = max(0, limits.tokens_per_day - use.tokens)
            left |= _headers("tokens", limits.tokens_per_day, tokens, self._until_midnight())
        pause = duration_text(seconds) if seconds >= _MINUTE else f"{seconds} s"
        error = RateLimitedError(
            f"This API key allows {limit}, and none is left.", hint=f"Try again in {pause}."
        )
        error.retry_after, error.left = seconds, left
        return error

    def note(self, records: Iterable[RequestRecord]) -> None:
        """Count finished requests."""
        today = self._today()
        for record in records:
            if record.key_name is None:
                continue
            use = self._of(record.key_name)
            use.last_at = record.at if use.last_at is None else max(use.last_at, record.at)
            # As after a restart: a request belongs to the day of its arrival.
            if record.at.astimezone(UTC).date() >= today:
                use.requests += 1
                use.tokens += (record.tokens_in or 0) + (record.tokens_out or 0)

    def _of(self, name: str) -> _Use:
        use = self._use.get(name)
        if use is None:
            use = self._use[name] = _Use()
        return use

    def _today(self) -> date:
        """Return the day, and begin to count again if it is a new one."""
        today = self._now().date()
        if today != self._day:
            self._day = today
            for use in self._use.values():
                use.requests = use.tokens = 0
        return today

    def _until_midnight(self) -> float:
        now = self._now()
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        return (midnight - now).total_seconds()


def expired(limits: KeyLimits) -> InvalidApiKeyError:
    """Return the error of a key whose last day is over."""
    return InvalidApiKeyError(
        f"This API key expired on {limits.expires}.",
        hint="Ask the owner of the service for a new one.",
    )


def _headers(what: str, limit: int, left: int, reset: float) -> dict[str, str]:
    """Return the headers of OpenAI's API that say what is left of a limit."""
    return {
        f"X-RateLimit-Limit-{what.title()}": str(limit),
        f"X-RateLimit-Remaining-{what.title()}": str(left),
        f"X-RateLimit-Reset-{what.title()}": f"{math.ceil(reset)}s",
    }
