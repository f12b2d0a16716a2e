"""Asks a llama-server for the prompts in its slots and for tokens, and derives a rate."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.llama.http_get import ServerAddress, http_get

_MOST_BYTES = 1 << 20
_COUNTER = re.compile(
    rb"^llamacpp:(prompt_tokens_total|tokens_predicted_total) ([0-9]{1,15})$", re.MULTILINE
)
_COUNTERS = 2


class _Next(msgspec.Struct):
    n_decoded: int


class _Slot(msgspec.Struct):
    id: int
    is_processing: bool
    id_task: int = -1
    n_prompt_tokens: int = 0
    next_token: list[_Next] | _Next | None = None


class SlotPrompt(msgspec.Struct, frozen=True):
    """The prompt with its answer that a free slot holds since its last request."""

    slot: int
    tokens: int


class Task(msgspec.Struct, frozen=True):
    """A request that a slot works on. ``decoded`` = tokens generated for it so far."""

    slot: int
    id: int
    decoded: int


async def ask_slots(server: ServerAddress, timeout: float) -> tuple[Task, ...] | None:
    """Return the tasks in progress by ``GET /slots``; ``None`` = no valid answer in time.

    The server answers between two steps of its work, so the counts are current. ``timeout`` is in
    seconds. The fields are those of build 11669 (``tools/server/README.md`` of llama.cpp).
    """
    body = await _ask(server, "/slots", timeout)
    return None if body is None else parse_slots(body)


async def ask_prompts(server: ServerAddress, timeout: float) -> tuple[SlotPrompt, ...]:
    """Return the prompts of free slots that had a request since the start, by ``GET /slots``.

    They are unknown without a valid answer in time, and with a build that does not count them.
    """
    body = await _ask(server, "/slots", timeout)
    return () if body is None else parse_prompts(body)


async def ask_tokens(server: ServerAddress, timeout: float) -> int | None:
    """Return the tokens that a server has read and written since its start, by ``GET /metrics``.

    Tokens of a prompt that it found in its cache do not count. It needs ``--metrics``; ``None`` =
    no valid answer in time.
    """
    found = dict(_COUNTER.findall(await _ask(server, "/metrics", timeout) or b""))
    return sum(map(int, found.values())) if len(found) == _COUNTERS else None


async def _ask(server: ServerAddress, path: str, timeout: float) -> bytes | None:
    try:
        status, body = await http_get(server, path, timeout=timeout, most_bytes=_MOST_BYTES)
    except OSError:
        # TimeoutError is an OSError.
        return None
    return body if status == HTTPStatus.OK else None


def parse_prompts(body: bytes) -> tuple[SlotPrompt, ...]:
    """Return the prompts in the body of an answer; none if it has another form."""
    return tuple(
        SlotPrompt(slot.id, slot.n_prompt_tokens)
        for slot in _decode(body) or ()
        if not slot.is_processing and slot.id_task >= 0 and slot.n_prompt_tokens > 0
    )


def _decode(body: bytes) -> list[_Slot] | None:
    try:
        return msgspec.json.decode(body, type=thread_safe(list[_Slot]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def parse_slots(body: bytes) -> tuple[Task, ...] | None:
    """Return the tasks in the body of an answer; ``None`` = it has another form."""
    slots = _decode(body)
    if slots is None:
        return None
    tasks = []
    for slot in slots:
        if slot.is_processing:
            if slot.next_token is None:
                return None  # The server does not report its tokens.
            # Earlier builds have an object in place of a list with one object.
            parts = slot.next_token if isinstance(slot.next_token, list) else [slot.next_token]
            decoded = sum(max(0, part.n_decoded) for part in parts)
            tasks.append(Task(slot.id, slot.id_task, decoded))
    return tuple(tasks)


class TokenRate:
    """The tokens per second of one server, from repeated looks at it.

    A look consists of the tokens of all finished requests, and the tasks in progress. Their sum
    usually grows by the tokens generated. But a task leaves its slot a moment before its request
    counts as finished, and a cancelled task is never counted. So missing tokens are awaited until
    the next look, and then written off.
    """

    def __init__(self) -> None:
        self._at: float | None = None
        self._known = 0
        self._tasks: dict[tuple[int, int], int] = {}
        self._owed = False

    def look(self, finished: int, tasks: Iterable[Task], now: float) -> float | None:
        """Return the mean rate since the last look; ``now`` is in seconds of a monotonic clock.

        ``None`` at the first look.
        """
        running = {(task.slot, task.id): task.decoded for task in tasks}
        total = finished + sum(running.values())
        # At least this much is new.
        seen = sum(max(0, n - self._tasks.get(key, 0)) for key, n in running.items())
        self._tasks = running
        before, self._at = self._at, now
        if before is None or now <= before:
            self._known = total
            return None
        expected = self._known + seen
        if total >= expected:
            new, self._known, self._owed = total - self._known, total, False
        else:
            new, self._known = seen, (total if self._owed else expected)
            self._owed = not self._owed
        return round(new / (now - before), 1)
