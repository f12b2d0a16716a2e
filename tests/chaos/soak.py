"""Faults one after another while requests run, each followed by the checks: ``scripts/soak``.

Each step chooses its requests, its fault and its moments by the seed and its own number alone, so
that a step that failed can be repeated: ``scripts/soak --seed SEED --from STEP --faults 1``.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos import checks, fuzz
from tests.chaos.clients import LONGEST, Asked, Exchange, any_request, send
from tests.chaos.outside import FAULTS
from tests.chaos.world import World
from tests.waiting import eventually

RIGHT_WITHIN = 30.0
"""Seconds after which a wrong state counts. The promise is ``PROMISED``, on a machine with time."""
PROMISED = 5.0
_REST_EVERY = 20
_MOST_WRONG = 20


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Soak:
    """Runs steps on a world, and counts."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.seed = seed
        self.faults: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.late: list[str] = []
        """What was right only after ``PROMISED`` seconds."""
        self.slowest = 0.0
        self.first: checks.Usage | None = None
        self.peak = checks.Usage(0, 0)
        self.rests = 0

    def step(self, number: int) -> None:
        """Bring about one fault while requests run, and check. Raises ``WrongError``."""
        rng = random.Random(f"{self.seed} {number}")
        kinds = list(FAULTS)
        # First each once, then any.
        kind = kinds[number] if number < len(kinds) else rng.choice(kinds)
        self.faults[kind] += 1
        asked = [any_request(rng) for _ in range(rng.randint(3, 7))]
        delays = [rng.uniform(0.0, 1.0) for _ in asked]
        moment = rng.uniform(0.0, 0.6)
        try:
            exchanges = self._run(kind, asked, delays, moment, rng)
            for exchange in exchanges:
                self.requests[exchange.asked.kind] += 1
                self.outcomes[checks.outcome(exchange, self.world.downs)] += 1
            self._check_state(f"step {number}, {kind}")
            if (number + 1) % _REST_EVERY == 0:
                self.rest()
        except (AssertionError, OSError) as error:
            text = self._describe(number, kind, error)
            self.wrong.append(text)
            raise checks.WrongError(text) from error
        del self.world.downs[:-4]

    def _run(
        self,
        kind: str,
        asked: list[Asked],
        delays: list[float],
        moment: float,
        rng: random.Random,
    ) -> list[Exchange]:
        def later(one: Asked, delay: float) -> Exchange:
            time.sleep(delay)
            return send(one, self.world.service.port)

        with ThreadPoolExecutor(len(asked)) as pool:
            running = [pool.submit(later, *pair) for pair in zip(asked, delays, strict=True)]
            time.sleep(moment)
            FAULTS[kind](self.world, rng)
            return [one.result(2 * LONGEST) for one in running]

    def _check_state(self, where: str) -> None:
        began = time.monotonic()
        last = self._await(lambda: checks.wrong_state(self.world.see()) + self.world.orphans())
        spent = time.monotonic() - began
        self.slowest = max(self.slowest, spent)
        if spent > PROMISED:
            self.late.append(f"{where}, {spent:.1f} s: {'; '.join(last)}")
        usage = self.world.usage()
        self.peak = checks.Usage(
            max(self.peak.descriptors, usage.descriptors), max(self.peak.memory, usage.memory)
        )

    def rest(self) -> None:
        """Unload everything, and compare what the service holds with its first rest."""
        self.world.unload_all()
        self._await(
            lambda: (
                [f"{one.pid} still runs" for one in self.world.service.servers()]
                + checks.wrong_state(self.world.see())
            )
        )
        self.rests += 1
        if self.first is None:
            self.first = self.world.usage()
        first = self.first
        self._await(lambda: checks.grown(first, self.world.usage()))

    @staticmethod
    def _await(problems: Callable[[], list[str]]) -> list[str]:
        """Wait until there is no problem, and return the last. Raises ``WrongError``."""
        last: list[str] = []

        def right() -> bool:
            try:
                found = problems()
            except (OSError, ValueError) as error:
                found = [f"the service cannot be asked: {error}"]
            last[:] = found or last
            return not found

        try:
            eventually(right, limit=RIGHT_WITHIN, interval=0.05)
        except AssertionError:
            _refuse(last)
        return last

    def _describe(self, number: int, kind: str, error: Exception) -> str:
        return (
            f"seed {self.seed}, step {number}, fault {kind}: {error}\n"
            f"repeat: scripts/soak --seed {self.seed} --from {number} --faults 1\n"
            f"the service's last lines:\n{self.world.log()}"
        )

    def summary(self) -> str:
        """The figures of the run, as a table in Markdown."""
        first = self.first or checks.Usage(0, 0)
        rows: list[tuple[str, object]] = [
            ("faults", self.faults.total()),
            *((f"· {name}", count) for name, count in sorted(self.faults.items())),
            ("requests", self.requests.total()),
            *((f"· {name}", count) for name, count in sorted(self.requests.items())),
            *((f"outcome: {name}", count) for name, count in sorted(self.outcomes.items())),
            ("wrong outcomes and states", len(self.wrong)),
            (f"states that were right only after {PROMISED:g} s", len(self.late)),
            ("slowest state, seconds", f"{self.slowest:.1f}"),
            ("rests that were compared with the first", max(0, self.rests - 1)),
            ("descriptors: first rest, peak", f"{first.descriptors}, {self.peak.descriptors}"),
            ("memory in MiB: first rest, peak", f"{first.memory >> 20}, {self.peak.memory >> 20}"),
        ]
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _refuse(problems: list[str]) -> None:
    if problems:
        raise checks.WrongError("; ".join(problems))


def hear_signals() -> None:
    """Let the service have the default signals, whatever ``nohup`` made of ours."""
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))


def _soak(options: argparse.Namespace, folder: Path) -> int:
    world = World(folder, Path(options.llama_server))
    soak = Soak(world, options.seed)
    began = told = time.monotonic()
    number = options.begin
    world.start()
    try:
        while len(soak.wrong) < _MOST_WRONG:
            spent = time.monotonic() - began
            if soak.faults.total() >= options.faults or spent >= options.seconds:
                break
            try:
                soak.step(number)
            except checks.WrongError as error:
                _tell(str(error))
                if world.service.process is None or world.service.process.poll() is not None:
                    world.start()
            number += 1
            if time.monotonic() - told >= 60:
                told = time.monotonic()
                _tell(
                    f"{spent / 60:.0f} min: {soak.faults.total()} faults,"
                    f" {soak.requests.total()} requests, {len(soak.wrong)} wrong,"
                    f" {soak.peak.memory >> 20} MiB, {soak.peak.descriptors} descriptors"
                )
    finally:
        try:
            world.end()
        finally:
            _tell(f"seed {options.seed}, {(time.monotonic() - began) / 60:.1f} minutes")
            for late in soak.late:
                _tell(f"late: {late}")
            _tell(soak.summary())
    return 1 if soak.wrong else 0


def main() -> int:
    """Run as ``scripts/soak`` says."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--faults", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--from", type=int, default=0, dest="begin", metavar="STEP")
    parser.add_argument("--fuzz", action="store_true", help="no faults: property tests, by seed")
    variable = "CYBER_TEST_LLAMA_SERVER"
    parser.add_argument("--llama-server", default=os.environ.get(variable, ""))
    options = parser.parse_args()
    if options.faults == options.seconds == float("inf"):
        options.seconds = 600.0
    if options.fuzz:
        return fuzz.run(options.seconds, options.seed)
    if not Path(options.llama_server).is_file():
        parser.error(f"name a llama-server with --llama-server or {variable}")
    hear_signals()
    folder = Path(tempfile.mkdtemp(prefix="soak."))
    code = _soak(options, folder)
    if code:
        _tell(f"its files are kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
