"""Machines that exist only in numbers, on which settings have known effects."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec

from cyber_inference_tui.gguf.arguments import ServerOptions
from cyber_inference_tui.records.tuning import Goal, TuneRequest
from cyber_inference_tui.service.tuning.candidates import Change, Facts, candidates
from cyber_inference_tui.service.tuning.search import (
    MOST_DISTANCE,
    MOST_SLOWDOWN,
    Found,
    Score,
    search,
)
from cyber_inference_tui.settings.schema import ModelSettings

PRESENT = ModelSettings(threads=3, args=("--ubatch-size", "512"))
FACTS = Facts(
    cores=8, threads=3, slots=4, gpus=True, spills=True, draft="off", draft_lengths=True,
    options=ServerOptions(ubatch_size=512),
)  # fmt: skip
GIB = 1 << 30
LIMIT = 1.05
"""Memory, as a share of that of the present settings; more is too much."""


def request_for(goal: Goal) -> TuneRequest:
    return TuneRequest(model="m", goal=goal, parallel=2, prompt=2048)


class World(NamedTuple):
    """The true effects of changes, and what hides them."""

    effects: Mapping[str, float]
    """By the name of a change: the logarithm of the ratio of speeds."""
    sizes: Mapping[str, float]
    """In the same way, of the memory."""
    distances: Mapping[str, float]
    """By the name of a change that may change answers."""
    noise: float
    outliers: float
    """The share of measurements that something else slowed down."""
    drift: float
    """Of speeds, with each measurement …"""
    warmth: float
    """… and altogether, soon after the start."""
    seed: int


def world(seed: int) -> World:
    """Return a machine; a third of them has nothing to win, and a third only worse settings."""
    chance = random.Random(seed)
    kind = seed % 3
    effects: dict[str, float] = {}
    sizes: dict[str, float] = {}
    distances: dict[str, float] = {}
    both = {one.name: one for goal in Goal for one in candidates(FACTS, request_for(goal))}
    for name in both:
        size = abs(chance.gauss(0.0, 0.15))
        effects[name] = (0.0, -size, chance.choice((-1, 1)) * size)[kind]
        sizes[name] = chance.gauss(0.0, 0.05)
        distances[name] = chance.choice((0.01, 0.2))
    return World(
        effects,
        sizes,
        distances,
        noise=chance.choice((0.002, 0.01, 0.03, 0.06)),
        outliers=chance.choice((0.0, 0.03)),
        drift=chance.uniform(-0.006, 0.006),
        warmth=chance.uniform(-0.3, 0.1),
        seed=seed,
    )


class Truth(NamedTuple):
    """What settings really are, compared with the present ones."""

    speed: float
    memory: float
    distance: float
    """How much answers differ."""


def _has(settings: ModelSettings, change: Change) -> bool:
    """Return whether settings have a change already; the order of options does not matter."""
    after = change.applied_to(settings)
    ordered = tuple(sorted(after.args))
    return msgspec.structs.replace(after, args=ordered) == msgspec.structs.replace(
        settings, args=tuple(sorted(settings.args))
    )


class Simulation:
    """Measures settings in a world."""

    def __init__(self, of: World, goal: Goal = Goal.SPEED) -> None:
        self.world = of
        self.goal = goal
        self.changes = candidates(FACTS, request_for(goal))
        self.count = 0
        self._chance = random.Random(of.seed + 1)
        self._known: dict[object, Truth] = {}

    def truth(self, settings: ModelSettings) -> Truth:
        key = settings.threads, settings.parallel, settings.draft, settings.args
        if key not in self._known:
            made = [one for one in self.changes if _has(settings, one)]
            self._known[key] = Truth(
                math.exp(sum(self.world.effects[one.name] for one in made)),
                math.exp(sum(self.world.sizes[one.name] for one in made)),
                max((self.world.distances[one.name] for one in made if one.answers), default=0.0),
            )
        return self._known[key]

    async def measure(self, settings: ModelSettings, number: int) -> Score | str:
        self.count += 1
        drift = self.world.drift * self.count + self.world.warmth * (1 - math.exp(-self.count / 20))
        off = math.exp(self._chance.gauss(drift, self.world.noise))
        if self._chance.random() < self.world.outliers:
            off *= self._chance.uniform(0.5, 0.9)
        true = self.truth(settings)
        memory = round(true.memory * self._chance.uniform(1.0, 1.01) * GIB)
        return Score(true.speed * off, 1 / true.speed / off, memory, true.memory > LIMIT)

    async def distance(self, settings: ModelSettings) -> float | None:
        return self.truth(settings).distance

    async def run(self, run: Callable[..., Awaitable[Found]] = search) -> Found:
        return await run(self, PRESENT, self.changes, self.goal, lambda step, done: None)

    def loses(self, settings: ModelSettings) -> bool:
        """Return whether it would have been better to keep the present settings."""
        true, present = self.truth(settings), self.truth(PRESENT)
        if self._is_too_much(settings):
            return True
        if self.goal is Goal.MEMORY:
            too_slow = true.speed < (1 - MOST_SLOWDOWN) * present.speed
            return too_slow or true.memory >= present.memory
        return true.speed <= present.speed

    def best(self) -> float:
        """Return the speed of the best settings that a single change makes."""
        made = (change.applied_to(PRESENT) for change in self.changes)
        return max(self.truth(one).speed for one in (PRESENT, *made) if not self._is_too_much(one))

    def _is_too_much(self, settings: ModelSettings) -> bool:
        true = self.truth(settings)
        return true.memory > LIMIT or true.distance > MOST_DISTANCE
