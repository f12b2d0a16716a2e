"""``python -m benchmarks.transfer``: one file from a hub on this machine, beside curl.

A server that does nothing but ``sendfile`` stands for the hub; curl and the transfer fetch the same
file from it in turns, each in a process of its own. curl only writes the bytes down; the transfer
hashes them as well and forces them to the disk. Prints a Markdown table: bytes a second, their
ratio to those of the run of curl just before (median, lowest and highest), processor time, memory
beyond what the process had before, and the longest time that the event loop was held
up, as a clock on it sees it, beside the same of a loop with nothing to do. Needs curl and twice the
file's size in ``--folder``: the temporary directory, or one in memory such as ``/dev/shm``, which
leaves the disk out.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import psutil
import uvloop

from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.partial import HubFile
from cyber_inference_tui.hub.transfer import Transfer, TransferContext, TransferLimits, open_session

_TICK = 0.001


class Outcome(msgspec.Struct, frozen=True):
    """One run; bytes and seconds."""

    per_second: float
    cpu: float
    memory: int
    held_up: float = 0.0
    held_up_idle: float = 0.0


def serve(source: Path) -> None:
    """Answer every request with the file; prints the port."""
    size = source.stat().st_size
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def answer(connection: socket.socket) -> None:
        with connection, source.open("rb") as file:
            while b"\r\n\r\n" not in connection.recv(65536):
                pass
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            sent = 0
            while sent < size:
                sent += os.sendfile(connection.fileno(), file.fileno(), sent, 1 << 22)

    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


async def _transfer(port: int, origin: HubFile, target: Path) -> Outcome:
    pace = TransferLimits()
    executor = ThreadPoolExecutor(4)
    session = open_session(pace)
    endpoint = HubEndpoint(url=f"http://127.0.0.1:{port}")
    transport = TransferContext(
        session=session,
        endpoint=lambda: endpoint,
        executor=executor,
        environ={},
        boot="",
        pace=pace,
    )
    process = psutil.Process()
    before = process.memory_info().rss
    cpu = sum(process.cpu_times()[:2])
    busy = asyncio.create_task(_watch_loop())
    began = time.perf_counter()
    await Transfer(transport, origin, target).run()
    took = time.perf_counter() - began
    spent = sum(process.cpu_times()[:2]) - cpu
    peak = _peak()
    busy.cancel()
    idle = asyncio.create_task(_watch_loop())
    await asyncio.sleep(min(took, 5.0))
    idle.cancel()
    await session.close()
    executor.shutdown()
    held_up = [await busy, await idle]
    return Outcome((origin.size or 0) / took, spent, peak - before, *held_up)


def _peak() -> int:
    """Most resident bytes of this program so far; getrusage has what its parent had, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def _watch_loop() -> float:
    """Until it is cancelled: by how much the loop was late at most."""
    late = 0.0
    try:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_TICK)
            late = max(late, time.perf_counter() - began - _TICK)
    except asyncio.CancelledError:
        return late


def _ours(port: int, origin: HubFile, target: Path) -> Outcome:
    command = [sys.executable, "-m", "benchmarks.transfer", "--child", str(port), str(target)]
    run = subprocess.run(
        command, input=msgspec.json.encode(origin), stdout=subprocess.PIPE, check=True
    )
    return msgspec.json.decode(run.stdout, type=Outcome)


def _curl(port: int, origin: HubFile, target: Path) -> Outcome:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(["curl", "-sS", "-o", target, f"http://127.0.0.1:{port}/"], check=True)
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Outcome((origin.size or 0) / took, cpu, 0)


def _make(source: Path, size: int) -> str:
    digest = hashlib.sha256()
    with source.open("wb") as file:
        for _ in range(0, size, 1 << 24):
            block = os.urandom(min(1 << 24, size - file.tell()))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    if options.child:
        origin = msgspec.json.decode(sys.stdin.buffer.read(), type=HubFile)
        outcome = uvloop.run(_transfer(int(options.child[0]), origin, Path(options.child[1])))
        sys.stdout.buffer.write(msgspec.json.encode(outcome))
        return 0
    found: dict[str, list[Outcome]] = {"curl": [], "this transfer": []}
    with tempfile.TemporaryDirectory(prefix="cyber-transfer-", dir=options.folder) as name:
        folder = Path(name)
        source = folder / "source"
        size = options.megabytes * 1_000_000
        origin = HubFile(
            repo="o/n", revision="0" * 40, path="a.gguf", size=size, sha256=_make(source, size)
        )
        command = [sys.executable, "-m", "benchmarks.transfer", "--serve", str(source)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            for _ in range(options.rounds):
                for (who, outcomes), run in zip(found.items(), (_curl, _ours), strict=True):
                    target = folder / "target"
                    outcomes.append(run(port, origin, target))
                    target.unlink()
                    print(f"{who}: {outcomes[-1].per_second / 1e6:.0f} MB/s", file=sys.stderr)
            server.terminate()
    print(f"{options.megabytes} MB over loopback, medians of {options.rounds} runs\n")
    print("| | MB/s | ratio | processor | memory | longest hold-up of the loop | idle loop |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for who, outcomes in found.items():
        ours = who != "curl"
        speed = statistics.median(one.per_second for one in outcomes) / 1e6
        pairs = zip(outcomes, found["curl"], strict=True)
        ratios = [one.per_second / curl.per_second for one, curl in pairs]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        memory = max(one.memory for one in outcomes) / 1e6
        idle = statistics.median(one.held_up_idle for one in outcomes) * 1000
        held = statistics.median(one.held_up for one in outcomes) * 1000
        print(
            f"| {who} | {speed:.0f} | {ratio if ours else '1.00'}"
            f" | {statistics.median(one.cpu for one in outcomes):.2f} s"
            f" | {f'{memory:.0f} MB | {held:.1f} ms | {idle:.1f} ms' if ours else ' | | '} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
