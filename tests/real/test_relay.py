"""The owner's calls for another box, through the service that the app is attached to."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import ModelNotFoundError
from cyber_inference_tui.records import ModelStatus, endpoints
from cyber_inference_tui.records.queries import LoadQuery
from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess
from tests.real.test_peers import box, pair

JSON = {"Content-Type": "application/json"}


def relayed(service: ServiceProcess, name: str, path: str, **options: Any) -> httpx.Response:
    with service.owner() as owner:
        method = options.pop("method", "GET")
        return owner.request(method, f"/admin/boxes/{name}/{path}", **options)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    return dict(answer.json()["error"])


def test_the_owner_steers_another_box(starter: Starter) -> None:
    here, there = box(starter, "127.0.0.1", "one"), box(starter, "127.0.0.2", "two")
    name = pair(here, there, role="serve+admin")
    model = "models/two"

    assert [one["id"] for one in relayed(here, name, "models").json()] == ["two"]
    loaded = relayed(here, name, f"{model}/load?wait=1", method="POST", json={})
    assert (loaded.status_code, loaded.json()["status"]) == (200, "loaded")
    assert there.get("/admin/models/two").json()["status"] == "loaded"
    assert relayed(here, name, f"{model}/pin", method="POST", json={}).json()["pinned"] is True
    setting = "config/models.%22two%22.idle_timeout"
    changed = relayed(here, name, setting, method="PUT", json={"value": 77.0})
    assert changed.status_code == 200, changed.text
    assert "idle_timeout" in there.config_path.read_text()
    assert relayed(here, name, setting, method="DELETE").status_code == 200
    tail = relayed(here, name, "logs/two?lines=5")
    assert tail.headers["Content-Type"].startswith("text/plain")
    assert tail.headers["X-Last-Event-ID"]

    # Refusals come as they are there.
    assert relayed(here, name, "models/three").status_code == 404
    refused = relayed(here, name, f"{model}/load", method="POST", content=b"x")
    assert (refused.status_code, there.post("/admin/demo", content=b"x").status_code) == (415, 415)
    wrong = relayed(here, name, "config/max_queue", method="PUT", json={"value": "many"})
    assert wrong.status_code == 400, wrong.text
    assert relayed(here, name, "status", method="PATCH").status_code == 405
    assert relayed(here, name, "nothing").status_code == 404
    for path in ("", "..%2F..%2Fv1/models", "models%2F..%2F..%2Fv1%2Fmodels"):
        escaping = relayed(here, name, path)
        assert escaping.status_code == 404
        assert "continues with a box" in error_of(escaping)["message"], path
    assert relayed(here, "nobody", "status").status_code == 404
    large = relayed(here, name, "keys", method="POST", content=b" " * (80 << 20), headers=JSON)
    assert large.status_code == 413


def test_events_of_another_box_are_relayed_until_it_is_gone(starter: Starter) -> None:
    here, there = box(starter, "127.0.0.1", "one"), box(starter, "127.0.0.2", "two")
    name = pair(here, there, role="serve+admin")
    url = f"/admin/boxes/{name}/events?topics=model"
    with here.owner() as owner, owner.stream("GET", url) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines) == ": connected"
        there.chat("two")
        data = next(line for line in lines if line.startswith("data: "))
        assert json.loads(data.removeprefix("data: "))["id"] == "two"
        there.kill()
        try:
            for _ in lines:
                pass
        except httpx.RemoteProtocolError:
            pass  # an endless stream that ends early
    gone = relayed(here, name, "status")
    assert gone.status_code == 502
    assert name in error_of(gone)["message"]


def test_a_stream_of_another_box_does_not_hold_up_the_end(starter: Starter) -> None:
    here, there = box(starter, "127.0.0.1", "one"), box(starter, "127.0.0.2", "two")
    name = pair(here, there, role="serve+admin")
    with here.owner() as owner, owner.stream("GET", f"/admin/boxes/{name}/events") as answer:
        assert next(answer.iter_lines()) == ": connected"
        here.stop()
    said = here.errors()
    assert not ("Traceback" in said or "Unclosed" in said), said


def test_only_a_box_that_may_is_obeyed_and_nothing_is_passed_on_twice(starter: Starter) -> None:
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    here, second, third = (box(starter, host, "both") for host in hosts)
    serving = pair(here, second)
    refused = relayed(here, serving, "status")
    assert refused.status_code == 403
    assert error_of(refused)["code"] == "peer_not_allowed"
    assert "may ask the models" in error_of(refused)["message"]

    # The owner of ``third`` asks ``here`` to ask ``second``.
    steered = pair(third, here, role="serve+admin")
    assert relayed(third, steered, "status").status_code == 200
    twice = relayed(third, steered, f"boxes/{serving}/status")
    assert twice.status_code == 403
    assert "only what its own owner asks" in error_of(twice)["message"]


def test_changes_of_boxes_are_events(starter: Starter) -> None:
    here, there = box(starter, "127.0.0.1", "one"), box(starter, "127.0.0.2", "two")
    with here.owner() as owner, owner.stream("GET", "/admin/events?topics=peers") as answer:
        lines = (json.loads(line[6:]) for line in answer.iter_lines() if line[:6] == "data: ")
        name = pair(here, there)
        found = next(one for one in lines if one.get("models"))
        assert (found["name"], [one["id"] for one in found["models"]]) == (name, ["two"])
        there.chat("two")
        loaded = next(one for one in lines if one.get("models"))
        assert [one["id"] for one in loaded["models"]] == ["two"]
        there.kill()
        stale = next(one for one in lines if one["box"]["state"] != "connected")
        assert "models" not in stale
        with here.owner() as other:
            other.delete(f"/admin/peers/{name}").raise_for_status()
        assert next(one for one in lines if one.get("box") is None) == {"name": name}


async def test_a_client_asks_another_box_as_its_own(starter: Starter) -> None:
    here, there = box(starter, "127.0.0.1", "one"), box(starter, "127.0.0.2", "two")
    name = pair(here, there, role="serve+admin")
    token = json.loads((here.data_dir / "service.json").read_text())["token"]
    async with ServiceClient(here.url, token=token) as client:
        other = client.at(name)
        loaded = await other.call(endpoints.LOAD, "two", query=LoadQuery(wait=True))
        assert loaded.status is ModelStatus.LOADED
        tail = await other.log("two", 5)
        assert tail.lines
        async with aclosing(other.events({"model"}, after=tail.event_id)) as events:
            await other.call(endpoints.UNLOAD, "two")
            event = await anext(events)
        assert (event.topic, json.loads(event.data)["id"]) == ("model", "two")
        with pytest.raises(ModelNotFoundError, match="three"):
            await other.call(endpoints.MODEL, "three")
