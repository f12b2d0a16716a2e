"""The history of a whole service: its endpoints, its file, and what damage does to it."""

from __future__ import annotations

import stat

from tests.real.conftest import StartFake
from tests.real.service_process import chat_body


def test_a_service_with_a_damaged_history_serves_and_says_so(start_fake: StartFake) -> None:
    service = start_fake(start=False)
    path = service.data_dir / "history.sqlite3"
    path.write_bytes(b"no database" * 1000)
    service.start()
    for name in ("requests", "sessions"):
        assert isinstance(service.get(f"/admin/{name}?limit=5&model=nothing").json(), list)
    assert isinstance(service.get("/admin/totals").json(), list)
    assert service.get("/admin/requests?limit=x").status_code == 400
    assert service.chat("a").status_code == 200
    assert "history.sqlite3.damaged-" in service.get("/admin/logs/service?lines=50").text
    (aside,) = service.data_dir.glob("history.sqlite3.damaged-*")
    assert aside.read_bytes() == b"no database" * 1000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    service.stop()
    # Closed in order: nothing is left beside it.
    assert path.is_file()
    assert not path.with_name("history.sqlite3-wal").exists()


def test_a_misconfigured_client_is_visible(start_fake: StartFake) -> None:
    service = start_fake()
    assert service.chat("gpt-4o").status_code == 404
    assert service.post("/v1/chat/completions", content=b"{broken").status_code == 400
    assert service.post("/v1/v1/chat/completions", json=chat_body("a")).status_code == 404
    assert service.chat("a").status_code == 200
    answered, no_path, broken, no_model = service.get("/admin/requests").json()
    assert (answered["status"], answered["model"]) == (200, "a")
    assert (no_path["status"], no_path["path"]) == (404, "/v1/v1/chat/completions")
    assert (broken["status"], broken["model"]) == (400, "")
    assert "not valid JSON" in broken["error"]
    assert (no_model["status"], no_model["model"]) == (404, "gpt-4o")
    assert 'no model "gpt-4o"' in no_model["error"]
    assert no_model["client"] == "127.0.0.1"
    metrics = service.get("/metrics").text
    assert 'cyber_inference_refused_requests_total{code="model_not_found"} 1.0' in metrics
    # Of a flood only a part is kept.
    with service.client() as client:
        for _ in range(150):
            client.post("/v1/chat/completions", json=chat_body("gpt-4o"))
    kept = service.get("/admin/requests?limit=1000&model=gpt-4o").json()
    assert 90 <= len(kept) <= 110
    metrics = service.get("/metrics").text
    assert 'cyber_inference_refused_requests_total{code="model_not_found"} 151.0' in metrics
