"""The history of a whole service: its endpoints, its file, and what damage does to it."""

from __future__ import annotations

import stat

from tests.real.conftest import StartFake


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
