"""Requests: waiting, in progress and finished."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from cyber_inference_tui.records.keys import Priority


class WaitingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A request that waits for a model (``GET /admin/queue``)."""

    model: str
    priority: Priority = Priority.NORMAL
    position: int
    """The position in the model's queue, from 1, if no other request arrives."""
    waited_seconds: float
    expected_wait_seconds: float | None
    """Seconds from now on; ``None`` if unknown."""


class RequestPhase(StrEnum):
    """The phase of a request in progress."""

    WAITING = "waiting"
    """It waits for its model."""
    PROCESSING = "processing"
    """The model's server has it, and has not answered yet."""
    ANSWERING = "answering"
    """The client receives the answer."""


class ActiveRequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A request in progress (``GET /admin/requests/active``)."""

    number: int
    """Its number while it is in progress; the history gives it another."""
    at: datetime
    """The time of its arrival."""
    model: str
    path: str
    phase: RequestPhase
    stream: bool = False
    position: int | None = None
    """While it waits: the position in the model's queue, from 1."""
    priority: Priority | None = None
    """While it waits: the priority of its API key."""
    queue_seconds: float = 0.0
    """Seconds that it has waited for its model so far."""
    time_to_first_token_seconds: float | None = None
    tokens_out: int | None = None
    """The tokens of the answer so far."""
    tokens_per_second: float | None = None
    """The speed of the answer over the last seconds."""
    request_id: str | None = None
    """The ``X-Request-Id`` of its answer."""
    client: str | None = None
    """The client's address."""
    user_agent: str | None = None
    """The client's program, as it calls itself."""
    key_name: str | None = None
    """The name of its API key; of a key in ``api_keys`` its place there, from 1."""
    port: int | None = None
    """The service's port that it called."""
    box: str | None = None
    """The other box that has it; ``None`` = this one."""


class LiveRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The present figures of a request in progress."""

    number: int
    """As in its ``ActiveRequestRecord``."""
    phase: RequestPhase
    tokens_out: int | None = None
    """The tokens of the answer so far."""
    tokens_per_second: float | None = None
    """The speed of the answer over the last seconds."""


class LiveRequests(msgspec.Struct, frozen=True, kw_only=True):
    """The data of a ``request`` event about requests in progress.

    It is sent at most four times a second, while figures change and somebody reads these events.
    The other ``request`` events have a ``RequestRecord``.
    """

    live: tuple[LiveRequest, ...]
    """The requests in progress; one that is not among them has ended."""
    tokens_per_second: dict[str, float] = {}
    """By model: the speed of all its answers together over the last seconds."""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A finished request (``GET /admin/requests``), without prompt and answer."""

    id: int = 0
    """The number in the history; it grows with time."""
    at: datetime
    """The time of its arrival."""
    model: str
    """The model's id; of a refused request the name that it asked for, or empty."""
    path: str
    status: int
    """The HTTP status of the answer; 499 = the client left first."""
    stream: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_per_second: float | None = None
    """The speed of the answer, as the server measured it."""
    time_to_first_token_seconds: float | None = None
    """From the arrival to the first byte of the answer's body, waiting included."""
    queue_seconds: float = 0.0
    """Seconds that it waited for its model."""
    duration_seconds: float
    client: str | None = None
    """The client's address."""
    user_agent: str | None = None
    """The client's program, as it calls itself."""
    key_name: str | None = None
    """The name of its API key; of a key in ``api_keys`` its place there, from 1."""
    port: int | None = None
    """The service's port that it called."""
    request_id: str | None = None
    """The ``X-Request-Id`` of its answer."""
    tokens_cached: int | None = None
    """The tokens of its prompt that the server had in its cache."""
    tokens_drafted: int | None = None
    """The tokens that a draft model proposed."""
    tokens_accepted: int | None = None
    """The proposed tokens that became part of the answer."""
    tokens_counted: bool | None = None
    """Whether ``tokens_out`` is the number of the stream's events, about one for each token,
    because the server reported no other."""
    body_seconds: float | None = None
    """Seconds from its arrival until its body was complete; ``None`` = it came at once."""
    load_seconds: float | None = None
    """The part of ``queue_seconds`` in which its model was being loaded."""
    queue_ahead: int | None = None
    """The requests before it in its model's queue when it arrived."""
    prompt_seconds: float | None = None
    """The server's time for the prompt."""
    answer_seconds: float | None = None
    """The server's time for the answer."""
    stall_seconds: float | None = None
    """Seconds in which the client did not take what was ready for it; ``None`` = none."""
    prompt_differs_at: int | None = None
    """The character, to eight, at which its prompt begins to differ from the most similar of the
    same client's last ones for this model; ``None`` if it continues it, or there was none."""
    prompt_differs_in: str | None = None
    """The part of the prompt with that character: ``the system prompt``, ``the tools``,
    ``message 3``."""
    box: str | None = None
    """The other box that has answered; ``None`` = this one."""
    energy_j: float | None = None
    """Its share of the energy that this machine used, in J; ``None`` = not measured."""
    error: str | None = None
    """The error, in one sentence."""


class PhaseName(StrEnum):
    """A phase of a request, in their order."""

    NETWORK = "network"
    """Its body arrived."""
    QUEUE = "queue"
    """It waited for its model, which was not being loaded for it."""
    LOAD = "load"
    """Its model was loaded."""
    SLOT = "slot"
    """The model's server had it, and worked on other requests."""
    PROMPT = "prompt"
    """The server read the prompt."""
    WRITING = "writing"
    """The server wrote the answer."""
    STALL = "stall"
    """The client did not take what was ready for it."""


class PhaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A phase of a finished request."""

    name: PhaseName
    seconds: float
    usual_seconds: float | None = None
    """The median of the same model's requests; ``None`` if there are too few."""
    tokens: int | None = None
    """The tokens of the prompt that were new, or those of the answer."""
    tokens_cached: int | None = None
    """The tokens of the prompt that were in the cache."""
    tokens_per_second: float | None = None
    usual_tokens_per_second: float | None = None


class RequestWhy(msgspec.Struct, frozen=True, kw_only=True):
    """The time of a finished request, compared with its model's other requests
    (``GET /admin/requests/{id}/why``)."""

    request: RequestRecord
    phases: tuple[PhaseRecord, ...]
    """Those that took time, in their order."""
    usual_seconds: float | None
    """The median time of the model's requests; ``None`` if there are too few."""
    compared: int
    """The number of requests that it is compared with, the last ones before it."""
    cause: str
    """The reason in a few words, such as ``waited for a load``; empty if it was not slow."""
    explanation: tuple[str, ...]
    """Sentences about the cause, and how to avoid it."""


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A client's requests to one port in the history (``GET /admin/clients``)."""

    user_agent: str | None
    key_name: str | None
    client: str | None
    """Its address."""
    port: int
    requests: int
    last_used_at: datetime
    """The arrival of the latest request."""


class ModelTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over a model's requests in the history (``GET /admin/totals``)."""

    model: str
    requests: int
    failures: int
    """Requests with a status of 400 or more, or with an error."""
    tokens_in: int
    """The sum over requests whose number of tokens is known."""
    tokens_out: int
    energy_j: float | None = None
    """The sum over requests whose energy is known, in J; ``None`` = of none."""
    last_used_at: datetime
    """The arrival of the latest request."""
