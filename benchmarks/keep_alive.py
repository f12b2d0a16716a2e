"""5,000 requests in a row with pauses around llama-server's idle limit: not one may fail.

``python -m benchmarks.keep_alive --llama-server PATH``: a pause of 4.9 to 5.1 s now and then (the
server closes a connection after 5 s without a request and after 100 requests).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import exchange, load, programs
from benchmarks.big_model import write_models


async def _run(port: int, requests: int, pauses: int) -> int:
    request = exchange.request(
        "/v1/chat/completions",
        {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
        b'"choices"',
    )
    connection = load.Connection(port)
    failures = 0
    every = max(1, requests // max(1, pauses))
    began = time.monotonic()
    for number in range(requests):
        if number % every == every - 1:
            await asyncio.sleep(random.uniform(4.9, 5.1))
        try:
            await connection.ask(request)
        except (OSError, RuntimeError) as error:
            failures += 1
            print(f"request {number}: {error!r}", file=sys.stderr)
    connection.close()
    seconds = time.monotonic() - began
    print(f"{requests} requests, {pauses} pauses, {failures} failures, {seconds:.0f} s")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", default=os.environ.get("CYBER_TEST_LLAMA_SERVER"))
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--pauses", type=int, default=100)
    options = parser.parse_args()
    if not options.llama_server:
        parser.error("name a llama-server")
    server = str(Path(options.llama_server).resolve())
    with tempfile.TemporaryDirectory(prefix="cyber-keep-alive-") as name:
        folder = Path(name)
        (folder / "models").mkdir()
        write_models(folder / "models", 0)
        config = {"llama_server_path": server, "llama_threads": 1}
        models = {"demo": folder / "models" / "demo.gguf"}
        with programs.service(folder / "service", config, models) as service:
            return 1 if asyncio.run(_run(service.port, options.requests, options.pauses)) else 0


if __name__ == "__main__":
    sys.exit(main())
