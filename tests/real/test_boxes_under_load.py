"""Boxes and networks fail at random moments under load: no answer is wrong, and few are lost.

``CYBER_TEST_SEED`` repeats a run; its seed is in the output.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.real.box_load import Load
from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess
from tests.real.tcp_proxy import Fault, TcpProxy
from tests.real.test_peers import box, pair
from tests.waiting import eventually

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
BOX = {"both": {"load_seconds": 0.2}}


def seed() -> int:
    return int(os.environ.get("CYBER_TEST_SEED") or time.time_ns() % 1_000_000)


def seen(here: ServiceProcess, url: str) -> dict[str, Any]:
    """The record of the box with this address, as another one sees it."""
    with here.client() as client:
        found = client.get("/admin/peers").json()
    return next(dict(one) for one in found if one["url"] == url)


class Boxes:
    """Three boxes, of which each knows the two others, and what happens to them."""

    def __init__(self, starter: Starter, seed: int) -> None:
        self.all = {
            host: starter.fake(BOX, config={"host": host, "llama_parallel": 6}) for host in HOSTS
        }
        here, second, third = self.all.values()
        for one, other in ((here, second), (here, third), (second, third)):
            pair(one, other)
        self.load = Load(self.all, clients=24, seed=seed, asked_most=HOSTS[0])
        self.rng = random.Random(seed)

    def others(self, name: str) -> list[ServiceProcess]:
        """The boxes beside this one that are not away."""
        return [box for one, box in self.all.items() if one not in {name, *self.load.away}]

    def known(self, name: str, *states: str) -> None:
        """Wait until all others see a box in one of these states."""
        url = self.all[name].url
        others = self.others(name)
        eventually(
            lambda: all(seen(other, url)["state"] in states for other in others),
            what=f"{name} {'/'.join(states)}",
        )

    def wait(self) -> None:
        self.load.more(self.rng.randint(5, 25))

    @contextmanager
    def killed(self, name: str) -> Iterator[None]:
        """Kill a box, and start it again."""
        yield from self._without(name, ServiceProcess.kill)

    @contextmanager
    def restarted(self, name: str) -> Iterator[None]:
        """Stop a box as systemd would, and start it again."""
        yield from self._without(name, ServiceProcess.stop)

    def _without(self, name: str, end: Callable[[ServiceProcess], None]) -> Iterator[None]:
        box, port = self.all[name], self.all[name].port
        self.load.away.add(name)
        self.load.killed[name] += 1
        end(box)
        yield
        box.assert_none_left()
        box.arguments = ("--port", str(port))
        box.start()
        self.load.away.discard(name)
        self.known(name, "connected", "resting")

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Stop the process of a box, until the others have noticed."""
        with self.held_up(name):
            self.known(name, "stale")
            yield
        self.known(name, "connected", "resting")

    @contextmanager
    def held_up(self, name: str) -> Iterator[None]:
        """Stop the process of a box for a moment."""
        process = self.all[name].process
        assert process is not None
        self.load.away.add(name)
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)
            self.load.away.discard(name)


def test_three_boxes_that_are_killed_stopped_and_restarted(starter: Starter) -> None:
    boxes = Boxes(starter, seed())
    rng = boxes.rng
    faults = [boxes.killed] * 3 + [boxes.restarted] * 2 + [boxes.held_up] * 2 + [boxes.frozen]
    rng.shuffle(faults)
    with boxes.load.running():
        for number, fault in enumerate(faults):
            first, second, boxes.load.asked_most = rng.sample(HOSTS, 3)
            boxes.wait()
            with fault(first):
                boxes.wait()
                if number % 3 == 0:
                    # One box is left.
                    with boxes.killed(second):
                        boxes.wait()
        boxes.wait()
    boxes.load.check(least=300, least_rerouted=20)


@dataclass
class Link:
    """The way from a box to another one."""

    here: ServiceProcess
    proxy: TcpProxy

    def seen_as(self, wanted: str) -> None:
        """Wait until the other box is seen in this state."""
        eventually(lambda: seen(self.here, self.proxy.url)["state"] == wanted, what=wanted)

    def has_requests(self) -> None:
        eventually(lambda: seen(self.here, self.proxy.url)["requests"] >= 4, what="requests there")

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let no byte pass for a moment."""
        self.proxy.part()
        try:
            yield
        finally:
            self.proxy.join()

    @contextmanager
    def parted(self) -> Iterator[None]:
        """Let no byte pass until that is noticed."""
        with self.held_back():
            self.seen_as("stale")
            yield

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Close all connections at once."""
        self.proxy.cut()
        yield

    def broken(self) -> AbstractContextManager[None]:
        """Reset each request before its answer."""
        return self._broken(after=0)

    def broken_later(self) -> AbstractContextManager[None]:
        """Reset each request in its answer."""
        return self._broken(after=700)

    @contextmanager
    def _broken(self, after: int) -> Iterator[None]:
        self.proxy.fault = Fault(after=after)
        try:
            yield
        finally:
            self.proxy.fault = None


def test_two_boxes_behind_a_network_with_faults(starter: Starter) -> None:
    load_seed = seed()
    rng = random.Random(load_seed)
    here = box(starter, "127.0.0.1", "one")
    load = Load({"here": here}, clients=16, seed=load_seed, asked_most="here")
    faults = [Link.parted, Link.held_back, Link.cut, Link.broken, Link.broken_later]
    links = []
    with ExitStack() as stack:
        for number, host in enumerate(HOSTS[1:]):
            there = starter.fake(BOX, config={"host": host, "llama_parallel": 6})
            proxy = stack.enter_context(TcpProxy(f"127.0.0.{4 + number}", (host, there.port)))
            links.append(Link(here, proxy))
            pair(here, there, url=proxy.url)
        stack.enter_context(load.running())
        # How many requests a fault meets before their first byte is chance.
        while load.served_elsewhere() < 10:
            for fault in rng.sample(faults, len(faults)):
                for link in links:
                    conditions = [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1)]
                    link.proxy.delay, link.proxy.loss = rng.choice(conditions)
                link = rng.choice(links)
                load.more(rng.randint(5, 25))
                link.has_requests()
                with fault(link):
                    load.more(rng.randint(5, 25))
                # The next fault may be that of the other box.
                link.seen_as("connected")
    load.check(least=200, least_rerouted=10)
