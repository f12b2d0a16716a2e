"""Hosts of fake services, for the tests of the app."""

from __future__ import annotations

from pathlib import Path

from cyber_inference_tui.client.hosts import HERE, Hosts
from cyber_inference_tui.errors import NoServiceError
from tests.tui.fake_client import FakeClient
from tests.tui.world import busy_world, empty_world

BOX, OLD, SHUT = "ssh://box", "http://old:8337", "http://shut:8337"


def hosts_of(folder: Path, current: str = HERE) -> Hosts:
    """``BOX`` is busy, ``OLD`` is away, ``SHUT`` wants a password, this machine has no service."""
    busy, old, shut = FakeClient(busy_world()), FakeClient(empty_world()), FakeClient(empty_world())
    old.stop()
    shut.password = "secret"
    clients = {BOX: busy, OLD: old, SHUT: shut}

    def client(address: str) -> FakeClient:
        if address == HERE:
            raise NoServiceError("No service runs.")
        return clients.get(address) or FakeClient(empty_world())

    hosts = Hosts(folder, current, client)
    for address in (SHUT, OLD, BOX):
        hosts.keep(address)
    return hosts
