"""The search for better settings: which trials, how many rounds, and what counts as better.

Settings are compared in rounds in which they take turns (``rounds``), because a machine drifts. A
change that wins is the basis of the next trials. At the end the best settings have to win once more
against those in force, in new rounds: the winner of many trials has often been lucky.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.records.tuning import Goal, TuneTrial
from cyber_inference_tui.rounds import Difference, in_turns, paired
from cyber_inference_tui.service.tuning.candidates import Change
from cyber_inference_tui.settings.schema import ModelSettings

MOST_ROUNDS = 16
ROUNDS = 8
"""After so many rounds a comparison ends unless a gain is hidden by the noise."""
FIRST_ROUNDS = 4
"""After so many rounds a comparison ends that can hardly be won."""
LEAST_GAIN = 0.03
"""A smaller gain is not worth a setting of its own."""
_CERTAINTY = 2.0
"""A gain has to be larger than so many times its noise: a tuning makes many comparisons, and each
is a chance to be wrong."""
MOST_SLOWDOWN = 0.1
"""So much speed may less energy or memory cost."""
MOST_DISTANCE = 0.05
"""How much answers may change; see ``Lab.distance``."""
_TOO_NOISY = "too noisy to tell"


class Score(NamedTuple):
    """What one measurement of some settings has found."""

    speed: float
    """Tokens per second, those of prompts included, from requests to the end of their answers."""
    joules: float | None
    """Per token; ``None`` = nothing measures energy."""
    memory: int | None
    """The most bytes that the server had; ``None`` = not known."""
    exceeds: bool = False
    """The memory was fuller than the settings allow."""


class Lab(Protocol):
    """Measures settings."""

    async def measure(self, settings: ModelSettings, number: int) -> Score | str:
        """Measure once, in the round with this number, or return why a server with these settings
        does not run here.

        All settings get the same prompts in a round.
        """

    async def distance(self, settings: ModelSettings) -> float | None:
        """Return how much answers differ from those with the settings in force.

        That is the mean absolute difference of the logarithms of the probabilities of tokens.
        ``None`` = they cannot be compared.
        """


class Found(NamedTuple):
    """The end of a search."""

    present: ModelSettings
    """The settings in force."""
    settings: ModelSettings | None
    """The better settings; ``None`` = those in force are kept."""
    gain: Difference | None
    trials: tuple[TuneTrial, ...]
    before: tuple[Score, ...] = ()
    """The measurements of the last comparison: of the settings in force …"""
    after: tuple[Score, ...] = ()
    """… and of the better ones."""


class Verdict(NamedTuple):
    """A comparison of two settings."""

    gain: Difference | None
    is_better: bool
    reason: str


def worth(score: Score, goal: Goal) -> float:
    """Return a number that is larger for better settings.

    Raises ``InvalidRequestError`` if it is not known.
    """
    if goal is Goal.SPEED:
        return score.speed
    amount = score.joules if goal is Goal.ENERGY else score.memory
    if not amount:
        raise InvalidRequestError(
            f"Nothing on this machine measures {goal.value}, so a model cannot be tuned for it."
        )
    return 1 / amount


def judge(before: Sequence[Score], after: Sequence[Score], goal: Goal) -> Verdict:
    """Decide whether settings are better, by the measurements of each round."""
    gain = paired([worth(one, goal) for one in before], [worth(one, goal) for one in after])
    if gain is None or gain.change <= 0:
        return Verdict(gain, False, "not better")
    if not _is_certain(gain):
        return Verdict(gain, False, _TOO_NOISY)
    if gain.change < LEAST_GAIN:
        return Verdict(gain, False, "too small a gain")
    speed = paired([one.speed for one in before], [one.speed for one in after])
    if speed is None or speed.change - speed.noise < -MOST_SLOWDOWN:
        return Verdict(gain, False, "slower")
    return Verdict(gain, True, "better")


def _is_certain(gain: Difference) -> bool:
    """Return whether a gain exceeds its noise often enough, as logarithms of ratios."""
    kept = (1 + gain.change - gain.noise) / (1 + gain.change)
    return kept > 0 and (1 + gain.change) * kept**_CERTAINTY > 1


def is_decided(before: Sequence[Score], after: Sequence[Score], goal: Goal) -> bool:
    """Return whether more rounds would hardly change the verdict. It is looked at only twice,
    because each look is a chance to stop at a lucky moment."""
    if len(before) == FIRST_ROUNDS:
        gain = judge(before, after, goal).gain
        return gain is None or gain.change <= 0 or gain.change + gain.noise < LEAST_GAIN
    return len(before) == ROUNDS and judge(before, after, goal).reason != _TOO_NOISY


async def search(
    lab: Lab,
    present: ModelSettings,
    changes: Sequence[Change],
    goal: Goal,
    tell: Callable[[str, int], None],
) -> Found:
    """Try the changes of the settings in force one after another.

    ``tell`` is called with each step in words, and with the number of trials that are over.
    """
    best = present
    trials: list[TuneTrial] = []
    for number, change in enumerate(changes):
        tell(change.name, number)
        candidate = change.applied_to(best)
        if candidate == best:
            continue
        trial = await _tried(lab, best, candidate, change, goal)
        trials.append(trial)
        best = candidate if trial.taken else best
    if best == present:
        return Found(present, None, None, tuple(trials))
    tell("the best settings and those in force", len(changes))
    measured = await _measured(lab, present, best, goal)
    if isinstance(measured, str):
        return Found(present, None, None, tuple(trials))
    before, after = measured
    verdict = judge(before, after, goal)
    return Found(
        present, best if verdict.is_better else None, verdict.gain, tuple(trials), before, after
    )


async def _tried(
    lab: Lab, best: ModelSettings, candidate: ModelSettings, change: Change, goal: Goal
) -> TuneTrial:
    measured = await _measured(lab, best, candidate, goal)
    if isinstance(measured, str):
        return TuneTrial(change=change.name, reason=measured)
    verdict = judge(*measured, goal)
    taken, reason = verdict.is_better, verdict.reason
    if taken and change.answers:
        distance = await lab.distance(candidate)
        if distance is None:
            taken, reason = False, "the answers cannot be compared"
        elif distance > MOST_DISTANCE:
            taken, reason = False, "changes the answers"
    return TuneTrial(
        change=change.name,
        gain=verdict.gain.change if verdict.gain else None,
        noise=verdict.gain.noise if verdict.gain else None,
        taken=taken,
        reason=reason,
    )


async def _measured(
    lab: Lab, before: ModelSettings, after: ModelSettings, goal: Goal
) -> tuple[tuple[Score, ...], tuple[Score, ...]] | str:
    """Measure two settings in turns, or return why one of them does not run or fit."""
    olds: list[Score] = []
    news: list[Score] = []
    for number, is_new in in_turns((False, True), MOST_ROUNDS):
        if len(olds) == len(news) and is_decided(olds, news, goal):
            break
        score = await lab.measure(after if is_new else before, number)
        if isinstance(score, str):
            return score
        if is_new and score.exceeds:
            return "needs more memory than it may have"
        (news if is_new else olds).append(score)
    return tuple(olds), tuple(news)
