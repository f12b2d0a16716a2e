"""Reads the traffic of network interfaces. Source: ``proc_pid_net(5)``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from cyber_inference_tui.monitor.kernel_files import KeptFile
from cyber_inference_tui.monitor.rates import Rate
from cyber_inference_tui.records import NetworkRecord
from cyber_inference_tui.text import clean_line

_MOST_INTERFACES = 32
# Traffic of these also passes a real interface, or stays inside the machine.
_INNER = ("lo", "veth", "br-", "docker", "virbr", "ifb", "dummy")
_LINE = re.compile(
    r"^[ ]*([^\s:]{1,15}):[ ]*([0-9]{1,19})(?: +[0-9]{1,19}){7} +([0-9]{1,19})(?= )", re.MULTILINE
)


class NetworkSensor:
    """Reads ``proc/net/dev`` below ``root``; ``clock`` (monotonic, seconds) is for rates."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._file = KeptFile(root / "proc/net/dev")
        self._clock = clock
        self._rates: dict[str, tuple[Rate, Rate]] = {}

    def read(self) -> tuple[NetworkRecord, ...] | None:
        """Return the interfaces that lead out of the machine; ``None`` = the file is unreadable."""
        content = self._file.read()
        if content is None:
            return None
        now = self._clock()
        found = [counts for counts in network_traffic(content) if not counts[0].startswith(_INNER)][
            :_MOST_INTERFACES
        ]
        self._rates = {name: self._rates.get(name) or (Rate(), Rate()) for name, _, _ in found}
        return tuple(
            NetworkRecord(
                name=clean_line(name),
                receive_bytes_per_second=self._rates[name][0].per_second(received, now),
                send_bytes_per_second=self._rates[name][1].per_second(sent, now),
            )
            for name, received, sent in found
        )


def network_traffic(content: bytes) -> list[tuple[str, int, int]]:
    """Return for each interface its name, and the bytes received and sent since it came up."""
    lines = _LINE.findall(content.decode("utf-8", "replace"))
    return [(name, int(received), int(sent)) for name, received, sent in lines]
