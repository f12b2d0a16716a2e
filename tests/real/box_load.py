"""Requests to several boxes at once, each with an answer of its own, and the count of what came."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from tests.real.service_process import ServiceProcess, chat_body
from tests.waiting import LIMIT, eventually

_ASKED_ELSEWHERE = re.compile(r" Asking .+ \((load-\d+)\)")


@dataclass
class Outcome:
    """What the client of a request has got."""

    request_id: str
    expected: str
    """The text of the whole answer."""
    text: str = ""
    whole: bool = False
    """Whether the answer ended as a whole one."""
    had_byte: bool = False
    """Whether the client had a part of an answer."""
    said: str = ""
    """The error, as the client has seen it."""
    entry_failed: bool = False
    """Whether the box that the client asked was killed meanwhile."""

    @property
    def kind(self) -> str:
        """``right``, ``wrong``, ``cut``, ``unserved``, or ``entry`` if nobody could answer."""
        if self.whole:
            return "right" if self.text == self.expected else "wrong"
        if not self.expected.startswith(self.text):
            return "wrong"
        if self.entry_failed:
            return "entry"
        return "cut" if self.had_byte else "unserved"


@dataclass
class Load:
    """Clients of ``entries``, boxes by name. Most ask the same one, which leaves much to others."""

    entries: Mapping[str, ServiceProcess]
    clients: int
    seed: int
    outcomes: list[Outcome] = field(default_factory=list)
    asked_most: str = ""
    """The box that most clients ask; the others ask one box each, so some are always answered."""
    away: set[str] = field(default_factory=set)
    """The boxes that no new request goes to."""
    killed: Counter[str] = field(default_factory=Counter)
    """How often each was killed."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Ask all the time; at the end, wait for the answers under way."""
        with ThreadPoolExecutor(self.clients) as pool:
            asking = [pool.submit(self._ask_on, number) for number in range(self.clients)]
            try:
                yield
            finally:
                self._ended.set()
            for one in asking:
                one.result(LIMIT)

    def more(self, count: int) -> None:
        """Wait for so many more outcomes."""
        wanted = len(self.outcomes) + count
        eventually(lambda: len(self.outcomes) >= wanted, what=f"{count} more answers")

    def _ask_on(self, client: int) -> None:
        names = sorted(self.entries)
        own = names[client % len(names)]
        while not self._ended.is_set():
            rng = random.Random(f"{self.seed} {client} {len(self.outcomes)}")
            name = own if client < len(names) else self.asked_most
            if name in self.away:
                name = rng.choice([one for one in names if one not in self.away])
            self.outcomes.append(self._ask(name, rng))

    def _ask(self, name: str, rng: random.Random) -> Outcome:
        number, killed = next(self._numbers), self.killed[name]
        words = [f"{number}.{place} " for place in range(rng.randint(3, 12))]
        outcome = Outcome(f"load-{number}", "".join(words))
        body = chat_body(
            "both",
            stream=rng.random() < 0.7,
            fake={
                "text": outcome.expected,
                "prefill": rng.uniform(0.1, 0.8),
                "interval": rng.uniform(0.0, 0.03),
            },
        )
        try:
            with (
                self.entries[name].client() as client,
                client.stream(
                    "POST",
                    "/v1/chat/completions",
                    json=body,
                    headers={"X-Request-Id": outcome.request_id, "User-Agent": str(number)},
                ) as answer,
            ):
                _read(answer, outcome)
        except httpx.TransportError as error:
            outcome.said = repr(error)
        outcome.entry_failed = self.killed[name] > killed
        return outcome

    def rerouted(self) -> set[str]:
        """The requests that were sent elsewhere because a box failed, as the logs say."""
        texts = (one.errors_path.read_text(errors="replace") for one in self.entries.values())
        return {found for text in texts for found in _ASKED_ELSEWHERE.findall(text)}

    def served_elsewhere(self) -> int:
        """Count the whole answers that came from elsewhere because a box failed."""
        rerouted = self.rerouted()
        return sum(one.kind == "right" and one.request_id in rerouted for one in self.outcomes)

    def check(self, *, least: int, least_rerouted: int) -> None:
        """Print the counts, and check that no answer is wrong and enough were served elsewhere."""
        kinds = Counter(one.kind for one in self.outcomes)
        served = self.served_elsewhere()
        unserved = [one for one in self.outcomes if one.kind == "unserved"]
        rate = served / max(1, served + len(unserved))
        sys.stdout.write(
            f"seed {self.seed}: {len(self.outcomes)} requests, {dict(kinds)}; of"
            f" {served + len(unserved)} whose box failed before the first byte,"
            f" {served} were served elsewhere: {rate:.2%}\n"
        )
        assert not [one for one in self.outcomes if one.kind == "wrong"]
        assert rate >= 0.99, unserved
        # Otherwise the test has shown nothing.
        assert len(self.outcomes) >= least
        assert served >= least_rerouted


def _read(answer: httpx.Response, outcome: Outcome) -> None:
    if answer.status_code != 200:
        outcome.said = answer.read().decode()
        return
    if not answer.headers["Content-Type"].startswith("text/event-stream"):
        outcome.had_byte = True
        answer.read()
        outcome.text = answer.json()["choices"][0]["message"]["content"]
        outcome.whole = True
        return
    for line in answer.iter_lines():
        data = line.removeprefix("data: ")
        if data == line:
            continue
        if data == "[DONE]":
            outcome.whole = True
            continue
        event = json.loads(data)
        if "error" in event:
            outcome.said = data
            continue
        outcome.had_byte = True
        # Nothing may follow the end.
        outcome.whole = False
        outcome.text += event["choices"][0]["delta"].get("content", "")
