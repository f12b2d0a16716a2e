"""Requests: those that wait, those that are answered, those that are done."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class WaitingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request that waits for a model (``GET /admin/queue``)."""

    model: str
    position: int
    """From 1, among those that wait for this model."""
    waited_seconds: float
    expected_wait_seconds: float | None
    """From now on; ``None`` where nothing is known of it."""


class RequestPhase(StrEnum):
    """Where a request that is not finished stands."""

    WAITING = "waiting"
    """For its model."""
    PROCESSING = "processing"
    """Sent to the model's server, which has not answered yet."""
    ANSWERING = "answering"
    """Its answer is passing by."""


class ActiveRequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request that is not finished (``GET /admin/requests/active``)."""

    number: int
    """Its name while it lives; the history gives another."""
    at: datetime
    """When it came."""
    model: str
    path: str
    phase: RequestPhase
    stream: bool = False
    position: int | None = None
    """While it waits: from 1, among those that wait for its model."""
    queue_seconds: float = 0.0
    """How long it waited for its model, or does so far."""
    time_to_first_token_seconds: float | None = None
    client: str | None = None
    """The address it came from."""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One finished request (``GET /admin/requests``). Never its prompt, never its answer."""

    id: int = 0
    """Given by the history; it grows with time."""
    at: datetime
    """When it came."""
    model: str
    """Of a request that was refused, the name that it asked for; empty = it gave none."""
    path: str
    status: int
    """The HTTP status that the client saw; 499 = it went away first."""
    stream: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_per_second: float | None = None
    """While answering, as the server measured it."""
    time_to_first_token_seconds: float | None = None
    """From its arrival to the first byte of the answer's body, waiting included."""
    queue_seconds: float = 0.0
    """How long it waited for a place at its model."""
    duration_seconds: float
    client: str | None = None
    """The address it came from."""
    error: str | None = None
    """What went wrong, in one sentence."""


class ModelTotals(msgspec.Struct, frozen=True, kw_only=True):
    """One model's requests summed up, as far back as the history goes (``GET /admin/totals``)."""

    model: str
    requests: int
    failures: int
    """Those with a status of 400 or more, or with an error."""
    tokens_in: int
    """Of the requests whose number of tokens is known."""
    tokens_out: int
    last_used_at: datetime
    """When the latest one came."""
