"""Models from the box next door: real services, a stand-in hub, and a relay between the boxes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.certificates import Pair
from tests.hub.stand_in_hub import StandInHub
from tests.hub.transfers import MIB, noise
from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess
from tests.real.test_peers import CODE, peer
from tests.waiting import LIMIT, eventually

REPO = "owner/tiny-GGUF"
NAME = "Tiny-Q8_0.gguf"
HELD = MIB + 77


class Relay:
    """Passes on what two boxes say. Use it as ``with``.

    While ``hold`` is set, an answer with a file stops after about ``HELD`` bytes (``reached``)
    until ``go`` is set.
    """

    def __init__(self, target: ServiceProcess) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.hold = threading.Event()
        self.reached = threading.Event()
        self.go = threading.Event()
        self.files: list[str] = []
        """The ranges of the requests for a file; ``all`` without one."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        wants_file = threading.Event()
        with client, contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            # A close alone would wait for the other thread.
            stack.callback(_shut, client)
            address = ("127.0.0.1", self._target.port)
            with socket.create_connection(address, timeout=LIMIT) as there:
                there.settimeout(None)
                threading.Thread(
                    target=self._ask, args=(client, there, wants_file), daemon=True
                ).start()
                passed = 0
                while data := there.recv(64 << 10):
                    client.sendall(data)
                    passed += len(data)
                    if wants_file.is_set() and self.hold.is_set() and passed >= HELD:
                        self.reached.set()
                        self.go.wait(LIMIT)

    def _ask(
        self, client: socket.socket, there: socket.socket, wants_file: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(64 << 10):
                if data.startswith(b"GET /peers/files/"):
                    wants_file.set()
                    lines = data.decode("latin-1").lower().split("\r\n")
                    ranges = [line[7:] for line in lines if line.startswith("range: ")]
                    self.files.append(ranges[0] if ranges else "all")
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def content(demo_gguf: Path) -> bytes:
    return demo_gguf.read_bytes() + noise(3 * MIB)


@pytest.fixture
def hub(content: bytes) -> Iterator[StandInHub]:
    with StandInHub() as running:
        running.add(REPO, {NAME: content})
        yield running


def boxes(
    starter: Starter, hub: StandInHub, content: bytes, **config: Any
) -> tuple[ServiceProcess, ServiceProcess, Path]:
    """Start a box without the model, and another one that has it at the path."""
    here = starter.fake(config={"hf_endpoint": hub.url, "hf_allowed_hosts": [hub.cdn]})
    there = starter.fake(config={"hf_endpoint": "http://127.0.0.1:1", **config}, start=False)
    path = there.data_dir / "models" / "other name.gguf"
    path.write_bytes(content)
    return here, there.start(), path


def pair(here: ServiceProcess, there: httpx.Client, url: str) -> tuple[str, dict[str, str]]:
    """Pair the boxes; return the name of ``there``, and the headers that ``here`` sends there."""
    there.post("/admin/pairing", json={"code": CODE}).raise_for_status()
    with here.owner() as owner:
        name = str(owner.post("/admin/peers", json={"url": url, "code": CODE}).json()["name"])
    eventually(lambda: peer(here, name)["state"] == "connected", what="the connection")
    secrets = json.loads((here.data_dir / "peers.json").read_text())["peers"][name]
    return name, {"Authorization": f"Bearer {secrets['key']}"}


def wait_hashed(there: httpx.Client, content: bytes, headers: dict[str, str]) -> None:
    """Wait until the box knows what its file is."""
    digest = hashlib.sha256(content).hexdigest()
    url = f"/peers/files/{digest}?size={len(content)}"
    eventually(lambda: there.head(url, headers=headers).status_code == 200, what="the digest")


def start_download(here: ServiceProcess) -> None:
    wanted = {"repo": REPO, "filename": NAME}
    assert here.post("/admin/downloads", json=wanted).status_code == 202


def record(here: ServiceProcess) -> dict[str, Any]:
    (only,) = here.get("/admin/downloads").json()
    return dict(only)


def finished(here: ServiceProcess) -> dict[str, Any]:
    ended = {"done", "failed"}
    return eventually(
        lambda: one if (one := record(here))["status"] in ended else None,
        what="the end of the download",
    )


def arrived(here: ServiceProcess) -> bytes:
    return (here.data_dir / "models" / REPO / NAME).read_bytes()


def restart(service: ServiceProcess) -> None:
    service.arguments = ("--port", str(service.port))
    service.start()


def test_a_download_comes_from_the_box_over_tls_and_is_passed_on(
    starter: Starter, hub: StandInHub, content: bytes, tmp_path: Path
) -> None:
    certificate = Pair(tmp_path)
    here, there, _ = boxes(starter, hub, content, **certificate.settings)
    verify = ssl.create_default_context(cafile=str(certificate.certificate))
    token = json.loads((there.data_dir / "service.json").read_text())["token"]
    with httpx.Client(
        base_url=there.url, verify=verify, headers={"Authorization": f"Bearer {token}"}
    ) as owner:
        name, headers = pair(here, owner, there.url)
        assert not (there.data_dir / "digests.json").exists(), "it has hashed at the start"
        wait_hashed(owner, content, headers)
        # The hub sends no byte of the file.
        hub.refusals.extend([(503, {})] * 100)
        start_download(here)
        done = finished(here)
        assert (done["status"], done["source"]) == ("done", name)
        assert arrived(here) == content
        assert hub.sent == {}
        # What has arrived was verified, so it is not hashed again.
        digest = hashlib.sha256(content).hexdigest()
        digests = json.loads((here.data_dir / "digests.json").read_text())
        assert [one["sha256"] for one in digests.values()] == [digest]
        model = here.models()["Tiny-Q8_0"]
        assert (model["status"], model["sha256"]) == ("unloaded", digest)
        # Both boxes tell it.
        eventually(
            lambda: digest in {one["sha256"] for one in peer(here, name)["models"]},
            what="the digest there",
        )


def test_the_hub_continues_to_the_byte_when_the_box_is_killed(
    starter: Starter, hub: StandInHub, content: bytes
) -> None:
    here, there, _ = boxes(starter, hub, content)
    with Relay(there) as relay, there.owner() as owner:
        name, headers = pair(here, owner, relay.url)
        wait_hashed(owner, content, headers)
        relay.hold.set()
        start_download(here)
        assert relay.reached.wait(LIMIT)
        assert record(here)["source"] == name
        there.kill()
        relay.go.set()
        done = finished(here)
    assert (done["status"], done["source"]) == ("done", None)
    assert arrived(here) == content
    assert relay.files == ["all"]
    asked = [headers["Range"] for host, _, headers in hub.asked if host == "cdn"]
    begun = len(content) - hub.sent[NAME]
    assert asked == [f"bytes={begun}-"]
    assert begun > 0
    there.assert_none_left()


def test_the_box_continues_to_the_byte_when_it_is_back(
    starter: Starter, hub: StandInHub, content: bytes
) -> None:
    here, there, _ = boxes(starter, hub, content)
    hub.refusals.extend([(503, {})] * 100)
    with Relay(there) as relay, there.owner() as owner:
        name, headers = pair(here, owner, relay.url)
        wait_hashed(owner, content, headers)
        relay.hold.set()
        start_download(here)
        assert relay.reached.wait(LIMIT)
        there.kill()
        relay.hold.clear()
        relay.go.set()
        eventually(lambda: record(here)["error"], what="the failure of the hub")
        # Nor does the end of this service lose a byte.
        here.kill()
        kept = sum(path.stat().st_size for path in here.data_dir.rglob("*.part"))
        assert kept > 0
        restart(there)
        restart(here)
        done = finished(here)
    assert (done["status"], done["source"]) == ("done", name)
    assert arrived(here) == content
    assert relay.files == ["all", f"bytes={kept}-"]
    assert hub.sent == {}


def test_a_wrong_file_of_a_box_is_discarded(
    starter: Starter, hub: StandInHub, content: bytes
) -> None:
    here, there, path = boxes(starter, hub, content)
    with Relay(there) as relay, there.owner() as owner:
        _, headers = pair(here, owner, relay.url)
        wait_hashed(owner, content, headers)
        # Its size and its time stay: the box does not notice.
        status = path.stat()
        with path.open("r+b") as file:
            file.seek(-10, os.SEEK_END)
            file.write(b"poison")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        start_download(here)
        assert finished(here)["status"] == "done"
        assert arrived(here) == content
        assert relay.files == ["all"]
        assert hub.sent[NAME] == len(content)
        # Nor is it asked for this file again.
        with here.client() as client:
            client.request("DELETE", "/admin/models/Tiny-Q8_0", json={}).raise_for_status()
            client.request(
                "DELETE", f"/admin/downloads/{record(here)['id']}", json={}
            ).raise_for_status()
        start_download(here)
        assert finished(here)["status"] == "done"
        assert arrived(here) == content
        assert relay.files == ["all"]
