"""A service without a llama-server and without a model gets both while it runs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cyber_inference_tui.llama.install.apt_sources import find_mirrors
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually, is_alive

needs_mirror = pytest.mark.skipif(
    shutil.which("apt-get") is None or not find_mirrors(Path("/")),
    reason="this machine's apt has no Debian mirror",
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    """One that finds no llama-server."""
    config = {"llama_server_base_port": 0, "llama_threads": 1}
    one = ServiceProcess(tmp_path, config, environ={"PATH": "/usr/bin:/bin"}).start()
    yield one
    if one.process is not None and one.process.poll() is None:
        one.stop()
    one.assert_none_left()


def installed(service: ServiceProcess) -> dict[str, Any] | None:
    service.note_children()
    record: dict[str, Any] = service.get("/admin/install").json()
    return None if record["state"] == "running" else record


@needs_mirror
def test_from_nothing_to_an_answer_without_a_restart(service: ServiceProcess) -> None:
    assert service.models() == {}
    demo = service.post("/admin/demo", json={}).json()
    assert (demo["id"], demo["status"]) == ("demo", "unloaded")
    assert service.post("/admin/demo", json={}).json()["id"] == "demo"
    refused = service.chat("demo")
    assert refused.status_code == 503
    assert "no llama-server" in refused.json()["error"]["message"]

    begun = service.post("/admin/install", json={"from": "debian"})
    assert (begun.status_code, begun.json()["state"]) == (202, "running")
    record = eventually(lambda: installed(service), what="the installation")
    assert record["state"] == "done", service.get("/admin/logs/install").text
    llama = service.get("/admin/status").json()["llama_server"]
    assert Path(llama["path"]).is_relative_to(service.data_dir)
    answer = service.chat("demo")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert "downloading packages" in service.get("/admin/logs/install").text


@needs_mirror
@pytest.mark.parametrize("end", ["cancel", "kill"])
def test_an_installation_that_is_ended_leaves_nothing(service: ServiceProcess, end: str) -> None:
    service.post("/admin/install", json={"from": "debian"})

    def at_work() -> list[psutil.Process]:
        # Some of its children live for a moment only.
        with contextlib.suppress(psutil.NoSuchProcess):
            return [p for p in service.note_children() if p.name().startswith("apt")]
        return []

    apt = eventually(at_work, what="apt at work")
    if end == "kill":
        service.kill()
    else:
        with service.client() as client:
            assert client.delete("/admin/install").json()["state"] == "cancelled"
    assert apt
    service.assert_none_left() if end == "kill" else None
    if end == "cancel":
        eventually(lambda: not any(is_alive(p) for p in apt), what="the end of apt")
        folder = service.data_dir / "llama"
        eventually(lambda: not list(folder.glob(".staging*")), what="a tidy folder")
