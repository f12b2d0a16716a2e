"""Clients and the ports they use, as the app and the command line show them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ClientRecord,
    RequestRecord,
    StatusRecord,
)
from cyber_inference_tui.text import program

Caller = ActiveRequestRecord | ClientRecord | RequestRecord


class PortUse(NamedTuple):
    """A port of the service."""

    port: int
    problem: str | None
    """The reason why it is not open."""
    clients: tuple[str, ...]
    """The names of its clients, the latest first."""

    @property
    def in_words(self) -> str:
        """The state of the port, and its clients."""
        if self.problem is not None:
            return f"not open: {self.problem}"
        return f"open, used by {', '.join(self.clients)}" if self.clients else "open"


def client_name(record: Caller) -> str:
    """Return a client's program and the name of its key; without a program its address."""
    name = program(record.user_agent) if record.user_agent else record.client or ""
    return f"{name} (key {record.key_name})" if record.key_name else name


def port_uses(status: StatusRecord, callers: Iterable[Caller]) -> list[PortUse]:
    """Return the service's ports, its own first; ``callers`` are in order, the latest first."""
    names: dict[int, dict[str, None]] = {}
    for caller in callers:
        if caller.port is not None:
            names.setdefault(caller.port, {})[client_name(caller)] = None
    problems = {record.port: record.problem for record in status.extra_ports}
    return [
        PortUse(port, problem, tuple(names.get(port, ())))
        for port, problem in {status.port: None, **problems}.items()
    ]
