"""``gc`` on a running service with a real llama-server: a model in use stays, and the disk has as
many bytes more as promised."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.real.conftest import StartReal

JSON = {"Content-Type": "application/json"}


def used(folder: Path) -> int:
    """Count the bytes of all files, each once."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if not path.is_dir():
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


@pytest.mark.real
def test_what_nobody_uses_goes_and_what_is_loaded_stays(start_real: StartReal) -> None:
    service = start_real(copies=("loaded", "idle", "linked"))
    models = service.data_dir / "models"
    os.link(models / "linked.gguf", models / "keeps-linked.bin")
    assert service.chat("loaded").status_code == 200
    plan = service.get("/admin/gc?unused_days=0").json()
    while plan["hashing"]:
        plan = service.get("/admin/gc?unused_days=0").json()
    names = {item["name"] for item in plan["own"]["items"]}
    assert names == {"idle"}, "the linked one would free nothing"
    before = used(models)
    order = {"unused_days": 0, "token": plan["own"]["token"]}
    with service.client() as client:
        done = client.post("/admin/gc", json=order).json()
        assert client.post("/admin/gc", json=order).status_code == 409
    assert before - used(models) == done["freed_bytes"] == plan["own"]["freed_bytes"] > 0
    assert sorted(path.name for path in models.iterdir()) == [
        "keeps-linked.bin",
        "linked.gguf",
        "loaded.gguf",
    ]
    assert service.chat("loaded").status_code == 200
    assert service.model("loaded")["last_used_at"] is not None
