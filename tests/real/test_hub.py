"""From a search to an answer: a model of a stand-in hub, on a real llama-server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gguf import synthetic
from tests.gguf.synthetic_projector import projector
from tests.hub.stand_in_hub import Fault, StandInHub
from tests.real.conftest import StartReal
from tests.real.service_process import ServiceProcess
from tests.real.terminal import Terminal
from tests.waiting import eventually

REPO = "owner/tiny-GGUF"


@pytest.fixture
def hub(demo_gguf: Path) -> Iterator[StandInHub]:
    with StandInHub() as running:
        content = demo_gguf.read_bytes()
        running.add(REPO, {"Tiny-Q8_0.gguf": content, "Tiny-F16.gguf": content + bytes(4096)})
        yield running


def of_hub(hub: StandInHub) -> dict[str, Any]:
    return {"hf_endpoint": hub.url, "hf_allowed_hosts": [hub.cdn]}


def downloaded(service: ServiceProcess) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        (record,) = service.get("/admin/downloads").json()
        return record if record["status"] in {"done", "failed"} else None

    return eventually(look, what="the end of the download")


@pytest.mark.real
def test_a_model_from_the_hub_answers(start_real: StartReal, hub: StandInHub) -> None:
    service = start_real(of_hub(hub))
    # The first reading of the memory may come after the first request.
    eventually(lambda: service.model("demo")["fits"])
    (found,) = service.get("/admin/hub/search", params={"q": "tiny"}).json()
    assert found["repo"] == REPO
    offers = service.get("/admin/hub/files", params={"repo": REPO}).json()
    assert {one["quantization"]: one["fits"] for one in offers} == {"Q8_0": "now", "F16": "now"}
    (best,) = [one for one in offers if one["suggested"]]
    assert best["quantization"] == "Q8_0"
    wanted = {"repo": REPO, "filename": best["name"]}
    assert service.post("/admin/downloads", json=wanted).status_code == 202
    record = downloaded(service)
    assert (record["status"], record["model_id"]) == ("done", "Tiny-Q8_0")
    model = service.model("Tiny-Q8_0")
    assert model["origin"] == "models_dir"
    # What was reckoned from 64 KiB of it is what the file on the disk gives.
    assert model["memory_estimate_bytes"] == pytest.approx(best["memory_estimate_bytes"], rel=0.05)
    answer = service.chat("Tiny-Q8_0")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    offers = service.get("/admin/hub/files", params={"repo": REPO}).json()
    assert {one["local_id"] for one in offers} == {None, "Tiny-Q8_0"}
    with service.client() as client:
        assert client.request("DELETE", "/admin/models/Tiny-Q8_0", json={}).status_code == 409
        service.post("/admin/models/Tiny-Q8_0/unload", json={})
        assert client.request("DELETE", "/admin/models/Tiny-Q8_0", json={}).status_code == 200
    assert "Tiny-Q8_0" not in service.models()


@pytest.mark.real
def test_two_quantizations_at_once_see_with_one_projector(
    start_real: StartReal, tmp_path: Path
) -> None:
    model = synthetic.windowed().write(tmp_path / "model.gguf").read_bytes()
    beside = projector().write(tmp_path / "mmproj.gguf").read_bytes()
    files = {
        "See-Q4_K_M.gguf": model,
        "See-Q8_0.gguf": model + bytes(32),
        "mmproj-F16.gguf": beside,
    }
    with StandInHub() as hub:
        hub.add("owner/see-GGUF", files)
        service = start_real(of_hub(hub))
        stall = Fault("stall", len(beside) // 2)
        hub.faults["mmproj-F16.gguf"].append(stall)
        for name in ("See-Q4_K_M.gguf", "See-Q8_0.gguf"):
            wanted = {"repo": "owner/see-GGUF", "filename": name}
            assert service.post("/admin/downloads", json=wanted).status_code == 202

        def other_waits() -> bool:
            records = service.get("/admin/downloads").json()
            return any("Another download" in (record["error"] or "") for record in records)

        eventually(other_waits, what="the second to wait for the first one's projector")
        stall.go.set()

        def ended() -> list[dict[str, Any]] | None:
            records: list[dict[str, Any]] = service.get("/admin/downloads").json()
            over = all(record["status"] in {"done", "failed"} for record in records)
            return records if over else None

        records = eventually(ended, what="the end of both downloads")
        assert [record["status"] for record in records] == ["done", "done"]
        assert all(record["bytes_done"] == record["bytes_total"] for record in records)
        assert hub.sent["mmproj-F16.gguf"] == len(beside)
    for model_id in ("See-Q4_K_M", "See-Q8_0"):
        assert service.model(model_id)["vision"]
    with service.client() as client:
        deleted = client.request("DELETE", "/admin/models/See-Q4_K_M", json={})
        assert deleted.status_code == 200
    assert service.model("See-Q8_0")["vision"]
    loaded = service.post("/admin/models/See-Q8_0/load", json={})
    assert loaded.status_code == 200, loaded.text


@pytest.mark.real
@pytest.mark.timeout(300)
def test_a_model_comes_here_by_the_terminal_app(
    start_real: StartReal, hub: StandInHub, tmp_path: Path
) -> None:
    service = start_real(of_hub(hub))
    app = [
        sys.executable, "-m", "cyber_inference_tui", "--attach", service.url,
        "--config", str(service.config_path), "--data-dir", str(tmp_path / "app"),
    ]  # fmt: skip
    with Terminal(app, folder=tmp_path) as terminal:
        terminal.wait_for("unloaded")
        terminal.press("3")
        terminal.wait_for(REPO)
        terminal.wait_for(f"▸  {REPO}")
        terminal.press("Enter")
        terminal.wait_for("Q8_0", "F16", "fits")
        terminal.press("d")
        terminal.wait_for("✔ done")
        assert downloaded(service)["model_id"] == "Tiny-Q8_0"
        terminal.press("]")
        terminal.wait_for("l Load")
        terminal.press("l")
        # The page shows its state.
        terminal.wait_for("Downloaded as Tiny-Q8_0; t chats with it.", "● loaded")
        terminal.press("3")
        terminal.wait_for("✔ downloaded")
        terminal.press("q")
        terminal.wait_for("ended with 0")


@pytest.mark.real
@pytest.mark.timeout(300)
def test_the_end_of_a_download_is_announced_on_another_page(
    start_real: StartReal, hub: StandInHub, tmp_path: Path
) -> None:
    service = start_real(of_hub(hub))
    hub.faults["Tiny-Q8_0.gguf"] += [Fault("corrupt", 5), Fault("corrupt", 7)]
    app = [
        sys.executable, "-m", "cyber_inference_tui", "--attach", service.url,
        "--config", str(service.config_path), "--data-dir", str(tmp_path / "app"),
    ]  # fmt: skip
    wanted = {"repo": REPO, "filename": "Tiny-Q8_0.gguf"}
    with Terminal(app, folder=tmp_path) as terminal:
        terminal.wait_for("unloaded")
        terminal.press("4")
        terminal.wait_for("LOG")
        assert service.post("/admin/downloads", json=wanted).status_code == 202
        terminal.wait_for("Tiny-Q8_0 was not", "again.")
        assert service.post("/admin/downloads", json=wanted).status_code == 202
        terminal.wait_for("Tiny-Q8_0 was downloaded", "2 shows")
        terminal.press("1")
        terminal.wait_for("EVENTS", "✖ was not down", "was downloaded")


@pytest.mark.real
def test_a_model_of_the_hub_cache_answers_and_stays(
    start_real: StartReal, demo_gguf: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "hub/models--org--tiny"
    (repo / "blobs").mkdir(parents=True)
    blob = repo / "blobs" / "0123"
    blob.write_bytes(demo_gguf.read_bytes())
    link = repo / "snapshots/c0ffee/Cached-Q8_0.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../blobs/0123")
    service = start_real()
    service.stop()
    service.environ["HF_HUB_CACHE"] = str(tmp_path / "hub")
    service.start()
    assert service.model("Cached-Q8_0")["origin"] == "hub cache"
    assert service.chat("Cached-Q8_0").status_code == 200
    service.post("/admin/models/Cached-Q8_0/unload", json={})
    with service.client() as client:
        answer = client.request("DELETE", "/admin/models/Cached-Q8_0", json={})
    assert answer.status_code == 409
    assert "Hugging Face" in answer.json()["error"]["message"]
    assert blob.exists()


@pytest.mark.real
def test_a_hub_that_is_dead_holds_up_no_other_request(start_real: StartReal) -> None:
    service = start_real({"hf_endpoint": "http://127.0.0.1:1"})
    answer = service.get("/admin/hub/search", params={"q": "x"})
    assert answer.status_code == 502
    error = answer.json()["error"]
    assert error["code"] == "hub_unreachable"
    assert "127.0.0.1:1 cannot be reached" in error["message"]
