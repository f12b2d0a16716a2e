"""Services behind ssh: their addresses, and tunnels through a real SSH server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from cyber_inference_tui.client.known_services import KnownServices
from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.client.tunnel import SshAddress, Tunnel
from cyber_inference_tui.errors import InvalidRequestError, NoServiceError
from cyber_inference_tui.http.tls import ServerCertificate
from cyber_inference_tui.records import endpoints
from tests.certificates import Pair
from tests.fakes.service import FakeService, Front, serving
from tests.ssh_server import SshServer
from tests.waiting import eventually, is_alive, until


@pytest.mark.parametrize(
    ("text", "address", "words"),
    [
        ("ssh://Jetson", "ssh://Jetson", ["Jetson"]),
        (" SSH://ann@box:2222/ ", "ssh://ann@box:2222", ["-p", "2222", "ann@box"]),
        ("ssh://box?port=8337", "ssh://box", ["box"]),
        ("ssh://box?tls=yes&port=9", "ssh://box?port=9&tls=yes", ["box"]),
        ("ssh://[::1]:22?port=9", "ssh://[::1]:22?port=9", ["-p", "22", "::1"]),
        ("ssh://corp+ann@10.0.0.7", "ssh://corp+ann@10.0.0.7", ["corp+ann@10.0.0.7"]),
    ],
)
def test_addresses_behind_ssh(text: str, address: str, words: list[str]) -> None:
    parsed = SshAddress.parse(text)
    assert parsed is not None
    assert (str(parsed), parsed.words) == (address, words)
    assert SshAddress.parse(str(parsed)) == parsed


def test_addresses_without_ssh() -> None:
    assert SshAddress.parse("http://jetson") is SshAddress.parse("ssh") is None


@pytest.mark.parametrize(
    "place",
    [
        *("", "-oProxyCommand=x", "a b", "-l@box", "ann:secret@box", "box/x", "box#f", "$(x)"),
        *("box:0", "box:x", "box?port=0", "box?port=70000", "box?port", "box?x=1", "::1", "b;x"),
        "box?tls=1",
    ],
)
def test_other_addresses_behind_ssh_are_refused(place: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not the address of a service behind ssh"):
        SshAddress.parse(f"ssh://{place}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with SshServer(tmp_path / "ssh") as server:
        yield server


def tunnel_to(server: SshServer, port: int) -> Tunnel:
    return Tunnel(SshAddress("box", port=port), server.environ)


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def ssh_of(pid: int) -> psutil.Process:
    return next(one for one in psutil.Process(pid).children() if one.name() == "ssh")


async def test_a_tunnel_that_breaks_is_opened_again_and_ends_with_its_client(
    server: SshServer, front: Front
) -> None:
    async with ServiceClient(tunnel=tunnel_to(server, front.port)) as client:
        assert client.tunnel is not None
        await client.tunnel.open(asks=False)
        assert (await client.call(endpoints.STATUS)).version
        first = ssh_of(os.getpid())
        first.kill()
        await until(lambda: not is_alive(first))
        calls = [client.call(endpoints.STATUS) for _ in range(5)]
        assert len(await asyncio.gather(*calls)) == 5
        again = ssh_of(os.getpid())
        server.stop()
        again.kill()
        await until(lambda: not is_alive(again))
        with pytest.raises(NoServiceError, match=r"There is no tunnel to ssh://box.*refused"):
            await client.call(endpoints.STATUS)
        server.start()
        assert (await client.call(endpoints.STATUS)).version
        last = ssh_of(os.getpid())
    assert not is_alive(last)


async def test_reasons_why_there_is_no_service_behind_a_tunnel(
    server: SshServer, tmp_path: Path, front: Front
) -> None:
    async with ServiceClient(tunnel=tunnel_to(server, 9)) as client:
        with pytest.raises(NoServiceError, match="No service answers at ssh://box") as caught:
            await client.call(endpoints.STATUS)
        assert "on port 9" in caught.value.hint
    (server.folder / "authorized_keys").write_text("")
    with pytest.raises(NoServiceError, match=r"Permission denied.*Does 'ssh box' work") as caught:
        await tunnel_to(server, front.port).open(asks=False)
    with pytest.raises(NoServiceError, match="Install OpenSSH's client"):
        await Tunnel(SshAddress("box"), {"PATH": str(tmp_path)}).open(asks=False)


_HOLDER = """
import asyncio, os, sys
from cyber_inference_tui.client.tunnel import SshAddress, Tunnel
tunnel = Tunnel(SshAddress("box", port=int(sys.argv[1])), os.environ)
asyncio.run(tunnel.open(asks=False))
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not end children")
async def test_a_certificate_behind_a_tunnel_is_asked_about_once(
    server: SshServer, tmp_path: Path
) -> None:
    pair, known, asked = Pair(tmp_path), KnownServices(tmp_path), list[str]()

    def trusts(fingerprint: str) -> bool:
        asked.append(fingerprint)
        return True

    certificate = ServerCertificate(pair.certificate, pair.key)
    async with serving(FakeService(), certificate=certificate) as front:
        plain = tunnel_to(server, front.port)
        async with ServiceClient(tunnel=plain) as client:
            with pytest.raises(InvalidRequestError, match=r"Behind ssh://, add \?tls=yes"):
                await client.call(endpoints.STATUS)
        for _ in range(2):
            tunnel = Tunnel(plain.address._replace(tls=True), server.environ)
            async with ServiceClient(tunnel=tunnel) as client:
                await tunnel.open(asks=False)
                client.certificate = await asyncio.to_thread(
                    known.checked, client.place, trusts, tunnel=client.url
                )
                assert (await client.call(endpoints.STATUS)).version
    assert asked == [pair.fingerprint]
    assert known.certificate(str(tunnel.address)) == pair.pem


async def test_no_ssh_is_left_by_an_opening_that_is_cancelled_twice(tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexec sleep 1000\n")
    ssh.chmod(0o755)
    tunnel = Tunnel(SshAddress("box"), {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    busy = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        opening = asyncio.create_task(tunnel.open(asks=False))
        process = await until(lambda: next(iter(children()), None))
        threads.submit(busy.wait)
        # A worker of the app is cancelled with its dialog, and again with the app.
        for _ in range(2):
            opening.cancel()
            await asyncio.wait([opening], timeout=0)
        busy.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await until(lambda: not is_alive(process.pid), what="the end of ssh")


def test_a_tunnel_ends_with_a_process_that_is_killed(server: SshServer) -> None:
    argv = [sys.executable, "-c", _HOLDER, "9"]
    with subprocess.Popen(
        argv, env=server.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        ssh = ssh_of(holder.pid)
        holder.send_signal(signal.SIGKILL)
        # Nobody may have waited for it yet: this process adopts others, if a test made it do so.
        eventually(lambda: not is_alive(ssh), what="the end of ssh")
