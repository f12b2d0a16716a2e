"""``python -m benchmarks.transfer``: one file from a hub on this machine, beside curl.

A server that does nothing but ``sendfile`` stands for the hub; curl and the transfer fetch the same
file from it in turns, each in a process of its own. curl only writes the bytes down; the transfer
hashes them as well and forces them to the disk. Prints a Markdown table: bytes a second, their
ratio to those of the run of curl just before (median, lowest and highest), processor time, memory
beyond what the process had before, and the longest time that the event loop was held
up, as a clock on it sees it, beside the same of a loop with nothing to do. Needs curl and twice the
file's size in ``--folder``: the temporary directory, or one in memory such as ``/dev/shm``, which
leaves the disk out.

With ``--box`` the transfer copies the file from another box, a service of this program, and with
``--box --tls`` as boxes do in a network. curl fetches it from both servers then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
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
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import psutil
import uvloop

from cyber_inference_tui.certificates import trusting
from cyber_inference_tui.cli.tls_command import new_pair
from cyber_inference_tui.gguf.demo import write_demo
from cyber_inference_tui.hub.boxes import NearbyBox
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


class Place(msgspec.Struct, frozen=True):
    """A server with the file; ``key`` is empty for the one that only uses ``sendfile``."""

    port: int
    path: str = "/"
    key: str = ""
    certificate: str = ""


async def _transfer(place: Place, origin: HubFile, target: Path) -> Outcome:
    pace = TransferLimits()
    executor = ThreadPoolExecutor(4)
    session = open_session(pace)
    boxes = []
    if place.key:
        tls = trusting(place.certificate) if place.certificate else None
        boxes = [NearbyBox("box", "127.0.0.1", place.port, place.key, tls, set())]
    endpoint = HubEndpoint(url=f"http://127.0.0.1:{1 if boxes else place.port}")
    transport = TransferContext(
        session=session,
        endpoint=lambda: endpoint,
        executor=executor,
        environ={},
        boot="",
        pace=pace,
        boxes=lambda: boxes,
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


def _ours(place: Place, origin: HubFile, target: Path) -> Outcome:
    command = [sys.executable, "-m", "benchmarks.transfer", "--child", str(target)]
    run = subprocess.run(
        command, input=msgspec.json.encode((place, origin)), stdout=subprocess.PIPE, check=True
    )
    return msgspec.json.decode(run.stdout, type=Outcome)


def _curl(place: Place, origin: HubFile, target: Path) -> Outcome:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    scheme = "https" if place.certificate else "http"
    url = f"{scheme}://127.0.0.1:{place.port}{place.path}"
    header = f"Authorization: Bearer {place.key}"
    subprocess.run(["curl", "-sSfk", "-H", header, "-o", target, url], check=True)
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Outcome((origin.size or 0) / took, cpu, 0)


def _make(source: Path, size: int) -> str:
    # A model that a box can read, with noise behind it.
    write_demo(source)
    digest = hashlib.sha256(source.read_bytes())
    with source.open("ab") as file:
        while file.tell() < size:
            block = os.urandom(min(1 << 24, size - file.tell()))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _sendfile_server(source: Path) -> Iterator[Place]:
    command = [sys.executable, "-m", "benchmarks.transfer", "--serve", str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            yield Place(int(server.stdout.readline()))
        finally:
            server.terminate()


@contextlib.contextmanager
def _box(folder: Path, origin: HubFile, *, tls: bool) -> Iterator[Place]:
    """Start a service with the models of ``folder``, to which another box is paired."""
    key, data = "key-of-the-box", folder / "data"
    data.mkdir()
    digest = hashlib.sha256(key.encode()).hexdigest()
    peers = {"peers": {"bench": {"key": "none", "digest": digest}}}
    (data / "peers.json").write_bytes(msgspec.json.encode(peers))
    config = [f'models_dir = "{folder}"', "discover = false"]
    certificate = b""
    if tls:
        certificate, private = new_pair(["127.0.0.1"])
        (folder / "cert").write_bytes(certificate)
        (folder / "key").write_bytes(private)
        config += [f'tls_cert = "{folder}/cert"', f'tls_key = "{folder}/key"']
    (folder / "config").write_text("\n".join([*config, "[peers.bench]", 'role = "serve"', ""]))
    command = [sys.executable, "-m", "cyber_inference_tui", "--no-ui", "--port", "0"]
    command += ["--config", str(folder / "config"), "--data-dir", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        try:
            url = service.stdout.readline().decode().split()[-1]
            path = f"/peers/files/{origin.sha256}?size={origin.size}"
            place = Place(int(url.rpartition(":")[2]), path, key, certificate.decode())
            _wait_hashed(url, place)
            yield place
        finally:
            service.terminate()


def _wait_hashed(url: str, place: Place) -> None:
    request = urllib.request.Request(
        url + place.path, method="HEAD", headers={"Authorization": f"Bearer {place.key}"}
    )
    while True:
        context = trusting(place.certificate) if place.certificate else None
        with contextlib.suppress(OSError), urllib.request.urlopen(request, context=context):
            return
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--box", action="store_true", help="copy from another box")
    parser.add_argument("--tls", action="store_true", help="the box has a certificate")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    if options.child:
        place, origin = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[Place, HubFile])
        outcome = uvloop.run(_transfer(place, origin, options.child))
        sys.stdout.buffer.write(msgspec.json.encode(outcome))
        return 0
    found: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="cyber-transfer-", dir=options.folder) as name:
        folder = Path(name)
        source = folder / "source.gguf"
        size = options.megabytes * 1_000_000
        origin = HubFile(
            repo="o/n", revision="0" * 40, path="a.gguf", size=size, sha256=_make(source, size)
        )
        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(_sendfile_server(source))
            turns: dict[str, tuple[Callable[[Place, HubFile, Path], Outcome], Place]]
            turns = {"curl": (_curl, plain), "this transfer": (_ours, plain)}
            if options.box:
                box = stack.enter_context(_box(folder, origin, tls=options.tls))
                turns = {
                    "curl": (_curl, plain),
                    "curl, from the box": (_curl, box),
                    "this transfer, from the box": (_ours, box),
                }
            for _ in range(options.rounds):
                for who, (run, place) in turns.items():
                    target = folder / "target"
                    found.setdefault(who, []).append(run(place, origin, target))
                    target.unlink()
                    print(f"{who}: {found[who][-1].per_second / 1e6:.0f} MB/s", file=sys.stderr)
    print(f"{options.megabytes} MB over loopback, medians of {options.rounds} runs\n")
    print("| | MB/s | ratio | processor | memory | longest hold-up of the loop | idle loop |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for who, outcomes in found.items():
        ours = who.startswith("this")
        speed = statistics.median(one.per_second for one in outcomes) / 1e6
        pairs = zip(outcomes, found["curl"], strict=True)
        ratios = [one.per_second / curl.per_second for one, curl in pairs]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        memory = max(one.memory for one in outcomes) / 1e6
        idle = statistics.median(one.held_up_idle for one in outcomes) * 1000
        held = statistics.median(one.held_up for one in outcomes) * 1000
        print(
            f"| {who} | {speed:.0f} | {ratio if who != 'curl' else '1.00'}"
            f" | {statistics.median(one.cpu for one in outcomes):.2f} s"
            f" | {f'{memory:.0f} MB | {held:.1f} ms | {idle:.1f} ms' if ours else ' | | '} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
