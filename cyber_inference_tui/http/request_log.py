"""Records a request: its arrival, its time in the queue, and its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from aiohttp import web

from cyber_inference_tui.errors import CyberError, ModelNotFoundError
from cyber_inference_tui.http.access import client_address, key_of
from cyber_inference_tui.http.client_response import ClientResponse
from cyber_inference_tui.http.model_request import ClientSide, RequestHead, client_of, user_agent
from cyber_inference_tui.http.request_id import id_of
from cyber_inference_tui.http.target import Target
from cyber_inference_tui.http.usage import NO_USAGE
from cyber_inference_tui.monitor.energy_shares import EnergyShares
from cyber_inference_tui.records import ActiveRequestRecord, RequestPhase, RequestRecord
from cyber_inference_tui.scheduler.state import ModelState, Waiter
from cyber_inference_tui.service.prompt_prefixes import Difference
from cyber_inference_tui.service.token_speed import AnswerSpeed
from cyber_inference_tui.text import clean_line

CLIENT_LEFT = 499
"""The status of a request whose client left before the answer (as in nginx)."""

_MAX_NAME_CHARACTERS = 200
_MAX_PATH_CHARACTERS = 200
_MAX_ERROR_CHARACTERS = 500


def refusal_record(
    request: web.Request, error: CyberError, *, at: datetime, seconds: float
) -> RequestRecord:
    """Return the record of a request that was refused before its model was known.

    It arrived ``at`` and was refused ``seconds`` later. Its ``model`` is the name in the request,
    empty if no name was read.
    """
    key = key_of(request)
    name = error.name if isinstance(error, ModelNotFoundError) else ""
    name = name or request.query.get("model") or request.headers.get("X-Model") or ""
    return RequestRecord(
        at=at,
        model=clean_line(name, limit=_MAX_NAME_CHARACTERS),
        path=clean_line(request.path, limit=_MAX_PATH_CHARACTERS),
        status=error.status,
        duration_seconds=round(seconds, 6),
        client=client_address(request) or None,
        user_agent=user_agent(request.headers),
        key_name=None if key is None else key.name,
        port=client_of(request).local_port,
        request_id=id_of(request).decode(),
        error=_sentence(error),
    )


def _sentence(error: CyberError) -> str:
    return clean_line(str(error), limit=_MAX_ERROR_CHARACTERS)


class RequestLog:
    """The log of a request from its arrival to its end.

    Most requests change few of the values that it begins with.
    """

    _queue_seconds = 0.0
    _load_seconds: float | None = None
    _queue_ahead: int | None = None
    _waits_since: float | None = None
    waiter: Waiter | None = None
    """The request's place in the queue, while it waits."""
    error: CyberError | None = None
    """The service's error, if the request failed with one."""
    client_left = False
    box: str | None = None
    """The other box that has it."""
    _speed: AnswerSpeed | None = None
    usage = NO_USAGE
    """The figures that the server reported."""
    marks: tuple[float, float] | None = None
    """The marks of ``EnergyShares`` at the begin and the end of its last place here."""

    def __init__(
        self,
        request: RequestHead,
        client: ClientSide,
        target: Target,
        answer: ClientResponse,
        *,
        request_id: bytes,
        at: datetime,
        arrived: float,
        body_seconds: float | None,
        differs: Difference | None,
        clock: Callable[[], float],
        energy: EnergyShares,
    ) -> None:
        self._clock = clock
        self._energy = energy
        self._request = request
        self._client = client
        # Not the target, which has the body.
        self._model_id, self._stream = target.model.id, target.stream
        self._answer = answer
        self.request_id = request_id.decode()
        self._at, self._came, self._body_seconds = at, arrived, body_seconds
        self._differs = differs
        self._ended = self._came

    @property
    def client_address(self) -> str | None:
        """The client's address."""
        return self._request.client or self._client.remote or None

    @property
    def failed(self) -> bool:
        """Return whether the service reported an error, or the client left."""
        return self.error is not None or self.client_left

    @property
    def error_code(self) -> str | None:
        """The code of the error, from a small set for the metrics; ``None`` = no error."""
        if self.client_left:
            return "client_left"
        if self.error is not None:
            return self.error.code
        return "server_error" if self.usage.error is not None else None

    def start_waiting(self) -> None:
        """Note that the request waits for a place at its model."""
        self._waits_since = self._clock()

    def set_waiter(self, waiter: Waiter, ahead: int) -> None:
        """Note the place in the queue, with so many requests before it."""
        self.waiter = waiter
        if self._queue_ahead is None:
            self._queue_ahead = ahead

    def stop_waiting(self, state: ModelState | None) -> None:
        """Note the end of the wait, successful or not; ``state`` is that of the model."""
        self._queue_seconds = self._waited()
        if state is not None and self._waits_since is not None:
            loading = state.loading_seconds(self._waits_since, self._clock())
            self._load_seconds = (self._load_seconds or 0.0) + loading
        self._waits_since = self.waiter = None

    def end(self) -> None:
        """Note the end of the request."""
        self._ended = self._clock()

    def _waited(self) -> float:
        since = self._waits_since
        return self._queue_seconds + (0.0 if since is None else self._clock() - since)

    def _first_byte_after(self) -> float | None:
        first = self._answer.first_byte_at
        return None if first is None else first - self._came

    def active(self, number: int, positions: Mapping[Waiter, int]) -> ActiveRequestRecord:
        """Return the record of the running request."""
        first, tokens, speed = self._first_byte_after(), None, None
        phase = RequestPhase.PROCESSING
        if first is not None:
            phase, tokens = RequestPhase.ANSWERING, self._answer.tokens_so_far
        if first is not None and tokens:
            # Somebody looks, so the next look knows how many tokens there were now.
            self._speed = self._speed or AnswerSpeed(self._came + first)
            speed = self._speed.look(tokens, self._clock())
        if self._waits_since is not None:
            phase = RequestPhase.WAITING
        return ActiveRequestRecord(
            number=number,
            at=self._at,
            model=self._model_id,
            path=clean_line(self._request.path, limit=_MAX_PATH_CHARACTERS),
            phase=phase,
            stream=self._stream,
            position=None if self.waiter is None else positions.get(self.waiter),
            priority=None if self.waiter is None else self.waiter.priority,
            queue_seconds=round(self._waited(), 6),
            time_to_first_token_seconds=_rounded(first),
            tokens_out=tokens,
            tokens_per_second=speed,
            request_id=self.request_id,
            client=self.client_address,
            user_agent=self._request.user_agent,
            key_name=self._request.key_name,
            port=self._client.local_port,
            box=self.box,
        )

    def record(self) -> RequestRecord:
        """Return the record of the request, after its end."""
        answer = self._answer
        status = answer.status
        if self.client_left:
            status = CLIENT_LEFT
        elif not answer.begun and self.error is not None:
            status = self.error.status
        usage = self.usage
        return RequestRecord(
            at=self._at,
            model=self._model_id,
            path=clean_line(self._request.path, limit=_MAX_PATH_CHARACTERS),
            status=status,
            stream=self._stream,
            tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out,
            tokens_per_second=_rounded(usage.tokens_per_second),
            time_to_first_token_seconds=_rounded(self._first_byte_after()),
            queue_seconds=round(self._queue_seconds, 6),
            duration_seconds=round(self._ended - self._came, 6),
            client=self.client_address,
            user_agent=self._request.user_agent,
            key_name=self._request.key_name,
            port=self._client.local_port,
            request_id=self.request_id,
            tokens_cached=usage.tokens_cached,
            tokens_drafted=usage.tokens_drafted,
            tokens_accepted=usage.tokens_accepted,
            tokens_counted=usage.tokens_counted,
            body_seconds=_rounded(self._body_seconds),
            load_seconds=_rounded(self._load_seconds),
            queue_ahead=self._queue_ahead,
            prompt_seconds=_rounded(usage.prompt_seconds),
            answer_seconds=_rounded(usage.answer_seconds),
            prompt_differs_at=None if self._differs is None else self._differs.at,
            prompt_differs_in=None if self._differs is None else self._differs.part,
            stall_seconds=_rounded(answer.stall_seconds or None),
            box=self.box,
            energy_j=_rounded(None if self.marks is None else self._energy.joules(*self.marks)),
            error=self._sentence(),
        )

    def _sentence(self) -> str | None:
        if self.client_left:
            return "The client went away before the end of its answer."
        if self.error is not None:
            return _sentence(self.error)
        return self.usage.error


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
