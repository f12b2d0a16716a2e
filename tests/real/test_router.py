"""The service as a llama-server router, compared with a real one on the same folder.

Every field of the real router is there with the same JSON type, in each state of a model. Beside
each deliberate difference is its reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gguf.headers import write_gguf
from tests.real.conftest import Starter, StartFake, StartReal
from tests.real.service_process import ServiceProcess, chat_body, free_low_port
from tests.waiting import LIMIT, eventually

CONTEXT = 2048
UNLIKE = {
    # The router says what the model was trained with, also while less is in force.
    "context_length",
    # The time of the file instead of that of the request.
    "created",
    # The command line would show the paths of this machine to every client.
    "args",
    "preset",
}


@pytest.fixture(scope="module")
def folder(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and one that no llama-server can load."""
    folder = tmp_path_factory.mktemp("router") / "data" / "models"
    folder.mkdir(parents=True)
    for name in ("tiny", "Other-Q8_0"):
        shutil.copyfile(demo_gguf, folder / f"{name}.gguf")
    write_gguf(
        folder / "broken.gguf",
        {
            "general.architecture": "unheard-of",
            "unheard-of.context_length": 32768,
            "unheard-of.embedding_length": 64,
            "tokenizer.ggml.tokens": ["a"],
        },
    )
    return folder


@pytest.fixture(scope="module")
def router(llama_server: Path, folder: Path) -> Iterator[httpx.Client]:
    port = free_low_port(1)
    words = ["--models-dir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--ctx-size", str(CONTEXT), "--threads", "1"]
    log = folder.parent / "router.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [str(llama_server), *words], stdout=output, stderr=output, stdin=subprocess.DEVNULL
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT, trust_env=False) as client,
    ):

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return client.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        try:
            eventually(is_ready, what="the router")
            yield client
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def ours(
    llama_server: Path,
    folder: Path,
    demo_gguf: Path,
    tmp_path_factory: pytest.TempPathFactory,
    router: httpx.Client,
) -> Iterator[httpx.Client]:
    one = Starter(tmp_path_factory.mktemp("service"), demo_gguf)
    config = {
        "llama_server_path": str(llama_server),
        "llama_server_base_port": 0,
        "llama_threads": 1,
        "models_dir": str(folder),
        "default_context_size": CONTEXT,
    }
    service = one.make(config, ()).start()
    with service.client() as client:
        yield client
    one.end()


def kind(value: Any) -> str:
    return {bool: "boolean", int: "number", float: "number"}.get(type(value), type(value).__name__)


def differences(theirs: Any, ours: Any, place: str = "") -> list[str]:
    """The fields of theirs that ours lacks, or has with another type."""
    if theirs is None:
        return []
    if kind(theirs) != kind(ours):
        return [f"{place}: {kind(ours)} instead of {kind(theirs)}"]
    found = []
    if isinstance(theirs, dict):
        for name, value in theirs.items():
            if name not in ours:
                found.append(f"{place}.{name} is missing")
            else:
                found += differences(value, ours[name], f"{place}.{name}")
    elif isinstance(theirs, list) and theirs and ours:
        found += differences(theirs[0], ours[0], f"{place}[0]")
    return found


def alike(theirs: Any, ours: Any) -> None:
    """Fail unless ours has all values of theirs."""
    if isinstance(theirs, dict):
        for name, value in theirs.items():
            if name not in UNLIKE:
                alike(value, ours[name])
    else:
        assert theirs == ours


def entry(client: httpx.Client, model_id: str, path: str = "/v1/models") -> dict[str, Any]:
    answer = client.get(path).json()
    assert (answer["object"], len(answer["data"])) == ("list", 3)
    (found,) = (one for one in answer["data"] if one["id"] == model_id)
    return dict(found)


def load(client: httpx.Client, model_id: str) -> httpx.Response:
    return client.post("/models/load", json={"model": model_id})


def unload(client: httpx.Client, model_id: str) -> httpx.Response:
    return client.post("/models/unload", json={"model": model_id})


def wait_for(client: httpx.Client, model_id: str, value: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = entry(client, model_id)
        return found if found["status"]["value"] == value else None

    return eventually(look, what=f"{model_id} {value}")


def caught_loading(client: httpx.Client, model_id: str) -> dict[str, Any]:
    """The entry of a model while it loads, which may take several loads."""

    def look() -> dict[str, Any] | None:
        assert load(client, model_id).json() == {"success": True}
        found = entry(client, model_id)
        wait_for(client, model_id, "loaded")
        assert unload(client, model_id).json() == {"success": True}
        wait_for(client, model_id, "unloaded")
        return found if found["status"]["value"] == "loading" else None

    return eventually(look, what=f"{model_id} loading")


def loaded(client: httpx.Client, model_id: str) -> dict[str, Any]:
    load(client, model_id)
    return wait_for(client, model_id, "loaded")


def failed(client: httpx.Client, model_id: str) -> dict[str, Any]:
    load(client, "broken")

    def look() -> dict[str, Any] | None:
        found = entry(client, "broken")
        return found if found["status"].get("failed") else None

    return eventually(look, what="the failure")


@pytest.mark.real
@pytest.mark.parametrize("reach", [entry, caught_loading, loaded, failed])
def test_every_field_of_the_router_is_there_in_each_state(
    router: httpx.Client,
    ours: httpx.Client,
    reach: Callable[[httpx.Client, str], dict[str, Any]],
) -> None:
    theirs, own = reach(router, "tiny"), reach(ours, "tiny")
    assert differences(theirs, own) == []
    alike(theirs, own)
    for path in ("/models", "/v1/models"):
        assert differences(entry(router, "tiny", path), entry(ours, "tiny", path)) == []
    assert differences(router.get("/v1/models").json(), ours.get("/v1/models").json()) == []


def answers(client: httpx.Client) -> list[tuple[str, int, Any]]:
    """The answers to calls that change nothing, or whose change is waited for."""
    found = []

    def note(name: str, answer: httpx.Response) -> None:
        found.append((name, answer.status_code, answer.json()))

    loaded(client, "tiny")
    note("load a loaded model", load(client, "tiny"))
    note("load an unknown model", load(client, "nope"))
    note("load no model", client.post("/models/load", json={}))
    note("load with broken JSON", client.post("/models/load", content=b"x"))
    note("unload", unload(client, "tiny"))
    wait_for(client, "tiny", "unloaded")
    note("unload an unloaded model", unload(client, "tiny"))
    note("unload an unknown model", unload(client, "nope"))
    note("unload no model", client.post("/models/unload", json={}))
    note("props", client.get("/props"))
    note("props of an unloaded model", client.get("/props?model=tiny&autoload=0"))
    for word in ("0", "false", "no"):
        body = chat_body("tiny")
        note(f"chat {word}", client.post(f"/v1/chat/completions?autoload={word}", json=body))
    assert entry(client, "tiny")["status"]["value"] == "unloaded"
    note("chat 1", client.post("/v1/chat/completions?autoload=1", json=chat_body("tiny")))
    note("chat 0", client.post("/v1/chat/completions?autoload=0", json=chat_body("tiny")))
    note("props of a model", client.get("/props?model=tiny&autoload=0"))
    return found


@pytest.mark.real
def test_the_calls_of_the_router_answer_as_its_own(
    router: httpx.Client, ours: httpx.Client
) -> None:
    for (name, status, theirs), (_, own_status, own) in zip(
        answers(router), answers(ours), strict=True
    ):
        assert own_status == status, name
        if name.startswith(("chat", "props of an unloaded")) and status == 400:
            # Errors of inference are in OpenAI's shape: "code" is a word.
            assert own["error"]["type"] == theirs["error"]["type"]
            continue
        assert differences(theirs, own) == [], name
        if "error" in theirs:
            assert own["error"]["type"] == theirs["error"]["type"], name
            if "running" in theirs["error"]["message"]:
                # Clients may know these words. Others name the model, and those near it.
                assert own == theirs, name
        elif name == "unload":
            assert own == theirs
        elif name == "props":
            assert own["role"] == theirs["role"]
            assert own["models_autoload"] is True


def events_of_a_load(client: httpx.Client) -> list[dict[str, Any]]:
    """The events of a load and an unload of ``tiny``."""
    found: list[dict[str, Any]] = []

    def read() -> None:
        with client.stream("GET", "/models/sse") as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                assert line == "" or line.startswith((":", "data: ")), line
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    if found or event["event"] == "model_status":
                        found.append(event)
                    if found and event["data"]["status"] == "unloaded":
                        return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while reader.is_alive():
        loaded(client, "tiny")
        unload(client, "tiny")
        wait_for(client, "tiny", "unloaded")
        reader.join(0.1)
    return found


@pytest.mark.real
def test_events_are_those_of_the_router(router: httpx.Client, ours: httpx.Client) -> None:
    theirs, own = events_of_a_load(router), events_of_a_load(ours)

    def order(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return list(dict.fromkeys((one["event"], one["data"]["status"]) for one in events))

    # A load that reports no progress in between has no such event.
    assert [one for one in order(theirs) if one in order(own)] == order(own)
    assert {status for _, status in order(own)} == {"loading", "loaded", "unloaded"}
    for event in own:
        match = next(
            one
            for one in theirs
            if (one["event"], one["data"]["status"]) == (event["event"], event["data"]["status"])
        )
        assert differences(match, event) == []
    assert own[-1] == theirs[-1]


@pytest.mark.real
def test_capabilities_follow_the_template_in_force(
    starter: Starter, llama_server: Path, demo_gguf: Path
) -> None:
    tables = {"plain": {"args": ["--chat-template", "chatml"]}, "bad": {"args": ["-fa", "maybe"]}}
    service = starter.real(llama_server, {"models": tables}, ("plain", "bad"))

    def can(model_id: str) -> list[str]:
        return list(service.get(f"/v1/models/{model_id}").json()["capabilities"])

    assert can("demo") == can("plain") == ["completion", "chat", "tools"]
    assert service.post("/models/load", json={"model": "plain"}).json() == {"success": True}
    eventually(lambda: can("plain") == ["completion", "chat"], what="the server's own word")
    assert service.post("/models/load", json={"model": "bad"}).json() == {"success": True}
    service.wait_status("bad", "failed")
    assert service.model("bad")["exit_code"] == 1
    status = service.get("/v1/models/bad").json()["status"]
    assert (status["value"], status["failed"], status["exit_code"]) == ("unloaded", True, 1)


@pytest.mark.real
def test_auto_is_listed_with_a_default_model(start_real: StartReal) -> None:
    tables = {"auto": {"aliases": ["default"]}}
    service = start_real({"default_model": "B", "models": tables}, copies=("a", "b"))
    assert service.chat("default").json()["model"] == "b"
    first, *others = service.get("/v1/models").json()["data"]
    assert (first["id"], first["aliases"], first["state"]) == ("auto", ["default"], "loaded")
    assert [one["id"] for one in others] == ["a", "b", "demo"]
    assert service.chat("a").status_code == 200
    assert service.chat("auto").json()["model"] == "a"
    assert service.get("/v1/models/auto").json()["id"] == "a"
    assert service.post("/models/unload", json={"model": "auto"}).json() == {"success": True}
    service.wait_status("a", "unloaded")
    assert service.model("b")["status"] == "loaded"


def test_a_load_in_progress_is_shown_with_its_progress(start_fake: StartFake) -> None:
    service: ServiceProcess = start_fake({"a": {"load_seconds": 3600}})
    assert service.post("/models/load", json={"model": "a"}).json() == {"success": True}
    eventually(lambda: service.model("a")["status"] == "loading")
    assert service.get("/v1/models/a").json()["status"]["value"] == "loading"
    assert service.post("/models/unload", json={"model": "a"}).json() == {"success": True}
    service.wait_status("a", "unloaded")
