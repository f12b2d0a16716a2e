"""The reported context is the one that a request may use, before a load as after it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import StartFake, StartReal
from tests.real.service_process import ServiceProcess
from tests.waiting import eventually

TRAINED = 32768
YARN = ("--rope-scaling", "yarn", "--rope-scale", "2")
# Each with the context that one request may use.
TABLES: dict[str, tuple[dict[str, Any], int]] = {
    "default": ({}, 8192),
    "own": ({"context_size": 4096}, 4096),
    "odd": ({"context_size": 1000}, 1024),
    "trained": ({"context_size": 0}, TRAINED),
    "chosen": ({"context_size": "auto"}, TRAINED),
    "chosen-split": ({"context_size": "auto", "parallel": 2}, TRAINED),
    "chosen-argument": ({"context_size": "auto", "args": ["-c", "2048"]}, 2048),
    "too-much": ({"context_size": 100_000}, TRAINED),
    "argument": ({"context_size": 4096, "args": ["-c", "2048"]}, 2048),
    "argument-zero": ({"args": ["--ctx-size", "0"]}, TRAINED),
    "argument-zero-split": ({"parallel": 2, "args": ["--ctx-size", "0"]}, TRAINED),
    "variable": ({"env": {"LLAMA_ARG_CTX_SIZE": "2048"}}, 8192),
    "one-slot": ({"parallel": 1}, 8192),
    "split": ({"parallel": 4}, 2048),
    "split-oddly": ({"parallel": 3}, 2816),
    "split-small": ({"context_size": 100, "args": ["-np", "2"]}, 256),
    "split-by-setting-over-variable": (
        {"parallel": 2, "env": {"LLAMA_ARG_N_PARALLEL": "4"}},
        4096,
    ),
    "split-by-variable": ({"env": {"LLAMA_ARG_N_PARALLEL": "2"}}, 4096),
    "unified": ({"parallel": 4, "args": ["--kv-unified"]}, 8192),
    "unified-by-variable": ({"parallel": 2, "env": {"LLAMA_ARG_KV_UNIFIED": "1"}}, 8192),
    "not-unified": ({"args": ["--no-kv-unified"]}, 8192),
    "capped": ({"parallel": 2, "args": ["-kvu", "--kv-unified-per-slot", "1000"]}, 1000),
    "yarn": ({"context_size": 65536, "args": [*YARN]}, 65536),
    "shorter-header": ({"args": ["--override-kv", "llama.context_length=int:4096"]}, 4096),
    "longer-header": (
        {"context_size": 0, "args": ["--override-kv", "a.b=int:1,llama.context_length=int:65536"]},
        65536,
    ),
    "yarn-half": ({"context_size": 40_000, "args": [*YARN]}, 40_192),
}


def told_of(service: ServiceProcess, model: str) -> list[Any]:
    """The context in every list that tells of it."""
    (listed,) = [one for one in service.get("/v1/models").json()["data"] if one["id"] == model]
    (alike,) = [one for one in service.get("/models").json()["data"] if one["id"] == model]
    single = service.get(f"/v1/models/{model}").json()
    told = [one["context_length"] for one in (listed, alike, single, service.model(model))]
    return told + [one["meta"]["n_ctx"] for one in (listed, alike, single)]


@pytest.mark.real
def test_the_context_is_the_same_before_and_after_a_load_and_what_the_server_says(
    start_real: StartReal, demo_gguf: Path
) -> None:
    models = {name: {**table, "path": str(demo_gguf)} for name, (table, _) in TABLES.items()}
    service = start_real({"models": models})
    for name, (_, expected) in TABLES.items():
        assert set(told_of(service, name)) == {expected}, f"{name} before its load"
        answer = service.post(f"/admin/models/{name}/load", json={})
        assert answer.status_code == 200, answer.text
        assert set(told_of(service, name)) == {expected}, f"{name} after its load"
        props = service.upstream(name, "/props")
        assert props["default_generation_settings"]["n_ctx"] == expected, name
        own = service.upstream(name, "/v1/models")["data"][0]["meta"]
        assert own["n_ctx"] == expected, name
        meta = service.get(f"/v1/models/{name}").json()["meta"]
        assert meta["n_ctx_train"] == TRAINED
        assert service.post(f"/admin/models/{name}/unload", json={}).status_code == 200
        assert set(told_of(service, name)) == {expected}, f"{name} after its unload"


@pytest.mark.real
@pytest.mark.parametrize(
    ("general", "expected"),
    [
        ({"default_context_size": 0}, TRAINED),
        ({"default_context_size": 0, "max_context_size": 16384}, 16384),
        ({"default_context_size": 20_000, "max_context_size": 10_000}, 10_240),
        ({"default_context_size": 90_000, "max_context_size": 90_000}, TRAINED),
        ({"llama_parallel": 2}, 4096),
        ({"llama_args": ["-c", "2048", "-np", "2"]}, 1024),
    ],
)
def test_the_general_settings_count_alike(
    start_real: StartReal, general: dict[str, Any], expected: int
) -> None:
    service = start_real(general)
    assert set(told_of(service, "demo")) == {expected}
    assert service.post("/admin/models/demo/load", json={}).status_code == 200
    assert set(told_of(service, "demo")) == {expected}
    props = service.upstream("demo", "/props")
    assert props["default_generation_settings"]["n_ctx"] == expected


class Choice:
    """A service that chooses the context of ``demo``, on a machine whose memory is given."""

    def __init__(self, start: StartReal, root: Path) -> None:
        self._meminfo = root / "proc/meminfo"
        self._meminfo.parent.mkdir(parents=True)
        self.leave(1 << 30)
        self.service = start(
            {
                "system_root": str(root),
                "max_memory_percent": 80,
                "models": {"demo": {"context_size": "auto"}},
            }
        )

    def leave(self, size: int) -> None:
        """Leave so many bytes under the limit."""
        total, free = 16_000_000, size // 1024 + 3_200_000
        self._meminfo.write_text(f"MemTotal: {total} kB\nMemAvailable: {free} kB\n")

    def room(self) -> int:
        """Return the bytes for a context between the least and the most."""
        rows = self.service.get("/admin/models/demo/details").json()["memory"]
        needs = {row["context_size"]: row["total_bytes"] for row in rows}
        return int(needs[8192] + needs[TRAINED]) // 2


@pytest.fixture
def choice(start_real: StartReal, tmp_path: Path) -> Choice:
    if sys.platform != "linux":
        pytest.skip("its machine is a copy of /proc")
    return Choice(start_real, tmp_path / "machine")


@pytest.mark.real
def test_a_chosen_context_fits_and_is_told_before_the_load(choice: Choice) -> None:
    service, leave, room = choice.service, choice.leave, choice.room()
    leave(room)
    eventually(lambda: set(told_of(service, "demo")) != {TRAINED})
    (chosen,) = set(told_of(service, "demo"))
    assert 8192 < chosen < TRAINED
    answer = service.chat("demo")
    assert answer.status_code == 200, answer.text
    assert set(told_of(service, "demo")) == {chosen}
    assert service.upstream("demo", "/props")["default_generation_settings"]["n_ctx"] == chosen
    assert service.model("demo")["memory_bytes"] <= room
    # It is kept while the model is loaded, and too little is refused with the numbers.
    leave(0)
    assert set(told_of(service, "demo")) == {chosen}
    assert service.post("/admin/models/demo/unload", json={}).status_code == 200
    answer = service.chat("demo")
    assert answer.status_code == 503
    assert "with 8,192 tokens of context, the least" in answer.json()["error"]["message"]


@pytest.mark.real
def test_a_check_is_valid_with_any_chosen_context(choice: Choice) -> None:
    service, room = choice.service, choice.room()
    check = service.post("/admin/models/demo/check").json()
    assert set(told_of(service, "demo")) == {TRAINED}
    assert service.post("/admin/models/demo/unload", json={}).status_code == 200
    choice.leave(room)
    assert service.chat("demo").status_code == 200
    assert service.upstream("demo", "/props")["default_generation_settings"]["n_ctx"] < TRAINED
    assert service.get("/admin/models/demo/details").json()["check"] == check
    assert service.post("/admin/models/demo/check").json()["trials"] == check["trials"]
    assert service.post("/admin/models/demo/unload", json={}).status_code == 200
    choice.leave(1 << 30)
    assert service.chat("demo").status_code == 200
    assert service.upstream("demo", "/props")["default_generation_settings"]["n_ctx"] == TRAINED
    assert service.get("/admin/models/demo/details").json()["check"] is not None


@pytest.mark.parametrize(
    ("line", "router_child"),
    [
        (
            "0.00.000.001 I srv load_model: initializing, n_slots = 2, n_ctx_slot = 1536",
            True,
        ),
        ("slot load_model: id  0 | task -1 | new slot, n_ctx = 1536", False),
        ("slot init: id  0 | task -1 | new slot n_ctx_slot = 1536", False),
    ],
)
def test_a_loaded_server_that_made_do_with_less_is_believed(
    start_fake: StartFake, line: str, router_child: bool
) -> None:
    switches = {"load_lines": [line], "protocol": router_child}
    service = start_fake({"a": switches}, router_child=router_child)
    assert service.chat("a").status_code == 200
    eventually(lambda: set(told_of(service, "a")) == {1536})


def test_other_settings_are_reported_at_once_and_an_event_tells_of_them(
    start_fake: StartFake,
) -> None:
    service = start_fake({"a": {}}, config={"default_context_size": 4096})
    assert set(told_of(service, "a")) == {4096}
    with service.client() as client, client.stream("GET", "/admin/events?topics=model") as events:
        lines = events.iter_lines()
        with service.client() as other:
            path, value = "/admin/config/default_context_size", {"value": 2048}
            assert other.put(path, json=value).status_code == 200
        told = (json.loads(line[6:]) for line in lines if line.startswith("data: "))
        assert next(one for one in told if one["context_length"] == 2048)["id"] == "a"
    assert set(told_of(service, "a")) == {2048}


def test_nothing_is_said_of_the_context_of_another_program(start_fake: StartFake) -> None:
    table = {"command": ["python3", "-m", "http.server", "{port}"]}
    service = start_fake({"a": {}}, tables={"a": table})
    listed = service.get("/v1/models/a").json()
    assert (listed["context_length"], listed["meta"]) == (None, None)
    assert service.model("a")["context_length"] is None
