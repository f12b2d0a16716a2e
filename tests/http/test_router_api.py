"""The calls and events of llama-server's router."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cyber_inference_tui.http.router_api import RouterEvents
from cyber_inference_tui.records import GapEvent, ModelRecord, ModelStatus
from cyber_inference_tui.service.events import Event
from tests.fakes.service import FakeService, make_settings, serving
from tests.http.test_target import send
from tests.http.upstream import Recorder, forwarding
from tests.scheduler.virtual import model


def records(**states: ModelStatus) -> FakeService:
    service = FakeService()
    service.world.models = {name: ModelRecord(id=name, status=one) for name, one in states.items()}
    return service


def is_running(status: ModelStatus) -> bool:
    return status in {ModelStatus.QUEUED, ModelStatus.LOADING, ModelStatus.LOADED}


@pytest.mark.parametrize("status", ModelStatus)
async def test_a_load_begins_once(status: ModelStatus) -> None:
    service = records(m=status)
    async with (
        serving(service) as front,
        front.client.post("/models/load", json={"model": "m"}) as answer,
    ):
        said = await answer.json()
    if is_running(status):
        error = {"code": 400, "message": "model is already running"}
        assert (answer.status, said) == (400, {"error": {**error, "type": "invalid_request_error"}})
        assert service.calls == []
    else:
        assert (answer.status, said) == (200, {"success": True})
        assert service.calls == [("load", "m", False)]


@pytest.mark.parametrize("status", ModelStatus)
async def test_an_unload_begins_if_there_is_a_server(status: ModelStatus) -> None:
    service = records(m=status)
    async with (
        serving(service) as front,
        front.client.post("/models/unload", json={"model": "m"}) as answer,
    ):
        said = await answer.json()
    if status in {ModelStatus.UNLOADED, ModelStatus.FAILED}:
        error = {"code": 400, "message": "model is not running"}
        assert (answer.status, said) == (400, {"error": {**error, "type": "invalid_request_error"}})
        assert service.calls == []
    else:
        assert (answer.status, said) == (200, {"success": True})
        assert service.calls == [("begin_unload", "m", False)]


async def test_only_a_named_model_answers_for_its_properties() -> None:
    async with forwarding(Recorder(), model("m")) as world:
        own = json.loads((await send(world, "GET", "/props", b"")).body)
        assert (own["role"], own["default_generation_settings"]["n_ctx"]) == ("router", 0)
        assert world.connections == 0
        assert (await send(world, "GET", "/props?model=m", b"")).status == 200
        assert (await send(world, "POST", "/props", b"{}")).status == 200
        assert world.connections > 0


@pytest.mark.parametrize(
    ("query", "wakes"),
    [
        ("autoload=0", False),
        ("x=1&autoload=false", False),
        ("autoload=no", False),
        ("autoload=1", True),
        ("autoload=true", True),
        ("autoload=", True),
        ("autoloads=0", True),
    ],
)
async def test_a_request_may_forbid_its_load(query: str, wakes: bool) -> None:
    body = b'{"model": "m", "prompt": ""}'
    async with forwarding(Recorder(), model("m")) as world:
        got = await send(world, "POST", f"/completion?{query}", body)
        assert got.status == (200 if wakes else 400)
        assert world.scheduler.loaded_ids == (["m"] if wakes else [])
        if not wakes:
            error = json.loads(got.body)["error"]
            assert (error["code"], error["param"]) == ("invalid_request_error", "autoload")
        await world.scheduler.load(model("m"))
        assert (await send(world, "POST", f"/completion?{query}", body)).status == 200


class Listener:
    """A client of the events."""

    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.events = RouterEvents(service.models)

    def hear(self, topic: str, data: Any) -> list[tuple[str, dict[str, Any]]]:
        text = self.events.encode(Event(1, topic, data)).decode()
        found = [json.loads(block.removeprefix("data: ")) for block in text.split("\n\n") if block]
        return [(one["event"], one["data"]) for one in found]

    def becomes(self, status: ModelStatus, **more: Any) -> list[tuple[str, dict[str, Any]]]:
        return self.hear("model", ModelRecord(id="m", status=status, **more))


def test_events_of_a_load_and_an_unload() -> None:
    client = Listener(records(m=ModelStatus.UNLOADED))
    assert client.becomes(ModelStatus.UNLOADED, memory_estimate_bytes=5) == []
    assert client.becomes(ModelStatus.QUEUED) == [("model_status", {"status": "loading"})]
    assert client.becomes(ModelStatus.LOADING) == []
    ((event, data),) = client.becomes(ModelStatus.LOADING, progress=0.5)
    assert (event, data["progress"]["value"]) == ("status_change", 0.5)
    assert client.becomes(ModelStatus.LOADING, progress=0.5) == []
    ((event, data),) = client.becomes(ModelStatus.LOADED)
    assert (event, data["status"], data["info"]["id"]) == ("status_change", "loaded", "m")
    assert client.becomes(ModelStatus.LOADED, in_flight=1) == []
    assert client.becomes(ModelStatus.UNLOADING) == []
    gone = {"status": "unloaded", "exit_code": 0}
    assert client.becomes(ModelStatus.UNLOADED) == [("status_change", gone)]


@pytest.mark.parametrize(("code", "shown"), [(None, 1), (1, 1), (-9, -9)])
def test_a_failure_has_an_exit_code(code: int | None, shown: int) -> None:
    client = Listener(records(m=ModelStatus.LOADING))
    event = ("status_change", {"status": "unloaded", "exit_code": shown})
    assert client.becomes(ModelStatus.FAILED, exit_code=code) == [event]
    assert client.becomes(ModelStatus.FAILED, exit_code=code, error="x") == []


def test_a_file_that_goes_away_ends_its_model() -> None:
    client = Listener(records(m=ModelStatus.LOADED, n=ModelStatus.UNLOADED))
    gone = ("status_change", {"status": "unloaded", "exit_code": 0})
    assert client.hear("model", {"id": "m", "status": None}) == [gone]
    for model_id in ("m", "n", "unknown"):
        assert client.hear("model", {"id": model_id, "status": None}) == []


def test_missed_changes_are_made_up_for() -> None:
    service = records(m=ModelStatus.UNLOADED, n=ModelStatus.LOADED)
    client = Listener(service)
    service.world.models["m"] = ModelRecord(id="m", status=ModelStatus.LOADED)
    ((event, data),) = client.hear("gap", GapEvent(missed=3, topic="model"))
    assert (event, data["status"], data["info"]["id"]) == ("status_change", "loaded", "m")


async def test_the_stream_of_events_needs_a_key_like_other_model_endpoints() -> None:
    service = FakeService(settings=make_settings(api_keys=("secret",)))
    async with serving(service) as front:
        async with front.client.get("/models/sse") as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["code"] == 401
        headers = {"Authorization": "Bearer secret"}
        async with front.client.get("/models/sse", headers=headers) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            assert await answer.content.readline() == b": connected\n"
