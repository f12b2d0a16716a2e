"""Tunings as their users run them: over HTTP, on a real llama-server and on the stand-in."""

from __future__ import annotations

import os
from typing import Any

from tests.real.conftest import StartReal
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually


def tuned(service: ServiceProcess, **request: Any) -> dict[str, Any]:
    """Tune a model, and return the status at the end."""
    answer = service.post("/admin/tune", json=request)
    assert answer.status_code == 202, answer.text

    def look() -> dict[str, Any] | None:
        status: dict[str, Any] = service.get("/admin/bench").json()
        return None if status["state"] == "running" else status

    return eventually(look, what="the end of the tuning", limit=240.0)


def test_the_right_number_of_threads_is_found_written_and_taken_back(
    start_real: StartReal,
) -> None:
    """So many threads wait for each other at every layer."""
    too_many = 16 * (os.cpu_count() or 1)
    service = start_real({"models": {"demo": {"threads": too_many}}})
    before = service.config_path.read_text()

    status = tuned(service, model="demo", prompt=128, tokens=24)

    outcome = status["outcome"]
    assert (status["state"], status["error"]) == ("done", None)
    cores = len(os.sched_getaffinity(0))
    import pprint

    pprint.pprint(status)
    assert outcome["values"]["threads"] in range(1, cores + 1), outcome
    print(outcome)
    written = service.config_path.read_text()
    print(written)
    assert f"threads = {outcome['values']['threads']}\n" in written
    assert "# Tuned on " in written
