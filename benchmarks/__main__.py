"""``python -m benchmarks``: measure the service beside other programs that do its work.

``--peer llama-swap=PROGRAM`` and ``--peer llamastash=PROGRAM`` name those that are there; nginx,
llama-server's router and, where there is one, the same by hand are measured as well. Needs nginx on
PATH, a llama-server (``--llama-server`` or ``CYBER_TEST_LLAMA_SERVER``) and about 1 GB in the
temporary directory. Every target has the same source, in shuffled turns; every answer is checked;
the numbers are medians of the rounds. Prints Markdown tables; takes 25 minutes on an idle machine
of two cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    at_rest,
    chart,
    cold_starts,
    growth,
    ollama,
    small_requests,
    streams,
    table,
)
from benchmarks.big_model import write_models
from benchmarks.table import Row
from benchmarks.targets import Ground

PEERS = ("llama-swap", "llamastash")

Part = Callable[[Ground, Path, int], list[Row]]
PARTS: dict[str, Part] = {
    "fast": small_requests.fast_source,
    "real": small_requests.one_token,
    "embeddings": small_requests.embeddings,
    "chunk": streams.per_chunk,
    "first": streams.first_byte,
    "ollama": ollama.translation,
    "held": lambda ground, model, rounds: streams.most_held(ground, model, max(1, rounds // 3)),
    "cold": lambda ground, model, rounds: cold_starts.cold(ground, model, rounds * 2 + 1),
    "swap": lambda ground, model, rounds: cold_starts.swap(ground, model, rounds * 2 + 1),
    "memory": lambda ground, model, _: at_rest.memory(ground, model),
    "rest": lambda ground, model, rounds: at_rest.rest(ground, model, rounds * 20.0),
    "hop": growth.hop,
    "scan": growth.scan,
    "models": lambda ground, _, rounds: growth.models(ground, rounds),
    "flight": lambda ground, _, rounds: growth.in_flight(ground, rounds),
    "lines": lambda ground, _, rounds: growth.log_lines(ground, rounds),
    "history": lambda ground, _, rounds: growth.history(ground, rounds),
}
"""Each is measured on the small model, and those of ``_ALSO_BIG`` on the big one as well."""
_ALSO_BIG = ("cold", "swap")


def main() -> int:
    options = _options()
    # Ended by SIGTERM, it ends what it started as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="cyber-benchmark-") as name:
        folder = Path(name)
        write_models(folder, options.megabytes if set(_ALSO_BIG) & set(options.only) else 0)
        peers = dict(options.peer)
        ground = Ground(
            folder,
            Path(options.llama_server).resolve(),
            peers.get("llama-swap"),
            peers.get("llamastash"),
            options.other,
        )
        for part in options.only:
            for model in ("demo", "big") if part in _ALSO_BIG else ("demo",):
                began = time.monotonic()
                rows += PARTS[part](ground, folder / f"{model}.gguf", options.rounds)
                print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    machine = (
        f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}, medians of {options.rounds} rounds"
    )
    print(f"{table.markdown(rows)}\n\n{machine}")
    if options.json:
        options.json.write_bytes(table.as_json(rows, machine))
    if options.svg:
        options.svg.write_text(chart.svg(rows))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", default=os.environ.get("CYBER_TEST_LLAMA_SERVER"))
    parser.add_argument(
        "--peer", type=_peer, action="append", default=[], metavar="NAME=PROGRAM", help=str(PEERS)
    )
    parser.add_argument("--other", type=Path, help="another checkout, measured beside this one")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement")
    parser.add_argument("--megabytes", type=int, default=800, help="of the big model")
    parser.add_argument("--json", type=Path, help="write all values there as well")
    parser.add_argument("--svg", type=Path, help="draw a chart there")
    options = parser.parse_args()
    if not options.llama_server:
        parser.error("name a llama-server")
    return options


def _peer(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if name not in PEERS:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(PEERS)}")
    program = Path(path).resolve()
    if not os.access(program, os.X_OK):
        raise argparse.ArgumentTypeError(f"{path!r} is not a program")
    return name, program


if __name__ == "__main__":
    sys.exit(main())
