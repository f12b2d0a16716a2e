"""Drafts and LoRA adapters of models, with a real llama-server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gguf.companions import WORD, demo_lora, hybrid_with_head, large_demo
from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess, chat_body

CHAT = "/v1/chat/completions"
ONLY_WORD = WORD * 4


@pytest.fixture(scope="module")
def service(
    llama_server: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """A service with ``large``, which ``small`` drafts for, ``Hybrid-F16`` and ``styled``."""
    starter = Starter(tmp_path_factory.mktemp("companions"), demo_gguf)
    folder = tmp_path_factory.mktemp("files")
    (folder / "large.gguf").write_bytes(large_demo())
    (folder / "named.gguf").write_bytes(demo_lora())
    (folder / "heads").mkdir()
    trunk, head = hybrid_with_head()
    trunk.write(folder / "heads" / "Hybrid-F16.gguf")
    head.write(folder / "heads" / "mtp-Hybrid-F16.gguf")
    (folder / "beside").mkdir()
    (folder / "beside" / "styled.gguf").write_bytes(demo_gguf.read_bytes())
    (folder / "beside" / "and.gguf").write_bytes(demo_lora())
    tables = {
        "large": {"draft": "auto", "context_size": 2048},
        "Hybrid-F16": {"draft": "auto"},
        "small": {"lora": [f"{folder / 'named.gguf'}:0.9"], "context_size": 2048},
    }
    config: dict[str, Any] = {
        "model_dirs": [str(folder)],
        "models": tables,
        "llama_server_path": str(llama_server),
    }
    config |= {"llama_server_base_port": 0, "llama_threads": 1}
    one = starter.make(config, ("small",))
    yield one.start()
    starter.end()


def answer(service: ServiceProcess, model: str, **more: Any) -> dict[str, Any]:
    got = service.post(CHAT, json=chat_body(model, temperature=0, **more))
    assert got.status_code == 200, got.text
    found: dict[str, Any] = got.json()
    return found


def text(service: ServiceProcess, model: str, **more: Any) -> str:
    content: str = answer(service, model, max_tokens=4, **more)["choices"][0]["message"]["content"]
    return content


def details(service: ServiceProcess, model: str) -> dict[str, Any]:
    found: dict[str, Any] = service.get(f"/admin/models/{model}/details").json()
    return found


@pytest.mark.real
def test_the_memory_of_a_draft_is_counted(service: ServiceProcess) -> None:
    def parts(model: str) -> dict[str, int]:
        row = next(one for one in details(service, model)["memory"] if one["current"])
        return {part["name"]: part["size_bytes"] for part in row["parts"]}

    small = parts("small")
    assert small.pop("adapters") == len(demo_lora())
    assert parts("large")["draft"] == pytest.approx(sum(small.values()), rel=0.02)
    text(service, "small")
    measured = details(service, "small")["model"]["memory_bytes"]
    assert measured == pytest.approx(sum(small.values()) + len(demo_lora()), rel=0.1)


@pytest.mark.real
def test_a_small_model_drafts_the_answers_of_a_large_one(service: ServiceProcess) -> None:
    before = details(service, "large")
    assert before["draft"]["kind"] == "draft-simple"
    assert before["draft"]["name"] == "small"
    assert before["draft"]["unused_because"] is None
    assert before["drafted"] is None
    answers = [answer(service, "large", max_tokens=20)["timings"] for _ in range(5)]
    assert sum(one["draft_n_accepted"] for one in answers) > 0

    found = details(service, "large")
    command = found["command"]
    assert command[command.index("--spec-type") + 1] == "draft-simple"
    assert command[command.index("--model-draft") + 1].endswith("/small.gguf")
    drafted = found["drafted"]
    assert drafted["tokens_drafted"] == sum(one["draft_n"] for one in answers)
    assert drafted["tokens_accepted"] == sum(one["draft_n_accepted"] for one in answers)
    assert drafted["tokens_per_second_p50"] > 0
    # Nothing is said about a gain before both were measured.
    assert drafted["undrafted_tokens_per_second_p50"] is None

    with service.client() as client:
        put = client.put("/admin/config/models.large.draft", json={"value": "off"})
    assert put.status_code == 200, put.text
    assert "off" in details(service, "large")["draft"]["unused_because"]
    for _ in range(5):
        assert "draft_n" not in answer(service, "large", max_tokens=20)["timings"]
    rows = {one["name"]: one for one in service.get("/admin/totals/speed").json()}
    totals = rows["large"]
    assert totals["drafted"]["tokens_per_second_p50"] == drafted["tokens_per_second_p50"]
    assert totals["drafted"]["undrafted_tokens_per_second_p50"] > 0


@pytest.mark.real
def test_a_head_drafts_the_answers_of_the_model_beside_it(service: ServiceProcess) -> None:
    before = details(service, "Hybrid-F16")
    assert before["draft"]["kind"] == "draft-mtp"
    assert before["draft"]["files"][0]["path"].endswith("/heads/mtp-Hybrid-F16.gguf")
    asked = {"model": "Hybrid-F16", "prompt": [5, 6, 7], "n_predict": 12}
    got = service.post("/completion", json=asked)
    assert got.json()["timings"]["draft_n"] > 0, got.text
    expected = next(one for one in before["memory"] if one["current"])["total_bytes"]
    measured = details(service, "Hybrid-F16")["model"]["memory_bytes"]
    assert measured == pytest.approx(expected, rel=0.05)


@pytest.mark.real
def test_an_adapter_beside_a_model_changes_answers_when_it_is_scaled(
    service: ServiceProcess,
) -> None:
    (adapter,) = details(service, "styled")["adapters"]
    assert (adapter["id"], adapter["name"], adapter["scale"]) == (0, "and", 0.0)
    refused = service.post("/admin/models/styled/lora", json={"id": 0, "scale": 1.0})
    assert refused.status_code == 409
    assert "not loaded" in refused.text

    plain = text(service, "styled")
    assert plain != ONLY_WORD
    # For one request, by llama-server's own field.
    assert text(service, "styled", lora=[{"id": 0, "scale": 1.0}]) == ONLY_WORD
    assert text(service, "styled") == plain

    scaled = service.post("/admin/models/styled/lora", json={"id": 0, "scale": 0.9})
    assert scaled.json()[0]["scale"] == 0.9
    pid = details(service, "styled")["model"]["pid"]
    assert text(service, "styled") == ONLY_WORD
    assert text(service, "styled", lora=[{"id": 0, "scale": 0.0}]) == plain
    (adapter,) = details(service, "styled")["adapters"]
    assert (adapter["scale"], adapter["initial_scale"]) == (pytest.approx(0.9), 0.0)

    missing = service.post("/admin/models/styled/lora", json={"id": 7, "scale": 1.0})
    assert missing.status_code == 404
    assert service.post("/admin/models/styled/lora", json={"id": 0, "scale": 0}).json()
    assert text(service, "styled") == plain
    assert details(service, "styled")["model"]["pid"] == pid


@pytest.mark.real
def test_an_adapter_in_a_models_table_counts_from_the_start(service: ServiceProcess) -> None:
    assert text(service, "small") == ONLY_WORD
    (adapter,) = details(service, "small")["adapters"]
    assert adapter["name"] == "named"
    assert adapter["initial_scale"] == 0.9
