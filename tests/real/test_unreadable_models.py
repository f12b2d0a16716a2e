"""A running service that can open no file for a while, and files that are no models."""

from __future__ import annotations

import resource
import subprocess
import sys

from tests.gguf.headers import write_gguf
from tests.real.conftest import StartReal
from tests.waiting import eventually


def test_a_service_without_descriptors_keeps_its_models_loaded(start_real: StartReal) -> None:
    service = start_real(copies=("tiny",))
    path = service.data_dir / "models" / "tiny.gguf"
    service.post("/admin/models/tiny/load", json={}).raise_for_status()
    pid = service.model("tiny")["pid"]
    assert service.process is not None
    number = service.process.pid
    limits = resource.prlimit(number, resource.RLIMIT_NOFILE)
    resource.prlimit(number, resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        eventually(lambda: f"{path.parent}: it cannot be read" in service.errors())
    finally:
        resource.prlimit(number, resource.RLIMIT_NOFILE, limits)
    eventually(lambda: f"{path.parent}: it can be read again" in service.errors())
    assert service.model("tiny")["pid"] == pid
    assert service.chat("tiny").status_code == 200
    assert "its files are gone" not in service.errors()
    path.unlink()
    eventually(lambda: service.chat("tiny").status_code == 404)


def test_a_file_that_cannot_be_used_is_told_of_where_people_look(start_real: StartReal) -> None:
    service = start_real(copies=("tiny",))
    models = service.data_dir / "models"
    write_gguf(models / "lora.gguf", {"general.type": "adapter"})
    (models / "half.gguf.part").touch()
    eventually(lambda: len(service.get("/admin/problems").json()) == 2)
    answer = service.chat("lora")
    assert answer.status_code == 404
    assert "lora.gguf cannot be used as a model: it is an adapter" in answer.text
    assert str(models) not in answer.text
    command = [sys.executable, "-m", "cyber_inference_tui", "list-models"]
    command += ["--config", str(service.config_path), "--port", str(service.port)]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"{models / 'lora.gguf'}\n  it is an adapter" in listed
    assert "half.gguf.part" in listed
