"""Explains why a request was slow, by its phases and those of its model's other requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from statistics import median

from msgspec.structs import replace

from cyber_inference_tui.errors import NotFoundError
from cyber_inference_tui.records import PhaseName, PhaseRecord, RequestRecord, RequestWhy
from cyber_inference_tui.records.queries import RequestQuery
from cyber_inference_tui.service.history import History
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import counted, number_text, seconds_text, speed_text

COMPARED = 200
"""The most requests that a request is compared with."""
LEAST_COMPARED = 3
"""Fewer requests have no usual time."""
SLOW = 1.3
"""The number of usual times from which on a request is slow."""
_LEAST_EXCESS = 0.05
"""Seconds above the usual time that are worth an explanation."""
_SLOW_SPEED = 0.67
"""The part of the usual speed that is slow."""
_COLD = 0.5
"""The part of a prompt that has to be new before its cache counts as cold."""
_CLIENT_LEFT = 499
"""The status of a request whose client left before its end: it may have been too slow for it."""
_LATER = 100
"""Requests before and after a request that may have run at the same time."""
_SAID = 3
"""The most models that a sentence names."""


async def why_of(history: History, name: str) -> RequestWhy:
    """Explain the time of a finished request, by its number or its ``X-Request-Id``.

    Raises ``NotFoundError``.
    """
    found: list[RequestRecord] = []
    if name.isdecimal():
        page = await history.requests(RequestQuery(before=int(name) + 1, limit=1))
        found = [record for record in page if record.id == int(name)]
    found = found or await history.requests(RequestQuery(request_id=name, limit=1))
    if not found:
        raise NotFoundError(
            f"There is no finished request '{clean_line(name)}'.",
            hint="`cyber-inference-tui requests` lists them with their numbers.",
        )
    record = found[0]
    before = RequestQuery(model=record.model, failed=False, before=record.id, limit=COMPARED)
    # A request that ran at the same time may have ended later.
    around = RequestQuery(before=record.id + _LATER, limit=2 * _LATER)
    return explain(record, await history.requests(before), await history.requests(around))


def explain(
    record: RequestRecord, before: Sequence[RequestRecord], others: Sequence[RequestRecord]
) -> RequestWhy:
    """Explain the time that ``record`` took. Pure.

    ``before`` are the successful requests of its model before it, newest first. ``others`` are
    requests of all models, some of which ran at the same time.
    """
    alike = [one for one in before if one.path == record.path and one.id != record.id][:COMPARED]
    enough = len(alike) >= LEAST_COMPARED
    usual = median(one.duration_seconds for one in alike) if enough else None
    earlier = [phases(one) for one in alike] if enough else []
    found = tuple(_with_usual(phase, earlier) for phase in phases(record))
    cause, explanation = "", ("It took no longer than usual.",)
    if usual is None:
        explanation = (f"There are too few requests to {record.model} to compare it with.",)
    if record.error is not None and record.status != _CLIENT_LEFT:
        explanation = (f"It failed: {record.error}",)
    elif usual is None or record.duration_seconds > max(usual * SLOW, usual + _LEAST_EXCESS):
        longest = max(found, key=_excess, default=None)
        if longest is not None:
            cause, *sentences = _cause(record, longest, alike, _meanwhile(record, others))
            explanation = (*sentences, *(explanation if usual is None else ()))
    return RequestWhy(
        request=record,
        phases=found,
        usual_seconds=usual,
        compared=len(alike),
        cause=cause,
        explanation=tuple(explanation),
    )


def phases(record: RequestRecord) -> list[PhaseRecord]:
    """Return the phases of a request that took time, in their order.

    Where the server reported no times, the prompt lasts until the first byte of a stream, and the
    answer from then on. The rest of the time before the first byte was the wait for a slot.
    """
    network, queue = record.body_seconds or 0.0, record.queue_seconds
    load, stall = min(record.load_seconds or 0.0, queue), record.stall_seconds or 0.0
    total, first = record.duration_seconds, record.time_to_first_token_seconds
    begun = network + queue
    until_first = None if first is None or not record.stream else max(0.0, first - begun)
    prompt, writing, slot = record.prompt_seconds, record.answer_seconds, 0.0
    if prompt is None:
        prompt = (total - begun if until_first is None else until_first) or 0.0
    elif until_first is not None:
        slot = until_first - prompt
    else:
        slot = total - begun - prompt - (writing or 0.0) - stall
    if writing is None:
        writing = total - begun - slot - prompt - stall
    new = record.tokens_in
    if new is not None and record.tokens_cached is not None:
        new = max(0, new - record.tokens_cached)
    read = PhaseRecord(
        name=PhaseName.PROMPT,
        seconds=prompt,
        tokens=new,
        tokens_cached=record.tokens_cached,
        tokens_per_second=_speed(new, record.prompt_seconds),
    )
    written = PhaseRecord(
        name=PhaseName.WRITING,
        seconds=writing,
        tokens=record.tokens_out,
        tokens_per_second=record.tokens_per_second or _speed(record.tokens_out, writing),
    )
    found = [
        PhaseRecord(name=PhaseName.NETWORK, seconds=network),
        PhaseRecord(name=PhaseName.QUEUE, seconds=queue - load),
        PhaseRecord(name=PhaseName.LOAD, seconds=load),
        PhaseRecord(name=PhaseName.SLOT, seconds=slot),
        read,
        written,
        PhaseRecord(name=PhaseName.STALL, seconds=stall),
    ]
    rounded = [replace(phase, seconds=round(phase.seconds, 6)) for phase in found]
    return [phase for phase in rounded if phase.seconds > 0]


def _speed(tokens: int | None, seconds: float | None) -> float | None:
    return tokens / seconds if tokens and seconds else None


def _excess(phase: PhaseRecord) -> float:
    return phase.seconds - (phase.usual_seconds or 0.0)


def _with_usual(phase: PhaseRecord, earlier: Sequence[Sequence[PhaseRecord]]) -> PhaseRecord:
    """Return the phase with the medians of the same phase of other requests."""
    if not earlier:
        return phase
    alike = [[one for one in some if one.name is phase.name] for some in earlier]
    speeds = [one.tokens_per_second for some in alike for one in some if one.tokens_per_second]
    return replace(
        phase,
        # A request without the phase took no time for it.
        usual_seconds=median(sum(one.seconds for one in some) for some in alike),
        usual_tokens_per_second=median(speeds) if speeds else None,
    )


def _meanwhile(record: RequestRecord, others: Iterable[RequestRecord]) -> list[RequestRecord]:
    """Return the requests that ran at the same time."""
    begin, end = record.at, record.at + timedelta(seconds=record.duration_seconds)
    return [
        one
        for one in others
        if one.id != record.id
        and one.at < end
        and one.at + timedelta(seconds=one.duration_seconds) > begin
    ]


def _cause(
    record: RequestRecord,
    phase: PhaseRecord,
    before: Sequence[RequestRecord],
    meanwhile: Sequence[RequestRecord],
) -> tuple[str, ...]:
    """Return the cause of a long phase in a few words, and sentences about it."""
    took = seconds_text(phase.seconds)
    same = [one for one in meanwhile if one.model == record.model]
    match phase.name:
        case PhaseName.NETWORK:
            return "a slow upload", f"Its body took {took} to arrive."
        case PhaseName.LOAD:
            return (
                "waited for a load",
                (f"{record.model} was not loaded, and its load took {took}."),
                "Pin it, or raise idle_timeout, to keep it loaded.",
            )
        case PhaseName.QUEUE:
            return _queue(record, took, same, meanwhile)
        case PhaseName.SLOT:
            return (
                "waited for a slot",
                f"For {took}, {_running(same)} took all slots of its server.",
                "With more parallel slots, requests wait less, and each has less of the context.",
            )
        case PhaseName.STALL:
            return "a slow client", f"For {took}, its client did not take the answer."
        case PhaseName.PROMPT:
            return _prompt(record, phase, same, before)
        case PhaseName.WRITING:
            if _is_slow(phase):
                return "slow writing", *_slow_sentences(phase, same)
            if phase.tokens is None:
                return "a long answer", f"Its server wrote for {took}."
            count = number_text(phase.tokens)
            return "a long answer", f"It wrote {count} tokens{_at_usual_speed(phase)}."


def _queue(
    record: RequestRecord,
    took: str,
    same: Sequence[RequestRecord],
    meanwhile: Sequence[RequestRecord],
) -> tuple[str, ...]:
    if record.queue_ahead:
        ahead = counted(record.queue_ahead, "request")
        return "waited in the queue", f"It waited {took} behind {ahead} to {record.model}."
    models = sorted({one.model for one in meanwhile if one.model != record.model})
    if models and record.load_seconds:
        named = ", ".join(models[:_SAID])
        return (
            "waited for memory",
            f"It waited {took} until requests to {named} ended, to have room for its model.",
            "A smaller context or quantization lets both stay loaded.",
        )
    return (
        "waited in the queue",
        f"It waited {took}: {_running(same)} had all places of {record.model}.",
    )


def _running(requests: Sequence[RequestRecord]) -> str:
    return counted(len(requests), "other request") if requests else "other work"


def _slowdown(phase: PhaseRecord) -> float | None:
    """Return the usual speed as a multiple of this one, if both are known."""
    speed, usual = phase.tokens_per_second, phase.usual_tokens_per_second
    return usual / speed if speed and usual else None


def _is_slow(phase: PhaseRecord) -> bool:
    """Return whether the speed explains the time, and the number of tokens less."""
    slowdown = _slowdown(phase)
    if slowdown is None or slowdown * _SLOW_SPEED <= 1:
        return False
    # The time grew by the slowdown times the growth of the number of tokens.
    return not phase.usual_seconds or slowdown**2 >= phase.seconds / phase.usual_seconds


def _at_usual_speed(phase: PhaseRecord) -> str:
    slowdown = _slowdown(phase)
    return "" if slowdown is None or slowdown * _SLOW_SPEED > 1 else ", at its usual speed"


def _slow_sentences(phase: PhaseRecord, same: Sequence[RequestRecord]) -> tuple[str, ...]:
    speed = speed_text(phase.tokens_per_second or 0.0)
    usual = speed_text(phase.usual_tokens_per_second or 0.0)
    sentence = f"It had {speed} tokens/s instead of {usual}"
    if same:
        return (f"{sentence}, because {_running(same)} ran at the same server.",)
    return (
        f"{sentence}, and no other request ran at its server.",
        "Another program may have used the machine, or it was throttled.",
    )


def _prompt(
    record: RequestRecord,
    phase: PhaseRecord,
    same: Sequence[RequestRecord],
    before: Sequence[RequestRecord],
) -> tuple[str, ...]:
    total, cached = record.tokens_in, record.tokens_cached
    if total is None or cached is None:
        return (
            "a slow prompt",
            f"The first byte of the answer came {seconds_text(phase.seconds)}"
            " after its server got the prompt.",
        )
    new = max(0, total - cached)
    usually_cached = _median(one.tokens_cached for one in before)
    if new >= total * _COLD and (record.prompt_differs_at is not None or usually_cached):
        counts = f"{number_text(new)} of its {number_text(total)} tokens were not in the cache"
        return "a cold prompt", f"{counts}{_why_cold(record, before)}", *_hints(record)
    if _is_slow(phase):
        return "a slow prompt", *_slow_sentences(phase, same)
    speed = _at_usual_speed(phase)
    return "a long prompt", f"It had {number_text(new)} new tokens to read{speed}."


def _why_cold(record: RequestRecord, before: Sequence[RequestRecord]) -> str:
    if record.prompt_differs_at is not None:
        part = f" (in {record.prompt_differs_in})" if record.prompt_differs_in else ""
        return (
            ": its prompt differs from the same client's last one near character"
            f" {number_text(record.prompt_differs_at)}{part}."
        )
    if record.load_seconds:
        return ": its model had just been loaded."
    last = before[0] if before else None
    if last is not None and _client(last) != _client(record):
        return ": another client's conversation had taken the place."
    return ": no earlier prompt began as it did, or the cache had no room for it."


def _client(record: RequestRecord) -> tuple[str | None, ...]:
    return record.key_name, record.user_agent, record.client


def _hints(record: RequestRecord) -> tuple[str, ...]:
    """Return the way to keep a prompt's beginning the same, for programs that are known."""
    if record.prompt_differs_in != "the system prompt":
        return ()
    if "claude-cli" in (record.user_agent or ""):
        return (
            "Claude Code puts a changing header there; CLAUDE_CODE_ATTRIBUTION_HEADER=0 ends"
            " that, and `cyber-inference-tui connect claude-code` sets it.",
        )
    return ("Text that changes, such as the time, belongs at the end of a prompt.",)


def _median(values: Iterable[int | None]) -> float:
    known = [value for value in values if value is not None]
    return median(known) if known else 0.0
