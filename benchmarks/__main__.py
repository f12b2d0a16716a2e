"""``python -m benchmarks``: compare the service with nginx and with llama-server itself.

Needs nginx on PATH, a llama-server (``--llama-server`` or ``CYBER_TEST_LLAMA_SERVER``) and about
1 GB in the temporary directory. Prints a Markdown table; takes a few minutes on an idle machine.
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

from benchmarks import measure
from benchmarks.big_model import write_models

PARTS = ("cold", "chunk", "latency", "real", "rest")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", default=os.environ.get("CYBER_TEST_LLAMA_SERVER"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--megabytes", type=int, default=800, help="of the model for `cold`")
    parser.add_argument("--rounds", type=int, default=7, help="of cold starts")
    parser.add_argument("--requests", type=int, default=5000, help="for the latencies")
    parser.add_argument(
        "--pause", type=float, default=0.001, help="seconds before each timed request; 0 = none"
    )
    parser.add_argument("--seconds", type=float, default=10, help="of streaming, of rest")
    options = parser.parse_args()
    if not options.llama_server:
        parser.error("name a llama-server")
    server = Path(options.llama_server).resolve()
    rows: list[measure.Row] = []
    with tempfile.TemporaryDirectory(prefix="cyber-benchmark-") as name:
        folder = Path(name)
        models = folder / "models"
        models.mkdir()
        megabytes = options.megabytes if "cold" in options.only else 0
        write_models(models, megabytes)
        parts: dict[str, list[Callable[[], list[measure.Row]]]] = {
            "cold": [lambda: measure.cold_first_token(folder, server, models, options.rounds)],
            "chunk": [lambda: measure.streamed_chunk(folder, options.seconds)],
            "latency": [lambda: measure.added_latency(folder, options.requests, options.pause)],
            "real": [
                lambda: measure.real_latency(
                    folder, server, models, options.requests, options.pause
                ),
                lambda: measure.real_chunk(folder, server, models),
            ],
            "rest": [lambda: measure.at_rest(folder, server, models, options.seconds)],
        }
        for part in options.only:
            for measurement in parts[part]:
                began = time.monotonic()
                rows += measurement()
                print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(measure.table(rows, _machine))
    return 0


def _machine() -> str:
    return (
        f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
