"""Sums and speeds over the requests of the history, by model, client, key or day."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec

from cyber_inference_tui.records import (
    ClientRecord,
    DraftTotals,
    KeyTotals,
    ModelTotals,
    SpeedTotals,
)
from cyber_inference_tui.records.queries import ClientsQuery, SpeedQuery
from cyber_inference_tui.service.history_rows import bounds, earliest, records_of
from cyber_inference_tui.text import program
from cyber_inference_tui.units import J_PER_KWH

MAX_SPEEDS = 20_000
"""Requests of one name whose speeds are compared: the newest."""
LEAST_COMPARED = 5
"""Fewer answers have no speed that is compared with that of answers without a draft."""
_MOST_TOKENS = 1 << 40
MAX_NAMES = 1_000
"""Names in one answer, those used last: any client can call itself anything."""

_NAMES = {
    "model": "nullif(model, '')",
    "client": "coalesce(key_name, program(nullif(user_agent, '')), client)",
    "key": "key_name",
    "day": "date(at / 1000000, 'unixepoch')",
}
_SUMS = (
    # total() is a float and cannot overflow, as sum() can with a damaged row.
    "count(*) AS requests,"
    " count(CASE WHEN status >= 400 OR error IS NOT NULL THEN 1 END) AS failures,"
    " CAST(total(tokens_in) AS INTEGER) AS tokens_in,"
    " CAST(total(tokens_out) AS INTEGER) AS tokens_out, max(at) AS last_used_at,"
    " CASE WHEN count(energy_j) THEN total(energy_j) END AS energy_j"
)


class _Speeds(NamedTuple):
    """The speeds of a name, each at most ``MAX_SPEEDS``."""

    tokens_per_second: array[float]
    first_token_seconds: array[float]


class _Drafted:
    """Sums up the drafts of requests, and keeps the speeds with and without them."""

    def __init__(self) -> None:
        self.drafted = self.accepted = 0
        self.speeds = {True: array("d"), False: array("d")}

    def add(self, speed: object, drafted: object, accepted: object) -> None:
        """Add a request; a damaged row may hold anything."""
        has_draft = isinstance(drafted, int) and 0 < drafted < _MOST_TOKENS
        if isinstance(drafted, int) and has_draft:
            self.drafted += drafted
            self.accepted += min(accepted, drafted) if isinstance(accepted, int) else 0
        if isinstance(speed, float) and len(self.speeds[has_draft]) < MAX_SPEEDS:
            self.speeds[has_draft].append(speed)

    def totals(self) -> DraftTotals | None:
        """Return the totals; ``None`` = no request had a draft."""
        if not self.drafted:
            return None
        return DraftTotals(
            tokens_drafted=self.drafted,
            tokens_accepted=self.accepted,
            tokens_per_second_p50=self._median(has_draft=True),
            undrafted_tokens_per_second_p50=self._median(has_draft=False),
        )

    def _median(self, *, has_draft: bool) -> float | None:
        speeds = self.speeds[has_draft]
        return (
            _at_percent(50, sorted(speeds, reverse=True)) if len(speeds) >= LEAST_COMPARED else None
        )


def select_clients(connection: sqlite3.Connection, query: ClientsQuery) -> list[ClientRecord]:
    """Return the clients of each port, the latest first; requests before version 2 are left out."""
    rows = connection.execute(
        "SELECT user_agent, key_name, client, port, count(*) AS requests, max(at) AS last_used_at"
        " FROM requests WHERE port IS NOT NULL AND at >= :since"
        " GROUP BY user_agent, key_name, client, port ORDER BY last_used_at DESC LIMIT :limit",
        bounds(query),
    )
    return records_of(rows, ClientRecord)


def select_totals(connection: sqlite3.Connection) -> list[ModelTotals]:
    """Return sums over all requests that are kept, by model."""
    rows = connection.execute(
        f"SELECT model, {_SUMS}"  # noqa: S608 - names from above
        # Refused requests that named no model are in no model's sums.
        " FROM requests WHERE model != '' GROUP BY model ORDER BY model"
    )
    return records_of(rows, ModelTotals)


def select_key_totals(
    connection: sqlite3.Connection, since: datetime | None = None
) -> list[KeyTotals]:
    """Return sums over the requests that are kept, by the name of their key, by name."""
    rows = connection.execute(
        f"SELECT key_name, {_SUMS}"  # noqa: S608 - names from above
        " FROM requests WHERE key_name IS NOT NULL AND +at >= :since"
        " GROUP BY key_name ORDER BY key_name",
        {"since": earliest(since)},
    )
    return records_of(rows, KeyTotals)


def select_drafted(connection: sqlite3.Connection, model: str) -> list[DraftTotals]:
    """Return the drafts of a model's newest requests; nothing if none had one."""
    drafted = _Drafted()
    for row in connection.execute(
        "SELECT tokens_per_second, tokens_drafted, tokens_accepted FROM requests"
        " WHERE model = :model AND status < 400 AND tokens_per_second IS NOT NULL"
        " ORDER BY id DESC LIMIT :limit",
        {"model": model, "limit": MAX_SPEEDS},
    ):
        drafted.add(*row)
    totals = drafted.totals()
    return [totals] if totals is not None else []


def select_speed_totals(
    connection: sqlite3.Connection, query: SpeedQuery, price_per_kwh: float = 0.0
) -> list[SpeedTotals]:
    """Return sums and speeds over the requests that are kept, by name, and the energy's cost."""
    connection.create_function("program", 1, _program, deterministic=True)
    name, since = _NAMES[query.by], {"since": earliest(query.since), "limit": MAX_NAMES}
    rows = connection.execute(
        f"SELECT * FROM (SELECT {name} AS name, {_SUMS} FROM requests"  # noqa: S608 - from above
        " WHERE +at >= :since GROUP BY 1 HAVING name IS NOT NULL"
        " ORDER BY last_used_at DESC LIMIT :limit) ORDER BY name",
        since,
    )
    totals = records_of(rows, SpeedTotals)
    speeds = {one.name: _Speeds(array("d"), array("d")) for one in totals}
    # Different models have different speeds, so only a model's are compared.
    drafts = {one.name: _Drafted() for one in totals} if query.by == "model" else {}
    # Sorting in SQLite takes three times as long, and writes temporary files.
    for found, drafted, accepted, *figures in connection.execute(
        f"SELECT {name}, tokens_drafted, tokens_accepted, tokens_per_second,"  # noqa: S608 - above
        " CASE WHEN stream THEN time_to_first_token_seconds END FROM requests"
        " WHERE +at >= :since AND status < 400"
        " AND (tokens_per_second IS NOT NULL OR stream) ORDER BY id DESC",
        since,
    ):
        if (own := speeds.get(found)) is not None:
            for kept, figure in zip(own, figures, strict=True):
                # A damaged row may hold anything.
                if type(figure) is float and len(kept) < MAX_SPEEDS:
                    kept.append(figure)
        if found in drafts:
            drafts[found].add(figures[0], drafted, accepted)
    return [
        msgspec.structs.replace(
            _with_cost(_with_speeds(one, speeds[one.name]), price_per_kwh),
            drafted=drafts[one.name].totals() if drafts else None,
        )
        for one in totals
    ]


@lru_cache(maxsize=256)
def _program(user_agent: str | None) -> str | None:
    return program(user_agent) if isinstance(user_agent, str) else None


def _with_speeds(totals: SpeedTotals, speeds: _Speeds) -> SpeedTotals:
    fastest_first = sorted(speeds.tokens_per_second, reverse=True)
    soonest_first = sorted(speeds.first_token_seconds)
    return msgspec.structs.replace(
        totals,
        tokens_per_second_p50=_at_percent(50, fastest_first),
        tokens_per_second_p95=_at_percent(95, fastest_first),
        first_token_seconds_p50=_at_percent(50, soonest_first),
        first_token_seconds_p95=_at_percent(95, soonest_first),
    )


def _with_cost(totals: SpeedTotals, price_per_kwh: float) -> SpeedTotals:
    if totals.energy_j is None or not price_per_kwh:
        return totals
    return msgspec.structs.replace(totals, cost=totals.energy_j / J_PER_KWH * price_per_kwh)


def _at_percent(part: Literal[50, 95], best_first: Sequence[float]) -> float | None:
    """Return the figure that ``part`` of 100 reach (nearest rank)."""
    if not best_first:
        return None
    return best_first[-(-len(best_first) * part // 100) - 1]
