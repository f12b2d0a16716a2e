"""``python -m benchmarks.app``: the whole terminal app on a real service, against its budgets.

In a terminal of 120 x 40 cells with 24-bit colour: how soon the first page is there, beside the
least app that Textual can be; what it costs at rest, and while eight answers are written (also at
80 x 24 and 200 x 60); how soon a key has changed the screen, then and while a model floods its log;
what the service's clients feel of it; and a terminal that is not read. Needs a llama-server
(``--llama-server`` or ``CYBER_TEST_LLAMA_SERVER``). Prints a Markdown table; takes about twenty
minutes, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import app_keys, app_rest, app_service, app_start, app_streams
from benchmarks.app_ground import Ground, Row, busy_ground, demo_ground, streams_ground

PARTS = ("start", "rest", "streams", "log", "keys", "latency", "unread")
_GROUNDS = {"start": demo_ground, "rest": demo_ground, "streams": streams_ground}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", default=os.environ.get("CYBER_TEST_LLAMA_SERVER"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=9, help="of starts")
    parser.add_argument("--seconds", type=float, default=20.0, help="of rest, of a log page")
    parser.add_argument("--fill", type=float, default=300.0, help="seconds of streams before")
    parser.add_argument("--rate", type=int, default=50_000, help="lines a second of the flood")
    options = parser.parse_args()
    if not options.llama_server:
        parser.error("name a llama-server")
    server = Path(options.llama_server).resolve()
    seconds, rate = options.seconds, options.rate
    parts: dict[str, Callable[[Ground], list[Row]]] = {
        "start": lambda ground: app_start.measure(ground, options.rounds),
        "rest": lambda ground: app_rest.dashboard(ground, seconds),
        "streams": lambda ground: app_streams.measure(ground, seconds, options.fill),
        "log": lambda ground: app_rest.log_page(ground, seconds),
        "keys": lambda ground: app_keys.under_flood(ground, rate, 45.0),
        "latency": lambda ground: app_service.latency(ground, 5.0, 3),
        "unread": lambda ground: app_service.unread(ground, 60.0, rate),
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="cyber-app-") as name:
        for part in options.only:
            began = time.monotonic()
            make = _GROUNDS.get(part, busy_ground)
            with make(Path(name) / part, server) as ground:
                rows += parts[part](ground)
            print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print("| measured | value | budget or against | ratio |\n|---|---:|---|---:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(f"\n{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
