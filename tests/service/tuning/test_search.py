"""Simulated tunings: the optimum is known, and noise, drift and limits are in its way."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import pytest

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.records.tuning import Goal
from cyber_inference_tui.service.tuning import search as module
from cyber_inference_tui.service.tuning.search import Found, Score, worth
from tests.service.tuning.worlds import PRESENT, Simulation, world

MUTANTS = {
    "what looks better is better": ("_CERTAINTY = 2.0", "_CERTAINTY = 0.0"),
    "a winner is not tested again": (
        "verdict = judge(before, after, goal)\n    return Found(",
        "verdict = Verdict(None, True, '')\n    return Found(",
    ),
    "settings do not take turns": (
        "in_turns((False, True), MOST_ROUNDS)",
        "((0, late) for late in (False, True) for _ in range(ROUNDS))",
    ),
    "the memory limit is ignored": ("is_new and score.exceeds", "False"),
    "answers may change": ("distance > MOST_DISTANCE", "False"),
}


def mutant(old: str, new: str) -> Callable[..., Awaitable[Found]]:
    """Return the search with another rule."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert source.count(old) == 1
    changed = ModuleType("mutant")
    exec(compile(source.replace(old, new), "mutant", "exec"), changed.__dict__)
    run: Callable[..., Awaitable[Found]] = changed.search
    return run


@pytest.mark.parametrize("goal", Goal)
async def test_a_loser_is_never_applied_in_1000_tunings(goal: Goal) -> None:
    shares = []
    for seed in range(1000):
        simulation = Simulation(world(seed), goal)
        found = await simulation.run()
        assert found.settings is None or not simulation.loses(found.settings), seed
        easy = simulation.world.noise <= 0.01 and not simulation.world.outliers
        if goal is not Goal.MEMORY and easy:
            speed = simulation.truth(found.settings or PRESENT).speed
            shares.append(speed / simulation.best())
    # Where the noise is small, the planted optimum is found, unless a gain that was taken earlier
    # leaves too little memory for a larger one.
    if shares:
        assert min(shares) > 0.9
        assert statistics.median(shares) >= 1.0


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_search_with_a_worse_rule_is_caught(name: str) -> None:
    run = mutant(*MUTANTS[name])
    for seed in range(1000):
        simulation = Simulation(world(seed))
        found = await simulation.run(run)
        if found.settings is not None and simulation.loses(found.settings):
            return
    pytest.fail("no loser was applied")


async def test_the_comparison_stays_right_while_the_machine_gets_slower() -> None:
    """The last of 100 measurements is a fifth as fast as the first one."""
    hot = world(2)._replace(noise=0.002, outliers=0.0, drift=-0.016, warmth=0.0)
    simulation = Simulation(hot)
    found = await simulation.run()
    assert found.settings is not None
    assert found.gain is not None
    true = simulation.truth(found.settings).speed / simulation.truth(PRESENT).speed
    assert found.gain.change == pytest.approx(true - 1, abs=0.02)


async def test_a_goal_that_nothing_measures_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="measures energy"):
        worth(Score(1.0, None, None), Goal.ENERGY)
