"""Compares what a model answers with other settings: the probabilities of its next tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cyber_inference_tui.service.bench.texts import STORY
from cyber_inference_tui.service.bench.workload import LlamaClient

STEPS = 32
"""Tokens of the answer whose probabilities are compared."""
_MOST_PROMPT = 256


class Step(NamedTuple):
    """What a model says about the token that follows some others."""

    prompt: tuple[int, ...]
    likely: Mapping[int, float]
    """The logarithms of the probabilities of the likeliest tokens."""

    @property
    def likeliest(self) -> int:
        """The likeliest token."""
        return max(self.likely, key=lambda token: self.likely[token])


async def written(client: LlamaClient, room: int | None) -> list[Step]:
    """Have the model write an answer of its likeliest tokens; ``room`` is its context."""
    most = _MOST_PROMPT if room is None else max(1, min(_MOST_PROMPT, room - STEPS - 1))
    prompt = tuple((await client.tokens_of(STORY))[:most])
    steps = []
    for _ in range(STEPS):
        step = Step(prompt, await client.likely(prompt))
        steps.append(step)
        prompt = (*prompt, step.likeliest)
    return steps


async def repeated(client: LlamaClient, steps: Sequence[Step]) -> list[Step]:
    """Ask about the same tokens once more."""
    return [Step(step.prompt, await client.likely(step.prompt)) for step in steps]


def distance(reference: Sequence[Step], other: Sequence[Step]) -> float:
    """Return the mean absolute difference of the logarithms of the probabilities of the tokens that
    the reference chose.

    A token that is not among the likeliest ones any more counts as the least likely of these.
    """
    differences = []
    for first, second in zip(reference, other, strict=True):
        chosen = first.likeliest
        known = second.likely.get(chosen, min(second.likely.values()))
        differences.append(abs(first.likely[chosen] - known))
    return sum(differences) / len(differences)
