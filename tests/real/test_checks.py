"""Checks as their users run them: over HTTP, on a real llama-server."""

from __future__ import annotations

from typing import Any

from tests.real.conftest import StartReal
from tests.real.service_process import ServiceProcess


def results(check: dict[str, Any]) -> dict[str, str]:
    return {trial["ability"]: trial["outcome"] for trial in check["trials"]}


def record(service: ServiceProcess, model_id: str) -> dict[str, Any]:
    found: dict[str, Any] = service.get(f"/admin/models/{model_id}").json()
    return found


def test_a_real_model_is_tried_and_the_results_are_kept(start_real: StartReal) -> None:
    service = start_real()
    assert service.get("/admin/models/demo/details").json()["check"] is None
    # Its chat template claims so.
    assert "tools" in record(service, "demo")["capabilities"]

    answer = service.post("/admin/models/demo/check")
    assert answer.status_code == 200, answer.text

    check = answer.json()
    assert check["build"]
    assert results(check) == {
        "stream": "yes",
        "tools": "no",
        "schema": "yes",
        "vision": "not tried",
        "thinking": "not tried",
        "no thinking": "not tried",
        "embeddings": "not tried",
    }
    assert service.get("/admin/models/demo/details").json()["check"] == check
    assert "tools" not in record(service, "demo")["capabilities"]
    # No client has asked the model, as far as anybody is told.
    assert service.get("/admin/requests").json() == []
    assert record(service, "demo")["in_flight"] == 0

    service.stop()
    service.start()
    kept = service.get("/admin/models/demo/details").json()["check"]
    assert results(kept) == results(check)
    with service.owner() as owner:
        changed = owner.put("/admin/config/models.demo.context_size", json={"value": 1024})
    assert changed.status_code == 200, changed.text
    assert service.get("/admin/models/demo/details").json()["check"] is None


def test_embeddings_are_compared(start_real: StartReal) -> None:
    embedder = {"models": {"demo": {"args": ["--embedding", "--pooling", "mean"]}}}
    service = start_real(embedder)
    check = service.post("/admin/models/demo/check").json()
    (last,) = (trial for trial in check["trials"] if trial["ability"] == "embeddings")
    assert last["evidence"].startswith("1,120 numbers, pooling mean; likeness of near texts")
    assert last["outcome"] == "yes"
    assert results(check)["stream"] == "not tried"


def test_a_model_that_cannot_be_loaded_or_is_unknown_is_an_error(start_real: StartReal) -> None:
    service = start_real({"models": {"demo": {"args": ["--no-such-option"]}}})
    assert service.post("/admin/models/demo/check").status_code == 503
    assert service.post("/admin/models/nobody/check").status_code == 404
