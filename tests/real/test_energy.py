"""Energy on a whole service with a Jetson's power monitor, which always measures the same power."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.monitor import trees
from tests.real.conftest import StartReal
from tests.real.service_process import ServiceProcess
from tests.real.test_metrics import scrape, value
from tests.waiting import eventually

WATTS = 4.936


def finished(service: ServiceProcess, count: int) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]] | None:
        records: list[dict[str, Any]] = service.get("/admin/requests").json()
        return records if len(records) == count else None

    return eventually(found)


def busy_seconds(records: list[dict[str, Any]]) -> float:
    """Return the time in which at least one of the requests ran."""
    seconds, until = 0.0, 0.0
    for record in sorted(records, key=lambda one: one["at"]):
        begin = datetime.fromisoformat(record["at"]).timestamp()
        end = begin + record["duration_seconds"]
        seconds += max(0.0, end - max(begin, until))
        until = max(until, end)
    return seconds


@pytest.mark.real
def test_requests_share_the_energy_of_the_board(start_real: StartReal, tmp_path: Path) -> None:
    trees.xavier_nx(tmp_path)
    service = start_real(config={"system_root": str(tmp_path), "price_per_kwh": 0.5})
    service.chat("demo")
    eventually(lambda: (service.get("/admin/resources").json()["energy"] or {}).get("seconds"))
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: service.chat("demo", max_tokens=200), range(8)):
            assert answer.status_code == 200
    with service.stream("demo") as response:
        response.read()
    records = finished(service, 10)
    assert all(record["energy_j"] > 0.0 for record in records[:9])
    # However many ran at once, they never have more than the board.
    energy = sum(record["energy_j"] for record in records[:9])
    assert energy <= WATTS * busy_seconds(records[:9]) * 1.01

    samples = scrape(service)
    total = sum(record["energy_j"] or 0.0 for record in records)
    assert value(samples, "energy_joules_total", model="demo") == pytest.approx(total, rel=1e-4)
    assert (value(samples, "host_energy_joules_total") or 0.0) >= total
    (of_model,) = service.get("/admin/totals/speed?by=model").json()
    assert of_model["energy_j"] == pytest.approx(total, rel=1e-4)
    assert of_model["cost"] == pytest.approx(total / 3_600_000 * 0.5, rel=1e-4)


@pytest.mark.real
def test_without_a_sensor_nothing_is_said(start_real: StartReal, tmp_path: Path) -> None:
    trees.raspberry_pi(tmp_path)
    service = start_real(config={"system_root": str(tmp_path), "price_per_kwh": 0.5})
    service.chat("demo")
    (record,) = finished(service, 1)
    assert record["energy_j"] is None
    (of_model,) = service.get("/admin/totals/speed?by=model").json()
    assert (of_model["energy_j"], of_model["cost"]) == (None, None)
    assert not [name for name, _ in scrape(service) if "energy" in name]
